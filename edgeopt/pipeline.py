"""The two things edgeopt does with a model: plan and export. What never changed is not done again; torch comes in late."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeopt import registry
from edgeopt.bundle import Bundle, BundleWriter
from edgeopt.cache import Cache
from edgeopt.chatter import diverted
from edgeopt.core import TWIN, Plan
from edgeopt.errors import ConfigError
from edgeopt.model import Model
from edgeopt.options import Listener, Options, ignore
from edgeopt.progress import event
from edgeopt.scratch import clear_temporary, scratch
from edgeopt.targets import loader
from edgeopt.targets.schema import TargetProfile

if TYPE_CHECKING:
    from edgeopt.capture import Captured


def profiles_of(options: Options) -> list[TargetProfile]:
    """The profiles asked for, and always the fp32 twins. Raises MissingExtra and ConfigError before any work is done."""
    wanted = options.targets or loader.names()
    profiles = [loader.load(name) for name in dict.fromkeys((TWIN, *wanted))]
    _refuse_one_name_twice(profiles)
    for fmt in dict.fromkeys(fmt for profile in profiles for fmt in profile.formats):
        registry.converter(fmt)
    return profiles


def _refuse_one_name_twice(profiles: list[TargetProfile]) -> None:
    """They would be made into one folder. Disks of macOS and Windows take large and small letters for the same."""
    seen: set[str] = set()
    for profile in profiles:
        if (name := profile.name.casefold()) in seen:
            why = "each target is a folder of the bundle"
            raise ConfigError(f"two targets are called {profile.name!r}", why=why, fix="rename one, or ask for one of them")
        seen.add(name)


def plan(
    model: Model, options: Options, listen: Listener = ignore, captured: "Captured | None" = None
) -> tuple[Plan, ...]:  # fmt: skip
    """What :func:`export` would make for each target, and why; makes nothing. Ranges come from the example input alone.

    ``captured``: the capture of ``model``, where the caller has it.
    """
    from edgeopt.calibrate import calibrate
    from edgeopt.capture import capture
    from edgeopt.jobs import DENSE, chosen, jobs_of, plan_of

    with scratch() as folder, diverted(folder / "chatter.log"), _one_torch_thread():
        if captured is None:
            listen(event("model", "capture"))
            captured = capture(model)
        module = captured.program.module(check_guards=False)
        statistics = calibrate({DENSE: module}, captured.signature, captured.example, None).statistics[DENSE]
        plans = []
        for job in jobs_of(profiles_of(options), options.io_float):
            listen(event(job.name, "plan"))
            plans.append(plan_of(job, captured, chosen(job, captured, module, statistics)))
        return tuple(plans)


def export(model: Model, options: Options, listen: Listener = ignore) -> Bundle:
    """Makes, proves and writes an artifact for every target.

    A target that fails is a result with its reason; what concerns the model itself (ModelError, CalibrationError,
    EvaluationError on the float model, OutputError) is raised before anything is written, and the old bundle stays.
    """
    profiles = profiles_of(options)
    clear_temporary()
    with (
        BundleWriter(options.out) as writer,
        diverted(writer.log_folder / "edgeopt.log"),
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
        return writer.commit(manifest)


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
