"""Silero VAD 6 (16 kHz): tells speech from everything else, 32 ms at a time, with an LSTM cell whose state the caller keeps.

    edgeopt export examples/silero_vad.py:model --target portable-fp32 --target arm-ort --out build/silero_vad

Several inputs and outputs: the state that one call gives goes into the next. Weights come from a package
(``pip install --no-deps silero-vad``); the sounds are synthesised here. The network is written out from its TorchScript.
"""

import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import distribution

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import edgeopt

RATE = 16_000
CHUNK, CONTEXT = 512, 64  # samples: each call sees the last 64 of the chunk before it
HIDDEN = 128
# Formants in Hz of five vowels: three of Peterson and Barney's averages (1952) and a fourth that hardly moves.
VOWELS = (
    (730, 1090, 2440, 3500), (270, 2290, 3010, 3500), (300, 870, 2240, 3500), (530, 1840, 2480, 3500), (570, 840, 2410, 3500)
)  # fmt: skip
BANDWIDTHS = (60, 90, 120, 180)

Sound = NDArray[np.float32]
Predict = Callable[..., tuple[NDArray[np.float32], ...]]


class SileroVad(nn.Module):
    """Short-time spectrum as a convolution, four convolutions, one LSTM step, one probability."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        shapes = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        self.encoder = nn.ModuleList(nn.Conv1d(inputs, outputs, 3, stride, 1) for inputs, outputs, stride in shapes)
        self.rnn = nn.LSTMCell(128, HIDDEN)
        self.decoder = nn.Linear(HIDDEN, 1)

    def forward(self, chunk: Tensor, hidden: Tensor, cell: Tensor) -> dict[str, Tensor]:
        """float32 ``chunk`` [1, 576], state [1, 128] twice -> ``probability`` [1, 1] and the next state."""
        real, imaginary = self.spectrum(functional.pad(chunk[:, None], (0, 64), "reflect")).chunk(2, dim=1)
        x = torch.sqrt(real * real + imaginary * imaginary)
        for layer in self.encoder:
            x = functional.relu(layer(x))
        hidden, cell = self.rnn(x[:, :, 0], (hidden, cell))
        return {"probability": torch.sigmoid(self.decoder(functional.relu(hidden))), "next_hidden": hidden, "next_cell": cell}


def network() -> SileroVad:
    # The .jit and not the .safetensors beside it: they hold different weights.
    path = distribution("silero-vad").locate_file("silero_vad/data/silero_vad.jit")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # TorchScript is what the package ships
        program = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    names = {"_model.stft.forward_basis_buffer": "spectrum.weight", "_model.decoder.decoder.2.bias": "decoder.bias"}
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        names[f"_model.decoder.rnn.{part}"] = f"rnn.{part}"
    for index in range(4):
        for part in ("weight", "bias"):
            names[f"_model.encoder.{index}.reparam_conv.{part}"] = f"encoder.{index}.{part}"
    found = program.state_dict()
    state = {ours: found[theirs] for theirs, ours in names.items()}
    state["decoder.weight"] = found["_model.decoder.decoder.2.weight"][:, :, 0]
    net = SileroVad()
    net.load_state_dict(state)
    return net.eval()


def voice(seconds: float, random: np.random.Generator) -> Sound:
    """Nonsense speech by formant synthesis (Klatt, 1980): four syllables a second, each a hiss and a vowel that glides."""
    time = np.arange(int(seconds * RATE)) / RATE
    steps = np.arange(int(seconds * 8) + 3) / 8
    vowels = np.asarray(VOWELS, float)[random.integers(0, len(VOWELS), len(steps))]
    pitch = random.uniform(95, 220) * (1.15 - 0.2 * (time % 1.5)) * (1 + 0.05 * np.sin(2 * np.pi * random.uniform(2, 4) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voiced = np.zeros_like(time)
    for harmonic in range(1, 50):
        frequency = harmonic * pitch
        gain = np.where(frequency < 7600, 1.0 / harmonic, 0.0)  # the glottis falls off with frequency
        for formants, bandwidth in zip(vowels.T, BANDWIDTHS, strict=True):
            formant = np.interp(time, steps, formants)
            gain *= formant**2 / np.sqrt((formant**2 - frequency**2) ** 2 + (bandwidth * frequency) ** 2)
        voiced += gain * np.sin(harmonic * phase + 0.3 * harmonic)
    voiced /= np.sqrt(np.mean(voiced**2))
    syllable = (time * 4) % 1
    vowel = np.clip(1.8 * np.sin(np.pi * syllable) - 0.3, 0, 1)
    consonant = np.clip(1 - 8 * np.abs(syllable - 0.05), 0, 1)
    noise = random.standard_normal(len(time))
    sound = vowel * (voiced + 0.05 * noise) + 0.3 * consonant * np.diff(noise, prepend=0)
    return np.asarray(random.uniform(0.05, 0.15) * sound, np.float32)


def background(seconds: float, random: np.random.Generator) -> Sound:
    """What is not speech: silence, mains hum, a steady tone or noise."""
    time = np.arange(int(seconds * RATE)) / RATE
    hum = np.sin(2 * np.pi * 50 * time) + 0.5 * np.sin(2 * np.pi * 150 * time)
    tone = np.sin(2 * np.pi * random.uniform(300, 2000) * time)
    noise = 0.5 * random.standard_normal(len(time))
    kind = (np.zeros_like(time), hum, tone, noise)[random.integers(4)]
    return np.asarray(0.1 * kind + 0.001 * random.standard_normal(len(time)), np.float32)


def recording(seed: int, seconds: float = 1.024) -> tuple[Sound, Sound]:
    """Sound [samples] that alternates between background and speech, and 1 for each chunk of it that is speech."""
    random = np.random.default_rng(seed)
    parts = [(voice if index % 2 else background)(seconds, random) for index in range(4)]
    chunks = [np.full(len(part) // CHUNK, index % 2, np.float32) for index, part in enumerate(parts)]
    return np.concatenate(parts), np.concatenate(chunks)


def listen(predict: Predict, sound: Sound) -> Iterator[tuple[tuple[Sound, Sound, Sound], float]]:
    """Runs ``predict`` chunk by chunk with its state carried along: what went in, and the probability of speech."""
    hidden = cell = np.zeros((1, HIDDEN), np.float32)
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    for start in range(0, len(sound) - CHUNK + 1, CHUNK):
        inputs = (padded[None, start : start + CONTEXT + CHUNK], hidden, cell)
        probability, hidden, cell = predict(*inputs)
        yield inputs, float(probability[0, 0])


def evaluate(predict: Predict) -> dict[str, float]:
    """Share of chunks for which "speech at 0.5" is right."""
    right = []
    for seed in range(100, 104):
        sound, labels = recording(seed)
        speech = np.array([probability > 0.5 for _, probability in listen(predict, sound)])
        right.append(np.mean(speech == labels))
    return {"accuracy": float(np.mean(right))}


def model() -> edgeopt.Model:
    net = network()

    def run(*arrays: Sound) -> tuple[Sound, ...]:
        with torch.inference_mode():
            return tuple(output.numpy() for output in net(*map(torch.from_numpy, arrays)).values())

    def calibration() -> Iterator[tuple[Tensor, ...]]:
        for seed in range(4):
            for inputs, _ in listen(run, recording(seed)[0]):
                yield tuple(map(torch.from_numpy, inputs))

    example = (torch.zeros(1, CONTEXT + CHUNK), torch.zeros(1, HIDDEN), torch.zeros(1, HIDDEN))
    return edgeopt.Model(net, example, calibration=calibration, evaluate=evaluate, name="silero_vad")
