"""Samples that stay in memory: those held out to prove artifacts with, and some of the recorded ones."""

from random import Random

from torch import Tensor

FEWEST = 16
"""Held-out samples that are kept, and that all of the proof is made on, whatever they cost."""
MOST = 256
"""Held-out samples on which agreement is counted: its 95 % interval is then 12 points wide at most, with 16 it is 44."""
HELD_OUT_BYTES = 1 << 27
KEPT_MOST = 64
KEPT_BYTES = 1 << 28

Sample = tuple[Tensor, ...]


class HeldOut:
    """At most MOST samples and HELD_OUT_BYTES bytes (FEWEST whatever their size) of all that are added, each as likely.

    The same ones each time: the generator has a fixed seed. ``count``: how many were added.
    """

    def __init__(self) -> None:
        self.count = 0
        self._kept: list[tuple[int, Sample]] = []
        self._random = Random(0)

    def add(self, sample: Sample) -> None:
        """Keeps ``sample``, or one in its place, or lets it go."""
        most = max(FEWEST, min(MOST, HELD_OUT_BYTES // max(_bytes(sample), 1)))
        if len(self._kept) < most:
            self._kept.append((self.count, sample))
        elif (place := self._random.randrange(self.count + 1)) < most:  # a reservoir: every one of all is kept as often
            self._kept[place] = (self.count, sample)
        self.count += 1

    def samples(self) -> list[Sample]:
        """In the data's order; of more than FEWEST in a random one, so that the first few stand for all of them.

        Not every n-th: data that goes round, from class to class or photo to photo, would have one of them only.
        """
        ordered = [sample for _, sample in sorted(self._kept, key=lambda pair: pair[0])]
        return Random(0).sample(ordered, len(ordered)) if len(ordered) > FEWEST else ordered


class Kept:
    """At most KEPT_MOST samples and KEPT_BYTES bytes, every n-th of all: n doubles whenever there are too many."""

    def __init__(self, wanted: bool) -> None:
        self.samples: list[Sample] = []
        self._wanted, self._every, self._count = wanted, 1, 0

    def add(self, sample: Sample) -> None:
        """Keeps ``sample`` where it is one of these."""
        if self._wanted and self._count % self._every == 0:
            self.samples.append(sample)
            if len(self.samples) > max(2, min(KEPT_MOST, KEPT_BYTES // max(_bytes(sample), 1))):
                self.samples = self.samples[::2]
                self._every *= 2
        self._count += 1


def _bytes(sample: Sample) -> int:
    return sum(value.nbytes for value in sample)
