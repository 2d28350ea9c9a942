"""A ``.pt2`` artifact is the program, its outputs named, its bytes the same every time."""

from pathlib import Path

import numpy as np
import pytest

from edgeopt.converters.pt2 import Pt2Converter
from edgeopt.errors import ConversionError
from tests.converters import programs
from tests.converters.programs import IMAGE

# torch warns about its own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

CONVERTER = Pt2Converter()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return programs.save_quantized(programs.Network(), IMAGE, tmp_path_factory.mktemp("pt2") / "network.pt2")


def test_artifact_is_the_program_with_named_outputs(program: Path) -> None:
    out = program.with_name("out.pt2")
    CONVERTER.convert(program, programs.profile(), out, io_float=False, output_names=("scores", "features"))
    inputs, outputs, structure = CONVERTER.inspect(out, programs.profile())
    assert [(spec.name, spec.dtype) for spec in inputs] == [("image", "float32")]
    assert [(spec.name, spec.shape) for spec in outputs] == [("scores", (1, 5)), ("features", (1, 8))]
    assert structure.operators["aten.conv2d.default"] == 2 and structure.quantize > 0 and structure.dequantize > 0
    arrays = programs.example(IMAGE)
    for want, got in zip(programs.reference(program, arrays), CONVERTER.load(out, threads=1)(*arrays), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_two_processes_make_the_same_bytes(program: Path) -> None:
    names = ("scores", "features")
    first, second = (programs.convert_elsewhere(Pt2Converter, program, program.with_name(f"{n}.pt2"), names, n) for n in (1, 2))
    assert first == second


def test_a_broken_program_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pt2"
    broken.write_bytes(b"not a program")
    with pytest.raises(ConversionError, match=r"broken\.pt2 cannot be read"):
        CONVERTER.inspect(broken, programs.profile())
