#!/bin/sh
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
#
# ROOT/store/NAME         files whose name was given after their digest was checked
# ROOT/lock -> ID         who has the device: made by one atomic symlink(2)
# ROOT/sessions/ID/       owner, boot, reaper, beat, groups/NAME, restore/N.{path,value}, work/
#
# A session lives as long as its "beat" changes: its reaper, a process of its own, ends it after SILENCE_S seconds of silence. No
# clocks are compared. A lock whose reaper is gone, or which is of an earlier boot, belongs to nobody.

umask 077
ORT_DISABLE_TELEMETRY=1 # ONNX Runtime would leave a number of the device and uploads in its user's home
export ORT_DISABLE_TELEMETRY
root=$1 action=$2
shift 2

digest() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum < "$1"
    elif command -v shasum >/dev/null 2>&1; then shasum -a 256 < "$1"
    else openssl dgst -sha256 -r < "$1"
    fi | { read -r sum rest; echo "$sum"; }
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
    df -Pk "$root/store" | { read -r header; read -r disk blocks used free rest; echo "$((free * 1024))"; }
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

boot() { cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown; }

is_reaper() { # PID ID: a process's number is reused, and a zombie has one too, but neither has this command line
    if [ -r "/proc/$1/cmdline" ]; then
        tr '\000' ' ' < "/proc/$1/cmdline" | grep -q "reap $2"
    elif [ -d /proc/self ]; then
        return 1
    else
        ps -p "$1" -o command= 2>/dev/null | grep -q "reap $2"
    fi
}

is_stale() { # ID
    [ -f "$root/sessions/$1/reaper" ] || return 0
    [ "$(cat "$root/sessions/$1/boot")" = "$(boot)" ] || return 0
    read -r pid < "$root/sessions/$1/reaper"
    ! is_reaper "$pid" "$1"
}

take() { # ID; somebody who died with the device in hand is cleared away first
    ln -s "$1" "$root/lock" 2>/dev/null && return 0
    holder=$(readlink "$root/lock")
    is_stale "$holder" || return 1
    find "$root" -maxdepth 1 -name breaking -mmin +1 -exec rmdir {} \;
    mkdir "$root/breaking" 2>/dev/null || return 1 # another one clears it just now
    if [ "$(readlink "$root/lock")" = "$holder" ]; then
        finish "$holder"
        rm -f "$root/lock"
    fi
    rmdir "$root/breaking"
    ln -s "$1" "$root/lock" 2>/dev/null
}

open_session() { # ID OWNER SILENCE_S
    mkdir -p "$root/sessions" || exit 1
    session=$root/sessions/$1
    mkdir "$session" "$session/groups" "$session/restore" "$session/work" || exit 1
    printf '%s\n' "$2" > "$session/owner"
    boot > "$session/boot"
    echo 0 > "$session/beat"
    setsid sh "$0" "$root" reap "$1" "$3" < /dev/null > /dev/null 2>&1 &
    echo $! > "$session/reaper"
    if ! take "$1"; then
        rm -rf "$session"
        cat "$root/sessions/$(readlink "$root/lock")/owner" 2>/dev/null
        exit 75
    fi
}

reap() { # ID SILENCE_S
    step=$(($2 / 10))
    [ "$step" -ge 1 ] || step=1
    silent=0 last=
    while [ -d "$root/sessions/$1" ]; do
        sleep "$step"
        beat=
        read -r beat < "$root/sessions/$1/beat"
        if [ "$beat" = "$last" ]; then
            silent=$((silent + step))
        else
            silent=0 last=$beat
        fi
        [ "$silent" -lt "$2" ] || finish "$1"
    done
}

run() { # ID NAME COMMAND...
    session=$root/sessions/$1 name=$2
    shift 2
    cd "$session/work" || exit 126
    # A background job is no group leader, so that setsid runs it in this very process and its exit code can be waited for.
    setsid sh -c 'echo $$ > "$0"; exec "$@"' "$session/groups/$name" "$@" < /dev/null &
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
    [ -z "$reaper" ] || ! is_reaper "$reaper" "$1" || kill -9 "-$reaper" 2>/dev/null
    return 0
}

finish() { # ID; the first to rename the folder does it
    [ -d "$root/sessions/$1" ] && mv "$root/sessions/$1" "$root/sessions/.$1" 2>/dev/null
    ended=$root/sessions/.$1
    [ -d "$ended" ] || return 0
    if [ "$(cat "$ended/boot")" = "$(boot)" ]; then
        for file in "$ended"/groups/*; do kill_group "$file"; done
    fi
    for file in $(ls -r "$ended/restore" | grep 'path$'); do
        path=$(cat "$ended/restore/$file")
        write_setting "$path" "$(cat "$ended/restore/${file%path}value")" 2>/dev/null || echo "not restored: $path"
    done
    rm -rf "$ended"
    [ "$(readlink "$root/lock")" != "$1" ] || rm -f "$root/lock"
}

case $action in
    have | keep | run | reap | close) "$action" "$@" ;;
    open) open_session "$@" ;;
    stop) kill_group "$root/sessions/$1/groups/$2" ;;
    set) set_value "$@" ;;
    *) exit 64 ;;
esac
