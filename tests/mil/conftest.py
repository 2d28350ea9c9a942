"""Packages are made as workers make them."""

from collections.abc import Iterator
from types import SimpleNamespace
from unittest.mock import patch

import pytest


@pytest.fixture(scope="session", autouse=True)
def as_in_workers() -> Iterator[None]:
    """coremltools with its patches. At the end of each conversion it goes over every object of the process: of this one, which
    has imported so much more, it does not.
    """
    pytest.importorskip("coremltools")
    from coremltools.converters import _converters_entry

    from edgeopt.support.patches import coremltools_graphs, in_place

    with in_place(coremltools_graphs.PATCHES), patch.object(_converters_entry, "gc", SimpleNamespace(collect=int)):
        yield
