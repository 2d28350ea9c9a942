"""Which texts of sizes sympy may see: what torch writes, and nothing that is large once it is computed."""

import json
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim
from torch.nn import functional

from edgeopt.errors import ModelError
from edgeopt.model.program_file import read_program
from edgeopt.model.size_text import is_arithmetic, work

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, on what it reads

S = "Symbol('s0', positive=True, integer=True)"
SUM = f"({'+'.join(f's{number}' for number in range(20))})"


@pytest.mark.parametrize(
    "text",
    [
        "Float(Rational(1,3), 20000000000)", "Float(1/3, 9999999999)", "floor(sqrt(Float(2,1000000000)))",
        f"FloorDiv({SUM}**63*{SUM}**63, {SUM}**62)", f"Mod({SUM}**63, {SUM}**62)", f"FloorDiv({SUM}**8, {SUM})",
        f"Max({', '.join(f's0*u0+{number}' for number in range(300))})", "Float('1e999999999', precision=53)",
        "Float('1.5', precision=5300000)", "Float('1.5', dps=53)", "Float('nan')", "Float(1.5, 53)", "Rational(1, 3, 2)",
        "Rational(1, 0)", "Integer(2**64)", "Integer(9223372036854775808)", "Integer('1e99999999')", "Integer(s0)", "s0**9",
        "s0**s0", "2**s0", "Pow(Pow(Pow(9, 8), 8), 8)", f"Pow({S}, Pow(2, 2))", "(-9)**-9", "s0**-9", "s0**1e9", "1 << 64",
        "PowByNatural(s0, 64)", "Pow(2, Float('1e9', precision=53))", f"Symbol({S})", "Symbol('s0', integer=1)", "'s0'",
        "Symbol('s0', **{})", "Add(*s0)", "Add(s0, evaluate=False)", "Add()", "Pow(2)", "s0 in (1, 2)", "s0 is s0",
        "factorial(99999999)", "binomial(10**9, 10**8)", "sqrt(2)", "-" * 300 + "1", "+".join(["s0"] * 300), "TruncToInt(" * 80,
    ],
)  # fmt: skip
def test_what_grows_when_it_is_computed_is_refused(text: str) -> None:
    assert not is_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        S, "s0", "-s0 + 2", "2*s0*s1", "s0**2", f"Pow({S}, Integer(2))", f"Mul(Integer(4), Pow({S}, Integer(2)))",
        f"FloatPow(ToFloat({S}), Float('-0.5', precision=53))", f"Max(Integer(1), {S})", "oo", "int_oo", "True",
        f"TruncToInt(Mul(Float('2.7000000000000002', precision=53), ToFloat({S})))", f"Mod({S}, Integer(2))",
        "FloorDiv(" * 12 + S + ", Integer(2))" * 12, f"FloorDiv(Mul({S}, {SUM}), Add(s1, s2))", f"{SUM}**2", "Integer(-1)",
        f"Eq({S}, Integer(3))", "And(Le(0, u0), Le(u0, 9223372036854775806))", "(s0 >= 2) & (s0 <= 8)", "Float(1.5)",
    ],
)  # fmt: skip
def test_what_torch_writes_is_read(text: str) -> None:
    assert is_arithmetic(text)


LEAVES = st.sampled_from(["s0", "u1", "Integer(7)", "Integer(-3)", "Float('1.5', precision=53)", S])
PLAIN = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds("{}({}, {})".format, st.sampled_from(["Add", "Mul", "Max", "Min", "FloorDiv", "Mod"]), inner, inner),
        st.builds("Pow({}, Integer({}))".format, inner, st.integers(1, 99)),
    ),
    max_leaves=12,
)


@given(PLAIN)
@settings(max_examples=60, deadline=20_000)
def test_what_is_read_is_computed_in_no_time(text: str) -> None:
    import sympy
    from torch.utils._sympy.functions import FloorDiv, Mod

    if is_arithmetic(text):
        try:
            assert len(str(sympy.sympify(text, locals={"FloorDiv": FloorDiv, "Mod": Mod}))) < 10_000
        except (AssertionError, TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
            assert "10_000" not in str(error)  # torch's own checks: a remainder of a fraction, a division by zero


@given(st.text(max_size=60) | st.text("()+*/%<>=!&|.,'s0129 SymbolFtM", max_size=60))
def test_any_text_has_an_answer(text: str) -> None:
    assert (work(text) is not None) == is_arithmetic(text)


class Sizes(nn.Module):
    """With the sizes of attention, strided convolutions, pooling, resizing and joined tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(2, 2, 3, stride=2, padding=1) for _ in range(6))

    def forward(self, x: torch.Tensor, *rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = x.flatten(2).transpose(1, 2)
        attention = (flat @ flat.transpose(1, 2)).reshape(x.shape[0], -1)
        resized = functional.interpolate(functional.max_pool2d(x, 3, 2, ceil_mode=True), scale_factor=1.7)
        levels = []
        for convolution in self.convolutions:
            x = convolution(x)
            levels.append(x.flatten())
        return attention, resized, torch.cat(levels), torch.cat(rows)


@pytest.fixture(scope="module")
def saved() -> bytes:
    inputs = (torch.randn(2, 2, 30, 26), *(torch.randn(rows, 3) for rows in range(2, 22)))
    sizes = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}, tuple({0: Dim.AUTO} for _ in inputs[1:]))
    file = BytesIO()
    torch.export.save(torch.export.export(Sizes().eval(), inputs, dynamic_shapes=sizes), file)
    return file.getvalue()


def test_a_program_with_many_sizes_that_vary_is_read(saved: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(saved)
    program = read_program(tmp_path / "net.pt2")
    given = (torch.randn(3, 2, 29, 27), *(torch.randn(rows + 3, 3) for rows in range(20)))
    assert program.module()(*given)[0].shape == (3, (29 * 27) ** 2)


def rewritten(saved: bytes, path: Path, sizes: list[str]) -> Path:
    """``saved`` with ``sizes`` for those of one of its tensors."""
    with zipfile.ZipFile(BytesIO(saved)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("models/model.json"):
                model = json.loads(content)
                values = model["graph_module"]["graph"]["tensor_values"]
                values["x"]["sizes"] = [{"as_expr": {"expr_str": text, "hint": None}} for text in sizes]
                content = json.dumps(model).encode()
            new.writestr(name, content)
    return path


def test_many_sizes_that_are_hard_together_are_refused(saved: bytes, tmp_path: Path) -> None:
    hard = "Max(" + ", ".join(f"Add(Mul(s{n}, u{n}), Integer({n}))" for n in range(16)) + ")"
    path = rewritten(saved, tmp_path / "net.pt2", [hard] * 60)
    with pytest.raises(ModelError, match="too long to compute"):
        read_program(path)


def test_a_tensor_of_a_hundred_dimensions_is_refused(saved: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="100 dimensions"):
        read_program(rewritten(saved, tmp_path / "net.pt2", ["s0"] * 100))
