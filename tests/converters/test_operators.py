"""A device's table of operators and its profile's limits tell what it cannot run."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from onnx import TensorProto, helper, save_model

from edgeopt.converters.onnx.converter import OnnxConverter
from edgeopt.converters.operators import Operator, unsupported
from edgeopt.errors import ConfigError
from edgeopt.targets.loader import load
from edgeopt.targets.schema import Limits, TargetProfile
from tests.converters.programs import profile

NNAPI = profile(table="nnapi.toml")


def operator(name: str, dtype: str = "int8", version: int = 1, rank: int = 4, same_range: bool = True) -> Operator:
    return Operator(name=name, dtype=dtype, rank=rank, version=version, same_range=same_range)


def test_everything_passes_without_a_table() -> None:
    assert unsupported([operator("ANYTHING")], profile()) == ()


def test_what_the_table_lists_passes() -> None:
    assert unsupported([operator("CONV_2D"), operator("ADD", "float32")], NNAPI) == ()


def test_each_broken_limit_is_named_once_and_sorted() -> None:
    found = [operator("GELU"), operator("GELU"), operator("DIV"), operator("CONV_2D", version=99)]
    assert unsupported(found, NNAPI) == ("CONV_2D (version 99)", "DIV (int8)", "GELU")


def test_a_rank_above_the_profile_is_unsupported() -> None:
    assert unsupported([operator("ADD", rank=6)], profile(limits=Limits(max_rank=5))) == ("ADD (rank 6)",)


def test_what_the_runtime_leaves_to_the_cpu_is_named() -> None:
    assert unsupported([operator("lstm"), operator("conv")], load("apple-ane-fp16")) == ("lstm (left to the CPU)",)


def test_a_table_that_does_not_exist_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        unsupported([operator("ADD")], profile(table="missing.toml"))


def onnx_file(path: Path, opset: int, domain: str = "") -> Path:
    """Relu, DequantizeLinear and an operator of a domain of its own, in ``opset``."""
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], domain=domain),
        helper.make_node("DequantizeLinear", ["q", "s"], ["z"], domain=domain),
        helper.make_node("Own", ["x"], ["w"], domain="mine"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [4]),
        helper.make_tensor_value_info("q", TensorProto.INT8, [4]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "yzw"]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [helper.make_tensor("s", TensorProto.FLOAT, [], [0.5])])
    opsets = [helper.make_opsetid(domain, opset), helper.make_opsetid("mine", 3)]
    save_model(helper.make_model(graph, opset_imports=opsets), path)
    return path


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
@pytest.mark.parametrize(("opset", "relu", "dequantize"), [(13, 13, 13), (20, 14, 19), (21, 14, 21)])
def test_an_onnx_operator_has_the_version_of_the_opset_that_last_changed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opset: int, relu: int, dequantize: int, domain: str
) -> None:
    seen: dict[str, int] = {}

    def take(operators: Iterable[Operator], _: TargetProfile) -> tuple[str, ...]:
        seen.update({one.name: one.version for one in operators})
        return ()

    monkeypatch.setattr("edgeopt.converters.onnx.converter.unsupported", take)
    OnnxConverter().inspect(onnx_file(tmp_path / "m.onnx", opset, domain), profile())
    assert seen == {"Relu": relu, "DequantizeLinear": dequantize, "Own": 3}


def test_an_opset_that_does_not_exist_is_no_crash(tmp_path: Path) -> None:
    for opset in (-(2**40), 0, 2**40):
        assert OnnxConverter().inspect(onnx_file(tmp_path / "m.onnx", opset), profile())[2].unsupported == ()
