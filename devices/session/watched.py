"""Commands of which nothing stays on a device, outside a session: for programs that may never end.

No kind of transport ends them there (see :mod:`edgeopt.devices.transport`), and a session's reaper knows nothing of them.
"""

import math
from collections.abc import Sequence

GRACE_S = 5
"""Nothing is ended before the caller has given up."""
# In a process group of its own, where the device has a program for that. apart() in device.sh has more ways; one of them starts
# python3, which may be what never ends.
_APART = """
there() { command -v "$1" > /dev/null 2>&1; }
apart() {
    if there setsid; then exec setsid "$@"
    elif there perl; then exec perl -e 'setpgrp; exec {$ARGV[0]} @ARGV or exit 127' "$@"
    else exec "$@"
    fi
}
apart "$@" &
wait $!
"""
# An empty line on standard error, each second, shows whether anybody still reads. At its end bash would say that it was killed.
_WATCH = """
left=$1
shift
"$@" &
runs=$!
(
    trap '' PIPE
    while [ $left -gt 0 ] && sleep 1 2> /dev/null && echo >&2; do left=$((left - 1)); done
    kill -9 -$$ 2> /dev/null || kill -9 $runs
) > /dev/null &
watches=$!
wait $runs
code=$?
exec 2> /dev/null
kill -9 $watches
exit $code
"""


def watched(command: Sequence[str], seconds: float) -> tuple[str, ...]:
    """``command``, which ends, with its process group, when nobody reads what it says any more: the connection was closed, or
    is gone. At the latest a little after ``seconds``. What takes more than a second gets empty lines on standard error."""
    return ("sh", "-c", _APART, "sh", "sh", "-c", _WATCH, "sh", str(math.ceil(seconds) + GRACE_S), *command)
