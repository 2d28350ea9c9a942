"""The programs that workers lower: made when first asked for, saved once, shared by every job that starts from the same one."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.export import ExportedProgram

from edgeopt.capture import Captured, name_inputs
from edgeopt.compress import sparse24
from edgeopt.core import KeptFloat
from edgeopt.jobs import DENSE, Job
from edgeopt.quantize.annotate import quantize
from edgeopt.quantize.statistics import Statistics


@dataclass(slots=True)
class Programs:
    """Saves programs below ``folder``. ``statistics``, by variant, are set once calibration is done."""

    captured: Captured
    folder: Path
    variants: dict[str, ExportedProgram]
    statistics: dict[str, Statistics] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _float: dict[str, Path] = field(default_factory=dict)
    _count: int = 0

    @classmethod
    def of(cls, captured: Captured, folder: Path, jobs: list[Job]) -> "Programs":
        """The dense program and every sparse one that ``jobs`` start from."""
        variants = {DENSE: captured.program}
        for job in jobs:
            if job.profile.sparsity is not None and job.variant not in variants:
                variants[job.variant] = sparse24.prune(captured.program, job.profile.sparsity)
        return cls(captured, folder, variants)

    def saved(self, job: Job) -> tuple[Path, tuple[KeptFloat, ...]]:
        """The ``.pt2`` file that ``job`` lowers, and what its plan keeps in float. One thread at a time works with torch."""
        with self._lock:
            program = self.variants[job.variant]
            if not job.scheme.integer:
                if job.variant not in self._float:
                    self._float[job.variant] = self._save(program)
                return self._float[job.variant], ()
            statistics, example = self.statistics[job.variant], self.captured.example
            quantized, decided = quantize(program, example, statistics, job.profile, job.scheme, job.io_float)
            name_inputs(quantized, self.captured.signature.specs)
            return self._save(quantized), decided.kept_float

    def _save(self, program: ExportedProgram) -> Path:
        self._count += 1
        path = self.folder / f"program_{self._count}.pt2"
        torch.export.save(program, path)
        return path
