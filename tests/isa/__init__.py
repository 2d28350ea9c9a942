"""An x86 CPU without VNNI, on one that has it: the real kernels of such a CPU run, chosen by what CPUID is made to say."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("as_avx2.c")
CANNOT = 97
"""Exit code of a process in which CPUID cannot be made to fault."""
_CPUID, _UD2 = b"\x0f\xa2", b"\x0f\x0b"


class Unavailable(Exception):
    """Why this machine cannot be taken for an older one."""


def library(folder: Path) -> Path:
    """The library to preload, compiled into ``folder``. Raises Unavailable where this machine cannot have it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or os.uname().machine != "x86_64" or compiler is None:
        raise Unavailable("needs Linux on x86-64 and a C compiler")
    out = folder / "as_avx2.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(out), str(SOURCE), "-ldl"], check=True, timeout=120)
    if not _works(out):
        _patch(_runtime(), folder / "patched")
        if not _works(out):
            raise Unavailable("CPUID cannot be made to fault here")
    return out


def preloaded(path: Path) -> dict[str, str]:
    """The environment of a process that sees a CPU with AVX2 and nothing newer."""
    return os.environ | {"LD_PRELOAD": str(path)}


def _works(path: Path) -> bool:
    done = subprocess.run([sys.executable, "-c", ""], env=preloaded(path), capture_output=True, timeout=60)
    return done.returncode != CANNOT


def _runtime() -> Path:
    """ONNX Runtime's library: of all that edgeopt runs, only its kernels depend on VNNI in what they compute."""
    found = importlib.util.find_spec("onnxruntime")
    if found is None or found.origin is None:
        raise Unavailable("needs ONNX Runtime")
    return next((Path(found.origin).parent / "capi").glob("onnxruntime_pybind11_state*.so"))


def _patch(path: Path, folder: Path) -> None:
    """A copy of the library ``path`` in ``folder`` with UD2 in place of each CPUID that a disassembler finds."""
    tool = shutil.which("objdump")
    if tool is None:
        raise Unavailable("this CPU cannot let CPUID fault (Intel's can, from Ivy Bridge on), and there is no objdump")
    sections = subprocess.run([tool, "-h", str(path)], check=True, capture_output=True, text=True, timeout=120).stdout
    listing = subprocess.run([tool, "-d", str(path)], check=True, capture_output=True, text=True, timeout=300).stdout
    code = bytearray(path.read_bytes())
    places = [
        tuple(int(number, 16) for number in row)
        for row in re.findall(r" \.\w+ +(\w{8,}) +(\w{16}) +\w{16} +(\w{8,}) ", sections)
    ]
    for address in (int(found, 16) for found in re.findall(r"^ *(\w+):\t.*\tcpuid *$", listing, re.MULTILINE)):
        start, offset = next(row[1:] for row in places if row[1] <= address < row[1] + row[0])
        place = address - start + offset
        assert code[place : place + 2] == _CPUID
        code[place : place + 2] = _UD2
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_bytes(code)
    bridge = path.with_name("libonnxruntime_providers_shared.so")  # looked for beside the other
    if bridge.exists():
        shutil.copyfile(bridge, folder / bridge.name)
