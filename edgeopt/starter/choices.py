"""Which targets a first export makes: those for which everything is installed here."""

from dataclasses import dataclass

from edgeopt import registry
from edgeopt.errors import EdgeoptError, MissingExtra
from edgeopt.targets import loader
from edgeopt.targets.schema import TargetProfile


@dataclass(frozen=True, slots=True)
class Choice:
    """A target, and in ``without`` why it is left out; empty where it is made."""

    name: str
    summary: str
    without: str = ""


def choices() -> tuple[Choice, ...]:
    """Every known target. Raises MissingExtra where none can be made here."""
    found: list[Choice] = []
    missing: list[MissingExtra] = []
    for name in loader.names():
        try:
            profile = loader.load(name)
            _check_installed(profile)
        except EdgeoptError as error:
            missing += [error] if isinstance(error, MissingExtra) else []
            found.append(Choice(name, error.what, error.fix))
        else:
            found.append(Choice(name, profile.summary, profile.status_note if profile.status == "legacy" else ""))
    if missing and all(choice.without for choice in found):
        raise missing[0]
    return tuple(found)


def _check_installed(profile: TargetProfile) -> None:
    """Raises MissingExtra where none of the target's formats can be made."""
    missing = []
    for fmt in profile.formats:
        try:
            registry.converter(fmt)
        except MissingExtra as error:
            missing.append(error)
    if len(missing) == len(profile.formats):
        raise missing[0]
