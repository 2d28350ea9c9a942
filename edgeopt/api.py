"""The Python entry points: :func:`export` and :func:`blame`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeopt.bundle.bundle import Bundle
from edgeopt.core import Quality
from edgeopt.errors import UsageError
from edgeopt.model.model import Batch, Calibration, Evaluate, Model
from edgeopt.model.options import DEFAULT_TIMEOUT_S, Options
from edgeopt.support.progress import Listener, ignore
from edgeopt.support.quantities import bytes_of

if TYPE_CHECKING:
    from torch import nn

    from edgeopt.diagnosis.findings import Blame


def export(
    module: "nn.Module | Model | Any",
    example_inputs: Batch = None,
    *,
    out: str | Path,
    targets: Sequence[str] | None = None,
    calibration: Calibration | None = None,
    evaluate: Evaluate | None = None,
    max_drop: float | None = None,
    max_slice_drop: float | None = None,
    min_sqnr: float | None = None,
    min_agreement: float | None = None,
    max_size: int | str | None = None,
    io_float: bool = False,
    strict_scheme: bool = False,
    never_slower: bool = False,
    quality: Quality = "balanced",
    latency_table: str | Path | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    jobs: int = 2,
    use_cache: bool = True,
    listen: Listener = ignore,
) -> Bundle:
    """Makes, proves and writes an artifact of ``module`` for every target (or for ``targets``) into the folder ``out``.

    ``module``: an nn.Module, a torch.export.ExportedProgram or an :class:`edgeopt.Model`, whose own calibration and
    evaluate functions the arguments override. ``max_drop``: the most that the first number of ``evaluate`` may lose;
    ``max_slice_drop``: the most that any slice of it may lose, such as ``top1/class=7`` of ``top1``.
    ``min_sqnr``, in dB, and ``min_agreement``, a share of the samples: how near to the model every artifact is to be. Where
    integers miss one of these gates, the cheapest layers with which it holds stay in floats.
    ``max_size``: the most that each file may have, in bytes or as ``4MB``; what integers leave of it goes to layers in floats.
    ``quality``: how much is done so that integers keep what the model computes.
    ``latency_table``: of ``edgeopt bench --layers``, whose times take the place of its target's costs.
    ``never_slower``: an artifact that is slower than its fp32 twin, on a CPU of its target's kind, gives way to a faster one.
    ``strict_scheme``: a target whose preferred scheme does not work fails, where it would give way to another one.

    A target that fails does not raise: look at ``bundle.manifest.results`` (status, reason, error). Raises an
    :class:`edgeopt.EdgeoptError` where the model, its data or the folder cannot be used at all.
    """
    from edgeopt.pipeline.export import export as run

    model = _model(module, example_inputs, calibration, evaluate)
    options = Options(
        out=Path(out),
        targets=tuple(targets or ()),
        max_drop=max_drop,
        max_slice_drop=max_slice_drop,
        min_sqnr=min_sqnr,
        min_agreement=min_agreement,
        max_size=bytes_of(max_size) if isinstance(max_size, str) else max_size,
        io_float=io_float,
        strict_scheme=strict_scheme,
        never_slower=never_slower,
        quality=quality,
        latency_table=None if latency_table is None else Path(latency_table),
        timeout_s=timeout_s,
        jobs=jobs,
        use_cache=use_cache,
    )
    for name, limit in (("max_drop", max_drop), ("max_slice_drop", max_slice_drop)):
        if limit is not None and model.evaluate is None:
            raise UsageError(f"{name} has nothing to judge", why="the model has no evaluate", fix="give evaluate=, a function")
    return run(model, options, listen)


def blame(
    module: "nn.Module | Model | Any",
    example_inputs: Batch = None,
    *,
    target: str,
    calibration: Calibration | None = None,
    evaluate: Evaluate | None = None,
    seconds: float = 60.0,
    io_float: bool = False,
    listen: Listener = ignore,
) -> "Blame":
    """Which layers of ``module`` lose what the integers of ``target`` lose, why, and what can be done; writes no file.

    ``module``, ``calibration`` and ``evaluate`` as :func:`export` takes them. ``seconds``: what it may take; where that is
    short, less is measured, and the findings' ``notes`` say so.

    Raises an :class:`edgeopt.EdgeoptError` where the model or its data cannot be used, NotApplicable where the target computes
    nothing in integers.
    """
    from edgeopt.pipeline.blame import blame as run

    return run(_model(module, example_inputs, calibration, evaluate), target, seconds, io_float, listen)


def _model(module: Any, example_inputs: Batch, calibration: Calibration | None, evaluate: Evaluate | None) -> Model:
    """``module`` with what was given beside it."""
    model = module if isinstance(module, Model) else Model(module, example_inputs)
    given = {"example_inputs": example_inputs, "calibration": calibration, "evaluate": evaluate}
    return replace(model, **{name: value for name, value in given.items() if value is not None})
