"""An export from its options to a committed bundle. What never changed is not done again; torch comes in late."""

from dataclasses import replace

from edgeopt import registry
from edgeopt.bundle.bundle import EXPORT_LOG, Bundle, BundleWriter
from edgeopt.model.model import Model
from edgeopt.model.options import Options
from edgeopt.pipeline.hosts import host_for
from edgeopt.pipeline.selection import select, table_of
from edgeopt.support.cache import Cache
from edgeopt.support.log_diversion import diverted
from edgeopt.support.progress import Listener, event, ignore
from edgeopt.support.scratch import clear_temporary
from edgeopt.worker.client import WorkerHost


def export(model: Model, options: Options, listen: Listener = ignore, host: WorkerHost | None = None) -> Bundle:
    """Makes, proves and writes an artifact for every target. ``host``: of :func:`host_for`, where the caller has started one.

    A format whose extra is not installed is left out, and is a skipped result with the command that installs it; where nothing
    of a target that was named can be made, MissingExtra is raised before any work is done.

    A target that fails is a result with its reason; what concerns the model itself (ModelError, CalibrationError,
    EvaluationError on the float model, OutputError) is raised before anything is written, and the old bundle stays.
    """
    selection = select(options.targets)
    profiles = selection.profiles
    for fmt in dict.fromkeys(fmt for profile in profiles for fmt in profile.formats):
        registry.converter(fmt)  # one that is installed and broken is told before any work is done
    if options.latency_table is not None:
        table_of(options.latency_table, profiles)
    clear_temporary()
    with BundleWriter(options.out) as writer, diverted(writer.log_folder / EXPORT_LOG):
        from edgeopt.pipeline.memo import Memo
        from edgeopt.pipeline.torch_threads import one_torch_thread

        with one_torch_thread():
            cache = Cache(enabled=options.use_cache)
            memo = Memo.of(model, options, profiles, cache, listen)
            manifest = memo.restore(writer)
            if manifest is None:
                from edgeopt.pipeline.stages import make

                manifest, keys = make(model, options, listen, profiles, host or host_for(profiles), writer, cache)
                memo.remember(manifest, keys)
                cache.prune()
            else:
                listen(event("model", "write", "nothing changed: from the cache"))
            if cache.warning:
                listen(event("model", "write", cache.warning))
            return writer.commit(replace(manifest, results=(*manifest.results, *selection.left_out)))
