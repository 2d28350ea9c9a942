"""Weight encodings: packages that coremltools compressed against PyTorch with the weights that coremltools decodes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import edgeopt.coreml
from edgeopt.mil.loading import load_mil_program, operations, read_spec
from tests.mil.packages import close, converted, run_mil

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

Model = Any
Step = Callable[[Model], Model]
IMAGE = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3, groups=2), nn.Linear(32 * 36, 8)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.second(self.first(image).relu()).relu()
        return torch.as_tensor(self.head(hidden.reshape(2, -1)))


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, bool], Model]:
    """The uncompressed model by opset and precision, converted once each."""
    made: dict[tuple[int, bool], Model] = {}

    def package(ios: int, half: bool) -> Model:
        if (ios, half) not in made:
            out = tmp_path_factory.mktemp("net") / "model.mlpackage"
            converted(Net().eval(), (IMAGE,), out, ios=ios, half=half, names=["image"], outputs=["scores"])
            made[ios, half] = ct.models.MLModel(str(out), skip_model_load=True)
        return made[ios, half]

    return package


def palettized(joint: bool = False, **options: Any) -> Step:
    config = cto.OptimizationConfig(cto.OpPalettizerConfig(weight_threshold=0, **options))
    return lambda model: cto.palettize_weights(model, config, joint_compression=joint)


def quantized(joint: bool = False, **options: Any) -> Step:
    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(weight_threshold=0, **options))
    return lambda model: cto.linear_quantize_weights(model, config, joint_compression=joint)


def pruned(joint: bool = False, **options: Any) -> Step:
    config = cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(weight_threshold=0, **options))
    return lambda model: cto.prune_weights(model, config, joint_compression=joint)


def few_values(bits: int) -> Step:
    """Palettes of given values, as a model that was clustered before has them."""

    def uniform(weight: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        table = np.linspace(weight.min(), weight.max(), 2**bits).astype(weight.dtype)
        return table, np.abs(weight.reshape(-1, 1) - table).argmin(1).astype(np.uint8)

    return palettized(mode="custom", lut_function=uniform)


LUT, AFFINE, BLOCKWISE = "constexpr_lut_to_dense", "constexpr_affine_dequantize", "constexpr_blockwise_shift_scale"
SPARSE, LUT_SPARSE = "constexpr_sparse_to_dense", "constexpr_lut_to_sparse"
BLOCKWISE_SPARSE = "constexpr_sparse_blockwise_shift_scale"
KMEANS: dict[str, Any] = {"mode": "kmeans"}
GROUPED: dict[str, Any] = {"granularity": "per_grouped_channel", "mode": "uniform"}
CASES: dict[str, tuple[int, Sequence[Step], set[str]]] = {
    **{f"palette of {bits} bits, iOS 16": (16, [palettized(mode="kmeans", nbits=bits)], {LUT}) for bits in (2, 4, 6, 8)},
    "uniform palette, iOS 16": (16, [palettized(mode="uniform", nbits=4)], {LUT}),
    "palette of 1 bit, iOS 16": (16, [few_values(1)], {LUT}),
    **{f"palette of {bits} bits": (18, [palettized(mode="uniform", nbits=bits)], {LUT}) for bits in (1, 2, 3, 4, 6, 8)},
    "unique": (18, [few_values(4)], {LUT}),
    "grouped channels": (18, [palettized(**GROUPED, nbits=4, group_size=8)], {LUT}),
    "grouped input channels": (18, [palettized(**GROUPED, nbits=2, group_size=1, channel_axis=1)], {LUT}),
    "vectors": (18, [palettized(mode="kmeans", nbits=4, cluster_dim=2)], {LUT}),
    "vectors of grouped channels": (18, [palettized(**GROUPED | KMEANS, nbits=3, group_size=8, cluster_dim=4)], {LUT}),
    "palette and scales": (18, [palettized(**GROUPED, nbits=4, group_size=8, enable_per_channel_scale=True)], {LUT, BLOCKWISE}),
    "int8 affine, iOS 16": (16, [quantized(mode="linear", dtype="int8")], {AFFINE}),
    "uint8 symmetric, iOS 16": (16, [quantized(dtype="uint8")], {AFFINE}),
    "int8 per tensor, iOS 16": (16, [quantized(dtype="int8", granularity="per_tensor")], {AFFINE}),
    "int8": (18, [quantized(dtype="int8")], {BLOCKWISE}),
    "int4": (18, [quantized(dtype="int4")], {BLOCKWISE}),
    "uint4 affine": (18, [quantized(mode="linear", dtype="uint4")], {BLOCKWISE}),
    "int4 blocks": (18, [quantized(dtype="int4", granularity="per_block", block_size=4)], {BLOCKWISE}),
    "uint8 affine blocks": (18, [quantized(mode="linear", dtype="uint8", granularity="per_block", block_size=2)], {BLOCKWISE}),
    "sparse, iOS 16": (16, [pruned(target_sparsity=0.7)], {SPARSE}),
    "2:4, iOS 16": (16, [pruned(n_m_ratio=(2, 4))], {SPARSE}),
    "sparse": (18, [pruned(target_sparsity=0.7)], {SPARSE}),
    "sparse blocks": (18, [pruned(target_sparsity=0.5, block_size=2)], {SPARSE}),
    "sparse palette": (18, [pruned(target_sparsity=0.5), palettized(True, mode="kmeans", nbits=4)], {SPARSE, LUT_SPARSE}),
    "sparse int8": (18, [pruned(target_sparsity=0.5), quantized(True, dtype="int8")], {SPARSE, BLOCKWISE_SPARSE}),
    "sparse int4 affine": (
        18, [pruned(target_sparsity=0.5), quantized(True, mode="linear", dtype="int4")], {SPARSE, BLOCKWISE_SPARSE}
    ),
    "palette of int8": (18, [palettized(**KMEANS, nbits=4), quantized(True, granularity="per_tensor")], {LUT, BLOCKWISE}),
}  # fmt: skip

QUICK = {
    "palette of 6 bits, iOS 16", "grouped channels", "int8 affine, iOS 16", "int4 blocks", "sparse, iOS 16",
    "sparse int4 affine", "palette of int8",
}  # fmt: skip


@pytest.mark.parametrize(("name", "half"), [
    pytest.param(name, half, marks=() if name in QUICK and not half else pytest.mark.slow, id=f"{name}{', half' * half}")
    for name in CASES for half in (False, True)
])  # fmt: skip
def test_a_compressed_package_computes_what_pytorch_does_with_its_decoded_weights(
    name: str, half: bool, packages: Callable[[int, bool], Model], tmp_path: Path
) -> None:
    ios, steps, kinds = CASES[name]
    model = packages(ios, half)
    for step in steps:
        model = step(model)
    model.save(str(tmp_path / "model.mlpackage"))
    weights, found = decoded(tmp_path / "model.mlpackage")
    assert found == kinds
    evaluated = edgeopt.coreml.load(tmp_path / "model.mlpackage")(image=IMAGE.numpy())["scores"]
    expected = computed(weights, (lambda value: value.half().float()) if half else lambda value: value)
    close(evaluated, expected.numpy(), 2e-3 if half else 1e-4)
    assert float((expected - Net()(IMAGE)).abs().max()) > 1e-4


def decoded(package: Path) -> tuple[list[Tensor], set[str]]:
    """The net's three weights as coremltools decodes them, and the kinds of encodings."""
    function = load_mil_program(package, read_spec(package)).functions["main"]
    users = [operation for operation in operations(function) if operation.op_type in ("conv", "linear")]
    kinds = {operation.op_type for operation in operations(function) if operation.op_type.startswith("constexpr_")}
    return [torch.from_numpy(value_of(operation.weight).astype(np.float32)) for operation in users], kinds


def value_of(var: Any) -> NDArray[Any]:
    """coremltools decodes every form but a lookup table that is itself encoded."""
    if var.val is not None:
        return np.asarray(var.val)
    operation = var.op
    if operation.op_type == LUT and operation.lut.val is None:
        return np.asarray(operation.decompress(operation.indices.val, value_of(operation.lut), None))
    return np.asarray(operation.materialized_val_inference())


def computed(weights: list[Tensor], rounding: Callable[[Tensor], Tensor]) -> Tensor:
    net = Net()
    bias = [rounding(net.get_parameter(f"{layer}.bias").detach()) for layer in ("first", "second", "head")]
    hidden = rounding(functional.conv2d(rounding(IMAGE), weights[0], bias[0])).relu()
    hidden = rounding(functional.conv2d(hidden, weights[1], bias[1], groups=2)).relu()
    return rounding(functional.linear(hidden.reshape(2, -1), weights[2], bias[2]))


@st.composite
def blockwise(draw: st.DrawFn) -> dict[str, NDArray[Any]]:
    counts, blocks = (draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)) for rank in [draw(st.integers(1, 5))] * 2)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    name = draw(st.sampled_from(["int4", "uint4", "int8", "uint8", "fp32"]))
    dtype = types.nptype_from_builtin(types.string_to_builtin(name))
    shape = [count * block for count, block in zip(counts, blocks, strict=True)]
    low, high = {"int4": (-8, 8), "uint4": (0, 16), "int8": (-128, 128), "uint8": (0, 256)}.get(name, (-4, 4))
    found = {"data": rng.integers(low, high, shape), "offset": rng.integers(low, high, counts)}
    scale = rng.uniform(0.01, 1, counts).astype(np.float32)
    return {key: value.astype(dtype) for key, value in found.items() if draw(st.booleans()) or key == "data"} | {"scale": scale}


@st.composite
def palettes(draw: st.DrawFn) -> dict[str, Any]:
    """Indices of any rank, tables for blocks of several axes at once, vectors along any axis."""
    rank = draw(st.integers(1, 3))
    groups, blocks = (draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)) for _ in range(2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits, width = draw(st.sampled_from([1, 2, 3, 4, 6, 8])), draw(st.integers(1, 3))
    dtype = types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))
    shape = [group * block for group, block in zip(groups, blocks, strict=True)]
    lut = rng.standard_normal([*groups, 2**bits, width]).astype(np.float32)
    found = {"indices": rng.integers(0, 2**bits, shape).astype(dtype), "lut": lut}
    return found | ({"vector_axis": np.int32(draw(st.integers(-rank, rank - 1)))} if width > 1 else {})


@settings(max_examples=2)
@given(st.lists(blockwise(), min_size=10, max_size=10), st.lists(palettes(), min_size=10, max_size=10))
def test_blocks_and_vectors_of_any_shape_are_decoded(blocks: list[dict[str, Any]], tables: list[dict[str, Any]]) -> None:
    calls = [(Builder.constexpr_blockwise_shift_scale, each) for each in blocks]
    check(calls + [(Builder.constexpr_lut_to_dense, each) for each in tables], 18)


@pytest.mark.slow
@settings(max_examples=2)
@given(st.lists(st.one_of(palettes(), blockwise()), min_size=20, max_size=20), st.integers(0, 2**32 - 1))
def test_values_beside_zeros_are_decoded_where_they_stand(dense: list[dict[str, Any]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    check([sparse(arguments, rng) for arguments in dense], 18)


def sparse(arguments: dict[str, Any], rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    """The joint form of an encoding whose first argument, named data or indices, is kept at random places."""
    name = "data" if "data" in arguments else "indices"
    whole = arguments[name]
    mask = rng.integers(0, 2, whole.shape)
    mask.flat[0] = 1
    bits = mask.astype(types.nptype_from_builtin(types.uint1))
    rest = {key: value for key, value in arguments.items() if key != name}
    if name == "data":
        return Builder.constexpr_sparse_blockwise_shift_scale, {"data_mask": bits, "nonzero_data": whole[mask != 0], **rest}
    return Builder.constexpr_lut_to_sparse, {"indices_mask": bits, "indices_nonzero_data": whole[mask != 0], **rest}


@settings(max_examples=2)
@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 4, 6, 8]), st.integers(1, 40), st.integers(0, 2**32 - 1)), min_size=10, max_size=10
    )
)
def test_bits_packed_in_bytes_are_unpacked_lowest_first(cases: list[tuple[int, int, int]]) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []
    for bits, count, seed in cases:
        rng = np.random.default_rng(seed)
        codes = rng.integers(0, 2**bits, count)
        lut = rng.standard_normal(2**bits).astype(np.float32)
        shape = np.array([1, count], np.uint32)
        calls.append((Builder.constexpr_lut_to_dense, {"indices": packed(codes, bits), "lut": lut, "shape": shape}))
        mask = rng.integers(0, 2, count)
        mask[0] = 1
        calls.append((Builder.constexpr_sparse_to_dense, {
            "nonzero_data": rng.standard_normal(mask.sum()).astype(np.float32), "mask": packed(mask, 1), "shape": shape,
        }))  # fmt: skip
    check(calls, 16)


def packed(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """One number whose bits are those of ``codes``, the first lowest, as bytes."""
    number = sum(int(code) << (index * bits) for index, code in enumerate(codes))
    return np.frombuffer(number.to_bytes(-(-len(codes) * bits // 8), "little"), np.uint8)


def check(calls: list[tuple[Any, dict[str, Any]]], ios: int) -> None:
    """Evaluates one program with all ``calls``; each must give what coremltools decodes."""
    expected: list[NDArray[Any]] = []

    def build(x: Any) -> list[Any]:
        made = []
        for call, arguments in calls:
            var = call(**arguments)
            if isinstance(var, list | tuple):  # the joint forms
                mask, values = var
                expected.append(filled(*mask.op.materialized_val_inference()))
                var = Builder.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)
            else:
                expected.append(var.op.materialized_val_inference())
            made.append(Builder.add(x=var, y=x))
        return made

    found = run_mil(build, {"x": np.zeros(1, np.float32)}, ios=ios)
    for value, want in zip(found.values(), expected, strict=True):
        close(value, want)


def filled(mask: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    dense = np.zeros(mask.shape, np.float32)
    dense[mask != 0] = values
    return dense


def test_a_cast_weight_keeps_its_values() -> None:
    weight = np.array([[1.5, 65504.0]], np.float16)

    def build(x: Any) -> Any:
        return Builder.add(x=Builder.constexpr_cast(source_val=weight, output_dtype="fp32"), y=x)

    for ios in (16, 18):
        (found,) = run_mil(build, {"x": np.zeros(1, np.float32)}, ios=ios).values()
        np.testing.assert_array_equal(found, weight.astype(np.float32))
