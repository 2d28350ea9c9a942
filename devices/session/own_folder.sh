# edgeopt's folder on a device, by: sh -c THIS own_folder.sh ROOT make|look. ROOT: the folder, or nothing for the usual one. Prints
# where it is. "make" makes it where it is not there, and takes one that is empty or that an edgeopt from before there was a mark has
# made, also with a folder tools in it, the user's own; "look" changes nothing. Exit codes: own_folder.py.
#
# Only what has the mark is used. Several may come at once: what is there is listed before the mark is looked at, the mark is
# written before anything else, and appended, so that its first line is whole whoever comes second.

root=$1 task=$2 undigested=

home() { # exits where there is no home folder
    [ -n "$HOME" ] && [ -d "$HOME" ] && return
    echo "$HOME"
    exit 72
}

may_mark() { # whether the folder is edgeopt's, or empty but for tools and an unwritten mark; the dot keeps line ends in names
    case $(ls -A && echo .) in
        .) ;;
        "$mark
.") is_unwritten "$mark" ;;
        "tools
.") is_folder tools ;;
        "$mark
tools
.") is_unwritten "$mark" && is_folder tools ;;
        *) is_of_before ;;
    esac
}

is_folder() { [ -d "$1" ] && [ ! -L "$1" ]; }

is_unwritten() { [ -f "$1" ] && [ ! -L "$1" ] && [ ! -s "$1" ]; } # a mark on a full disk

is_of_before() { # whether the current folder holds device.sh under the name of its own digest, and nothing but what edgeopt puts there
    own_half= unsure=
    for file in * .[!.]* ..?*; do
        case $file in
            store | sessions | runtimes | tools) is_folder "$file" || return 1 ;;
            lock | clearing) [ -L "$file" ] || return 1 ;;
            breaking) [ -d "$file" ] || return 1 ;;
            "$mark") is_unwritten "$file" || return 1 ;;
            device-*.sh)
                own_half=${file#device-} own_half=${own_half%.sh}
                [ -f "$file" ] && [ ! -L "$file" ] && [ -r "$file" ] && [ "${#own_half}" = 16 ] || return 1
                case $(digest "$file" 2> /dev/null) in "$own_half"*) ;; "") unsure=1 ;; *) return 1 ;; esac ;;
            *) [ ! -e "$file" ] && [ ! -L "$file" ] || return 1 ;; # the patterns themselves, where nothing is like them
        esac
    done
    undigested=$unsure
    [ -n "$own_half" ] && [ -z "$unsure" ]
}

case $root in
    "")
        if [ -d /data/local/tmp ]; then root=/data/local/tmp/edgeopt
        elif [ -n "$XDG_CACHE_HOME" ]; then root=$XDG_CACHE_HOME/edgeopt-device
        else
            home
            root=$HOME/.cache/edgeopt-device
        fi ;;
    "~/"*)
        home
        root=$HOME/${root#??} ;;
    /*) ;;
    *) [ -z "$HOME" ] || home ;; # commands start in the home folder, or elsewhere where that is unusable
esac
case $root in /*) ;; *) root=$(pwd)/$root ;; esac

if [ "$task" = look ] && [ ! -d "$root" ]; then
    echo "$root"
    exit
fi
if [ ! -d "$root" ]; then
    [ -d "${root%/*}/" ] || mkdir -p "${root%/*}/" || exit 73
    umask 077
    mkdir "$root" || [ -d "$root" ] || exit 73
fi
umask 077
cd "$root" || exit 73
if may_mark; then
    if [ "$task" = look ]; then
        pwd
        exit
    fi
    printf '%s\n' "$said" >> "$mark" || exit 73
fi
if ! is_marked .; then
    pwd
    [ -z "$undigested" ] || exit 69
    exit 78
fi
if [ "$task" = make ]; then
    mkdir -p store && chmod 700 . || exit 73
fi
pwd
