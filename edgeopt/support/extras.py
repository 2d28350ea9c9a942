"""The extras of the installed edgeopt: what each brings, as its own metadata say, and what is missing of it."""

from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata, requires
from importlib.util import find_spec

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edgeopt.errors import MissingExtra

DISTRIBUTION = "edgeopt"


def names() -> tuple[str, ...]:
    """Every extra, in the order of pyproject.toml; none where edgeopt runs from source code that is not installed."""
    try:
        return tuple(metadata(DISTRIBUTION).get_all("Provides-Extra") or ())
    except PackageNotFoundError:
        return ()


@cache
def own(extra: str) -> tuple[Requirement, ...]:
    """What ``extra`` itself names, other extras of edgeopt's (``edgeopt[torch]``) included."""
    try:
        parsed = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        return ()
    return tuple(one for one in parsed if one.marker and one.marker.evaluate({"extra": extra}) and not _always(one))


def brought(extra: str) -> Iterator[Requirement]:
    """What ``extra`` brings: what it names, and what the extras bring that it names."""
    for one in own(extra):
        if canonicalize_name(one.name) != DISTRIBUTION:
            yield one
        for inner in sorted(one.extras) if canonicalize_name(one.name) == DISTRIBUTION else ():
            yield from brought(inner)


def module_of(requirement: Requirement) -> str:
    """The module that the package of ``requirement`` is imported as: no package of an extra has another name."""
    return requirement.name.replace("-", "_")


def missing(extra: str) -> tuple[str, ...]:
    """The packages of ``extra`` that are not installed, by their names."""
    return tuple(one.name for one in brought(extra) if find_spec(module_of(one)) is None)


def command(extra: str) -> str:
    """What installs ``extra``, as one types it."""
    return f"pip install 'edgeopt[{extra}]'"


def require(extra: str, what: str) -> None:
    """Raises MissingExtra, which begins with ``what`` cannot be done, where a package of ``extra`` is not installed."""
    if absent := missing(extra):
        raise MissingExtra(what, why=f"not installed: {', '.join(absent)}", fix=command(extra))


def missing_for(error: ImportError) -> MissingExtra | None:
    """For an import that failed somewhere in edgeopt: the extra that brings the module; None where none of ours does."""
    module = (error.name or "").partition(".")[0]
    for extra in names():
        if module and any(module_of(one) == module for one in own(extra)):
            return MissingExtra(f"{module} is not installed", why=f"edgeopt's extra {extra} brings it", fix=command(extra))
    return None


def _always(requirement: Requirement) -> bool:
    """Whether it is needed without any extra."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})
