"""Palettes in a Core ML package: value for value, in the fewest bits, and only where they fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeopt.coreml
from edgeopt.converters.coreml.converter import CoremlConverter
from edgeopt.converters.coreml.palettes import palettes
from edgeopt.core import Structure
from edgeopt.errors import ConfigError
from edgeopt.mil.loading import load_mil_program, operations, read_spec
from edgeopt.targets.loader import load

# coremltools and torch.jit warn about each other's versions and their own deprecated calls
pytestmark = pytest.mark.filterwarnings("default")

TARGET = load("apple-ane-palettized")
IMAGE = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(2))


class Net(nn.Module):
    """Weights of float16 values: 16 of them in the whole, in 16 channels, in 16 channels of the second axis; and any."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.whole, self.grouped = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.up, self.free = nn.ConvTranspose2d(32, 32, 2), nn.Linear(32, 64)
        random = torch.Generator().manual_seed(3)

        def filled(shape: torch.Size, values: int) -> Tensor:
            table = (torch.randn(values, generator=random) / 16).half().float()
            return table[torch.randint(0, values, shape, generator=random)]

        with torch.no_grad():
            self.whole.weight.copy_(filled(self.whole.weight.shape, 4))
            for part in (*torch.split(self.grouped.weight, 16), *torch.split(self.up.weight, 16, 1)):
                part.copy_(filled(part.shape, 16))

    def forward(self, image: Tensor) -> tuple[Tensor]:
        hidden = self.up(self.grouped(self.whole(image).relu()).relu())
        return (self.free(hidden.mean((2, 3))),)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Structure]:
    folder = tmp_path_factory.mktemp("palettes")
    torch.export.save(torch.export.export(Net().eval(), (IMAGE,), strict=False), folder / "program.pt2")
    out = folder / "model.mlpackage"
    CoremlConverter().convert(folder / "program.pt2", TARGET, out, io_float=False, output_names=("scores",))
    return out, CoremlConverter().inspect(out, TARGET)[2]


def test_tables_hold_exactly_the_weights_in_the_fewest_bits(made: tuple[Path, Structure]) -> None:
    package, structure = made
    assert structure.operators["constexpr_lut_to_dense"] == 3
    function = load_mil_program(package, read_spec(package)).functions["main"]
    net, found = Net(), {}
    for operation in operations(function):
        if operation.op_type in ("conv", "conv_transpose") and operation.weight.op.op_type == "constexpr_lut_to_dense":
            stored = operation.weight.op
            value = torch.from_numpy(stored.materialized_val_inference().astype(np.float32))
            (layer,) = (name for name in ("whole", "grouped", "up") if torch.equal(net.get_parameter(f"{name}.weight"), value))
            found[layer] = stored.lut.val.shape
    assert found == {"whole": (1, 1, 1, 1, 4, 1), "grouped": (2, 1, 1, 1, 16, 1), "up": (1, 2, 1, 1, 16, 1)}


def test_the_package_computes_what_pytorch_does(made: tuple[Path, Structure]) -> None:
    evaluated = edgeopt.coreml.load(made[0])(image=IMAGE.numpy())["scores"]
    with torch.no_grad():
        (expected,) = Net()(IMAGE)
    np.testing.assert_allclose(evaluated, expected.numpy(), atol=5e-3 * float(expected.abs().max()))


def test_the_bytes_are_the_same_every_time(made: tuple[Path, Structure], tmp_path: Path) -> None:
    program = made[0].parent / "program.pt2"
    CoremlConverter().convert(program, TARGET, tmp_path / "again.mlpackage", io_float=False, output_names=("scores",))
    for name in ("Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"):
        assert (made[0] / name).read_bytes() == (tmp_path / "again.mlpackage" / name).read_bytes()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.cells = nn.Embedding(64, 32), nn.GRU(32, 24, batch_first=True, bidirectional=True)

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        return (self.cells(self.table(ids))[0],)


@pytest.mark.slow
def test_a_grus_weights_have_their_palettes_too(tmp_path: Path) -> None:
    net, ids = Recurrent().eval(), torch.arange(6).reshape(1, 6)
    with torch.no_grad():
        for value in net.parameters():
            value.copy_((value * 20).round().clamp(-7, 7) / 20)  # 15 values
    torch.export.save(torch.export.export(net, (ids,), strict=False), tmp_path / "program.pt2")
    out = tmp_path / "model.mlpackage"
    CoremlConverter().convert(tmp_path / "program.pt2", TARGET, out, io_float=False, output_names=("states",))
    assert (
        CoremlConverter().inspect(out, TARGET)[2].operators["constexpr_lut_to_dense"] == 5
    )  # a table, two directions' two weights
    with torch.no_grad():
        np.testing.assert_allclose(edgeopt.coreml.load(out)(ids=ids.numpy())["states"], net(ids)[0].numpy(), atol=5e-3)


def test_a_deployment_target_without_grouped_tables_is_refused(made: tuple[Path, Structure], tmp_path: Path) -> None:
    older = replace(TARGET, limits=replace(TARGET.limits, minimum_os="iOS17"))
    with pytest.raises(ConfigError, match="cannot have palettes") as caught:
        CoremlConverter().convert(
            made[0].parent / "program.pt2", older, tmp_path / "m.mlpackage", io_float=False, output_names=("scores",)
        )
    assert "iOS17" in caught.value.why


def test_what_has_too_many_values_or_is_small_or_no_float_stays() -> None:
    random = np.random.default_rng(0)
    assert palettes(random.standard_normal((64, 64)).astype(np.float16), 4, 16) is None
    assert palettes(np.zeros((16, 16), np.float16), 4, 16) is None
    assert palettes(np.zeros((64, 64), np.int32), 4, 16) is None
    assert palettes(np.zeros(4096, np.float16), 4, 16) is None
    codes, lut = palettes(np.zeros((64, 64), np.float16), 4, 16) or pytest.fail("one value fits")
    assert lut.shape == (1, 1, 2, 1)
    assert not codes.any()
