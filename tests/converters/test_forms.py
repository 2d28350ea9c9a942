"""Rewritings for one format compute what the program computed, and what is converted from them what the module computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  as everybody calls it
from torch import Tensor, nn

import edgeopt
import edgeopt.coreml
from edgeopt.converters.coreml import forms as coreml_forms
from edgeopt.converters.coreml.converter import CoremlConverter
from edgeopt.converters.program import Program
from edgeopt.converters.tflite import forms as tflite_forms
from edgeopt.converters.tflite.converter import TfliteConverter
from edgeopt.converters.transposed_convolutions import written_out
from edgeopt.errors import ConversionError
from edgeopt.targets.loader import load
from tests.captures import Calls
from tests.converters import programs

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and of the converters

SIGNAL, IMAGE, VOLUME = torch.randn(1, 4, 11), torch.randn(1, 4, 9, 8), torch.randn(1, 4, 7, 6, 8)
# kernel, stride, padding, output_padding, dilation, groups
TRANSPOSED = [
    (3, 2, 1, 1, 1, 1), (3, 2, 1, 0, 1, 1), (4, 2, 1, 0, 1, 1), (2, 2, 0, 1, 1, 1), (3, 3, 1, 2, 1, 1), (5, 3, 0, 2, 1, 2),
    (3, 2, 1, 1, 2, 1), (3, 2, 3, 1, 2, 4), (3, 1, 1, 0, 1, 1), (3, 1, 3, 0, 1, 1), (3, 1, 0, 1, 2, 2), (1, 2, 0, 1, 1, 4),
]  # fmt: skip
# As long as their stride, along one axis: the converter takes these for a resize.
ALIKE = [((1, 2), (1, 2), 0, 0, 1, 2), ((2, 1), (2, 1), 0, 0, 1, 4), ((1, 3), (1, 3), (0, 1), 0, 1, 2), (2, 2, 0, 0, 1, 4)]
MIXED = [((3, 5), (2, 1), (1, 2), (1, 0), 1, 1), ((2, 3), (2, 3), (0, 1), (1, 2), (2, 1), 2)]


def program(module: nn.Module, *inputs: Tensor) -> Program:
    exported = torch.export.export(module.eval(), inputs, strict=False)
    return Program(exported, tuple(exported.graph_signature.user_inputs), inputs)  # type: ignore[arg-type]


def run(of: Program, *inputs: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found = of.exported.module()(*inputs)
    return found if isinstance(found, tuple) else (found,)


def same(rewritten: Program, given: Program) -> None:
    for want, got in zip(run(given, *given.examples), run(rewritten, *given.examples), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


class Transposed(nn.Module):
    """Every combination along one, two and three axes, with an activation behind or without."""

    def __init__(self, options: list[Any], axes: tuple[int, ...] = (1, 2, 3)) -> None:
        super().__init__()
        kinds = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
        self.axes = axes
        self.layers = nn.ModuleDict({str(n): nn.ModuleList() for n in axes})
        for number, (size, stride, padding, more, dilation, groups) in enumerate(options):
            for n in axes:
                bias = number % 3 != 2
                self.layers[str(n)].append(  # type: ignore[operator]
                    kinds[n](4, 8, size, stride, padding, more, groups, bias=bias, dilation=dilation)
                )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        pairs = zip(self.axes, inputs, strict=True)
        found = [layer(x) for n, x in pairs for layer in self.layers[str(n)]]  # type: ignore[union-attr]
        return tuple(x.relu() if number % 2 else x for number, x in enumerate(found))


def test_a_kernel_is_written_out_with_zeros_between_and_behind() -> None:
    found = written_out(torch.arange(1.0, 4).reshape(1, 1, 3), [2], [1])
    assert found.flatten().tolist() == [1, 0, 2, 0, 3, 0]


def test_transposed_convolutions_of_every_kind_keep_their_values_for_tflite() -> None:
    given = program(Transposed(TRANSPOSED, (1, 2)), SIGNAL, IMAGE)
    rewritten = tflite_forms.rewritten(given)
    same(rewritten, given)
    targets = torch.ops.aten.conv_transpose1d.default, torch.ops.aten.conv_transpose2d.input
    for node in rewritten.exported.graph.nodes:
        if node.target in targets and len(node.args) > 5 and max(node.args[3]) > 1:
            assert not any(node.args[5])
    other = program(Transposed(MIXED, (2,)), IMAGE)
    same(tflite_forms.rewritten(other), other)


def test_transposed_convolutions_of_every_kind_keep_their_values_for_core_ml() -> None:
    given = program(Transposed(TRANSPOSED), SIGNAL, IMAGE, VOLUME)
    same(coreml_forms.rewritten(given), given)
    other = program(Transposed(MIXED, (2,)), IMAGE)
    same(coreml_forms.rewritten(other), other)


def test_a_program_without_such_operators_stays_as_it_is() -> None:
    given = program(nn.Conv2d(4, 4, 3), IMAGE)
    assert tflite_forms.rewritten(given) is given and coreml_forms.rewritten(given) is given


@pytest.mark.parametrize("kernel", [3, (3, 2), 5])
def test_poolings_that_pad_one_axis_go_along_each(kernel: Any) -> None:
    for stride, padding in (((2, 1), (1, 0)), ((1, 2), (0, 1)), (None, (1, 0))):
        for pool in (
            nn.MaxPool2d(kernel, stride, padding, ceil_mode=True),
            nn.MaxPool2d(kernel, stride, padding, dilation=(2, 1)),
            nn.AvgPool2d(kernel, stride, padding, count_include_pad=False),
        ):
            given = program(pool, torch.randn(1, 2, 12, 13))
            rewritten = tflite_forms.rewritten(given)
            same(rewritten, given)
            assert sum("pool" in str(node.target) for node in rewritten.exported.graph.nodes) == 2


@pytest.mark.parametrize("options", [{"size": (13, 20)}, {"scale_factor": 1.5}, {"scale_factor": 0.5}, {"size": (5, 3)}])
def test_nearest_interpolation_is_a_choice_of_pixels(options: dict[str, Any]) -> None:
    given = program(Calls(lambda x: F.interpolate(x, mode="nearest", **options)), IMAGE)
    rewritten = tflite_forms.rewritten(given)
    assert torch.equal(run(rewritten, IMAGE)[0], run(given, IMAGE)[0])
    assert not any("upsample" in str(node.target) for node in rewritten.exported.graph.nodes)


def test_nearest_interpolation_by_whole_factors_stays_one_operator() -> None:
    given = program(nn.Upsample(scale_factor=(2, 3)), IMAGE)
    assert tflite_forms.rewritten(given) is given


class Decoder(nn.Module):
    def __init__(self, up: nn.Module) -> None:
        super().__init__()
        self.up = up

    def forward(self, x: Tensor) -> Any:
        return self.up(x)


@pytest.mark.parametrize(
    ("layer", "option"),
    [
        (nn.MaxPool2d(2, return_indices=True), "return_indices=True"),
        (nn.Upsample(scale_factor=1.5, mode="bilinear"), "scale_factor=(1.5, 1.5)"),
    ],
)
def test_what_tflite_has_not_is_refused_with_its_layer_and_option(layer: nn.Module, option: str) -> None:
    with pytest.raises(ConversionError) as caught:
        tflite_forms.rewritten(program(Decoder(layer), IMAGE))
    assert "layer up " in str(caught.value) and option in str(caught.value)


class ComputedWeight(nn.Module):
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1)


def test_a_computed_weight_is_refused_with_its_layer_and_option() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grow = ComputedWeight()

        def forward(self, x: Tensor, weight: Tensor) -> Any:
            return self.grow(x, weight * 2)

    with pytest.raises(ConversionError, match="output_padding of the transposed convolution of layer grow"):
        tflite_forms.rewritten(program(Outer(), IMAGE, torch.randn(4, 2, 3, 3)))


class Cache(nn.Module):
    """Rows of a cache written at indices, in every way that models do it."""

    def forward(self, rows: Tensor, place: Tensor, cache: Tensor) -> tuple[Tensor, ...]:
        assigned = cache.clone()
        assigned[:, place] = rows
        last = cache.clone()
        last[..., place] = rows[:, :1].transpose(1, 2)[:, :1]
        return cache.index_copy(1, place, rows), assigned, last, cache.index_add(1, place, rows, alpha=2), cache * 1


def agree(module: nn.Module, inputs: tuple[Tensor, ...], got: tuple[Any, ...], rtol: float) -> None:
    """Output by output, and within one channel by channel."""
    with torch.no_grad():
        want = module(*(value.clone() for value in inputs))
    for each, found in zip(want if isinstance(want, tuple) else (want,), got, strict=True):
        assert each.shape == found.shape
        scale = each.abs().flatten(2).amax(2)[0, :, None] if each.dim() > 2 else each.abs().max()
        error = np.abs(each.numpy() - found).reshape(*scale.shape[:1], -1) if each.dim() > 2 else np.abs(each.numpy() - found)
        assert np.all(error <= rtol * np.maximum(scale.numpy(), 0.05))


def coreml(module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, outputs: int) -> tuple[Any, ...]:
    saved = programs.save(module, inputs, folder / "coreml.pt2")
    names = tuple(f"out_{number}" for number in range(outputs))
    package = folder / "model.mlpackage"
    CoremlConverter().convert(saved, load("apple-ane-fp16"), package, io_float=False, output_names=names)
    model = edgeopt.coreml.load(package, precision="float32")
    specs = CoremlConverter().inspect(package, load("apple-ane-fp16"))[0]
    found = model(**{spec.name: x.numpy().astype(spec.dtype) for spec, x in zip(specs, inputs, strict=True)})
    return tuple(found[name] for name in names)


def tflite(module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, outputs: int) -> tuple[Any, ...]:
    saved = programs.save(module, inputs, folder / "tflite.pt2")
    names = tuple(f"out_{number}" for number in range(outputs))
    TfliteConverter().convert(saved, programs.profile(), folder / "model.tflite", io_float=False, output_names=names)
    return TfliteConverter().load(folder / "model.tflite", threads=1)(*(x.numpy() for x in inputs))


@pytest.mark.slow
def test_converted_transposed_convolutions_are_the_modules(tmp_path: Path) -> None:
    taken = TRANSPOSED[:-1]  # LiteRT's XNNPACK does not prepare a grouped kernel of one element along one axis
    module, inputs = Transposed(taken, (1, 2)), (SIGNAL, IMAGE)
    agree(module, inputs, tflite(module, inputs, tmp_path, 2 * len(taken)), 1e-4)
    module, inputs = Transposed(ALIKE, (2,)), (IMAGE,)
    agree(module, inputs, tflite(module, inputs, tmp_path, len(ALIKE)), 1e-4)
    module, inputs = Transposed([(2, 2, 0, 0, 1, 4), (3, 3, 1, 0, 1, 2), (1, 2, 0, 1, 1, 2)], (1,)), (SIGNAL,)
    agree(module, inputs, tflite(module, inputs, tmp_path, 3), 1e-4)
    module, inputs = Transposed(TRANSPOSED[:6]), (SIGNAL, IMAGE, VOLUME)
    agree(module, inputs, coreml(module, inputs, tmp_path, 18), 5e-3)  # weights of 16 bits


@pytest.mark.slow
def test_converted_writes_into_a_cache_are_the_modules(tmp_path: Path) -> None:
    inputs = (torch.randn(1, 2, 8), torch.tensor([3, 5]), torch.randn(1, 16, 8))
    agree(Cache(), inputs, coreml(Cache(), inputs, tmp_path, 5), 1e-3)


class Slopes(nn.Module):
    """A slope for each channel, of values of every rank."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes = nn.PReLU(4)
        nn.init.uniform_(self.slopes.weight, -1, 1)

    def forward(self, row: Tensor, signal: Tensor, image: Tensor) -> tuple[Tensor, ...]:
        return self.slopes(row), self.slopes(signal), self.slopes(image)


@pytest.mark.slow
def test_converted_slopes_of_channels_are_the_modules(tmp_path: Path) -> None:
    inputs = (torch.randn(3, 4), torch.randn(1, 4, 13), torch.randn(1, 4, 9, 8))
    module = Slopes().eval()
    agree(module, inputs, coreml(module, inputs, tmp_path, 3), 5e-3)


class Choices(nn.Module):
    """Between numbers and between tensors with no axis, as a gain or a gate has them."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        loud, mean = x.sum() > 0, x.mean()
        of_numbers = torch.where(loud, 1.5, -2.0) * x
        return torch.where(loud, mean, -mean) * x, of_numbers, torch.where(loud, x, -x)


@pytest.mark.slow
def test_converted_choices_between_numbers_are_the_modules(tmp_path: Path) -> None:
    for number, sign in enumerate((1, -1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        inputs = (torch.randn(1, 4, 9) + sign,)
        agree(Choices(), inputs, coreml(Choices(), inputs, folder, 3), 5e-3)


class Orders(nn.Module):
    """Values and places, alone and together, along every axis."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values, places = x.sort(1)
        best, where = x.topk(2, dim=1, largest=False)
        alone = (x.topk(3)[0], x.topk(3)[1], x.sort(0, descending=True)[0], x.sort()[1], x.sort(0)[0])
        return values, places, best, where, *alone


@pytest.mark.slow
def test_converted_orders_are_the_modules(tmp_path: Path) -> None:
    inputs = (torch.randn(2, 5, 7),)
    for found, wanted in zip(tflite(Orders(), inputs, tmp_path, 9), Orders()(*inputs), strict=True):
        np.testing.assert_array_equal(found, wanted)


class Flips(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.flip(1, 3), x.flip(0, 2), x.flip(3), x.flip(0, 1, 2, 3)


@pytest.mark.slow
def test_converted_flips_of_any_axes_are_the_modules(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 4, 5)
    for found, wanted in zip(tflite(Flips(), (x,), tmp_path, 4), Flips()(x), strict=True):
        np.testing.assert_array_equal(found, wanted)


class Written(nn.Module):
    """Operators that coremltools 9.0 gets wrong or refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose1d(4, 4, 4, groups=2)

    def forward(self, x: Tensor, square: Tensor) -> tuple[Tensor, ...]:
        moments = x.std(), x.var(), x.std(1), x.var((1, 2), correction=0, keepdim=True)
        shaped = torch.diag(square), torch.diag(square, 1), square.diagonal(-2), x.diagonal(1, 1, 2)
        soft = F.softplus(x, 2.0, 1.0), F.softplus(x), F.log_softmax(x * 60, 1)
        return *moments, *shaped, *soft, torch.acosh(x.abs() + 1), x.nan_to_num(), self.grow(x) * torch.arange(4)[None, :, None]


@pytest.mark.slow
def test_what_is_written_out_for_core_ml_is_the_modules(tmp_path: Path) -> None:
    module, inputs = Written().eval(), (torch.randn(1, 4, 9), torch.randn(5, 5))
    found = coreml(module, inputs, tmp_path, 14)
    for number, (got, want) in enumerate(zip(found, module(*inputs), strict=True)):
        np.testing.assert_allclose(got.reshape(want.shape), want.detach().numpy(), atol=2e-2, rtol=5e-3, err_msg=str(number))


class Masked(nn.Module):
    """Attention with a mask of booleans."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        found: Tensor = self.attention(x, x, x, key_padding_mask=hidden)[0]
        return found


class Photo(nn.Module):
    """An image as a camera gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.layer(image.float().permute(0, 3, 1, 2) / 255)
        return found


@pytest.mark.slow
@pytest.mark.parametrize("module", [Masked(), Photo()], ids=lambda module: type(module).__name__)
def test_masks_of_booleans_and_photos_keep_core_ml_s_integers(module: nn.Module, tmp_path: Path) -> None:
    def drawn() -> tuple[Tensor, ...]:
        if isinstance(module, Photo):
            return (torch.randint(0, 255, (1, 8, 8, 3), dtype=torch.uint8),)
        return torch.randn(1, 6, 16), torch.tensor([[False] * 4 + [True] * 2])

    model = edgeopt.Model(module.eval(), drawn(), calibration=[drawn() for _ in range(20)])
    bundle = edgeopt.export(model, targets=["apple-ane"], out=tmp_path / "out", jobs=1, use_cache=False)
    (made,) = (result for result in bundle.manifest.results if result.target == "apple-ane")
    assert made.status == "ok" and made.plan is not None and made.plan.scheme.activation == "uint8", made.warnings


def test_squares_of_five_axes_are_products() -> None:
    value = torch.randn(1, 3, 4, 4, 2)
    given = program(Calls(lambda x: (x.sigmoid() * 2) ** 2 + x**3), value)
    found = tflite_forms.rewritten(given)
    powers = [node.args[1] for node in found.exported.graph.nodes if node.target is torch.ops.aten.pow.Tensor_Scalar]
    assert powers == [3]
    same(found, given)
