"""What a search may choose from, how it is made, and images at other resolutions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgeopt.compress.search.family import Family, example_of, fed, key, resized
from edgeopt.errors import CompressionError
from tests.compress.search.families import build


@pytest.mark.parametrize("space", [{}, {"width": ()}, {"width": (None,)}, {"width": (float("nan"),)}, {"resolution": (8, 0.5)}])
def test_a_space_that_nothing_can_be_chosen_from_is_refused(space: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(CompressionError):
        Family.of(build, space)


@given(st.lists(st.integers(1, 9), min_size=1), st.lists(st.floats(0.1, 1.0), min_size=1))
def test_every_architecture_appears_once_between_the_largest_and_the_smallest(depths: list[int], widths: list[float]) -> None:
    family = Family.of(build, {"depth": depths, "width": widths})
    everything = list(family.all())
    assert len(everything) == len(family) == len({key(one) for one in everything}) == len(set(depths)) * len(set(widths))
    assert everything[0] == family.largest == {"depth": max(depths), "width": max(widths)}
    assert everything[-1] == family.smallest == {"depth": min(depths), "width": min(widths)}


def test_a_build_that_raises_is_named_with_its_architecture_and_its_line() -> None:
    def broken(width: float) -> nn.Module:
        return nn.Linear(4, round(8 * width) // 0)

    with pytest.raises(CompressionError, match=r"width 0.5[\s\S]*ZeroDivisionError"):
        Family.of(broken, {"width": (0.5,)}).make({"width": 0.5})


def test_a_build_that_gives_no_module_is_refused() -> None:
    with pytest.raises(CompressionError, match="gave a int"):
        Family.of(lambda depth: depth, {"depth": (2,)}).make({"depth": 2})  # type: ignore[arg-type, return-value]


def test_build_hears_of_the_resolution_only_where_it_asks_for_it() -> None:
    heard: list[object] = []

    def asking(resolution: int) -> nn.Module:
        heard.append(resolution)
        return nn.Identity()

    Family.of(asking, {"resolution": (16,)}).make({"resolution": 16})
    assert heard == [16]
    assert isinstance(Family.of(build, {"resolution": (16,)}).make({"resolution": 16}), nn.Module)


def test_a_whole_number_is_a_height_and_a_fraction_a_share() -> None:
    image, mask = torch.rand(2, 3, 8, 16), torch.ones(2, 3)
    small, same = resized((image, mask), 4)
    assert small.shape == (2, 3, 4, 8)
    assert same is mask
    assert resized(image, 0.5).shape == (2, 3, 4, 8)
    assert resized(image, 1.0) is image


def test_a_network_of_a_smaller_resolution_is_fed_with_full_size_images() -> None:
    seen: list[torch.Size] = []

    class Sees(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(image.shape)
            return image.mean((2, 3))

    image, architecture = torch.rand(1, 1, 8, 8), {"resolution": 6}
    fed(Sees(), architecture)(image)
    Sees()(*example_of((image,), architecture))
    assert seen == [(1, 1, 6, 6)] * 2
