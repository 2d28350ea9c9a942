"""One small manifest that has every kind of result in it: each view is shown the same."""

from edgeopt.core import (
    Artifact,
    Decision,
    Format,
    KeptFloat,
    Latency,
    Manifest,
    ModelFacts,
    Plan,
    QuantScheme,
    RefusedScheme,
    SparseLayer,
    Status,
    Structure,
    TargetResult,
    TensorSpec,
    Verdict,
)

IMAGE = TensorSpec(name="x", shape=(1, 3, 224, 224), dtype="float32")
SCORES = TensorSpec(name="output", shape=(1, 1000), dtype="float32")
INT8 = QuantScheme(activation="int8", weight="int8")
FP16 = QuantScheme(activation="float16", weight="float16")
PALETTE4 = QuantScheme(activation="float16", weight="lut4", palette_channels=16)
PALETTE6 = QuantScheme(activation="float16", weight="lut6", palette_channels=16)
NORM = KeptFloat(layer="norm", operator="layer_norm", reason="no integer kernel")


def artifact(target: str, format: Format, size: int) -> Artifact:
    structure = Structure(operators={"CONV_2D": 35})
    path, digest = f"{target}/model.{format}", "0" * 64
    return Artifact(
        path=path, format=format, sha256=digest, bytes=size, inputs=(IMAGE,), outputs=(SCORES,), structure=structure,
        tool_versions={},
    )  # fmt: skip


def made(target: str, format: Format, scheme: QuantScheme, *refused: QuantScheme, **more: object) -> Plan:
    """A plan by ``scheme``, which others gave way to; ``more`` adds fields."""
    given_up = tuple(RefusedScheme(scheme=one, reason="sqnr_float 2 dB, limit 3 dB") for one in refused)
    fields: dict[str, object] = {"target": target, "format": format, "scheme": scheme, "io_float": True, "refused": given_up}
    return Plan(**(fields | more))  # type: ignore[arg-type]


def result(
    target: str, format: Format = "tflite", size: int = 3_800_000, ms: float = 3.7, status: Status = "ok", **more: object
) -> TargetResult:
    """A result with everything measured; ``more`` replaces or adds fields."""
    fields: dict[str, object] = {
        "plan": made(target, format, INT8, kept_float=(NORM,), float_macs=0.0),
        "artifact": artifact(target, format, size),
        "verdicts": (
            Verdict(check="sqnr_program", value=41.3, unit="dB", limit=20.0),
            Verdict(check="sqnr_float", value=18.24, unit="dB", limit=5.0),
            Verdict(check="top1_agreement", value=0.953, rows=128, interval=(0.9014, 0.9783)),
        ),
        "accuracy": {"top1": 0.85, "top5": 0.95},
        "latency": Latency(median_ms=ms, twin_ms=6.6, runs=50, threads=1),
    }
    return TargetResult(target=target, format=format, status=status, **(fields | more))  # type: ignore[arg-type]


def slow(ratio: float, own_kind: bool) -> Verdict:
    """What a slow artifact's time says, on a CPU of its target's kind or on another."""
    return Verdict(check="speed", value=ratio, limit=1.05 if own_kind else None, passed=not own_kind)


def manifest(*results: TargetResult) -> Manifest:
    facts = ModelFacts(
        name="mobilenet_v2", sha256="0" * 64, parameters=3_504_872, macs=300_774_272, inputs=(IMAGE,), outputs=(SCORES,),
        accuracy={"top1": 0.9, "top5": 1.0}, accuracy_interval=(0.899, 0.972),
    )  # fmt: skip
    return Manifest(edgeopt_version="0.1.0", model=facts, calibration="200 batches", results=results)


def everything() -> Manifest:
    """Twins, a good artifact, a slow one, an uncalibrated one, one not run here, a failure and a skip."""
    lost = Verdict(check="accuracy_drop", value=0.35, limit=0.01, passed=False)
    gave_way = made("apple-ane", "coreml", FP16, INT8)
    fp32 = QuantScheme(activation="float32", weight="float32")
    return manifest(
        result("portable-fp32", "onnx", 14_000_000, 6.7, plan=made("portable-fp32", "onnx", fp32)),
        result("portable-fp32", "tflite", 13_980_000, 6.6, plan=made("portable-fp32", "tflite", fp32)),
        result("arm-xnnpack"),
        result(
            "arm-ort", "onnx", 3_900_000, 8.2, verdicts=(slow(8.2 / 6.6, own_kind=False),),
            warnings=("s8s8 is slow on x86; [bold]ARM is meant[/bold]",),
        ),
        result("android-litert-gpu", "tflite", 7_000_000, 6.5, calibrated=False),
        result(
            "apple-ane", "coreml", 3_700_000, latency=None, verdicts=(), accuracy={}, plan=gave_way
        ),
        result("x86-fbgemm", "onnx", 3_900_000, 3.4, "failed", error="GateFailed", reason="loses 0.35", verdicts=(lost,)),
        TargetResult(
            target="nvidia-sparse24", format="onnx", status="failed", error="WorkerCrashed",
            reason="the worker died of signal 11; its last lines:\nTraceback\n  \x1b[31mboom\x1b[0m",
        ),
        TargetResult(target="android-nnapi", format="tflite", status="skipped", reason="the format's extra is not installed"),
    )  # fmt: skip


def plan() -> Plan:
    return Plan(
        target="arm-xnnpack",
        format="tflite",
        scheme=INT8,
        io_float=False,
        kept_float=tuple(
            KeptFloat(layer=f"blocks.{i}.norm", operator="layer_norm", reason="no integer kernel [in LiteRT]")
            for i in range(12)
        ),
        sparse_layers=(
            SparseLayer(layer="head", pruned=True, reason="wide enough"),
            SparseLayer(layer="stem", pruned=False, reason="3 input channels are too few"),
        ),
        decisions=(Decision(subject="scheme", choice="s8 affine", reason="XNNPACK computes it"),),
    )
