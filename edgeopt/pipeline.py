"""The two things edgeopt does with a model: plan and export. What never changed is not done again; torch comes in late."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeopt import registry
from edgeopt.bundle import EXPORT_LOG, Bundle, BundleWriter
from edgeopt.cache import Cache
from edgeopt.chatter import diverted, dropped
from edgeopt.core import Plan
from edgeopt.model import Model
from edgeopt.options import Listener, Options, ignore
from edgeopt.progress import event
from edgeopt.scratch import clear_temporary
from edgeopt.selection import asked, select

if TYPE_CHECKING:
    from edgeopt.capture import Captured


def plan(
    model: Model, options: Options, listen: Listener = ignore, captured: "Captured | None" = None
) -> tuple[Plan, ...]:  # fmt: skip
    """What :func:`export` would make for each target, and why; makes nothing. Ranges come from the example input alone.

    Needs the extra ``torch`` alone: that a format's own is not installed is a decision of its plans.
    ``captured``: the capture of ``model``, where the caller has it.
    """
    with dropped(), _one_torch_thread():
        from edgeopt.calibrate import calibrate
        from edgeopt.capture import capture
        from edgeopt.jobs import DENSE, chosen, jobs_of, plan_of

        if captured is None:
            listen(event("model", "capture"))
            captured = capture(model)
        module = captured.program.module(check_guards=False)
        statistics = calibrate({DENSE: module}, captured.signature, captured.example, None).statistics[DENSE]
        plans = []
        for job in jobs_of(asked(options.targets), options.io_float):
            listen(event(job.name, "plan"))
            plans.append(plan_of(job, captured, chosen(job, captured, module, statistics)))
        return tuple(plans)


def export(model: Model, options: Options, listen: Listener = ignore) -> Bundle:
    """Makes, proves and writes an artifact for every target.

    A format whose extra is not installed is left out, and is a skipped result with the command that installs it; where nothing
    of a target that was named can be made, MissingExtra is raised before any work is done.

    A target that fails is a result with its reason; what concerns the model itself (ModelError, CalibrationError,
    EvaluationError on the float model, OutputError) is raised before anything is written, and the old bundle stays.
    """
    selection = select(options.targets)
    profiles = selection.profiles
    for fmt in dict.fromkeys(fmt for profile in profiles for fmt in profile.formats):
        registry.converter(fmt)  # one that is installed and broken is told before any work is done
    clear_temporary()
    with (
        BundleWriter(options.out) as writer,
        diverted(writer.log_folder / EXPORT_LOG),
        _one_torch_thread(),
    ):
        from edgeopt.memo import Memo

        cache = Cache(enabled=options.use_cache)
        memo = Memo.of(model, options, profiles, cache, listen)
        manifest = memo.restore(writer)
        if manifest is None:
            from edgeopt.making import make

            manifest, keys = make(model, options, listen, profiles, writer, cache)
            memo.remember(manifest, keys)
            cache.prune()
        else:
            listen(event("model", "write", "nothing changed: from the cache"))
        if cache.warning:
            listen(event("model", "write", cache.warning))
        return writer.commit(replace(manifest, results=(*manifest.results, *selection.left_out)))


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Workers share the cores with this process: threads of torch that wait for each other by spinning would starve them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
