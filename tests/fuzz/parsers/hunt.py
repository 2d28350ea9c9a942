"""Tries mutants at every door until time is over, and keeps the first of each new kind of find."""

import io
import json
import os
import shutil
import tempfile
import time
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

SAMPLE = "the sample itself"
REFUSED = ".refused"
"""Samples that are refused as they are: there is much behind that answer too."""


@dataclass
class Hunt:
    """What was tried and found at one door so far. ``keep``: where the first mutant of each kind goes."""

    name: str
    work: Path
    keep: Path
    bundle: Path | None = None
    tried: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    """What happened, and where."""
    _samples: list[Path] = field(default_factory=list)

    @property
    def door(self) -> Door:
        return DOORS[self.name]

    def prepare(self) -> None:
        """Makes the samples and loads what reads them, once for all attempts; each sample itself is taken."""
        for module in self.door.imports:
            import_module(module)
        self._samples = make(self.name, self.work / "samples", self.bundle)
        shutil.copytree(self.work / "samples", self.work / "mutants")  # what lies beside a sample belongs to it
        for path in self._samples:
            copy = self.work / "mutants" / path.name
            _copy(path, copy)
            self._judge(attempt(self.door.go, copy), copy, SAMPLE)
        if self.door.imports:  # libraries load the rest when they are used: once here, instead of in every attempt
            self.door.go(self.work / "mutants" / self._samples[0].name)

    def one(self, seed: int) -> Outcome:
        """The mutant of ``seed``: the same every time, for the same samples."""
        rng = Random(f"{self.name} {seed}")
        sample = rng.choice(self._samples)
        path = mutated(sample, self.work / "mutants" / sample.name, self.name, rng)
        outcome = attempt(self.door.go, path)
        self.tried += 1
        self._judge(outcome, path, f"seed {seed}")
        return outcome

    def _judge(self, outcome: Outcome, path: Path, which: str) -> None:
        self.outcomes[outcome.kind] += 1
        if outcome.kind == "taken" or (outcome.fine and (which != SAMPLE or path.suffix == REFUSED)):
            return
        kind = f"{outcome.kind}: {outcome.place}"
        self.kinds[kind] += 1
        if self.kinds[kind] == 1:
            kept = self.keep / f"{self.name}-{len(self.kinds)}" / path.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            _copy(path, kept)
            print(f"\n=== {self.name}: {outcome.kind} at {outcome.place}, {which}\n{outcome.detail}")
            print(f"kept; try it again with: scripts/fuzz --parsers --only {self.name} --try {kept}", flush=True)


def mutated(sample: Path, path: Path, name: str, rng: Random) -> Path:
    """A mutant of ``sample`` at ``path``; of a folder, one of the files that the door names."""
    _copy(sample, path)
    part = path
    if sample.is_dir():
        part = rng.choice(sorted(found for pattern in DOORS[name].parts for found in path.glob(pattern)))
    change = _member if name == "pt2-json" else mutant
    part.write_bytes(change(part.read_bytes(), rng, DOORS[name].text))
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
    """At most ``count`` mutants for each door, where it is not 0, for ``minutes`` in all. 1 where something was found."""
    until, found = time.monotonic() + 60 * minutes, []
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            share = (until - time.monotonic()) / (len(names) - number)
            told = Path(folder, f"{name}.json")
            one = Hunt(name, Path(folder, name), keep, bundle)
            _in_a_process_of_its_own(one, seed, count, time.monotonic() + share, told)
            found.append(json.loads(told.read_text()))
    return summary(found)


def _in_a_process_of_its_own(one: Hunt, seed: int, count: int, until: float, told: Path) -> None:
    """Each door loads what it needs and no more: forking a process with every library takes longer than most attempts."""
    process = os.fork()
    if process == 0:
        try:
            one.work.mkdir()
            one.prepare()
            number = 0
            while time.monotonic() < until and (not count or number < count):
                one.one(seed + number)
                number += 1
        except KeyboardInterrupt:
            pass
        finally:
            told.write_text(json.dumps([one.name, one.tried, one.outcomes, one.kinds]))
            os._exit(0)
    os.waitpid(process, 0)


def summary(found: list[tuple[str, int, dict[str, int], dict[str, int]]]) -> int:
    print(f"\n{sum(tried for _, tried, _, _ in found)} mutants")
    for name, tried, outcomes, _ in found:
        print(f"{tried:7} {name}: " + ", ".join(f"{kind} {number}" for kind, number in sorted(outcomes.items())))
    for name, _, _, kinds in found:
        for kind, number in kinds.items():
            print(f"{number:7} times {name}: {kind}")
    return int(any(kinds for *_, kinds in found) or not all(tried for _, tried, _, _ in found))
