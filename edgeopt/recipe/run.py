"""Runs a recipe: each technique on what the one before it left, fine-tuned, measured, judged; then the export."""

import io
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeopt import __version__
from edgeopt.bundle.bundle import Bundle
from edgeopt.compress.common.copying import copied
from edgeopt.compress.common.training import fine_tune
from edgeopt.compress.search.latency_goal import AmountTrial
from edgeopt.compress.technique import Compressed, Context, Keep, Technique
from edgeopt.core import to_json
from edgeopt.errors import CaptureError
from edgeopt.model.fingerprint import fingerprint
from edgeopt.model.options import Options
from edgeopt.model.signature import call_arguments
from edgeopt.model.user_code import cause
from edgeopt.pipeline.export import export
from edgeopt.recipe import goal
from edgeopt.recipe.measure import latency_ms, measure, over_budget
from edgeopt.recipe.outcome import Goal, Outcome, StepOutcome, Worth
from edgeopt.recipe.schema import Recipe, Step
from edgeopt.recipe.workload import Workload, load, owns
from edgeopt.recipe.workspace import COMPRESSED, ORIGINAL, Remembered, Workspace, keep_of, name_of, refuse_foreign
from edgeopt.support.files import make_folder, write_atomic
from edgeopt.support.log_diversion import diverted
from edgeopt.support.progress import Event, Listener, Phase, event, ignore


def compress(recipe: Recipe, out: Path, listen: Listener = ignore, resume: bool = True) -> Outcome:
    """Runs ``recipe`` in the folder ``out``; with ``resume``, steps that are done already and unchanged are taken from there.

    Raises OutputError where ``out`` holds somebody else's files of those names, and what loading and the user's code raise;
    what was done until then stays in ``out``, and the next run goes on there.
    """
    make_folder(out)
    refuse_foreign(out)
    with diverted(out / "edgeopt.log"):
        return _Run(load(recipe), out, listen, resume).go()


class _Run:
    """One run, step by step."""

    def __init__(self, workload: Workload, out: Path, listen: Listener, resume: bool) -> None:
        self._workload, self._out, self._listen = workload, out, listen
        self._recipe = workload.recipe
        self._workspace = Workspace(
            out, _key(workload) if resume else None, nn.ModuleList([workload.module, *workload.students()])
        )
        self._keeps: list[Keep] = []
        self._steps: list[StepOutcome] = []
        self._notes: list[str] = []
        if resume and self._workspace.key is None:
            self._notes.append("the model holds what cannot be compared with an earlier run: every step was done anew")

    def go(self) -> Outcome:
        original = self._original()
        module, best = copied(self._workload.module), 0
        for number, (step, technique) in enumerate(zip(self._recipe.steps, self._workload.techniques, strict=True), 1):
            next_module, done = self._step(number, step, technique, module, original)
            self._steps.append(done)
            if done.status == "stopped":
                break
            module, best = next_module, number
            self._write(original, best)
        outcome = self._write(original, best)
        self._finish(module, outcome)
        return outcome

    def _original(self) -> Worth:
        folder = self._workspace.step_folder(0, "original")
        self._workspace.advance("original")
        known = self._workspace.recall(folder, ORIGINAL)
        if known is not None and known.measured is not None:
            self._tell("original", "done", "from the run before")
            return known.measured
        self._tell("original", "measure")
        measured = measure(self._workload, self._workload.module, folder / "bundle", self._within("original"), twins=True)
        self._remember(folder, Remembered(key="", measured=measured), name=ORIGINAL)
        self._tell("original", "done", _score(measured))
        return measured

    def _step(
        self, number: int, step: Step, technique: Technique, module: nn.Module, original: Worth
    ) -> tuple[nn.Module, StepOutcome]:
        name, folder = f"{number} {step.technique}", self._workspace.step_folder(number, step.technique)
        self._workspace.advance(to_json(step))
        known = self._workspace.recall(folder)
        stored = self._workspace.module_of(folder) if known is not None else None
        if known is not None and known.outcome is not None and stored is not None:
            self._tell(name, "done", "from the run before")
            self._keeps += [keep] if (keep := keep_of(known.keep)) else []
            return stored, self._judged(known.outcome, original)
        start = time.monotonic()
        compressed, goal = self._compressed(name, step, technique, module, folder, original)
        self._tell(name, "measure")
        measured = measure(self._workload, compressed.module, folder / "bundle", self._within(name))
        outcome = StepOutcome(
            number=number, technique=step.technique, epochs=step.epochs, record=compressed.record, measured=measured,
            status="kept", seconds=time.monotonic() - start, goal=goal,
        )  # fmt: skip
        keep_name = name_of(compressed.keep)
        if keep_name is not None:
            self._remember(folder, Remembered(key="", outcome=outcome, keep=keep_name))
        outcome = self._judged(outcome, original)
        self._tell(name, "failed" if outcome.reason else "done", outcome.reason or _score(measured))
        return compressed.module, outcome

    def _compressed(
        self, name: str, step: Step, technique: Technique, module: nn.Module, folder: Path, original: Worth
    ) -> tuple[Compressed, Goal | None]:
        """``module`` after the technique and its fine-tuning, kept in ``folder``: to measure it may fail, on a device."""
        known = self._workspace.recall(folder, COMPRESSED)
        stored = self._workspace.module_of(folder) if known is not None else None
        if known is not None and known.record is not None and stored is not None:
            self._tell(name, "plan", "from the run before")
            keep = keep_of(known.keep)
            self._keeps += [keep] if keep else []
            return Compressed(module=stored, record=known.record, keep=keep), known.goal
        compressed, found = self._applied(name, step, technique, module, folder, original)
        keep_name = name_of(compressed.keep)
        if keep_name is not None:
            remembered = Remembered(key="", record=compressed.record, goal=found, keep=keep_name)
            self._remember(folder, remembered, compressed.module, COMPRESSED)
        return compressed, found

    def _applied(
        self, name: str, step: Step, technique: Technique, module: nn.Module, folder: Path, original: Worth
    ) -> tuple[Compressed, Goal | None]:
        _seed(self._recipe.seed + len(self._steps) + 1)
        context, found = self._context(len(self._steps) + 1, name, folder), None
        self._tell(name, "plan", "applying")
        if step.latency is not None:
            times = goal.Times(folder / "latency" / "times.json", self._workspace.current, self._time(name, folder))
            technique, found = goal.reached(
                self._workload, technique, step.latency, module, context, original, times, self._trial(name)
            )
        compressed = technique.apply(module, context)
        self._keeps += [compressed.keep] if compressed.keep else []
        if step.epochs and context.fit is not None and not owns(technique, "epochs"):
            self._tell(name, "plan", f"fine-tuning, {step.epochs} epochs")
            context.fit(compressed.module, step.epochs)
        return compressed, found

    def _trial(self, name: str) -> Callable[[AmountTrial], None]:
        """Each trial is told as a subject of its own: all of them stay in a log."""
        return lambda trial: self._tell(f"{name}, amount {trial.amount:.2f}", "done", trial.said)

    def _time(self, name: str, folder: Path) -> Callable[[nn.Module], float]:
        """The latency of a module that a step tries."""
        return lambda module: latency_ms(self._workload, module, folder / "latency" / "bundle", self._within(name))

    def _context(self, number: int, name: str, folder: Path) -> Context:
        """The step's; whatever a technique fine-tunes itself keeps the patterns of the steps before it too."""
        context = self._workload.context(number, lambda line: self._tell(name, "plan", line), folder)
        fit = context.fit
        if fit is None:
            return context

        def kept(trained: nn.Module, epochs: int) -> None:
            fine_tune(fit, trained, epochs, _together(self._keeps))

        return replace(context, fit=kept)

    def _judged(self, outcome: StepOutcome, original: Worth) -> StepOutcome:
        """``outcome`` after the gate: what it remembers of an earlier one may have had another limit."""
        allowed, before, after = self._recipe.max_drop, original.score, outcome.measured.score
        if allowed is None or before is None or after is None or before - after <= allowed:
            return replace(outcome, status="kept", reason="")
        metric = next(iter(outcome.measured.scores))
        reason = f"{metric} fell from {before:.4f} to {after:.4f}, by more than max_drop {allowed:g}"
        return replace(outcome, status="stopped", reason=reason)

    def _write(self, original: Worth, best: int) -> Outcome:
        profile = self._workload.profile
        outcome = Outcome(
            edgeopt_version=__version__, model=self._workload.model.name, target=profile.name if profile else None,
            device=self._recipe.device, max_drop=self._recipe.max_drop, original=original, steps=tuple(self._steps), best=best,
            notes=tuple(self._notes),
        )  # fmt: skip
        outcome = replace(outcome, over=over_budget(self._recipe, outcome.kept))
        write_atomic(self._out / "outcome.json", to_json(outcome))
        return outcome

    def _finish(self, module: nn.Module, outcome: Outcome) -> None:
        """The program of the kept module, and the bundle where one is asked for."""
        args, kwargs = call_arguments(self._workload.model.example_inputs)
        try:
            program = torch.export.export(copied(module).eval(), args, kwargs)
        except Exception as error:  # torch raises anything; the module itself stands in the steps' folders
            fix = "rewrite that line so that torch.export.export(model, inputs) takes it, then run the same command again"
            raise CaptureError("torch.export cannot capture the compressed model", why=cause(error), fix=fix) from error
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        write_atomic(self._out / "model.pt2", buffer.getvalue())
        if self._recipe.export is not None:
            self._bundle(module, outcome)

    def _bundle(self, module: nn.Module, outcome: Outcome) -> Bundle:
        """The whole loss counts: artifacts may lose what the steps have left of ``max_drop``."""
        left = self._recipe.max_drop
        if left is not None and outcome.original.score is not None and outcome.kept.score is not None:
            left = max(0.0, left - (outcome.original.score - outcome.kept.score))
        targets = self._recipe.export.targets if self._recipe.export else ()
        options = Options(out=self._out / "bundle", targets=targets, max_drop=left)
        return export(replace(self._workload.model, module=module), options, self._listen)

    def _remember(self, folder: Path, what: Remembered, module: nn.Module | None = None, name: str = "step.json") -> None:
        if (key := self._workspace.current) is not None:
            self._workspace.remember(folder, replace(what, key=key), module, name)

    def _within(self, name: str) -> Listener:
        """What exports and benchmarks tell, as details of the step that asked for them."""

        def listen(event: Event) -> None:
            self._tell(name, "measure", " ".join(part for part in (event.subject, event.phase, event.detail) if part))

        return listen

    def _tell(self, workload: str, phase: Phase, detail: str = "") -> None:
        self._listen(event(workload, phase, detail))


def _key(workload: Workload) -> str | None:
    """A digest of the model, its data, all code, and what the recipe says besides its steps."""
    model, recipe = workload.model, workload.recipe
    judged = replace(recipe, max_drop=None, max_bytes=None, max_latency_ms=None)  # after the steps, on what they came to
    told = to_json(replace(judged, steps=(), out=None, export=None, folder=Path()))
    functions = (workload.fit, workload.train_step, workload.train_batches, workload.held_out)
    return fingerprint(model.module, model.example_inputs, model.calibration, model.evaluate, functions, told)


def _together(keeps: list[Keep]) -> Keep | None:
    """All patterns as one."""
    if not keeps:
        return None
    several = tuple(dict.fromkeys(keeps))

    def keep(module: nn.Module) -> Callable[[], None]:
        restores = [one(module) for one in several]

        def restore() -> None:
            for one in restores:
                one()

        return restore

    return keep


def _seed(number: int) -> None:
    """Every step begins with random numbers of its own: it comes out the same alone and resumed."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


def _score(measured: Worth) -> str:
    first = next(iter(measured.scores.items()), None)
    return f"{first[0]} {first[1]:.4f}" if first else ""
