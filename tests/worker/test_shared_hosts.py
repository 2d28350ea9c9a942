"""The hosts that the tests' own exports share behave as a host of each export's own would."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgeopt.errors import WorkerCrashed
from edgeopt.worker.client import WorkerHost
from tests.shared_hosts import LIGHT, SharedHosts, shared_hosts
from tests.worker.test_worker import CHORES, LIMIT_S, gone, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forking is used on Linux only")
SURROUNDINGS = "tests.worker.test_shared_hosts:surroundings"


def surroundings(request: dict[str, Any]) -> dict[str, Any]:
    """Runs in a child."""
    return {"folder": os.getcwd(), "said": os.environ.get("SAID"), "temporary": os.environ["TMPDIR"], "parent": os.getppid()}


@pytest.fixture
def hosts() -> Iterator[SharedHosts]:
    with shared_hosts() as found:
        yield found


def run(host: WorkerHost, function: str, log: Path) -> dict[str, Any]:
    return host.run(function, {}, timeout_s=LIMIT_S, log=log)


def at_once(function: str, tmp_path: Path) -> dict[str, Any]:
    with WorkerHost(LIGHT) as host:
        return run(host, function, tmp_path / "log")


@pytest.mark.usefixtures("hosts")
def test_the_next_one_has_the_same_host_and_what_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAID", "first")
    first = at_once(SURROUNDINGS, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAID", "second")
    second = at_once(SURROUNDINGS, tmp_path)
    monkeypatch.delenv("SAID")
    third = at_once(SURROUNDINGS, tmp_path)
    assert first["parent"] == second["parent"] == third["parent"]
    assert (second["folder"], [one["said"] for one in (first, second, third)]) == (str(tmp_path), ["first", "second", None])
    assert first["temporary"] == second["temporary"] != os.environ.get("TMPDIR")


@pytest.mark.usefixtures("hosts")
def test_what_shares_a_light_host_imports_no_torch(tmp_path: Path) -> None:
    assert at_once(CHORES + "imported", tmp_path) == {"torch": False}


@pytest.mark.usefixtures("hosts")
def test_two_at_a_time_have_two_hosts(tmp_path: Path) -> None:
    with WorkerHost(LIGHT) as one, WorkerHost(LIGHT) as other:
        found = [run(host, SURROUNDINGS, tmp_path / "log")["parent"] for host in (one, other)]
    assert found[0] != found[1]


@pytest.mark.usefixtures("hosts")
def test_what_counts_when_python_starts_makes_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = at_once(SURROUNDINGS, tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert at_once(SURROUNDINGS, tmp_path)["parent"] != first["parent"]


@pytest.mark.usefixtures("hosts")
def test_a_host_that_died_is_not_lent_again(tmp_path: Path) -> None:
    first = at_once(SURROUNDINGS, tmp_path)["parent"]
    psutil.Process(first).kill()
    assert until(lambda: gone(first))
    assert at_once(SURROUNDINGS, tmp_path)["parent"] != first


@pytest.mark.usefixtures("hosts")
def test_closing_ends_what_runs_and_the_host_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    host = WorkerHost(LIGHT)
    with ThreadPoolExecutor(1) as pool:
        parent = run(host, SURROUNDINGS, tmp_path / "first")["parent"]
        running = pool.submit(run, host, CHORES + "grandchild", log)
        assert until(lambda: log.exists() and "grandchild" in log.read_text())
        host.close()
        with pytest.raises(WorkerCrashed, match="shutting down"):
            running.result()
    assert until(lambda: gone(int(log.read_text().split()[-1])))
    with pytest.raises(WorkerCrashed, match="shutting down"):
        run(host, SURROUNDINGS, log)
    assert at_once(SURROUNDINGS, tmp_path)["parent"] == parent


def test_none_is_left_at_the_end(tmp_path: Path) -> None:
    with shared_hosts():
        parent = at_once(SURROUNDINGS, tmp_path)["parent"]
        assert psutil.pid_exists(parent)
    assert gone(parent)


@pytest.mark.usefixtures("hosts")
def test_other_hosts_are_as_in_the_product(tmp_path: Path) -> None:
    """Nothing outlives them."""
    with WorkerHost(("wave",)) as host:
        parent = run(host, SURROUNDINGS, tmp_path / "log")["parent"]
    assert gone(parent)
