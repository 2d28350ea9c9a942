"""A device's table of operators and its profile's limits tell what it cannot run."""

import pytest

from edgeopt.converters.operators import Operator, unsupported
from edgeopt.errors import ConfigError
from edgeopt.targets.loader import load
from edgeopt.targets.schema import Limits
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
