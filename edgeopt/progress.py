"""Short ways to tell a listener what happens."""

from edgeopt.options import Event, Phase


def event(subject: str, phase: Phase, detail: str = "", fraction: float | None = None) -> Event:
    """An event, its fields by position."""
    return Event(subject=subject, phase=phase, detail=detail, fraction=fraction)
