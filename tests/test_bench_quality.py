"""scripts/bench_quality.py: what making something cost, and what counts as agreement."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from scripts import bench_quality
from scripts.quality import networks, peers


def test_the_peak_of_a_small_process_is_its_own(tmp_path: Path) -> None:
    ballast = np.ones(40_000_000)  # 320 MB here, which a process started from here would count as its own
    made = bench_quality.run([sys.executable, "-S", "-c", "print(1)"], tmp_path / "log")
    assert ballast[0] and not made.failed
    assert made.peak_mb < 100


def test_what_a_process_needs_is_counted(tmp_path: Path) -> None:
    made = bench_quality.run([sys.executable, "-S", "-c", "len(bytearray(300_000_000))"], tmp_path / "log")
    assert made.peak_mb > 280


def test_a_failure_is_its_last_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise ValueError('no such operator')"]
    assert bench_quality.run(command, tmp_path / "log").failed == "ValueError: no such operator"


def test_the_nearest_sentence_is_another_one() -> None:
    embeddings = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    assert networks.nearest(embeddings).tolist() == [1, 0, 3, 2]


def test_peers_get_the_samples_in_order(tmp_path: Path) -> None:
    arrays = {f"{i}/{j}": np.array([i, j]) for i in range(12) for j in range(2)}
    np.savez(tmp_path / "samples.npz", **arrays)
    found = peers.samples(tmp_path / "samples.npz")
    assert [[part.tolist() for part in sample] for sample in found] == [[[i, 0], [i, 1]] for i in range(12)]


def test_every_network_has_a_function_for_the_command_line() -> None:
    assert all(callable(getattr(networks, bench_quality.model_of(name))) for name in networks.NETWORKS)
