"""What is imported when: the command line must start at once, and one module must never exist twice."""

import subprocess
import sys

import pytest

import edgeopt

HEAVY = (
    "torch",
    "torchao",
    "numpy",
    "onnx",
    "onnxruntime",
    "litert_torch",
    "ai_edge_litert",
    "coremltools",
    "jax",
    "transformers",
)


def loaded_by(code: str) -> set[str]:
    code = f"import sys\nsys.argv = ['edgeopt', '--help']\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


MODULES = (
    "", ".cli.app", ".core", ".errors", ".model.options", ".model.config", ".model.references", ".starter.doctor",
    ".report.table",
)  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_this_part_imports_no_heavy_library(module: str) -> None:
    assert not loaded_by(f"import edgeopt{module}").intersection(HEAVY)


def test_help_imports_neither_torch_nor_a_runtime_nor_rich() -> None:
    code = "from edgeopt.cli.app import main\ntry: main()\nexcept SystemExit: pass"
    assert not loaded_by(code).intersection({*HEAVY, "rich", "pydantic"})


def test_every_public_name_can_be_imported() -> None:
    for name in edgeopt.__all__:
        assert getattr(edgeopt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edgeopt.nothing
