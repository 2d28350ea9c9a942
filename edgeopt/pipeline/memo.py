"""Remembers a whole export: the same model, data, profiles, options and tools give the same bundle without any work."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeopt import registry
from edgeopt.bundle.bundle import BundleWriter
from edgeopt.core import Manifest, from_data, to_data
from edgeopt.errors import EdgeoptError
from edgeopt.model.fingerprint import fingerprint
from edgeopt.model.model import Model
from edgeopt.model.options import Options
from edgeopt.model.signature import Signature, as_float32
from edgeopt.quantize.calibrate import digest_of
from edgeopt.support.cache import Cache
from edgeopt.support.files import sha256_of
from edgeopt.support.progress import Listener, ignore, reading
from edgeopt.targets.schema import TargetProfile
from edgeopt.verify import prover


@dataclass(frozen=True, slots=True)
class Memo:
    """``key`` is None where it cannot be told whether something changed: then the work is done."""

    cache: Cache
    key: str | None

    @classmethod
    def of(
        cls, model: Model, options: Options, profiles: list[TargetProfile], cache: Cache, listen: Listener = ignore
    ) -> "Memo":
        """The memo of this export; reads the calibration data once."""
        subjects = (model.module, model.example_inputs, model.calibration, model.evaluate)
        code = fingerprint(*subjects) if cache.enabled else None
        if code is None:
            return cls(cache, None)
        try:
            signature, _ = Signature.of(getattr(model.module, "forward", model.module), as_float32(model.example_inputs))
            progress = reading(listen)
            data = digest_of(model.calibration, signature, progress) if model.calibration is not None else ""
        except EdgeoptError:
            return cls(cache, None)  # the work itself reports it, with what it was doing
        if data is None:
            return cls(cache, None)
        formats = sorted({fmt for profile in profiles for fmt in profile.formats})
        tools: dict[str, Any] = {fmt: registry.converter(fmt).tool_versions() for fmt in formats}
        tools["kernels"] = {fmt: prover.kernels(registry.converter(fmt)) for fmt in formats}
        wanted = {"name": model.name, "max_drop": options.max_drop, "max_slice_drop": options.max_slice_drop}
        wanted |= {"min_sqnr": options.min_sqnr, "min_agreement": options.min_agreement, "max_size": options.max_size}
        wanted |= {"io_float": options.io_float, "strict_scheme": options.strict_scheme, "quality": options.quality}
        wanted["never_slower"] = options.never_slower
        wanted["latency_table"] = None if options.latency_table is None else sha256_of(options.latency_table)
        described: list[Any] = [to_data(profile) for profile in profiles]
        machine = f"{platform.machine()} {platform.node()}"  # latencies are this machine's
        return cls(cache, Cache.key("memo", code, data, {"profiles": described}, tools, wanted, machine))

    def restore(self, writer: BundleWriter) -> Manifest | None:
        """Copies the remembered artifacts into ``writer``; None where nothing, or not everything, is there."""
        stored = self.cache.get_json(self.key) if self.key else None
        if stored is None:
            return None
        manifest = from_data(Manifest, stored["manifest"])
        digests = {result.artifact.path: result.artifact.sha256 for result in manifest.results if result.artifact is not None}
        for path, key in stored["keys"].items():
            target, name = Path(path).parts
            copy = writer.folder(target) / name
            if not self.cache.link(key, name, copy) or sha256_of(copy) != digests.get(path):
                return None
        return manifest

    def remember(self, manifest: Manifest, keys: dict[str, str]) -> None:
        """Keeps an export in which every target went well; a failure is tried again next time."""
        if self.key and all(result.status != "failed" for result in manifest.results):
            self.cache.put_json(self.key, {"manifest": to_data(manifest), "keys": keys})
