"""The fuzzer's own parts: what it draws, how it compares, shrinks and judges messages."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.fuzz import compare
from tests.fuzz.draw import OPERATORS, draw
from tests.fuzz.network import Input, Network, Step, joined
from tests.fuzz.shrink import shrink
from tests.fuzz.words import fault_of_message

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'", "ignore:.*is deprecated")
CONV = Step(1, "conv2d", "{m}({0})", (0,), "nn.Conv2d({cin}, 4, 3, stride={stride})", {"cin": 3, "stride": 2})
BRANCHED = Network(
    (Input(0, (1, 3, 9, 9)),),
    (
        CONV,
        Step(2, "activation", "torch.relu({0})", (1,)),
        Step(3, "add", "{0} + {1}", (2, 1)),
        Step(4, "scalar", "{0} * 640", (3,)),
    ),
    (4, 2),
)


def test_a_seed_is_one_network_and_its_text_is_the_same_network() -> None:
    for seed in range(20):
        network = draw(seed)
        again = Network.from_json(network.to_json())
        assert again.source() == network.source() == draw(seed).source()
        sample = network.samples(1)
        for first, second in zip(compare.run(network.module(), sample)[0], compare.run(again.module(), sample)[0], strict=True):
            np.testing.assert_array_equal(first, second)


def test_operators_of_every_kind_are_drawn() -> None:
    drawn = {name for seed in range(700) for name in draw(seed, 5).operators}
    assert set(OPERATORS) - drawn <= {"fold", "conv3d", "grid_sample", "masked_attention"}  # they fit few shapes


def test_together_networks_compute_what_they_do_alone() -> None:
    networks = [draw(seed) for seed in range(6)]
    module, examples = joined(networks)
    together = compare.run(module, examples[:1])[0]
    alone = [value for network in networks for value in compare.run(network.module(), network.samples(1))[0]]
    for first, second in zip(together, alone, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)


def test_the_script_of_a_failure_runs() -> None:
    names: dict[str, object] = {}
    exec(BRANCHED.script(), names)
    with torch.no_grad():
        outputs = names["net"](*names["example"])  # type: ignore[operator, misc]
    assert [tuple(value.shape) for value in outputs] == [(1, 4, 4, 4)] * 2


def test_a_lost_channel_is_seen_beside_large_ones() -> None:
    wanted = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32) * np.array([640, 640, 1, 1, 1, 1])[:, None]
    lost = wanted.copy()
    lost[:, 3] = 0
    (loss,) = compare.losses([(wanted,)], [(lost,)], 60, [])
    assert (loss.axis, loss.channel, round(loss.db)) == (1, 3, 0)
    (loss,) = compare.silent([(wanted,)], [(lost,)])
    assert (loss.axis, loss.channel, loss.kind) == (1, 3, "silent")
    assert not compare.losses([(wanted,)], [(wanted * np.float32(1 + 1e-6),)], 60, [])


def test_rounding_that_the_network_itself_amplifies_is_no_fault() -> None:
    wanted, rounded = np.full((2, 8), 1e-3, np.float32), np.full((2, 8), 1.02e-3, np.float32)
    assert compare.losses([(wanted,)], [(rounded,)], 60, [])
    assert not compare.losses([(wanted,)], [(rounded,)], 60, [[(np.full((2, 8), 1.01e-3, np.float32),)]])


def test_a_constant_output_and_nan_are_seen() -> None:
    wanted = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    (loss,) = compare.silent([(wanted,)], [(np.ones_like(wanted),)])
    assert loss.kind == "constant"
    (loss,) = compare.losses([(wanted,)], [(np.full_like(wanted, np.nan),)], 30, [])
    assert loss.kind == "not finite"


def test_half_precision_has_the_noise_of_half_precision() -> None:
    network = replace(BRANCHED, outputs=(3,))
    module, samples = network.module(), network.samples(2)
    reference, (rounded,) = compare.run(module, samples), compare.noise(module, samples, 30)
    assert compare.losses(reference, rounded, 90, []) and not compare.losses(reference, rounded, 50, [])


def test_a_failure_shrinks_to_the_operator_that_makes_it() -> None:
    small = shrink(BRANCHED, lambda network: any(step.op == "conv2d" for step in network.steps))
    assert [step.op for step in small.steps] == ["conv2d"] and small.steps[0].settings["stride"] == 1
    small = shrink(BRANCHED, lambda network: any(step.op == "scalar" for step in network.steps))
    assert [step.op for step in small.steps] == ["scalar"] and small.inputs[0].shape == (1, 4, 4, 4)


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("Core ML refused the operator conv2d of layer conv2d_1\n  cause: it has no dilation", ""),
        ("TFLite refused the operator relu\n  cause: there is no kernel", ""),
        ("Core ML refused the program\n  cause: axis should be in the range [-1, 3]", "unnamed"),
        ("Core ML refused the operator relu\n  cause: 'NoneType' object has no attribute 'shape'", "internals"),
    ],
)
def test_a_refusal_names_what_is_the_users_and_nothing_of_a_library(message: str, fault: str) -> None:
    assert fault_of_message(message, [BRANCHED]) == fault
