"""Benchmarks that wait for no device to cool down: beside other tests, a busy machine looks like a throttled device.

As a program (``python -m tests.unpaused bench ...``), edgeopt's command line with such benchmarks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

from edgeopt.bench import on_device
from edgeopt.bench.rounds import Rounds


@contextmanager
def unpaused(pauses_s: tuple[float, ...] = ()) -> Iterator[None]:
    """Inside, a launch of a throttled device is marked as such at once; with ``pauses_s``, it is repeated as often."""
    with patch.object(on_device, "Rounds", partial(Rounds, pauses_s=pauses_s)):
        yield


if __name__ == "__main__":
    from edgeopt.cli.entry import main

    with unpaused():
        main()
