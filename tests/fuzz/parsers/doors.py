"""What reads the files and answers of others, as edgeopt's own process calls it. Each raises an EdgeoptError or has read it."""

import io
import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeopt.bench import artifacts
from edgeopt.bench.events import Reader
from edgeopt.bench.inputs import synthetic
from edgeopt.bundle.bundle import Bundle
from edgeopt.core import MANIFEST_NAME, SUMS_NAME
from edgeopt.devices import devices_toml
from edgeopt.devices.adb import direct, packets, states, sync
from edgeopt.devices.adb import link as adb_link
from edgeopt.devices.native import benchmark_model, perf_test
from edgeopt.devices.native.job import NativeJob
from edgeopt.devices.native.output import Nonsense
from edgeopt.devices.ssh.sftp import READ, Refused, Sftp
from edgeopt.devices.state.environment import parse_environment
from edgeopt.devices.state.facts import parse_facts
from edgeopt.devices.transport import Finished
from edgeopt.errors import InputError
from edgeopt.model import config
from edgeopt.model.latency_table import LatencyTable
from edgeopt.recipe import schema
from edgeopt.support.cache import Cache
from edgeopt.targets import loader
from tests.emulators.sftp_script import Script

LIMIT = 1 << 20
TFLITE = NativeJob(format="tflite", tool="/tools/benchmark_model", artifact="/store/model.tflite")
ONNX = NativeJob(format="onnx", tool="/tools/onnxruntime_perf_test", artifact="/store/model.onnx")


@dataclass(frozen=True)
class Door:
    """``go`` takes a mutant's path. ``parts``: of a sample that is a folder, what is mutated. ``imports``: what it loads."""

    go: Callable[[Path], None]
    text: bool = False
    parts: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


def manifest(path: Path) -> None:
    for one in artifacts.load(path):
        if one.failure is None:
            _inputs(one)
    Bundle.load(path).verify()


def artifact(path: Path) -> None:
    for one in artifacts.load(path):
        _inputs(one)


def _inputs(one: artifacts.Runnable) -> None:
    with suppress(InputError):
        synthetic(one.inputs)


def devices(path: Path) -> None:
    folder = path.with_suffix(".folder")
    folder.mkdir(exist_ok=True)
    (folder / devices_toml.FILE_NAME).write_bytes(path.read_bytes())
    os.chdir(folder)
    os.environ["XDG_CONFIG_HOME"] = str(folder / "none")
    devices_toml.known()
    devices_toml.add(devices_toml.DeviceSpec(name="new", url="ssh://new"), folder / devices_toml.FILE_NAME)
    assert "new" in devices_toml.known()


def target(path: Path) -> None:
    loader.load(str(path))


def recipe(path: Path) -> None:
    from edgeopt.recipe.workload import _settings

    for number, step in enumerate(schema.read(path).steps, 1):
        _settings(number, step)


def settings(path: Path) -> None:
    config.read(path)


def latency_table(path: Path) -> None:
    LatencyTable.load(path)


def cache(path: Path) -> None:
    """Nothing that a cache holds is an error: it counts as missing, or is what was put there."""
    found = Cache(path)
    for key in ("a" * 64, "b" * 64):
        found.get(key)
        found.get_json(key)
    found.prune(0, in_use_s=0)


def lines(path: Path) -> None:
    reader = Reader("it", "pi5")
    for line in path.read_bytes().decode("utf-8", "replace").splitlines():
        reader.feed(line)
    _ = reader.launch
    reader.finish(0, "")


def benchmark_output(path: Path) -> None:
    for job in (TFLITE, replace(TFLITE, mode="operators")):
        _taken(benchmark_model.events(Finished(0, path.read_bytes(), b""), job))


def perf_output(path: Path) -> None:
    content = path.read_bytes()
    _taken(perf_test.events(Finished(0, content, b""), [], ONNX))
    _taken(perf_test.operators_in(content, 5, ONNX))
    with suppress(Nonsense):
        _taken(perf_test.events(Finished(0, content, b""), perf_test.samples_in(content), ONNX))


def _taken(events: list[dict[str, Any]]) -> None:
    """Through JSON, as a device's own lines come."""
    reader = Reader("it", "pi5")
    for event in events:
        reader.feed(json.dumps(event))
    _ = reader.launch


def facts(path: Path) -> None:
    parse_facts(path.read_bytes())
    parse_environment(path.read_bytes())


def adb(path: Path) -> None:
    """A device that has written all it will ever say: greeting, a file that is fetched, the end."""
    packets._TICK_S, patience = 0.1, 0.5
    direct.CONNECT_S = direct.ALLOW_S = adb_link._CONSENT_S = sync._STALL_S = patience
    os.environ["HOME"] = str(path.parent)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_say, args=(server, path.read_bytes()), daemon=True).start()
        link = direct.connect(*server.getsockname(), "adb://there")
        sync.fetch(link, "adb://there", "/x", io.BytesIO(), LIMIT)


def _say(server: socket.socket, content: bytes) -> None:
    """The greeting, which is the first packet, then the rest when a stream is asked for."""
    there, _ = server.accept()
    greeting = 24 + int.from_bytes(content[12:16], "little")
    with suppress(OSError):
        there.sendall(content[:greeting])
        heard = b""
        while b"OPEN" not in heard and (piece := there.recv(1 << 16)):
            heard += piece
        there.sendall(content[greeting:])
        there.shutdown(socket.SHUT_WR)
        while there.recv(1 << 16):
            pass


def adb_devices(path: Path) -> None:
    states.parse_devices(path.read_bytes().decode("utf-8", "replace"))


def sftp(path: Path) -> None:
    with suppress(Refused):
        client = Sftp(Script(path.read_bytes()))
        handle = client.open("/x", READ)
        client.size(handle)
        client.read(handle, io.BytesIO(), LIMIT)
        client.write(handle, io.BytesIO(bytes(100)), 0, None)
        client.close(handle)


_ONNX, _TFLITE = ("onnx",), ("ai_edge_litert.tools.flatbuffer_utils",)
_COREML, _PT2 = ("coremltools", "edgeopt.mil.loading"), ("torch", "torchao", "torch.export")
DOORS = {
    "manifest": Door(manifest, text=True, parts=(MANIFEST_NAME, SUMS_NAME), imports=_ONNX),
    "devices": Door(devices, text=True),
    "target": Door(target, text=True),
    "recipe": Door(recipe, text=True, imports=("torch",)),
    "config": Door(settings, text=True),
    "latency_table": Door(latency_table, text=True),
    "cache": Door(cache, text=True, parts=("v1/*/digests.json", "v1/*/files/value.json")),
    "onnx": Door(artifact, imports=_ONNX),
    "tflite": Door(artifact, imports=_TFLITE),
    "mlpackage": Door(artifact, parts=("Manifest.json", "Data/*/model.mlmodel", "Data/*/weights/*"), imports=_COREML),
    "pt2": Door(artifact, imports=_PT2),
    "pt2-json": Door(artifact, imports=_PT2),
    "lines": Door(lines, text=True),
    "benchmark_model": Door(benchmark_output, text=True),
    "perf_test": Door(perf_output, text=True),
    "facts": Door(facts, text=True),
    "adb": Door(adb),
    "adb_devices": Door(adb_devices, text=True),
    "sftp": Door(sftp),
}
"""By name; ``pt2-json``: the same archive, whose JSON is mutated and whose checksums are right."""


def packet(command: bytes, first: int, second: int, data: bytes) -> bytes:
    """One of ADB's, as a device sends it."""
    number = int.from_bytes(command, "little")
    return struct.pack("<6I", number, first, second, len(data), sum(data) & 0xFFFFFFFF, number ^ 0xFFFFFFFF) + data
