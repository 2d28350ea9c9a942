"""torch's composite operators are replaced in the same tables, with the same functions, in less time."""

import functools
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import exported_program

from edgeopt.support.patches import kept_original, put_in
from edgeopt.support.patches import torch_composites as composites

FUNCTION = composites.PATCHES[0].attribute
aten = torch.ops.aten
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch: an export sends them to its log


@pytest.fixture
def torch_s() -> Iterator[Any]:
    """torch's own function; what stands in its place is put back afterwards."""
    put_in(composites.PATCHES)
    before: Any = getattr(exported_program, FUNCTION)
    yield kept_original(before)
    setattr(exported_program, FUNCTION, before)


class Net(nn.Module):
    """With composite operators of one and of several outputs, of keywords, and in a chain."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first, second = torch.nn.functional.pad(x, (1, 1), mode="replicate").chunk(2, -1)
        return torch.einsum("bij,bkj->bik", first, second), torch.std(x, 1), x.flatten(1).softmax(1).reshape(2, 3, -1)


def decomposed(table: dict[Any, Any] | None) -> str:
    program = torch.export.export(Net(), (torch.randn(2, 3, 6),), strict=False)
    return str(program.run_decompositions(table).graph)


def named(kernel: Any) -> str:
    function = kernel.func if isinstance(kernel, functools.partial) else kernel
    return str(getattr(function, "__qualname__", function))


def tables(operators: Any) -> dict[Any, set[tuple[str, str]]]:
    """What stands in each operator's table, by key: the functions' names, since each entry makes them anew."""
    return {one: {(str(key), named(kernel)) for key, kernel in one.py_kernels.items()} for one in operators}


@pytest.mark.parametrize("table", [None, {}, {aten.softmax.int: lambda x, dim, dtype=None: torch.exp(x)}])
def test_programs_are_decomposed_as_by_torch_itself(torch_s: Any, table: dict[Any, Any] | None) -> None:
    assert getattr(exported_program, FUNCTION) is not torch_s
    ours = decomposed(table)
    setattr(exported_program, FUNCTION, torch_s)
    assert decomposed(table) == ours


def test_the_same_functions_stand_under_the_same_keys_inside_and_afterwards(torch_s: Any) -> None:
    wanted = dict.fromkeys(exported_program._collect_all_valid_cia_ops(), exported_program._special_op_to_preserve_cia)
    found = {}
    for name, override in (("ours", getattr(exported_program, FUNCTION)), ("torch's", torch_s)):
        before = tables(wanted)
        with override(dict(wanted)):
            found[name] = tables(wanted)
        assert tables(wanted) == before
    assert len(found["ours"]) > 100
    assert found["ours"] == found["torch's"]


def test_it_stays_torch_s_own_where_the_source_is_another(
    torch_s: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    setattr(exported_program, FUNCTION, torch_s)
    monkeypatch.setattr(composites, "_REGISTERING", "another")
    with caplog.at_level(logging.WARNING):
        put_in(composites.PATCHES)
    assert getattr(exported_program, FUNCTION) is torch_s
    assert "OperatorBase.py_impl has changed" in caplog.text


def test_an_operator_s_own_keyword_may_have_any_name() -> None:
    class Mode:
        def __enter__(self) -> None: ...
        def __exit__(self, *ending: object) -> None: ...

    given = composites._in_fake_mode(
        Mode(), None, 1, original_callable=lambda *args, **kwargs: (args, kwargs), mode="constant", operator=2
    )
    assert given == ((1,), {"mode": "constant", "operator": 2})
