"""The table of latencies that an export is given, in the place of its target's costs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch.export import ExportedProgram

from edgeopt.pipeline.jobs import Job
from edgeopt.pipeline.selection import table_of
from edgeopt.quantize.measured import with_table


def costed(jobs: Sequence[Job], program: ExportedProgram, path: Path | None) -> list[Job]:
    """``jobs``, with the costs of the table in ``path`` for the one that it was measured for; ``program``: the captured one."""
    if path is None:
        return list(jobs)
    table = table_of(path, (job.profile for job in jobs))
    return [
        replace(job, profile=with_table(job.profile, program, table, str(path))) if job.name == table.runtime else job
        for job in jobs
    ]
