"""What every stage of one export works with."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgeopt.bundle.bundle import BundleWriter, log_name
from edgeopt.capture import Captured
from edgeopt.core import from_data, to_data
from edgeopt.model.model import Evaluate
from edgeopt.model.options import Options
from edgeopt.model.repeated import Numbers
from edgeopt.pipeline.program import Programs
from edgeopt.pipeline.requests import CheckRequest, ConvertRequest, InspectRequest, PredictRequest, TimeRequest
from edgeopt.quantize.calibrate import Calibrated
from edgeopt.support.cache import Cache
from edgeopt.support.progress import Listener
from edgeopt.worker.client import WorkerHost, WorkerSession

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Data:
    """What the user's data gave: statistics, and the outputs of the user's own module in the file ``references``.

    ``digest``: of that file. ``compared``: the held-out samples in it. ``kept``: those that there were for it. ``further_s``:
    seconds that each artifact may take for samples beyond the first few.
    """

    calibrated: Calibrated
    references: Path
    digest: str
    compared: int
    kept: int
    further_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRun:
    """One export: its model, its workers, its bundle. Stages take it from any thread."""

    captured: Captured
    model: str
    """The digest of the captured program."""
    programs: Programs
    host: WorkerHost
    writer: BundleWriter
    cache: Cache
    options: Options
    listen: Listener
    evaluate: Evaluate | None
    model_numbers: Numbers
    """What ``evaluate`` found for the float model."""
    evaluating: threading.Lock = field(default_factory=threading.Lock)
    """The user's ``evaluate`` runs once at a time: it may be anything."""

    def ask(
        self,
        task: str,
        target: str,
        request: ConvertRequest | InspectRequest | CheckRequest | TimeRequest,
        answer: type[Answer],
    ) -> Answer:
        """What a worker of its own answers; its output is in the log of ``target`` and the request's format."""
        logs = self._logs(target, request.format)
        return from_data(answer, self.host.run(task, to_data(request), timeout_s=self.options.timeout_s, **logs))

    def session(self, target: str, request: PredictRequest) -> WorkerSession:
        """A worker that stays, with a loaded artifact."""
        logs = self._logs(target, request.format)
        return self.host.session("predict", to_data(request), timeout_s=self.options.timeout_s, **logs)

    def _logs(self, target: str, form: str) -> dict[str, Any]:
        log = self.writer.log_folder / log_name(target, form)
        return {"log": log, "shown_log": self.writer.committed(log)}
