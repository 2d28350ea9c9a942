"""Of what kind a CPU is, by its machine and its instructions."""

import pytest

from edgeopt.support import processor
from edgeopt.support.processor import Processor
from edgeopt.targets import loader

AVX2, VNNI, NEON = {"sse2", "avx2"}, {"sse2", "avx2", "avx512_vnni"}, {"asimd", "asimddp"}


@pytest.mark.parametrize(
    ("kind", "machine", "features", "fits"),
    [
        ("x86-64-vnni", "x86_64", VNNI, True),
        ("x86-64-vnni", "AMD64", {"avx2", "avx_vnni"}, True),
        ("x86-64-vnni", "x86_64", {"avx2", "amx_int8"}, True),
        ("x86-64-vnni", "x86_64", AVX2, False),
        ("x86-64-vnni", "aarch64", NEON, False),
        ("x86-64-avx2", "x86_64", AVX2, True),
        ("x86-64-avx2", "x86_64", VNNI, False),
        ("x86-64-avx2", "x86_64", {"sse2"}, False),
        ("x86-64", "x86_64", set(), True),
        ("aarch64", "arm64", set(), True),
        ("aarch64", "aarch64", NEON, True),
        ("aarch64", "armv7l", set(), False),
        ("aarch64", "x86_64", VNNI, False),
        ("any", "riscv64", set(), True),
        (None, "x86_64", VNNI, False),
    ],
)
def test_a_cpu_is_of_its_kind_and_of_no_other(kind: Processor | None, machine: str, features: set[str], fits: bool) -> None:
    assert processor.fits(kind, machine, features) == fits


@pytest.mark.parametrize("machine", ["AMD64", "x86_64"])
def test_where_its_instructions_are_not_known_it_is_of_no_kind_that_needs_them(machine: str) -> None:
    assert not processor.fits("x86-64-vnni", machine, ()) and not processor.fits("x86-64-avx2", machine, ())


def test_no_computer_stands_for_an_accelerator() -> None:
    for name in ("android-nnapi", "android-litert-gpu", "apple-ane", "nvidia-sparse24"):
        assert not processor.is_here(loader.load(name).processor)
    assert processor.is_here(loader.load("portable-fp32").processor)
