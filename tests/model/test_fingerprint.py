"""A fingerprint changes with everything that an export may depend on, whether or not a file shows it, and with nothing else."""

import logging
import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeopt.model.fingerprint import fingerprint

# One cell of a notebook, and what is typed next: only names change, never the object that is asked about.
CELLS = """
import functools
import numpy as np
import torch
from torch import nn
from dataclasses import dataclass

THRESHOLD = 0.5
TABLE = {"a": [1, 2]}
data = np.zeros(3)

def inner(x):
    return x + 1

def helper(x):
    return inner(x)

class Metric:
    scale = 2

    def __call__(self, x):
        return self.grade(x) * self.scale

    def grade(self, x):
        return x

    @property
    def name(self):
        return "a"

    @staticmethod
    def still(x):
        return x

    @functools.cached_property
    def once(self):
        return 1

@dataclass
class Settings:
    rate: float = 0.1

class Net(nn.Module):
    def forward(self, x):
        return helper(x)

settings = Settings()
metric = Metric()

def evaluate(predict):
    def score(y):
        return helper(y) + metric(y) + TABLE["a"][0]
    values = [score(y) for y in data if y > THRESHOLD]
    return {"top1": sum(values) * settings.rate}

@torch.no_grad()
def decorated(predict):
    return {"top1": helper(1)}

class Child(Metric):
    pass

@functools.cache
def cached(x):
    return helper(x)

net = Net()
child = Child()
partial = functools.partial(evaluate)
method = metric.grade
unused = 1
"""
SUBJECTS = ("evaluate", "decorated", "net", "child", "partial", "cached")
SEEN_BY = {
    "def helper(x):\n    return inner(x) + 1": {"evaluate", "decorated", "net", "partial", "cached"},
    "def inner(x):\n    return x + 2": {"evaluate", "decorated", "net", "partial", "cached"},
    "THRESHOLD = 0.6": {"evaluate", "partial"},
    "TABLE['a'].append(3)": {"evaluate", "partial"},
    "data[1] = 1": {"evaluate", "partial"},
    "settings.rate = 0.2": {"evaluate", "partial"},
    "Metric.scale = 3": {"evaluate", "partial", "child"},
    "Metric.grade = lambda self, x: -x": {"evaluate", "partial", "child"},
    "Metric.name = property(lambda self: 'b')": {"evaluate", "partial", "child"},
    "Metric.still = staticmethod(lambda x: -x)": {"evaluate", "partial", "child"},
    "Net.forward = lambda self, x: x": {"net"},
    "net.forward = lambda x: x": {"net"},
    "evaluate.strict = True": {"evaluate", "partial"},
    "del helper": {"evaluate", "decorated", "net", "partial", "cached"},
    "unused = 2": set(),
    "def not_called(): pass": set(),
}


@pytest.fixture
def typed() -> dict[str, Any]:
    """What a module without a file holds after the cells were run in it."""
    module = types.ModuleType("typed_in")
    exec(CELLS, vars(module))
    return vars(module)


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("change", SEEN_BY, ids=lambda text: text.splitlines()[0])
def test_whatever_typed_code_looks_up_counts(typed: dict[str, Any], subject: str, change: str) -> None:
    value = typed[subject]
    before = fingerprint(value)
    assert before is not None
    assert fingerprint(value) == before
    exec(change, typed)
    assert (fingerprint(value) != before) == (subject in SEEN_BY[change])


def function(text: str, **around: Any) -> Callable[..., Any]:
    exec(textwrap.dedent(text), around)
    found: Callable[..., Any] = around["f"]
    return found


@pytest.mark.parametrize(
    "text",
    [
        "def f(p): return globals()['g'](p)",
        "def f(p): return eval('g')(p)",
        "def f(p): exec('g(p)')",
        "def f(p): return __import__('g').g(p)",
        "def f(p): import importlib; return importlib.import_module('g').g(p)",
        "def f(p): import a_module_that_is_nowhere",
        "def f(p): return [g for g in handle]",
    ],
)
def test_what_cannot_be_seen_gives_none(text: str, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as handle:
        assert fingerprint(function(text, handle=handle)) is None


@pytest.mark.parametrize(
    "text",
    [
        "def f(p): import json, os.path; from email import message; return json, os, message",
        "def f(p): from torch.nn import functional; return functional.relu(p)",
        "def f(p): return np.exp(np.mean(p)) + torch.relu(p) + nn.functional.relu(p) + print(len(p)) + np.random.rand()",
        "def f(p): log.warning('x')",
        "def f(p): return kind, either",
        "def f(p): return rng.normal() + torch.rand(1, generator=generator)",
    ],
)
def test_packages_and_common_objects_can_be_told(text: str) -> None:
    around = {"np": np, "torch": torch, "nn": nn, "log": logging.getLogger("some.name")}
    around |= {"rng": np.random.default_rng(0), "generator": torch.Generator().manual_seed(0)}
    around |= {"kind": list[int], "either": int | str}
    assert fingerprint(function(text, **around)) is not None


def test_where_a_function_stands_does_not_count_only_what_it_says() -> None:
    one = "def f(x):\n  return x if x in {1, 2, 3} else (lambda: 'a')()"
    moved = "\n\n# moved\n" + one.replace("\n", "\n\n")
    first, second = {}, {}  # type: ignore[var-annotated]
    exec(compile(one, "cell 1", "exec"), first)
    exec(compile(moved, "cell 2", "exec"), second)
    assert fingerprint(first["f"]) == fingerprint(second["f"])
    exec(compile(one.replace("'a'", "'b'"), "cell 1", "exec"), second)
    assert fingerprint(first["f"]) != fingerprint(second["f"])


def test_a_function_put_into_a_package_s_class_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.ReLU())
    before = fingerprint(module)
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: x)
    assert before is not None
    assert fingerprint(module) not in (before, None)


def test_what_was_assigned_in_a_file_s_module_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "edgeopt_test_settings.py").write_text("rate = 1\nother = 2\n")
    early = "import edgeopt_test_settings as s\ndef f(p): return s.rate"
    late = "def f(p):\n import edgeopt_test_settings\n return edgeopt_test_settings.rate"
    assert fingerprint(function(late)) is None, "not loaded yet: nobody knows what it will say"
    subjects = [function(early), function(late), function("def f(p):\n from edgeopt_test_settings import rate\n return rate")]
    settings = sys.modules["edgeopt_test_settings"]
    before = [fingerprint(subject) for subject in subjects]
    assert None not in before
    settings.other = 3  # type: ignore[attr-defined]
    assert [fingerprint(subject) for subject in subjects] == before
    settings.rate = 3  # type: ignore[attr-defined]
    assert all(fingerprint(subject) != old for subject, old in zip(subjects, before, strict=True))
    del sys.modules["edgeopt_test_settings"]


class Rude:
    """Raises whatever is asked of it."""

    __slots__ = ("state",)

    def __getattribute__(self, name: str) -> Any:
        raise ValueError(name)


def test_an_object_that_raises_when_it_is_looked_at_gives_none() -> None:
    assert fingerprint(Rude()) is None
    assert fingerprint(torch.zeros(2, device="meta")) is None


SESSION = """
import edgeopt, torch
from torch import nn
net = nn.Sequential(nn.Linear(4, 2))
def helper():
    return 0.25

def evaluate(predict):
    return {"top1": helper() + 0 * float(predict(torch.ones(1, 4))[0].sum())}

def export():
    said = []
    bundle = edgeopt.export(net, torch.ones(1, 4), targets=["portable-fp32"], evaluate=evaluate, out="out", listen=said.append)
    print("RESULT", bundle.manifest.model.accuracy["top1"], any("nothing changed" in one.detail for one in said))

export()
export()
def helper():
    return 0.75

export()
"""


@pytest.mark.slow
def test_an_interactive_session_in_which_a_helper_is_redefined_exports_anew(tmp_path: Path) -> None:
    environment = {**os.environ, "EDGEOPT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-q", "-i"], input=SESSION, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    results = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert results == ["0.25 False", "0.25 True", "0.75 False"], done.stderr
