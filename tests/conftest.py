"""What every test needs: one thread each, so that tests beside each other do not fight for two cores."""

import gc
import os
import signal
from collections.abc import Iterator

# A shell starts background jobs without the one, nohup without the other, and what a test starts and ends would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import pytest  # noqa: E402  after the variables that torch reads when it is imported
from _pytest.unraisableexception import gc_collect_iterations_key  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from tests.sharding import pytest_addoption, pytest_collection_modifyitems, pytest_configure  # noqa: E402

__all__ = ["pytest_addoption", "pytest_collection_modifyitems", "pytest_configure"]

# No test depends on time: a busy machine is no failure. CI tries the same examples every time.
settings.register_profile(
    "edgeopt", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=os.environ.get("CI") == "true"
)
settings.load_profile("edgeopt")


@pytest.fixture(scope="session", autouse=True)
def _composite_operators() -> None:
    """Most of what a small network's capture takes is listing torch's operators: once is enough for all tests of a process."""
    from edgeopt.converters.warm import composite_operators

    composite_operators()


@pytest.fixture(scope="session", autouse=True)
def _shared_hosts() -> Iterator[None]:
    """Exports of a process take their worker hosts from each other; see there what still differs between them."""
    from tests.shared_hosts import shared_hosts

    with shared_hosts():
        yield


@pytest.fixture(scope="session", autouse=True)
def _unpaused() -> Iterator[None]:
    """No benchmark of this process waits for a device to cool down."""
    from tests.unpaused import unpaused

    with unpaused():
        yield


def pytest_collection_finish(session: pytest.Session) -> None:
    """The collector needs not go over torch and its like again and again: what is imported by now stays.

    As in workers (edgeopt/worker/child.py), it comes less often too: graphs are hundreds of thousands of objects that live.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    # At its end pytest collects five times over, half a minute each in processes as large as these.
    session.config.stash[gc_collect_iterations_key] = 1
