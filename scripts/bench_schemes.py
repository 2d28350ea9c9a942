#!/usr/bin/env python3
"""One network quantized for ARM (s8s8) and for x86 (u8s8), on this computer and on emulated ARM processors: why profiles exist.

    .venv/bin/python scripts/bench_schemes.py build/mobilenet_v2     # a bundle with arm-ort and x86-fbgemm

Everything goes through ``edgeopt bench``. Emulated times compare only with each other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.emulators.arm64 import switched_on  # noqa: E402  this checkout's, wherever the script is started

PROCESSORS = {
    "Cortex-A76 (ARMv8.2, dot product)": "cortex-a76",
    "ARMv8.6 (i8mm, no SVE)": "max,sve=off,pauth-impdef=on",
    "ARMv9 (i8mm, SVE2 of 128 bits)": "max,sve128=on,sve256=off,sve512=off,pauth-impdef=on",
}
S8S8, U8S8 = "arm-ort", "x86-fbgemm"
SETTINGS = ("--launches", "3", "--runs", "15", "--seconds", "1", "--threads", "1")


def edgeopt(folder: Path, *arguments: str) -> str:
    """What the command line prints for a user whose configuration and SSH configuration are in ``folder``."""
    own = {"EDGEOPT_SSH_CONFIG": str(folder / "board" / "ssh_config"), "XDG_CONFIG_HOME": str(folder)}
    command = [sys.executable, "-m", "edgeopt.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | own, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"edgeopt {arguments[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def medians(folder: Path, bundle: Path, device: str) -> dict[str, float]:
    """Median latency in ms by target."""
    targets = ("--target", S8S8, "--target", U8S8)
    said = edgeopt(folder, "bench", str(bundle), "--device", device, *targets, *SETTINGS, "--format", "json")
    found: dict[str, float] = {}
    for run in json.loads(said):
        for result in run["results"]:
            measurement: dict[str, Any] = result["measurement"] or sys.exit(f"{device}: {result['reason']}")
            found[result["subject"]["target"]] = measurement["latency"]["median"]["value"] / 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a folder that edgeopt export wrote")
    bundle = parser.parse_args().bundle.resolve()
    print(f"{'processor':<36}{'s8s8':>9}{'u8s8':>9}   s8s8 / u8s8")
    for processor, cpu in {"this computer": None, **PROCESSORS}.items():
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            device = "local"
            if cpu:
                board = stack.enter_context(switched_on(folder / "board", cpu=cpu))
                device = board.url
                edgeopt(folder, "devices", "setup", device)
            found = medians(folder, bundle, device)
        ratio = found[S8S8] / found[U8S8]
        print(f"{processor:<36}{found[S8S8]:9.1f}{found[U8S8]:9.1f}   {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
