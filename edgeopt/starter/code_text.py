"""The text of the Python file: ``model``, ``batches`` and ``evaluate``, which run as they stand, to be filled in."""

from edgeopt.core import TensorSpec
from edgeopt.starter.seen import Seen, is_file

_HEAD = '''"""The model for edgeopt, with its calibration data and its evaluation.

    {command}

This runs as it stands. FILL IN marks what only you have: until then, what is made of random or single inputs is marked
UNCALIBRATED, no accuracy is measured, and the numbers say nothing about real data.
"""

{imports}'''
_MODEL = '''

@cache
def own() -> edgeopt.Model:
    """The model as your code gives it."""
    return edgeopt.load({reference})


def model() -> edgeopt.Model:
    """What edgeopt exports{inputs}."""
    found = own()
    return edgeopt.Model(
        found.module,
        found.example_inputs,
        calibration={calibration},
        evaluate={evaluate},
        name=found.name,
    )

'''
_RANDOM = '''
def random_inputs(seed: int) -> tuple[Any, ...]:
    """One call's inputs in the model's order: random numbers of the right shapes, which say nothing about real data."""
    random = np.random.default_rng(seed)
    return (
{values}
    )

'''
_BATCHES = '''
@edgeopt.placeholder  # FILL IN batches(), then take this line away: it keeps random data from passing for real
def batches() -> Iterator[tuple[Any, ...]]:
    """Calibration data: one call's inputs at a time, like those that devices will see; some hundred are usual."""
{body}

'''
_OWN_BATCHES = '''
def batches() -> Iterable[Any]:
    """Calibration data: what your model brings."""
    data: Any = own().calibration
    return data() if callable(data) else data

'''
_OWN_EVALUATE = '''
def evaluate(predict: Callable[..., Any]) -> dict[str, float]:
    """What your model brings."""
    measure: Any = own().evaluate
    return measure(predict)
'''
_TOP1 = '''
def labelled() -> Iterator[tuple[tuple[Any, ...], Any]]:
    """One call's inputs at a time, with the right classes: integers (N,) from 0 to {last}."""
    for seed in range(100, 116):
        yield random_inputs(seed), np.random.default_rng(seed).integers(0, {classes}, {rows})  # FILL IN


@edgeopt.placeholder  # FILL IN labelled(), then take this line away: it keeps random data from passing for real
def evaluate(predict: Callable[..., Any]) -> dict[str, float]:
    """The share of inputs whose greatest score, of ({rows}, {classes}), is that of the right class."""
    right = total = 0
    for inputs, labels in labelled():
        (scores,) = predict(*inputs)
        right += int((scores.argmax(axis=1) == labels).sum())
        total += len(labels)
    return {{"top1": right / total}}
'''
_SKELETON = '''
@edgeopt.placeholder  # FILL IN evaluate(), then take this line away: it keeps random data from passing for real
def evaluate(predict: Callable[..., Any]) -> dict[str, float]:
    """Named numbers, higher is better; the first is the one that max_drop judges.

    Names such as "quality/night" are slices of it, for parts of the data: max_slice_drop judges the one that falls the most.
    predict takes and returns numpy arrays{described}.
    """
    # FILL IN:
    # values = []
    # for inputs, wanted in your_data():
    #     outputs = predict(*inputs)
    #     values.append(...)  # how good outputs are
    # return {{"quality": sum(values) / len(values)}}
    raise NotImplementedError("evaluate() is not filled in")
'''


def code_text(seen: Seen, config_file: str, command: str) -> str:
    """Python that edgeopt can load. What comes from the model stands in it as literals and names of inputs and outputs only."""
    body = "".join([_model(seen, config_file), _random(seen), _batches(seen), _evaluate(seen)])
    head = _HEAD.format(command=command, imports=_imports(body))
    here = "\nHERE = Path(__file__).parent\n" if "HERE" in body else ""
    return head + here + body


def _imports(body: str) -> str:
    """The import statements that ``body`` needs."""
    generic = ", ".join(name for name in ("Callable", "Iterable", "Iterator") if f"{name}[" in body)
    lines = [f"from collections.abc import {generic}", "from functools import cache"]
    lines += ["from pathlib import Path"] * ("HERE" in body)
    lines += ["from typing import Any"]
    lines += ["", "import edgeopt"] + ["import numpy as np"] * ("np." in body)
    return "\n".join([*lines, ""])


def _model(seen: Seen, config_file: str) -> str:
    reference = _literal(seen.reference)
    return _MODEL.format(
        reference=f"str(HERE / {reference})" if is_file(seen.reference) else reference,
        inputs="" if seen.inputs and not seen.given else f"; what it takes stands in {config_file}",
        calibration="found.calibration" if seen.calibration else "batches",
        evaluate="found.evaluate" if seen.evaluate else "evaluate",
    )


def _literal(text: str) -> str:
    """``text`` as Python writes it, in double quotes where that needs no escapes."""
    literal = repr(text)
    return f'"{literal[1:-1]}"' if not {"'", '"'} & set(text) else literal


def _random(seen: Seen) -> str:
    """What the placeholders draw their inputs from, where one of them does."""
    drawn = bool(seen.inputs) and (not seen.calibration or (not seen.evaluate and seen.classes is not None))
    return _RANDOM.format(values="\n".join(map(_value, seen.inputs))) if drawn else ""


def _value(spec: TensorSpec) -> str:
    """The line that draws an input as ``--input`` does: standard normal floats; 0 or 1, which any vocabulary contains."""
    low, high = {"uint8": (0, 256), "int8": (-128, 128)}.get(spec.dtype, (0, 2))
    drawn = f"standard_normal({spec.shape})" if spec.dtype.startswith("float") else f"integers({low}, {high}, {spec.shape})"
    return f'        np.asarray(random.{drawn}, "{spec.dtype}"),  # {spec.name}'


def _batches(seen: Seen) -> str:
    if seen.calibration:
        return _OWN_BATCHES
    drawn = "    for seed in range(16):\n        yield random_inputs(seed)  # FILL IN"
    return _BATCHES.format(body=drawn if seen.inputs else '    raise NotImplementedError("batches() is not filled in")')


def _evaluate(seen: Seen) -> str:
    if seen.evaluate:
        return _OWN_EVALUATE
    if seen.classes:
        return _TOP1.format(classes=seen.classes, last=seen.classes - 1, rows=seen.outputs[0].shape[0])
    takes, gives = (", ".join(map(_described, specs)) for specs in (seen.inputs, seen.outputs))
    return _SKELETON.format(described=f": {takes} -> {gives}" if seen.inputs else "")


def _described(spec: TensorSpec) -> str:
    return f"{spec.name} {'x'.join(map(str, spec.shape)) or 'scalar'}:{spec.dtype}"
