"""In which order the files of tests run beside each other, and how they are divided between machines.

The longest first: a long one that begins last would keep one core busy and leave the others nothing to do. How long each
takes stands in durations.json, which ``scripts/test --record-durations`` writes.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

RECORDED = Path(__file__).with_name("durations.json")
UNKNOWN_S = 0.1
"""What each test of a file counts that was never recorded."""
SHORT_S = 1.0
"""A file that takes less is not recorded."""


def read(path: Path | None = None) -> dict[str, float]:
    """Seconds by file; none where nothing was recorded."""
    path = path or RECORDED
    recorded: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return recorded


def write(seconds: Mapping[str, float], path: Path | None = None) -> None:
    """Replaces what is recorded."""
    kept = {name: round(took) for name, took in sorted(seconds.items()) if took >= SHORT_S}
    (path or RECORDED).write_text(json.dumps(kept, indent=4) + "\n", encoding="utf-8")


def longest_first(tests: Iterable[str], recorded: Mapping[str, float]) -> list[tuple[str, float]]:
    """Each file of ``tests`` (one entry for each test of it) with its seconds."""
    counts = Counter(tests)
    expected = {name: max(recorded.get(name, 0.0), UNKNOWN_S * count) for name, count in counts.items()}
    return sorted(expected.items(), key=lambda one: (-one[1], one[0]))


def divided(tests: Iterable[str], recorded: Mapping[str, float], splits: int) -> list[list[str]]:
    """The files in ``splits`` groups that take about as long as each other: each goes to the group that has least."""
    groups: list[list[str]] = [[] for _ in range(splits)]
    taken = [0.0] * splits
    for name, seconds in longest_first(tests, recorded):
        least = taken.index(min(taken))
        groups[least].append(name)
        taken[least] += seconds
    return groups


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sharding")
    group.addoption("--splits", type=int, default=1, help="into how many groups the files of tests are divided")
    group.addoption("--group", type=int, default=1, help="which of these groups is run, from 1")
    group.addoption("--record-durations", action="store_true", help="write how long each file takes to tests/durations.json")


def pytest_configure(config: pytest.Config) -> None:
    if not 1 <= config.getoption("--group") <= config.getoption("--splits"):
        raise pytest.UsageError("--group counts from 1 to --splits")
    if config.getoption("--record-durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where nothing runs beside each other or elsewhere, the order stays what it is."""
    splits = config.getoption("--splits")
    if splits == 1 and not hasattr(config, "workerinput"):
        return
    files, recorded = [_file(item) for item in items], read()
    chosen = set(divided(files, recorded, splits)[config.getoption("--group") - 1])
    config.hook.pytest_deselected(items=[item for item in items if _file(item) not in chosen])
    places = {name: place for place, (name, _) in enumerate(longest_first(files, recorded))}
    items[:] = sorted((item for item in items if _file(item) in chosen), key=lambda item: places[_file(item)])


def _file(named: pytest.Item | pytest.TestReport) -> str:
    return named.nodeid.partition("::")[0]


class Recorder:
    """Adds up the seconds of a run, those of its workers too."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = _file(report)
        self._seconds[file] = self._seconds.get(file, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        write(read() | self._seconds)
