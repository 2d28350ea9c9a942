"""Tries mutants at every door until time is over, and keeps the first of each new kind of find."""

import argparse
import io
import logging
import shutil
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random

from tests.fuzz.parsers.attempt import Outcome, attempt
from tests.fuzz.parsers.doors import DOORS, Door
from tests.fuzz.parsers.mutate import mutant
from tests.fuzz.parsers.samples import make

Kind = tuple[str, str, str]
"""The door, what happened, and where."""
SAMPLE = "the sample itself"
REFUSED = ".refused"
"""Samples that are refused as they are: there is much behind that answer too."""


@dataclass
class Hunt:
    """What was tried and found so far. ``keep``: where the first mutant of each kind goes."""

    work: Path
    keep: Path
    bundle: Path | None = None
    tried: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[Kind] = field(default_factory=Counter)
    _samples: dict[str, list[Path]] = field(default_factory=dict)

    def prepare(self, name: str) -> None:
        """Makes the samples and loads what reads them, once for all attempts; each sample itself is taken."""
        for module in DOORS[name].imports:
            import_module(module)
        self._samples[name] = make(name, self.work / name, self.bundle)
        shutil.copytree(self.work / name, self._mutants(name))  # what lies beside a sample belongs to it
        for path in self._samples[name]:
            copy = self._mutants(name) / path.name
            _copy(path, copy)
            self._judge(name, attempt(DOORS[name].go, copy), copy, SAMPLE)

    def one(self, name: str, seed: int) -> Outcome:
        """The mutant of ``seed``: the same every time, for the same samples."""
        rng = Random(f"{name} {seed}")
        sample = rng.choice(self._samples[name])
        path = mutated(sample, self._mutants(name) / sample.name, DOORS[name], name, rng)
        outcome = attempt(DOORS[name].go, path)
        self.tried[name] += 1
        self._judge(name, outcome, path, f"seed {seed}")
        return outcome

    def _mutants(self, name: str) -> Path:
        return self.work / f"{name}.mutants"

    def _judge(self, name: str, outcome: Outcome, path: Path, which: str) -> None:
        self.outcomes[name, outcome.kind] += 1
        if outcome.kind == "taken" or (outcome.fine and which != SAMPLE) or (outcome.fine and path.suffix == REFUSED):
            return
        kind = (name, outcome.kind, outcome.place)
        self.kinds[kind] += 1
        if self.kinds[kind] == 1:
            kept = self.keep / f"{name}-{sum(1 for each in self.kinds if each[0] == name)}{path.suffix}"
            _copy(path, kept)
            print(f"\n=== {name}: {outcome.kind} at {outcome.place}, {which}\n{outcome.detail}")
            print(f"kept; try it again with: scripts/fuzz --parsers --only {name} --try {kept}", flush=True)


def mutated(sample: Path, path: Path, door: Door, name: str, rng: Random) -> Path:
    """A mutant of ``sample`` at ``path``; of a folder, one of the files that the door names."""
    _copy(sample, path)
    part = path
    if sample.is_dir():
        parts = sorted(found for pattern in door.parts for found in path.glob(pattern))
        part = rng.choice(parts)
    content = part.read_bytes()
    change = _member if name == "pt2-json" else mutant
    part.write_bytes(change(content, rng, door.text))
    return path


def _member(content: bytes, rng: Random, text: bool) -> bytes:
    """The archive with one of its JSON members mutated."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    chosen = rng.choice([name for name in members if name.endswith(".json")])
    members[chosen] = mutant(members[chosen], rng, text=True)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return made.getvalue()


def _copy(source: Path, to: Path) -> None:
    if to.is_dir():
        shutil.rmtree(to)
    if source.is_dir():
        shutil.copytree(source, to)
    else:
        shutil.copyfile(source, to)


def hunt(names: list[str], minutes: float, seed: int, count: int, keep: Path, bundle: Path | None) -> int:
    """At most ``count`` mutants for each door, where it is not 0, for ``minutes``. 1 where something was found."""
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        found = Hunt(Path(folder), keep, bundle)
        with suppress(KeyboardInterrupt):
            for name in names:
                found.prepare(name)
            until, number = time.monotonic() + 60 * minutes, 0
            while time.monotonic() < until and (not count or number < count):
                for name in names:
                    found.one(name, seed + number)
                number += 1
    return summary(found)


def summary(found: Hunt) -> int:
    print(f"\n{found.tried.total()} mutants")
    for name, tried in found.tried.items():
        told = {kind: number for (door, kind), number in found.outcomes.items() if door == name}
        print(f"{tried:7} {name}: " + ", ".join(f"{kind} {number}" for kind, number in sorted(told.items())))
    for kind, number in found.kinds.most_common():
        print(f"{number:7} times {': '.join(kind)}")
    return int(bool(found.kinds))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz --parsers", description="Mutated files and answers at all that reads them."
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the first mutant of each; the next has the next one")
    parser.add_argument("--only", default=",".join(DOORS), help=f"some of {','.join(DOORS)}")
    parser.add_argument("--count", type=int, default=0, help="mutants of each, at most")
    parser.add_argument("--keep", type=Path, help="where finds go (default: a new folder)")
    parser.add_argument("--bundle", type=Path, help="an export whose files are samples too")
    parser.add_argument("--try", type=Path, dest="again", help="one kept mutant, here in this process")
    given = parser.parse_args(arguments)
    names = given.only.split(",")
    if unknown := set(names) - set(DOORS):
        parser.error(f"there is no {unknown.pop()!r}: {', '.join(DOORS)}")
    if given.again is not None:
        DOORS[names[0]].go(given.again)
        return 0
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    keep = given.keep or Path(tempfile.mkdtemp(prefix="edgeopt-fuzz-"))
    return hunt(names, given.minutes, given.seed, given.count, keep, given.bundle)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
