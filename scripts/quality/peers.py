"""One artifact by another quantizer, in a process of its own: ``python peers.py PEER TWIN OUT SAMPLES.npz``.

Imports numpy and the quantizer only: NNCF's own environment runs this file too. SAMPLES.npz holds ``sample/input`` arrays,
inputs in the order of the twin's. The last line that it prints is what failed, where something did.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Sample = tuple[Any, ...]
FEW = 32
"""For calibrators that keep every value in memory."""


def samples(path: Path) -> list[Sample]:
    with np.load(path) as stored:
        grouped: dict[int, list[Any]] = {}
        for name in stored.files:
            grouped.setdefault(int(name.split("/")[0]), []).append(stored[name])
    return [tuple(arrays) for _, arrays in sorted(grouped.items())]


def by_onnxruntime(twin: Path, out: Path, data: list[Sample], method: str, reduce_range: bool = False) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    names = [each.name for each in onnx.load(str(twin)).graph.input]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Sample] = iter(data if method == "MinMax" else data[:FEW])

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self._left, None)
            return None if sample is None else dict(zip(names, sample, strict=True))

    prepared = out.with_name(f"prepared-{out.name}")
    try:
        quant_pre_process(str(twin), str(prepared))
    except (TypeError, AssertionError):  # its symbolic shapes do not know every Expand; the shapes here are static anyway
        quant_pre_process(str(twin), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=reduce_range,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=getattr(CalibrationMethod, method),
    )  # fmt: skip


def by_nncf(twin: Path, out: Path, data: list[Sample], transformer: bool) -> None:
    import nncf
    import onnx

    model = onnx.load(str(twin))
    names = [each.name for each in model.graph.input]
    dataset = nncf.Dataset([dict(zip(names, sample, strict=True)) for sample in data])
    kind = nncf.ModelType.TRANSFORMER if transformer else None
    onnx.save(nncf.quantize(model, dataset, model_type=kind, subset_size=len(data)), str(out))


def order(names: list[str]) -> list[str]:
    """Token ids come before their mask; a signature lists names by the alphabet."""
    return sorted(names, key=lambda name: "mask" in name)


def by_ai_edge_quantizer(twin: Path, out: Path, data: list[Sample]) -> None:
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.utils import tfl_interpreter_utils

    made = quantizer.Quantizer(str(twin), recipe.static_wi8_ai8())
    interpreter = tfl_interpreter_utils.create_tfl_interpreter(str(twin))
    ((key, ends),) = interpreter.get_signature_list().items()
    details = interpreter.get_signature_runner(key).get_input_details()
    types = {name: details[name]["dtype"] for name in ends["inputs"]}

    def typed(sample: Sample) -> dict[str, Any]:
        return {name: part.astype(types[name]) for name, part in zip(order(ends["inputs"]), sample, strict=True)}

    fed = {key: [typed(sample) for sample in data]}
    made.quantize(made.calibrate(fed)).export_model(str(out), overwrite=True)


def main() -> None:
    peer, twin, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    data = samples(Path(sys.argv[4]))
    if peer in ("MinMax", "Percentile", "Entropy"):
        by_onnxruntime(twin, out, data, peer)
    elif peer == "reduce_range":
        by_onnxruntime(twin, out, data, "MinMax", reduce_range=True)
    elif peer == "ai-edge-quantizer":
        by_ai_edge_quantizer(twin, out, data)
    else:
        by_nncf(twin, out, data, transformer=peer == "nncf-transformer")


if __name__ == "__main__":
    main()
