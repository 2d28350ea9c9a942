"""What is mutated: real files, made here by the libraries and by edgeopt itself, and answers as real devices give them."""

import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgeopt.core import TWIN, Format, TargetResult
from edgeopt.registry import converter
from edgeopt.support.cache import Cache
from edgeopt.support.files import sha256_of, sha256_of_all, size_of
from edgeopt.targets import loader
from tests.fuzz.parsers.doors import packet

_TESTS = Path(__file__).parents[2]
_GOLDEN = _TESTS / "devices" / "golden"
_RECIPE = """model = "net.py:model"
evaluate = "net.py:evaluate"
calibration = "net.py:batches"
target = "x86-fbgemm"
max_drop = 0.01
max_bytes = 100000
max_latency_ms = 1.5
seed = 3
[training]
train_step = "net.py:train_step"
batches = "net.py:batches"
learning_rate = 0.001
schedule = "cosine"
[[step]]
technique = "channels"
amount = 0.3
epochs = 2
[[step]]
technique = "magnitude"
sparsity = 0.5
[[step]]
technique = "low-rank"
latency = 0.8
[export]
targets = ["x86-fbgemm", "boards/mine.toml"]
"""
_CONFIG = """model = "net.py:model"
inputs = ["x=1x3x8x8:float32"]
targets = ["arm-ort", "mine.toml"]
calibration = "net.py:batches"
evaluate = "net.py:evaluate"
max_drop = 0.01
max_slice_drop = 0.05
out = "../build/net"
timeout = 600.0
jobs = 2
cache = true
io_float = false
"""
_LATENCY_TABLE = """{"device": "pi5", "runtime": "arm-ort/onnx", "threads": 1, "overhead_ms": 0.005, "layers": [
  {"call": "conv(float32[1,3,8,8], float32[4,3,3,3]) > relu()", "form": "conv(float32[4 axes])",
   "work": 3888, "ms": 0.5, "float_ms": 0.8},
  {"call": "mean(float32[1,4,6,6], [2, 3])", "form": "mean(float32[4 axes], [2, 3])",
   "work": 4, "ms": 0.01, "float_ms": null}
]}
"""
_DEVICES = """# mine
[pi5]
url = "ssh://pi@192.168.1.20"
targets = ["arm-xnnpack", "arm-ort"]
root = "/mnt/usb"
[phone]
url = "adb://R58M123ABC"
delegate = "libQnnTFLiteDelegate.so"
delegate_options = { backend = "htp" }
tools = { benchmark_model = "tools/benchmark_model" }
"""
_LINES = """{"event": "runtime", "name": "onnxruntime", "versions": {"numpy": "2.0"}, "cpus": null}
{"event": "loaded", "ns": 12345, "import_ns": 100, "threads": 1}
{"event": "first", "ns": 300000}
{"event": "warm", "runs": 10, "ns": 3000000, "stable": true}
{"event": "samples", "t_ns": 0, "ns": [100, 101, 102, 103]}
{"event": "sustained", "t_ns": 5, "runs": 10, "ns_total": 1000}
{"event": "memory", "peak": 1000000, "overall": 1000}
{"event": "environment", "workload_ns": 500, "temperatures": {"cpu": 50.5}}
{"event": "placement", "accelerator": "cpu", "delegated": 3, "fallback": 0, "operators": {"Add": 1}}
{"event": "operators", "runs": 5, "operators": [{"name": "a", "kind": "Add", "provider": "cpu", "runs": 5, "mean_ns": 10}]}
{"event": "outputs", "files": [{"name": "y", "file": "0.bin", "offset": 0, "dtype": "float32", "shape": [1, 2]}]}
{"event": "end"}
"""
_ADB_DEVICES = """R58M123ABC             device usb:1-1 product:x model:Pixel_6 device:oriole transport_id:1
emulator-5554          offline transport_id:2
0123456789             unauthorized usb:2-1 transport_id:3
"""
_PROFILE = """[{"cat": "Node", "name": "conv_kernel_time", "dur": 120, "ts": 5, "ph": "X", "args": {"op_name": "Conv",
"provider": "CPUExecutionProvider", "node_index": "0"}},
{"cat": "Session", "name": "model_run", "dur": 200, "ts": 1, "args": {}}]"""


def make(name: str, folder: Path, bundle: Path | None) -> list[Path]:
    """Samples for the door ``name``, files or folders below ``folder``; those of ``bundle``, an export, besides."""
    folder.mkdir(parents=True)
    made = _MAKERS[name](folder)
    if bundle is not None and name in _SUFFIXES:
        made += [_copied(path, folder / f"bundle-{path.parent.name}{path.suffix}") for path in bundle.glob(_SUFFIXES[name])]
    if bundle is not None and name == "manifest":
        made.append(_copied(bundle, folder / "bundle"))
    return made


def _copied(source: Path, to: Path) -> Path:
    return Path(shutil.copytree(source, to) if source.is_dir() else shutil.copy(source, to))


def _written(folder: Path, name: str, *contents: str | bytes) -> list[Path]:
    paths = [folder / f"{number}{name}" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return paths


def _manifest(folder: Path) -> list[Path]:
    from tests.bench.test_artifacts import made, written
    from tests.devices.runner.jobs import onnx_model, tflite_model

    def whole(target: str, form: Format, make: Callable[[Path], Path]) -> TargetResult:
        result, path = made(bundle, target, form), bundle / target / f"model.{form}"
        inputs, outputs, structure = converter(form).inspect(make(path), loader.load(TWIN))
        assert result.artifact is not None
        facts: dict[str, Any] = {"inputs": inputs, "outputs": outputs, "structure": structure}
        return replace(result, artifact=replace(result.artifact, sha256=sha256_of(path), bytes=size_of(path), **facts))

    bundle = folder / "made"
    results = (whole("arm-ort", "onnx", onnx_model), whole("arm-xnnpack", "tflite", lambda path: tflite_model(path, "TANH")))
    written(bundle, *results)
    names = ("arm-ort/model.onnx", "arm-xnnpack/model.tflite", "manifest.json")
    (bundle / "SHA256SUMS").write_text("".join(f"{sha256_of(bundle / name)}  {name}\n" for name in names))
    assert sha256_of_all(bundle, names)
    return [bundle]


def _cache(folder: Path) -> list[Path]:
    cache = Cache(folder / "cache")
    cache.put_json("a" * 64, {"facts": [1, 2.5, "x", None]})
    cache.put_json("b" * 64, [])
    return [folder / "cache"]


def _onnx(folder: Path) -> list[Path]:
    from tests.bench.test_external_data import saved
    from tests.devices.runner.jobs import onnx_model

    return [onnx_model(folder / "relu.onnx"), _copied(saved(folder, "first.bin", "second.bin"), folder / "external.onnx")]


def _tflite(folder: Path) -> list[Path]:
    from tests.devices.runner.jobs import tflite_model

    return [tflite_model(folder / "chain.tflite", "TANH", "RELU", "LOGISTIC")]


def _mlpackage(folder: Path) -> list[Path]:
    import coremltools as ct
    import numpy as np
    from coremltools.converters.mil import Builder

    random = np.random.default_rng(0)
    codes, lut = random.integers(0, 255, 64, np.uint8), random.standard_normal(16).astype(np.float32)

    @Builder.program(input_specs=[Builder.TensorSpec(shape=(4, 32))], opset_version=ct.target.iOS16)  # type: ignore[untyped-decorator]
    def net(x: Any) -> Any:
        whole = Builder.constexpr_lut_to_dense(indices=codes, lut=lut, shape=np.array([32, 4], np.uint32))
        affine = Builder.constexpr_affine_dequantize(
            quantized_data=random.integers(-128, 127, (8, 4), np.int8), zero_point=np.int8(0), scale=np.float32(0.1), axis=0
        )
        hidden = Builder.relu(x=Builder.matmul(x=x, y=whole))
        return Builder.linear(x=hidden, weight=affine, bias=random.standard_normal(8).astype(np.float32))

    path = folder / "net.mlpackage"
    ct.convert(
        net, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS16, skip_model_load=True, package_dir=str(path),
        compute_precision=ct.precision.FLOAT32, pass_pipeline=ct.PassPipeline.EMPTY,
    )  # fmt: skip
    return [path]


def _pt2(folder: Path) -> list[Path]:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5)).eval()
    size = torch.export.Dim("n", min=1, max=8)
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), folder / "net.pt2")
    program = torch.export.export(net, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: size},))
    torch.export.save(program, folder / "dynamic.pt2")
    return [folder / "net.pt2", folder / "dynamic.pt2"]


def _adb(folder: Path) -> list[Path]:
    data = struct.pack("<4sI", b"DATA", 5) + b"hello" + struct.pack("<4sI", b"DONE", 0)
    greeting = packet(b"CNXN", 0x01000001, 1 << 18, b"device::ro.product.name=x;features=shell_v2,cmd")
    stream = packet(b"OKAY", 7, 1, b"") + packet(b"OKAY", 7, 1, b"") + packet(b"WRTE", 7, 1, data) + packet(b"CLSE", 7, 1, b"")
    old = packet(b"CNXN", 0x01000000, 1 << 12, b"device::")
    failed = packet(b"WRTE", 7, 1, struct.pack("<4sI", b"FAIL", 7) + b"no file")
    taken = _written(folder, ".adb", greeting + stream, old + stream)
    return [*taken, *_written(folder, ".refused", greeting + packet(b"OKAY", 7, 1, b"") * 2 + failed)]


def _sftp(folder: Path) -> list[Path]:
    def answer(kind: int, number: int, body: bytes) -> bytes:
        return struct.pack(">IBI", len(body) + 5, kind, number) + body

    def status(number: int, code: int) -> bytes:
        return answer(101, number, struct.pack(">III", code, 0, 0))

    version, text = struct.pack(">IBI", 5, 2, 3), struct.pack(">I", 6) + b"handle"

    def session(first: int, under_way: int) -> bytes:
        """A file of five bytes: the first question under way has them, all others are beyond its end."""
        attributes, data = struct.pack(">IQ", 1, 5), struct.pack(">I", 5) + b"hello"
        known = answer(102, first, text) + answer(105, first + 1, attributes) + answer(103, first + 2, data)
        ends = range(first + 3, first + 2 + 2 * under_way)
        written = (ends.stop, ends.stop + 1)
        return known + b"".join(status(number, 1) for number in ends) + b"".join(status(number, 0) for number in written)

    limits = struct.pack(">I", 18) + b"limits@openssh.com" + struct.pack(">I", 1) + b"1"
    extended = struct.pack(">IBI", 5 + len(limits), 2, 3) + limits + answer(201, 0, struct.pack(">QQQQ", 1, 2, 3, 4))
    return _written(folder, ".sftp", version + session(0, 4), extended + session(1, 12))


def _golden(*patterns: str) -> Callable[[Path], list[Path]]:
    def made(folder: Path) -> list[Path]:
        return [_copied(path, folder / path.name) for pattern in patterns for path in sorted(_GOLDEN.glob(pattern))]

    return made


def _targets(folder: Path) -> list[Path]:
    known: Sequence[Path] = [Path(str(files("edgeopt.targets"))) / f"{name}.toml" for name in loader.names() if name != TWIN]
    return [_copied(path, folder / path.name) for path in known]


def _perf_test(folder: Path) -> list[Path]:
    samples = "\n".join(f"model,{0.001 + number / 1e6},1000,50,{number}" for number in range(20))
    return [*_golden("onnxruntime_perf_test*")(folder), *_written(folder, ".csv", samples, _PROFILE)]


_SUFFIXES = {"onnx": "*/*.onnx", "tflite": "*/*.tflite", "mlpackage": "*/*.mlpackage"}
_MAKERS: dict[str, Callable[[Path], list[Path]]] = {
    "manifest": _manifest,
    "devices": lambda folder: _written(folder, ".toml", _DEVICES),
    "target": _targets,
    "recipe": lambda folder: _written(folder, ".toml", _RECIPE),
    "config": lambda folder: _written(folder, ".toml", _CONFIG),
    "latency_table": lambda folder: _written(folder, ".json", _LATENCY_TABLE),
    "cache": _cache,
    "onnx": _onnx,
    "tflite": _tflite,
    "mlpackage": _mlpackage,
    "pt2": _pt2,
    "pt2-json": _pt2,
    "lines": lambda folder: _written(folder, ".jsonl", _LINES),
    "benchmark_model": _golden("benchmark_model*"),
    "perf_test": _perf_test,
    "facts": _golden("*.facts.txt", "*.environment.txt"),
    "adb": _adb,
    "adb_devices": lambda folder: _written(folder, ".txt", _ADB_DEVICES),
    "sftp": _sftp,
}
