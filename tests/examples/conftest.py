"""Each example is exported once, to every target, whichever test and whichever pytest-xdist worker asks first."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import edgeopt
from edgeopt.model.references import load_model

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(example: str) -> edgeopt.Model:
    return load_model(f"{EXAMPLES / example}.py:model")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of this run of pytest."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def exported(shared_folder: Path) -> Callable[[str], edgeopt.Bundle]:
    """A function from an example's name to its bundle."""

    def export(example: str) -> edgeopt.Bundle:
        out = shared_folder / "bundles" / example
        out.parent.mkdir(exist_ok=True)
        with out.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (out / "manifest.json").exists():
                return edgeopt.Bundle.load(out)
            return edgeopt.export(load(example), max_drop=0.15, out=out)

    return export
