"""Random networks of fixed seeds, captured and exported together, against the networks themselves."""

import tomllib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import pytest

from edgeopt.capture import Captured, capture
from edgeopt.model.model import Model
from tests.fuzz import compare
from tests.fuzz.draw import draw
from tests.fuzz.hunt import FORMATS, KNOWN, Hunt
from tests.fuzz.lab import Lab
from tests.fuzz.network import Network, joined, joined_samples

pytestmark = pytest.mark.filterwarnings("ignore")  # of PyTorch, on what the networks do
TOGETHER, STEPS = 12, 3
# Few of these are refused, which costs an export for each that is; scripts/fuzz draws the others.
BATCHES = (*range(6, 13), *range(15, 23), *range(24, 27))
TARGETS = tuple(dict.fromkeys(target for targets in FORMATS.values() for target in targets))
KNOWN_KINDS: list[dict[str, Any]] = tomllib.loads(KNOWN.read_text(encoding="utf-8"))["known"]


def networks(batch: int) -> list[Network]:
    return [draw(seed, STEPS) for seed in range(batch * TOGETHER, (batch + 1) * TOGETHER)]


@lru_cache(maxsize=2)
def captured(batch: int) -> Captured:
    module, examples = joined(networks(batch))
    return capture(Model(module, examples[0]))


def own(outputs: compare.Outputs, drawn: Sequence[Network]) -> Iterator[tuple[Network, compare.Outputs]]:
    """Each network, and its part of what all of them give together."""
    start = 0
    for network in drawn:
        end = start + len(network.outputs)
        yield network, [sample[start:end] for sample in outputs]
        start = end


@pytest.mark.parametrize("batch", BATCHES)
def test_what_is_captured_computes_what_the_networks_do(batch: int) -> None:
    drawn, program = networks(batch), captured(batch).program.module(check_guards=False)
    samples, wrong = joined_samples(drawn, 3, 2), []
    for network, outputs in own(compare.run(program, samples), drawn):
        module, inputs = network.module(), network.samples(3, 2)
        found = compare.losses(compare.run(module, inputs), outputs, 60, compare.noise(module, inputs, 60))
        wrong += [f"seed {network.seed}: {loss}\n{network.source()}" for loss in found]
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as opened:
        yield opened


@pytest.mark.parametrize("batch", BATCHES)
def test_exported_networks_compute_what_they_do_or_are_refused_in_the_users_words(lab: Lab, batch: int) -> None:
    found = Hunt(lab, shrink_seconds=0)
    found.go(networks(batch), TARGETS[batch % len(TARGETS)])
    unknown = {str(kind): case for kind, case in found.kinds.items() if str(kind) not in {each["kind"] for each in KNOWN_KINDS}}
    assert found.networks.total() == TOGETHER
    assert not unknown, "\n".join(f"{kind}: {finding.detail}\n{net.source()}" for kind, (_, finding, net) in unknown.items())


@pytest.mark.slow
@pytest.mark.parametrize("case", KNOWN_KINDS, ids=lambda case: case["kind"])
def test_what_is_known_to_be_wrong_still_is(lab: Lab, case: dict[str, Any]) -> None:
    """What passes must leave known.toml."""
    found = Hunt(lab, shrink_seconds=0)
    found.go([Network.from_json(case["network"])], case["target"])
    assert case["kind"] in map(str, found.kinds)
