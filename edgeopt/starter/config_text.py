"""The text of an edgeopt.toml that holds every setting: those that are chosen as they are, the others behind a ``#``."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields

from edgeopt.model.config import Settings
from edgeopt.starter.choices import Choice
from edgeopt.starter.seen import Seen

WIDTH = 100
_DEFAULT = re.compile(r"\s*\[default: [^\]]*\]")
_UNSET = {"model": "none, it must be given", "inputs": "the model's own", "targets": "all", "max_drop": "nothing is judged"}
_UNSET |= dict.fromkeys(("max_slice_drop", "min_sqnr", "min_agreement", "max_size"), "nothing is judged")
_UNSET |= {"calibration": "the model's own", "evaluate": "the model's own", "out": "build/ and the model's name"}
_UNSET |= {"latency_table": "the target's own costs"}
_EXAMPLES = {"latency_table": "pi5.json", "max_size": "4MB"}
"""Of settings without a default that are no small number."""


def config_text(seen: Seen, choices: Sequence[Choice], meanings: Mapping[str, str], code_file: str, command: str) -> str:
    """TOML that :func:`edgeopt.model.config.read` reads.

    ``meanings``: what each setting does, by its name, as the options' help has it. Raises KeyError for a setting without one.
    """
    parts = [
        _comment(f"What `{command}` makes. Paths are relative to this file; what the command line says goes before it."),
        *(_setting(field.name, meanings[field.name], seen, choices, code_file) for field in fields(Settings)),
    ]
    return "\n\n".join(parts) + "\n"


def _setting(name: str, meaning: str, seen: Seen, choices: Sequence[Choice], code_file: str) -> str:
    """One setting: what it does, its default, and its line."""
    default = _default(name)
    known = f"Default: {_UNSET[name] if default is None else _toml(default)}."
    text = [_comment(f"{_DEFAULT.sub('', meaning)} {known}")]
    if name == "model":
        return "\n".join([*text, f"model = {_toml(f'{code_file}:model')}"])
    if name == "inputs":
        return "\n".join([*text, *_inputs(seen, code_file)])
    if name == "targets":
        return "\n".join([*text, *_targets(choices)])
    if name == "out":
        return "\n".join([*text, f"out = {_toml(str(Settings().options(seen.name).out))}"])
    if name in ("calibration", "evaluate"):
        function = {"calibration": "batches"}.get(name, name)
        note = f"model() in {code_file} brings {function}(): nothing needs to be said here."
        return "\n".join([*text, _comment(note), f"# {name} = {_toml(f'{code_file}:{function}')}"])
    return "\n".join([*text, f"# {name} = {_toml(_EXAMPLES.get(name, 0.01) if default is None else default)}"])


def _default(name: str) -> object:
    """What an export takes where ``name`` is not said; None where that is no value of its own."""
    options = Settings().options("model")
    found = getattr(options, {"timeout": "timeout_s", "cache": "use_cache"}.get(name, name), None)
    return None if name in _UNSET else found


def _inputs(seen: Seen, code_file: str) -> list[str]:
    if seen.given:
        return [f"inputs = {_toml(list(seen.given))}"]
    if seen.inputs:
        note = "Seen of the model, which brings its own: a line here would put random numbers in their place."
        texts = [f"{spec.name}={'x'.join(map(str, spec.shape)) or 'scalar'}:{spec.dtype}" for spec in seen.inputs]
        return [_comment(note), f"# inputs = {_toml(texts)}"]
    names = seen.parameters or ("",)
    texts = [f"{name}=SHAPE:DTYPE".removeprefix("=") for name in names]
    note = f"FILL IN what one call of the model takes, and take away the #; or give model() in {code_file} real ones."
    return [_comment(note), f"# inputs = {_toml(texts)}"]


def _targets(choices: Sequence[Choice]) -> list[str]:
    """What there is, and a line behind a ``#``: what is named has to be made, and some models have nothing to do for some."""
    lines = [f"#   {choice.name:<22}  {_line(choice.without or choice.summary)}" for choice in choices]
    return [*lines, f"# targets = {_toml([choice.name for choice in choices if not choice.without])}"]


def _comment(text: str) -> str:
    return "\n".join(textwrap.wrap(_line(text), WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False))


def _line(text: str) -> str:
    """``text`` without what a comment may not hold."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _toml(value: object) -> str:
    """``value`` as TOML writes it: JSON's strings, numbers, booleans and lists of them, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
