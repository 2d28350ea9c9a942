"""Every test runs in exactly one group, and long files begin first."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests import sharding

FILES = ["a.py"] * 3 + ["b.py"] * 2 + ["c.py"] + ["d.py"] * 50 + ["e.py"]
RECORDED = {"a.py": 30.0, "b.py": 200.0, "c.py": 100.0, "gone.py": 900.0}


def test_the_longest_comes_first_and_one_that_is_not_recorded_counts_by_its_tests() -> None:
    assert [name for name, _ in sharding.longest_first(FILES, RECORDED)] == ["b.py", "c.py", "a.py", "d.py", "e.py"]


@pytest.mark.parametrize("splits", [1, 2, 3, 8])
def test_each_file_is_in_one_group(splits: int) -> None:
    groups = sharding.divided(FILES, RECORDED, splits)
    assert len(groups) == splits
    assert Counter(name for group in groups for name in group) == Counter(set(FILES))


def test_groups_take_about_as_long_as_each_other() -> None:
    assert sharding.divided(FILES, RECORDED, 2) == [["b.py"], ["c.py", "a.py", "d.py", "e.py"]]


def test_what_is_recorded_is_read_again_without_what_is_short(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    sharding.write({"long.py": 12.4, "short.py": 0.4}, path)
    assert sharding.read(path) == {"long.py": 12.0}


def test_what_is_recorded_names_files_that_there_are() -> None:
    root = Path(__file__).parents[1]
    assert [name for name in sharding.read() if not (root / name).is_file()] == []


class Config:
    """What the hooks ask of pytest's configuration."""

    def __init__(self, *, worker: bool = False, **options: Any) -> None:
        self._options = {"splits": 1, "group": 1, "record_durations": False, **options}
        self.hook = SimpleNamespace(pytest_deselected=lambda items: self.deselected.extend(items))
        self.pluginmanager = SimpleNamespace(register=lambda plugin: self.registered.append(plugin))
        self.deselected: list[Any] = []
        self.registered: list[Any] = []
        if worker:
            self.workerinput: dict[str, Any] = {}

    def getoption(self, name: str) -> Any:
        return self._options[name.removeprefix("--").replace("-", "_")]


def collected(config: Config) -> list[str]:
    """The tests that are left, in their order."""
    items = [SimpleNamespace(nodeid=f"{name}::test_{number}") for number, name in enumerate(FILES)]
    sharding.pytest_collection_modifyitems(cast(Any, config), cast(Any, items))
    return [item.nodeid for item in items]


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sharding, "RECORDED", tmp_path / "durations.json")
    sharding.write(RECORDED)
    return tmp_path / "durations.json"


@pytest.mark.usefixtures("recorded")
def test_the_groups_of_a_run_are_all_its_tests() -> None:
    configs = [Config(splits=2, group=group) for group in (1, 2)]
    ran = [collected(config) for config in configs]
    assert sorted(ran[0] + ran[1]) == sorted(collected(Config()))
    assert [item.nodeid for item in configs[0].deselected] == sorted(ran[1], key=collected(Config()).index)


@pytest.mark.usefixtures("recorded")
def test_files_that_run_beside_each_other_begin_with_the_longest_and_keep_the_order_of_their_tests() -> None:
    found = [test.partition("::") for test in collected(Config(worker=True))]
    assert list(dict.fromkeys(name for name, _, _ in found)) == ["b.py", "c.py", "a.py", "d.py", "e.py"]
    assert [test for name, _, test in found if name == "a.py"] == ["test_0", "test_1", "test_2"]


def test_alone_the_order_stays_what_it_is() -> None:
    assert collected(Config()) == [f"{name}::test_{number}" for number, name in enumerate(FILES)]


def test_a_run_records_its_files_with_all_parts_of_their_tests(recorded: Path) -> None:
    config = Config(record_durations=True)
    sharding.pytest_configure(cast(Any, config))
    (recorder,) = config.registered
    for seconds, test in ((3.0, "a.py::test_0"), (4.0, "a.py::test_0"), (5.0, "a.py::test_1"), (0.2, "e.py::test_1")):
        recorder.pytest_runtest_logreport(SimpleNamespace(nodeid=test, duration=seconds))
    recorder.pytest_sessionfinish()
    assert sharding.read() == {"a.py": 12.0, "b.py": 200.0, "c.py": 100.0, "gone.py": 900.0}


def test_a_worker_records_nothing_itself() -> None:
    config = Config(record_durations=True, worker=True)
    sharding.pytest_configure(cast(Any, config))
    assert not config.registered


@pytest.mark.parametrize(("splits", "group"), [(2, 3), (2, 0), (0, 1)])
def test_a_group_that_there_is_not_is_refused(splits: int, group: int) -> None:
    with pytest.raises(pytest.UsageError, match="counts from 1"):
        sharding.pytest_configure(cast(Any, Config(splits=splits, group=group)))
