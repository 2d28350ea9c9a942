"""The blocks of well-known networks on every kind of target, each output compared with the module's own, channel by channel."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import edgeopt
from edgeopt import registry
from edgeopt.converters.interface import Array
from edgeopt.core import TargetResult
from tests.matrix.blocks import GROUPS, images, network

LEAST_DB = {"portable-fp32": 90.0, "apple-ane-fp16": 40.0, "arm-xnnpack": 12.0, "x86-fbgemm": 12.0, "apple-ane": 12.0}
CHANNEL_DB = {"portable-fp32": 80.0, "apple-ane-fp16": 25.0}
"""Of single channels no less; in integers a channel may be small beside the others."""
SAMPLES = 3


def signal_to_noise_db(want: Array, got: Array) -> float:
    noise = float(((want.astype(np.float64) - got) ** 2).sum())
    signal = float((want.astype(np.float64) ** 2).sum())
    return 200.0 if noise == 0 else 10 * float(np.log10(signal / noise)) if signal else -200.0


def outputs(bundle: edgeopt.Bundle, result: TargetResult, samples: list[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
    assert result.artifact is not None, result.reason
    predictor = registry.converter(result.format).load(bundle.artifact_path(result), threads=1)
    return [predictor(*sample) for sample in samples]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch and torchao: an export sends them to its log
@pytest.mark.parametrize("group", GROUPS)
def test_every_output_of_every_block_is_the_modules_on_every_target(group: str, tmp_path: Path) -> None:
    module, batches = network(group), images(16)
    model = edgeopt.Model(module, batches[0], calibration=batches, name=group)
    jobs = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
    bundle = edgeopt.export(model, targets=tuple(LEAST_DB), out=tmp_path / group, jobs=jobs, use_cache=False)
    with torch.no_grad():
        wanted = [module(*sample) for sample in batches[:SAMPLES]]
    names, samples = list(wanted[0]), [tuple(value.numpy() for value in sample) for sample in batches[:SAMPLES]]
    poor = []
    for result in bundle.manifest.results:
        found = outputs(bundle, result, samples)
        for number, name in enumerate(names):
            want = np.stack([sample[name].numpy() for sample in wanted])
            got = np.stack([sample[number] for sample in found])
            assert got.shape == want.shape
            worst = {"whole": signal_to_noise_db(want, got) - LEAST_DB[result.target]}
            for channel in range(want.shape[2]) if result.target in CHANNEL_DB else ():
                own = signal_to_noise_db(want[:, :, channel], got[:, :, channel])
                worst[f"channel {channel}"] = own - CHANNEL_DB[result.target]
            poor += [
                f"{result.target} {result.format} {name} {part}: {room:.0f} dB" for part, room in worst.items() if room < 0
            ]
    assert not poor
    assert all(result.status == "ok" for result in bundle.manifest.results), [r.reason for r in bundle.manifest.results]
