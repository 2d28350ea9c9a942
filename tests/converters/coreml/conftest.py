"""Packages are made as workers make them."""

from tests.mil.conftest import as_in_workers

__all__ = ["as_in_workers"]
