"""What workers build before they fork changes no result."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.converters import programs
from tests.converters.programs import IMAGE

CONVERT = """
import sys
from pathlib import Path
import torch
from edgeopt.converters import warm
from edgeopt.converters.onnx.converter import OnnxConverter
from tests.converters import programs
if sys.argv[1] == "warm":
    warm.programs(), warm.onnx()
for name in ("one", "two"):
    out = Path(sys.argv[2]).with_name(f"{sys.argv[1]}-{name}.onnx")
    OnnxConverter().convert(Path(sys.argv[2]), programs.profile(), out, io_float=True, output_names=("scores", "features"))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_warm_conversions_give_the_same_bytes(tmp_path: Path) -> None:
    program = programs.save(programs.Network(), IMAGE, tmp_path / "network.pt2")
    for kind in ("warm", "cold"):
        subprocess.run([sys.executable, "-c", CONVERT, kind, str(program)], check=True, timeout=300)
    contents = {path.read_bytes() for path in tmp_path.glob("*.onnx")}
    assert len([*tmp_path.glob("*.onnx")]) == 4 and len(contents) == 1
