#!/bin/sh
# What device.sh and own_folder.sh share, and stands before each where it is sent: scripts.py.

mark=.edgeopt-device said="This folder is edgeopt's: edgeopt removes whatever is in it."

there() { command -v "$1" > /dev/null 2>&1; }

within() { # PROGRAM: the box of programs that has it without a link to it
    for box in busybox toybox; do
        if "$box" "$1" --help > /dev/null 2>&1; then echo "$box"; return; fi
    done
    return 1
}

digest() { # FILE: its SHA-256; nothing where the device has no way to compute it
    if there sha256sum; then sha256sum < "$1"
    elif there shasum; then shasum -a 256 < "$1"
    elif there openssl; then openssl dgst -sha256 -r < "$1"
    elif box=$(within sha256sum); then "$box" sha256sum < "$1"
    else python3 -E -S -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1" 2> /dev/null
    fi | { read -r sum rest; echo "$sum"; }
}

is_marked() { # FOLDER: whether the mark in it says that it is edgeopt's
    [ -f "$1/$mark" ] && [ ! -L "$1/$mark" ] && read -r line < "$1/$mark" && [ "$line" = "$said" ]
}

