"""Environment variables for a command on a device, set by its shell: not every device has env(1)."""

from collections.abc import Mapping, Sequence

_EXPORT = 'while [ "$1" != -- ]; do export "$1"; shift; done; shift; exec "$@"'


def with_variables(variables: Mapping[str, str], command: Sequence[str]) -> tuple[str, ...]:
    """``command`` with ``variables`` in its environment, in the same process."""
    return ("sh", "-c", _EXPORT, "sh", *(f"{name}={value}" for name, value in variables.items()), "--", *command)
