"""What reading calibration data tells: how far it is, and that it may have no end."""

import time

from edgeopt.support import progress
from edgeopt.support.progress import Event, reading


def test_quick_reading_is_quiet_and_data_that_may_have_no_end_is_told_once() -> None:
    events: list[Event] = []
    read = reading(events.append)
    for count in range(1, 1000):
        read(count)
    quiet = [event for event in events if event.phase == "wait"]
    for count in range(1000, progress._MANY * 2):
        read(count)
    assert not quiet
    (told,) = [event for event in events if event.phase == "wait"]
    assert "10000 samples so far" in told.detail
    assert "itertools.islice(batches, 300)" in told.detail


def test_slow_reading_tells_how_many_there_are() -> None:
    events: list[Event] = []
    read = reading(events.append)
    read(1)
    time.sleep(1.01)
    read(2)
    read(3)
    assert [(event.phase, event.detail) for event in events][-1] == ("calibrate", "2 samples")
