"""Numbers of a benchmark as people read them; times come in nanoseconds."""

import math

NONE = "-"
_DIGITS = 4


def decimals(milliseconds: float) -> int:
    """Decimals that give four significant digits, and never more than four."""
    whole = math.floor(math.log10(milliseconds)) if 0 < milliseconds < math.inf else -1
    return min(max(_DIGITS - 1 - whole, 0), _DIGITS)


def ms(nanoseconds: float | None) -> str:
    """``6.712``, in milliseconds."""
    if nanoseconds is None:
        return NONE
    return f"{nanoseconds / 1e6:.{decimals(nanoseconds / 1e6)}f}"


def margin(value: float, low: float, high: float) -> str:
    """The further end of [``low``, ``high``] from ``value``, in milliseconds with the decimals of :func:`ms`, rounded up."""
    places = decimals(value / 1e6)
    scale = 10**places
    # In whole nanoseconds first: 0.02 ms is not to become 0.0201 because of how floats are stored.
    return f"{math.ceil(round(max(value - low, high - value)) * scale / 1e6) / scale:.{places}f}"


def megabytes(count: float | None) -> str:
    """``48.3``: powers of ten."""
    return NONE if count is None else f"{count / 1e6:.{1 if abs(count) < 999.5e5 else 0}f}"


def rate(per_second: float | None) -> str:
    """``149.2``: three digits at least."""
    return NONE if per_second is None else f"{per_second:.{0 if per_second >= 999.5 else 1 if per_second >= 9.95 else 2}f}"
