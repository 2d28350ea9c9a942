"""What a share of so many rows says of the share of all rows: 95 % intervals. Pure functions of counts."""

import math

Interval = tuple[float, float]
"""Least and greatest share, both in."""

_Z = 1.959964
"""Of the normal distribution: 95 % lie nearer to its mean."""
_MOST_ROWS, _HALVINGS = 1_000_000, 60


def wilson(hits: int, rows: int) -> Interval:
    """Of a share: ``hits`` of ``rows``, at least one, that are independent of each other.

    The score interval (Wilson, 1927), which keeps to 0..1 and says something of 0 and of all (Brown, Cai and DasGupta 2001).
    """
    share, square = hits / rows, _Z * _Z / rows
    middle = share + square / 2
    half = _Z * math.sqrt(share * (1 - share) / rows + square / (4 * rows))
    least, greatest = (middle - half) / (1 + square), (middle + half) / (1 + square)
    return (0.0 if hits == 0 else max(0.0, least)), (1.0 if hits == rows else min(1.0, greatest))


def drop(lost: float, differing: float, rows: float) -> Interval:
    """Of what a share loses between two models on the same ``rows``: ``lost`` hits less in all, ``differing`` rows changed.

    The score interval for matched pairs (Tango 1998): as Wilson's it says something where no row changed. Rows that changed and
    were wrong both times count as if one of the two were right, so that it is rather too wide.
    """
    fell, rose = (differing + lost) / 2, (differing - lost) / 2

    def end(low: float, high: float, bound: float) -> float:
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if _score(fell, rose, rows, middle) > bound else (low, middle)
        return (low + high) / 2

    share = lost / rows
    return (-1.0 if lost == -rows else end(-1.0, share, _Z)), (1.0 if lost == rows else end(share, 1.0, -_Z))


def _score(fell: float, rose: float, rows: float, loss: float) -> float:
    """How many standard errors the loss that was found lies above ``loss``: falls as that grows."""
    both, least = 2 * rows, -rose * loss * (1 - loss)
    middle = (both - fell + rose) * loss - fell - rose
    rising = (math.sqrt(max(0.0, middle * middle - 4 * both * least)) - middle) / (2 * both)  # likeliest, were ``loss`` true
    variance = rows * (2 * rising + loss * (1 - loss))
    distance = fell - rose - rows * loss
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def rows_to_exclude(limit: float, lost: int, differing: int, rows: int) -> int | None:
    """About how many rows would leave ``limit`` outside :func:`drop`, if they changed and lost as ``rows`` of them did.

    None where more than a million would be needed.
    """

    def excluded(count: int) -> bool:
        return drop(lost / rows * count, differing / rows * count, count)[1] <= limit

    if not excluded(_MOST_ROWS):
        return None
    low, high = rows, _MOST_ROWS
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if excluded(middle) else (middle, high)
    return round(high, 2 - len(str(high)))


def hits(value: float, rows: int) -> int | None:
    """How many of ``rows`` have it, where ``value`` can be the share that does; None where no whole number gives it."""
    nearest = round(value * rows) if 0 <= value <= 1 else -1
    near = abs(value * rows - nearest) <= max(1e-3, 1e-7 * rows)  # sums in float32
    return nearest if nearest >= 0 and near else None
