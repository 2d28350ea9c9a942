# edgeopt's folder on a device, by: sh -c THIS own_folder.sh ROOT make|look. ROOT: the folder, or nothing for the usual one. Prints
# where it is. "make" makes it where it is not there, and takes one that is empty; "look" changes nothing. Exit codes: own_folder.py.
#
# Only what has the mark is used. Several may come at once: what is there is listed before the mark is looked at, the mark is
# written before anything else, and appended, so that its first line is whole whoever comes second.

mark=.edgeopt-device said="This folder is edgeopt's: edgeopt removes whatever is in it."
root=$1 task=$2

home() { # exits where there is no home folder
    [ -n "$HOME" ] && [ -d "$HOME" ] && return
    echo "$HOME"
    exit 72
}

may_mark() { # whether the current folder is empty, but for a mark that could not be written; the dot keeps line ends in names
    case $(ls -A && echo .) in
        .) ;;
        "$mark
.") [ -f "$mark" ] && [ ! -L "$mark" ] && [ ! -s "$mark" ] ;;
        *) return 1 ;;
    esac
}

is_marked() { [ -f "$mark" ] && [ ! -L "$mark" ] && read -r line < "$mark" && [ "$line" = "$said" ]; }

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
if ! is_marked; then
    pwd
    exit 78
fi
if [ "$task" = make ]; then
    mkdir -p store && chmod 700 . || exit 73
fi
pwd
