"""Devices that lie: whatever a run prints, the result is a clear one, memory is bounded, and no terminal is written to."""

import hashlib
import io
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from edgeopt.bench.types import DeviceRun
from edgeopt.devices import local
from edgeopt.devices.devices_toml import DeviceSpec
from edgeopt.devices.session.device import Device
from edgeopt.report.bench_formats import as_csv, as_markdown
from edgeopt.report.bench_table import print_runs
from tests.bench.faults import Bed, assert_clear, assert_measured, nobody
from tests.bench.faults_ssh import bed, liar_url, server
from tests.emulators.sshd import Server

__all__ = ["bed", "liar_url", "server"]

ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202eevil\x9b31m\r"
FLOOD_BYTES = 100_000_000
MOST_GROWTH = 120_000_000
"""Of this process's memory, and of what it writes."""
GOOD: list[dict[str, object]] = [{"event": "first", "ns": 1000}, {"event": "samples", "ns": [1000, 1001, 1002]}]
END = {"event": "end"}
FILE = {"name": "y", "file": "0.bin", "offset": 0, "bytes": 40, "dtype": "float32", "shape": [1, 10], "sha256": "0" * 64}


def prints(*events: object) -> str:
    """A script that prints ``events`` as JSON lines."""
    lines = "\n".join(event if isinstance(event, str) else json.dumps(event) for event in events)
    return f"cat <<'EOF'\n{lines}\nEOF"


def outputs(**changed: object) -> str:
    """A run that is right but for what it says of its output, which is 40 zero bytes."""
    return "mkdir out; head -c 40 /dev/zero > out/0.bin\n" + prints(*GOOD, {"event": "outputs", "files": [FILE | changed]}, END)


LIES = {
    "garbage": ("printf '{\\377\\000\\n[1\\200\\n'", "BadAnswer", "makes no sense"),
    "words": ("echo hello; echo there >&2", "RunFailed", "before it was done"),
    "nothing": ("exit 0", "RunFailed", "exit code 0"),
    "NaN": (prints(*GOOD, '{"event":"first","ns":NaN}', END), "BadAnswer", "NaN is no number"),
    "infinite": (prints(*GOOD, '{"event":"loaded","ns":1e400}', END), "BadAnswer", "ns is"),
    "negative": (prints(*GOOD, {"event": "samples", "ns": [5, -5]}, END), "BadAnswer", "a duration that cannot be"),
    "deep": ("head -c 1000000 /dev/zero | tr '\\0' '['; echo; printf '{\"a\":'; head -c 1000000 /dev/zero | tr '\\0' '['",
             "BadAnswer", "makes no sense"),
    "climbs": (outputs(file="../../../../../../etc/passwd"), "BadAnswer", "cannot be"),
    "absolute": (outputs(file="/etc/passwd"), "BadAnswer", "cannot be"),
    "digest": (outputs(), "BadAnswer", "SHA-256"),
    "missing": (outputs(file="1.bin"), "DeviceError", "cannot be read"),
    "endless file": ("mkdir out; ln -s /dev/zero out/0.bin\n"
                     + prints(*GOOD, {"event": "outputs", "files": [FILE]}, END), "BadAnswer", "more than 40"),
    "other shape": (outputs(shape=[2, 5], sha256=hashlib.sha256(bytes(40)).hexdigest()), "BadAnswer", "other shapes"),
    "short": (outputs(shape=[1, 10], dtype="float64"), "BadAnswer", "cannot be"),
}  # fmt: skip


def test_whatever_a_run_prints_ends_in_a_clear_result(bed: Bed, server: Server) -> None:
    devices = [bed.canned(name.replace(" ", "-"), server.url, script) for name, (script, _, _) in LIES.items()]
    *lying, fine = bed.bench(*devices, bed.device("healthy", server.url))
    assert_measured(fine)
    for run, (name, (_, error, words)) in zip(lying, LIES.items(), strict=True):
        (result,) = run.results
        assert (name, run.error, result.error) == (name, "", error), result.reason
        assert_clear(result.error, result.reason, words)
        bed.assert_cleared(run.device)


def resident() -> int:
    """Bytes of this process that are in memory (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def growth() -> Iterator[list[int]]:
    """How many bytes of memory this process took more than before, at most, as the only item."""
    over, found, before = threading.Event(), [0], resident()

    def watch() -> None:
        while not over.wait(0.005):
            found[0] = max(found[0], resident() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


LONG = json.dumps(GOOD[0] | {"more": "x" * 1000})
FLOODS = {
    "line": f"head -c {FLOOD_BYTES} /dev/zero",
    "lines": f"yes '{LONG}' | head -c {FLOOD_BYTES}",
    "errors": f"head -c {FLOOD_BYTES} /dev/zero >&2",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOODS)
def test_a_hundred_megabytes_are_cut_off_in_bounded_memory(bed: Bed, server: Server, name: str) -> None:
    liar = bed.canned("liar", server.url, FLOODS[name])
    with growth() as most:
        lying, fine = bed.bench(liar, bed.device("healthy", server.url))
    assert_measured(fine)
    (result,) = lying.results
    assert result.error == "BadAnswer"
    assert_clear(result.error, result.reason, "cut off")
    bed.assert_cleared("liar")
    assert most[0] < MOST_GROWTH
    assert sum(path.stat().st_size for path in bed.folder.glob("runs/*-liar/*")) < MOST_GROWTH


def hostile(bed: Bed, url: str, liar_url: str) -> list[DeviceSpec]:
    """Devices with escapes in everything that they say."""
    text = {"name": ESCAPES, "versions": {ESCAPES: ESCAPES}, ESCAPES: [ESCAPES], "kind": ESCAPES, "message": ESCAPES}
    many = [{"event": name} | text for name in ("runtime", "placement", "environment", "loaded", "memory", "phase", ESCAPES)]
    bed.program("uname", f'printf \'{ESCAPES}%s\\n\' "$(/bin/uname "$@")"', "lies")
    return [
        bed.canned("measured", liar_url, prints(*GOOD, *many, END)),
        bed.canned("failed", url, prints(*GOOD, *many, {"event": "error"} | text) + "\nexit 1"),
        bed.canned("crashed", url, prints(*GOOD, *many) + f"\nprintf '{ESCAPES}' >&2; exit 3"),
        bed.canned("unknown", url, prints({"event": "samples", "ns": ESCAPES})),
        bed.canned("file", url, outputs(file=ESCAPES, dtype=ESCAPES, shape=[ESCAPES])),
        bed.canned("shape", url, outputs(shape=[ESCAPES])),
        bed.canned("busy", url, ""),
    ]


def shown(bed: Bed, runs: list[DeviceRun]) -> str:
    """All that people and programs get to see of ``runs``."""
    target = Console(file=io.StringIO(), width=200, highlight=False)
    print_runs(runs, [Path("runs") for _ in runs], target)
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue() + as_csv(runs) + as_markdown(runs)


def test_escapes_reach_no_terminal_and_no_table(bed: Bed, server: Server, liar_url: str) -> None:
    devices = hostile(bed, server.url, liar_url)
    root = bed.root("busy")
    root.parent.mkdir(parents=True)
    with Device.connect("busy", local.connect("local", nobody), str(root)) as device, device.session() as session:
        (root / "sessions" / session.identifier / "owner").write_text(ESCAPES)
        *lying, fine = bed.bench(*devices, bed.device("healthy", server.url), wait_s=0.0)
    assert_measured(fine)
    assert [run.results[0].error for run in lying] == [
        "", "RunFailed", "RunFailed", "BadAnswer", "BadAnswer", "BadAnswer", "DeviceBusy",
    ]  # fmt: skip
    text = shown(bed, [*lying, fine])
    assert "evil" in text
    assert not re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
