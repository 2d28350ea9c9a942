"""MIL's operators, one file per family as in MIL's documentation. A new file is registered by being here."""

from importlib import import_module
from pkgutil import iter_modules


def register() -> None:
    """Imports every family, which fills :data:`edgeopt.mil.operator.OPERATORS`."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
