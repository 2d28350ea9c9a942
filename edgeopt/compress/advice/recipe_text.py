"""Advice as a recipe that ``edgeopt compress --recipe`` runs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import Table

from edgeopt.compress.advice.advice import Advice, AdvisedStep

EPOCHS = {"distill": 10}
"""A student begins far from its teacher; everything else mends what was just cut."""
FINE_TUNING_EPOCHS = 3
NEAR = 2
"""Folders up to what a recipe's folder and a file have in common, and not the root of the disk."""


def recipe_text(advice: Advice, references: Mapping[str, str], training: Mapping[str, str]) -> str:
    """TOML text. ``references``: model and target, and evaluate and calibration where the model does not bring them.

    ``training``: ``fit``, or ``train_step`` and ``batches``; without it the recipe runs too, and says where it would stand.
    Paths are written as they are given: relative to the recipe's folder is what its reader expects.
    """
    document = tomlkit.document()
    document.add(tomlkit.comment(f"What edgeopt advises for {_plain(advice.model)} on {_plain(advice.target)}; run it with"))
    document.add(tomlkit.comment("    edgeopt compress --recipe THIS_FILE"))
    document.add(tomlkit.nl())
    for name, reference in references.items():
        document.add(name, tomlkit.item(reference))
    if advice.budgets.max_drop is not None:
        document.add("max_drop", tomlkit.item(advice.budgets.max_drop))
    if advice.budgets.max_bytes is not None:
        document.add("max_bytes", tomlkit.item(advice.budgets.max_bytes))
    if advice.budgets.max_latency_ms is not None:
        document.add("max_latency_ms", tomlkit.item(advice.budgets.max_latency_ms))
    document.add("training", _training(training))
    steps = tomlkit.aot()
    for step in advice.steps:
        steps.append(_step(step, bool(training)))
    document.add("step", steps)
    exported = tomlkit.table()
    exported.add("targets", [references["target"]])
    document.add("export", exported)
    return tomlkit.dumps(document)


def reference_from(folder: Path, reference: str) -> str:
    """A reference to a file as a recipe in ``folder``, an absolute path, has it; others as they are.

    Relative where the two lie near each other, so that they can be moved together; a path across the disk reads better whole.
    """
    source, colon, name = reference.rpartition(":")
    is_code = source.endswith(".py")
    if not is_code and not reference.endswith(".toml"):
        return reference
    path = Path(source if is_code else reference).resolve()
    relative = Path(os.path.relpath(path, folder))
    near = (up := relative.parts.count("..")) <= NEAR and len(folder.parts) > up + 1
    return (relative if near else path).as_posix() + (colon + name if is_code else "")


def _training(training: Mapping[str, str]) -> Table:
    table = tomlkit.table()
    for name, reference in training.items():
        table.add(name, reference)
    if not training:
        for line in (
            "Nothing is trained as it stands, which costs accuracy: name your training code, and give steps epochs",
            'fit = "file.py:fit"                  # fit(model, epochs), or these two:',
            'train_step = "file.py:train_step"    # train_step(model, batch) -> loss',
            'batches = "file.py:batches"          # one epoch of batches',
        ):
            table.add(tomlkit.comment(line))
    return table


def _step(step: AdvisedStep, trained: bool) -> Table:
    table = tomlkit.table()
    figures = step.after
    table.add(tomlkit.comment(_plain(step.reason)))
    table.add(tomlkit.comment(f"{figures.parameters:,} parameters, {figures.macs:,} MACs, {figures.bytes:,} bytes expected"))
    table.add("technique", step.technique)
    for name, value in step.settings.items():
        table.add(name, value)
    if trained or step.technique in EPOCHS:
        table.add("epochs", EPOCHS.get(step.technique, FINE_TUNING_EPOCHS))
    return table


def _plain(text: str) -> Any:
    """One line, without what a comment may not hold."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
