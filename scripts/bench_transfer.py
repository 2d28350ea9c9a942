#!/usr/bin/env python3
"""Measures pushes against the system's own tools: same file, same server, in turn.

    .venv/bin/python scripts/bench_transfer.py            # every kind of device
    .venv/bin/python scripts/bench_transfer.py ssh        # against `sftp`'s put, on loopback
    .venv/bin/python scripts/bench_transfer.py adb        # against `adb push`, to the emulated daemon, directly
    .venv/bin/python scripts/bench_transfer.py adb-server # the same, through the ADB server

The goal is 0.9 of the tool's speed. The best of the rounds counts: everything else on the machine only makes a round slower.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edgeopt.devices.adb import transport as adb  # noqa: E402  from this checkout
from edgeopt.devices.ssh import transport as ssh  # noqa: E402
from edgeopt.devices.ssh.config import CONFIG_VARIABLE  # noqa: E402
from edgeopt.devices.transport import Transport  # noqa: E402
from tests.devices.adb.client import private_server  # noqa: E402
from tests.devices.adb.fixtures import adb_server_transport  # noqa: E402
from tests.emulators.sshd import sshd  # noqa: E402

GOAL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Two ways to bring ``file`` to ``target``; both include whatever they do for one more file on an open connection."""

    name: str
    ours: Callable[[], None]
    theirs: Callable[[], None]
    file: Path
    target: Path


def speed(push: Callable[[], None], contest: Contest) -> float:
    """MB/s of one push, whose result must be the file."""
    contest.target.unlink(missing_ok=True)
    start = time.perf_counter()
    push()
    seconds = time.perf_counter() - start
    if contest.target.read_bytes() != contest.file.read_bytes():
        raise SystemExit(f"{contest.name}: what arrived is not what was sent")
    return contest.file.stat().st_size / seconds / 1e6


def judge(contest: Contest, rounds: int) -> bool:
    """Prints both speeds; whether the goal is met."""
    pairs = [(speed(contest.ours, contest), speed(contest.theirs, contest)) for _ in range(rounds)]
    ours, theirs = max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
    met = ours >= GOAL * theirs
    print(f"{contest.name:<28} edgeopt {ours:7.1f} MB/s   tool {theirs:7.1f} MB/s   ratio {ours / theirs:5.2f}", end="   ")
    print(f"goal {GOAL}: {'met' if met else 'MISSED'}")
    return met


def push(transport: Transport, file: Path, target: Path) -> None:
    with file.open("rb") as source:
        transport.send(source, str(target))


@contextmanager
def ssh_contest(folder: Path, file: Path) -> Iterator[Contest]:
    """``sftp`` gets a control master, so that it does not open a connection for each file: neither does edgeopt."""
    with sshd(folder / "sshd") as server:
        config = server.client_config(folder / "ssh_config")
        os.environ[CONFIG_VARIABLE] = str(config)
        control, batch, target = folder / "control", folder / "batch", folder / "arrived"
        batch.write_text(f"put {file} {target}\n")
        client = ["-q", "-F", str(config), "-o", f"ControlPath={control}"]
        place = ["-o", f"Port={server.port}", server.host]
        master = subprocess.Popen(["ssh", *client, "-o", "ControlMaster=yes", "-N", *place])
        transport = ssh.connect(server.url)
        while not control.exists():
            time.sleep(0.05)
        sftp = ["sftp", *client, "-b", str(batch), *place]
        try:
            yield Contest(
                name=f"ssh, {file.stat().st_size / 1e6:.0f} MB",
                ours=lambda: push(transport, file, target),
                theirs=lambda: subprocess.run(sftp, check=True, stdout=subprocess.DEVNULL) and None,
                file=file,
                target=target,
            )
        finally:
            transport.close()
            master.terminate()
            master.wait()


@contextmanager
def adbd_alone() -> Iterator[str]:
    """The address of an emulated daemon in a process of its own: in ours it would slow us down only."""
    command = [sys.executable, "-m", "tests.emulators.adbd"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@contextmanager
def adb_contest(folder: Path, file: Path, through_server: bool = False) -> Iterator[Contest]:
    """`adb push` has its server running and connected to the same daemon."""
    os.environ["XDG_CONFIG_HOME"] = str(folder)
    with private_server(folder) as client, adbd_alone() as address:
        client.attach(address)
        os.environ["ANDROID_ADB_SERVER_PORT"] = str(client.port)
        url, target = f"adb://{address}", folder / "arrived"
        transport = adb_server_transport(address, url) if through_server else adb.connect(url, input)
        try:
            yield Contest(
                name=f"adb{'-server' * through_server}, {file.stat().st_size / 1e6:.0f} MB",
                ours=lambda: push(transport, file, target),
                theirs=lambda: client("-s", address, "push", file, target) and None,
                file=file,
                target=target,
            )
        finally:
            transport.close()


CONTESTS = {"ssh": ssh_contest, "adb": adb_contest, "adb-server": partial(adb_contest, through_server=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*CONTESTS, []], help="kinds of devices; all of them without")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, action="append", help="sizes of files (default: 14, as MobileNetV2, and 200)")
    arguments = parser.parse_args()
    met = True
    for kind in arguments.kinds or CONTESTS:
        for megabytes in arguments.megabytes or [14, 200]:
            with tempfile.TemporaryDirectory() as name:
                file = Path(name) / "file"
                file.write_bytes(os.urandom(megabytes * 10**6))
                with CONTESTS[kind](Path(name), file) as contest:
                    met &= judge(contest, arguments.rounds)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
