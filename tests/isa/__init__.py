"""An x86 CPU without VNNI, on one that has it: the real kernels of such a CPU run, chosen by what CPUID is made to say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("as_avx2.c")
CANNOT = 97
"""Exit code of a process in which CPUID cannot be made to fault."""


def library(folder: Path) -> Path:
    """The library to preload, compiled into ``folder``; skips the test where this machine cannot have it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or os.uname().machine != "x86_64" or compiler is None:
        pytest.skip("needs Linux on x86-64 and a C compiler")
    out = folder / "as_avx2.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(out), str(SOURCE), "-ldl"], check=True, timeout=120)
    if subprocess.run([sys.executable, "-c", ""], env=preloaded(out), capture_output=True, timeout=60).returncode == CANNOT:
        pytest.skip("this CPU cannot let CPUID fault (Intel's can, from Ivy Bridge on)")
    return out


def preloaded(path: Path) -> dict[str, str]:
    """The environment of a process that sees a CPU with AVX2 and nothing newer."""
    return os.environ | {"LD_PRELOAD": str(path)}
