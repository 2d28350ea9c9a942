# The device's own half of edgeopt: a store of checked files, and sessions that leave nothing behind, whatever happens to the
# computer that opened them. POSIX sh with what dash, busybox and Android's toybox share. The other half is device.py and session.py.
#
#   device.sh ROOT have NAME SHA256            "present", or "partial BYTES"; then the free bytes at ROOT
#   device.sh ROOT keep NAME SHA256 MODE       checks what was sent to NAME.part and gives it its name, or says what it found
#   device.sh ROOT open ID OWNER SILENCE_S     takes the device; 75 and the owner's name where somebody has it
#   device.sh ROOT run ID NAME COMMAND...      runs COMMAND in the session's folder, in a process group of its own
#   device.sh ROOT stop ID NAME                kills that process group
#   device.sh ROOT set ID FILE VALUE           writes VALUE to FILE, to be put back when the session ends
#   device.sh ROOT close ID                    kills, puts back, removes, and gives the device free
#   device.sh ROOT clean ID                    removes all but tools, then closes the session, which had the device until then
#
# ROOT/.edgeopt-device    the mark that own_folder.sh writes: nothing is removed from a folder without it
# ROOT/tools/             the user's own programs, which stay there
# ROOT/store/NAME         files whose name was given after their digest was checked
# ROOT/lock -> ID         who has the device: made by one atomic symlink(2)
# ROOT/sessions/ID/       owner, boot, reaper, beat, groups/NAME, restore/N.{path,value}, work/
#
# A session lives as long as its "beat" changes, or a file that is just being sent grows (on a slow link no beat comes past it): its
# reaper, a process of its own, ends it after SILENCE_S seconds of silence. No clocks are compared. A lock whose reaper is gone, or
# which is of an earlier boot, belongs to nobody.
#
# Needed are the programs that lacking() names. The others are used where they are there: setsid, which macOS has not, readlink, df.

umask 077
ORT_DISABLE_TELEMETRY=1 # ONNX Runtime would leave a number of the device and uploads in its user's home
export ORT_DISABLE_TELEMETRY
root=$1 action=$2
shift 2

can_part() { there setsid || there perl || within setsid > /dev/null || python3 -E -S -c '' 2> /dev/null; }

apart() { # COMMAND...: becomes it, in a process group of its own. To be called in the background: setsid forks where it leads a group
    if there setsid; then exec setsid "$@"
    elif there perl; then exec perl -e 'setpgrp; exec {$ARGV[0]} @ARGV or exit 127' "$@"
    elif box=$(within setsid); then exec "$box" setsid "$@"
    elif can_part; then exec python3 -E -S -c 'import os, sys; os.setpgid(0, 0); os.execvp(sys.argv[1], sys.argv[1:])' "$@"
    else exec "$@"
    fi
}

own_group() { # the process group that the login gave this command alone, if it did
    group=
    if [ -r "/proc/$$/stat" ]; then
        read -r group < "/proc/$$/stat"
        group=${group##*\) } # after the program's name: state, parent, group
        group=${group#* * }
        group=${group%% *}
    else
        group=$(($(ps -o pgid= -p $$ 2> /dev/null)))
    fi
    [ "$group" = $$ ] || [ "$group" = "$PPID" ] || return 1
    echo "$group"
}

lacking() { # what is needed and not there, one a line
    for program in cat chmod ln ls mkdir mv rm sleep tr wc; do
        there "$program" || echo "$program"
    done
    [ -n "$(digest "$0")" ] || echo "a program for SHA-256 (sha256sum, shasum, openssl or python3)"
    can_part || own_group > /dev/null || echo "a program that starts another one in a process group of its own (setsid, perl or python3)"
}

have() { # NAME SHA256
    mkdir -p "$root/store" || exit 1
    if [ -f "$root/store/$1" ] && [ "$(digest "$root/store/$1")" = "$2" ]; then
        touch "$root/store/$1"
        echo present
    elif [ -f "$root/store/$1.part" ]; then
        echo "partial $(wc -c < "$root/store/$1.part")"
    else
        echo "partial 0"
    fi
    df -Pk "$root/store" 2> /dev/null | {
        free=
        read -r header
        read -r disk blocks used free rest
        case $free in
            -*) echo 0 ;;
            "" | *[!0-9]*) echo unknown ;;
            *) echo "$((free * 1024))" ;;
        esac
    }
}

keep() { # NAME SHA256 MODE
    found=$(digest "$root/store/$1.part")
    if [ "$found" != "$2" ]; then
        rm -f "$root/store/$1.part"
        echo "differs $found"
        return
    fi
    chmod "$3" "$root/store/$1.part" && mv -f "$root/store/$1.part" "$root/store/$1" && echo kept
}

boot() { cat /proc/sys/kernel/random/boot_id 2> /dev/null || sysctl -n kern.bootsessionuuid 2> /dev/null || echo unknown; }

leads_to() { # LINK: what its name leads to; nothing where it is not there
    if there readlink; then
        readlink "$1"
    elif long=$(ls -l "$1" 2> /dev/null); then
        echo "${long##* -> }"
    fi
}

is_running() { # PID WORDS: a process's number is reused, and a zombie has one too, but neither has these words in its command line
    if [ -r "/proc/$1/cmdline" ]; then
        words=$(tr '\000' ' ' < "/proc/$1/cmdline")
    elif [ -d /proc/self ]; then
        return 1
    elif there ps; then
        words=$(ps -ww -p "$1" -o command= 2> /dev/null) # else cut to 80 columns
    else
        kill -0 "$1" 2> /dev/null # the number alone: rather one that is busy for too long than two at once
        return
    fi
    case $words in *"$2"*) ;; *) return 1 ;; esac
}

is_stale() { # ID
    [ -f "$root/sessions/$1/reaper" ] || return 0
    [ "$(cat "$root/sessions/$1/boot")" = "$(boot)" ] || return 0
    read -r pid < "$root/sessions/$1/reaper"
    # Until it has begun as itself, its words are those of the shell that starts it.
    ! is_running "$pid" "reap $1" && ! is_running "$pid" "open $1"
}

take() { # ID; somebody who died with the device in hand is cleared away first
    ln -s "$1" "$root/lock" 2> /dev/null && return 0
    holder=$(leads_to "$root/lock")
    is_stale "$holder" || return 1
    if ! ln -s "$$,$1" "$root/clearing" 2> /dev/null; then # another one clears it just now, unless that died too
        other=$(leads_to "$root/clearing")
        is_running "${other%%,*}" "open ${other#*,}" || rm -f "$root/clearing"
        return 1
    fi
    if [ "$(leads_to "$root/lock")" = "$holder" ]; then
        finish "$holder"
        rm -f "$root/lock"
    fi
    rm -f "$root/clearing"
    ln -s "$1" "$root/lock" 2> /dev/null
}

open_session() { # ID OWNER SILENCE_S
    missing=$(lacking)
    if [ -n "$missing" ]; then
        echo "$missing"
        exit 69
    fi
    session=$root/sessions/$1
    mkdir "$root/sessions" 2> /dev/null # without -p: a folder that has just been cleaned away has to be marked first
    mkdir "$session" "$session/groups" "$session/restore" "$session/work" || exit 1
    printf '%s\n' "$2" > "$session/owner"
    boot > "$session/boot"
    echo 0 > "$session/beat"
    apart sh "$0" "$root" reap "$1" "$3" < /dev/null > /dev/null 2>&1 &
    echo $! > "$session/reaper"
    if ! take "$1"; then
        rm -rf "$session"
        cat "$root/sessions/$(leads_to "$root/lock")/owner" 2> /dev/null
        exit 75
    fi
    if [ ! -f "$session/reaper" ]; then # somebody has cleaned the device just then
        rm -rf "$session"
        rm -f "$root/lock"
        exit 75
    fi
}

arriving() { # ID: in $parts the files that are being sent, with their sizes
    parts=
    for part in "$root"/store/*.part "$root/sessions/$1/work"/*.part; do
        [ ! -f "$part" ] || parts=$parts$(ls -ln "$part")
    done
}

reap() { # ID SILENCE_S
    trap '' HUP # where it has no group of its own, the end of the connection may end its group
    step=$(($2 / 10))
    [ "$step" -ge 1 ] || step=1
    silent=0 last=
    while [ -d "$root/sessions/$1" ]; do
        sleep "$step"
        beat=
        read -r beat < "$root/sessions/$1/beat"
        arriving "$1"
        if [ "$beat$parts" = "$last" ]; then
            silent=$((silent + step))
        else
            silent=0 last=$beat$parts
        fi
        [ "$silent" -lt "$2" ] || finish "$1"
    done
}

run() { # ID NAME COMMAND...
    session=$root/sessions/$1 name=$2
    shift 2
    cd "$session/work" || exit 126
    group=
    can_part || group=$(own_group)
    # A background job is no group leader, so that setsid runs it in this very process and its exit code can be waited for.
    apart sh -c 'echo "${1:-$$}" > "$0"; shift; exec "$@"' "$session/groups/$name" "$group" "$@" < /dev/null &
    wait $!
}

kill_group() { # FILE
    [ -f "$1" ] || return 0
    read -r group < "$1"
    rm -f "$1"
    kill -9 "-$group" 2>/dev/null
    return 0
}

write_setting() { # FILE VALUE
    if [ "$1" = fixed-performance ]; then
        cmd power set-fixed-performance-mode-enabled "$2"
    else
        printf '%s' "$2" > "$1"
    fi
}

read_setting() { # FILE; Android tells nobody whether its fixed performance mode is on: it is off unless somebody tests
    if [ "$1" = fixed-performance ]; then echo false; else cat "$1"; fi
}

set_value() { # ID FILE VALUE
    restore=$root/sessions/$1/restore
    number=$(ls "$restore" | wc -l)
    number=$((number + 1000)) # so that names sort as numbers
    old=$(read_setting "$2") || exit 77
    printf '%s' "$old" > "$restore/$number.value"
    printf '%s' "$2" > "$restore/$number.path"
    write_setting "$2" "$3" 2>/dev/null || exit 77
}

close() { # ID; a reaper that sleeps would see only at its next look that nothing is left to do
    reaper=$(cat "$root/sessions/$1/reaper" 2>/dev/null)
    finish "$1"
    if [ -n "$reaper" ] && is_running "$reaper" "reap $1"; then
        kill -9 "-$reaper" 2> /dev/null || kill -9 "$reaper" 2> /dev/null
    fi
    return 0
}

clean() { # ID; the shell goes on reading this file when it has no name any more
    is_marked "$root" || exit 78
    failed=0
    for file in "$root"/* "$root"/.[!.]*; do
        case $file in */sessions | */lock | */clearing | */tools | "$root/$mark") ;; *) rm -rf "$file" || failed=1 ;; esac
    done
    for file in "$root"/sessions/* "$root"/sessions/.[!.]*; do
        [ ! -L "$root/sessions" ] || break # what it leads to is not edgeopt's
        other=${file##*/}
        other=${other#.}
        [ "$other" = "$1" ] || ! is_stale "$other" || finish "$other"
    done
    rm -f "$root/sessions/$1/groups/clean" # this very process
    close "$1"
    [ ! -L "$root/sessions" ] || rm -f "$root/sessions"
    rmdir "$root/sessions" 2> /dev/null
    [ "$(ls -A "$root/." 2> /dev/null)" != "$mark" ] || unmark
    return $failed
}

unmark() { # the mark goes last; where somebody has begun anew just then, it comes back
    rm -f "$root/$mark"
    rmdir "$root" 2> /dev/null && return
    [ -z "$(ls -A "$root/." 2> /dev/null)" ] || printf '%s\n' "$said" >> "$root/$mark"
}

finish() { # ID; the first to rename the folder does it
    [ -d "$root/sessions/$1" ] && mv "$root/sessions/$1" "$root/sessions/.$1" 2>/dev/null
    ended=$root/sessions/.$1
    [ -d "$ended" ] || return 0
    if [ "$(cat "$ended/boot")" = "$(boot)" ]; then
        for file in "$ended"/groups/*; do kill_group "$file"; done
    fi
    for file in $(ls -r "$ended/restore"); do
        case $file in *path) ;; *) continue ;; esac
        path=$(cat "$ended/restore/$file")
        write_setting "$path" "$(cat "$ended/restore/${file%path}value")" 2>/dev/null || echo "not restored: $path"
    done
    rm -rf "$ended"
    [ "$(leads_to "$root/lock")" != "$1" ] || rm -f "$root/lock"
}

case $action in
    have | keep | run | reap | close | clean) "$action" "$@" ;;
    open) open_session "$@" ;;
    stop) kill_group "$root/sessions/$1/groups/$2" ;;
    set) set_value "$@" ;;
    *) exit 64 ;;
esac
