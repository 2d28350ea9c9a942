"""References to the user's code: ``file.py:name``, ``package.module:name`` and ``.pt2`` files, made into objects.

What a reference names is run, as ``python file.py`` or ``python -m package.module`` would run it.
"""

import hashlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

from edgeopt.errors import (
    CalibrationError,
    EdgeoptError,
    EvaluationError,
    InputError,
    MissingExtra,
    ModelError,
    ReferenceNotFound,
    did_you_mean,
)
from edgeopt.model.input_text import EXAMPLE as INPUT_EXAMPLE
from edgeopt.model.input_text import InputSpec, generate, parse_input
from edgeopt.model.model import DEFAULT_NAME, Batch, Calibration, Evaluate, Model, is_placeholder
from edgeopt.model.program_file import read_program
from edgeopt.model.user_code import cause
from edgeopt.support import extras
from edgeopt.support.surroundings import kept

__all__ = ["InputSpec", "load", "load_evaluate", "load_model", "parse_input", "resolve", "stem"]

EXAMPLE = "write file.py:name, package.module:name or a .pt2 file"
_EXAMPLE_INPUTS = "example_inputs"
_UNFILLED = "it is marked with @edgeopt.placeholder: random data would pass for real"
_FILL_IN = "fill it in and take that line away; or leave it out here"


def resolve(reference: str) -> object:
    """The object that ``reference`` names; for a ``.pt2`` file its path.

    A file's own folder is importable, and so is the current folder for ``package.module:name``.
    Raises ReferenceNotFound with the nearest names, or ModelError with the user's line where importing raises.
    """
    if reference.endswith(".pt2"):
        return _existing(Path(reference))
    source, _, name = reference.rpartition(":")
    if not source or not name:
        raise ReferenceNotFound(f"{reference!r} names no object: there is no ':name'", fix=EXAMPLE)
    is_file = source.endswith(".py")
    if not is_file and not all(part.isidentifier() for part in source.split(".")):
        raise ReferenceNotFound(f"{source!r} is neither a .py file nor a module", fix=EXAMPLE)
    module = _file_module(Path(source)) if is_file else _named_module(source)
    return _attribute(module, name, source)


def stem(reference: str) -> str:
    """A readable name for what ``reference`` leads to: ``mobilenet_v2`` for ``examples/mobilenet_v2.py:model``."""
    source = reference.rpartition(":")[0] or reference
    return Path(source).stem if source.endswith((".py", ".pt2")) else source.rpartition(".")[2]


def _existing(path: Path) -> Path:
    if path.is_file():
        return path
    beside = [file.name for file in path.parent.glob(f"*{path.suffix}")] if path.parent.is_dir() else []
    fix = did_you_mean(path.name, beside) or f"check the path; {EXAMPLE}"
    raise ReferenceNotFound(f"there is no file {path}", fix=fix)


def _file_module(path: Path) -> ModuleType:
    path = _existing(path).resolve()
    # One private name per file: the model, its data and its evaluation share one copy of the module.
    name = f"_edgeopt_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ReferenceNotFound(f"{path} cannot be loaded as Python", fix=EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importable(path.parent), _raising_is_reported(str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _named_module(name: str) -> ModuleType:
    with _importable(Path.cwd()):
        try:
            with _raising_is_reported(name):
                return import_module(name)
        except ModelError as error:
            missing = getattr(error.__cause__, "name", None)
            if isinstance(error.__cause__, ModuleNotFoundError) and missing and f"{name}.".startswith(f"{missing}."):
                fix = did_you_mean(name, _neighbours(name)) or f"check the name and the current folder; {EXAMPLE}"
                raise ReferenceNotFound(f"there is no module {name}", fix=fix) from error
            raise


def _neighbours(name: str) -> list[str]:
    """Modules that ``name`` could have been meant for: those of its package, else those of the current folder."""
    parent = name.rpartition(".")[0]
    package = sys.modules.get(parent)
    places = list(package.__path__) if package and hasattr(package, "__path__") else [str(Path.cwd())]
    prefix = f"{parent}." if package else ""
    return [prefix + module.name for module in pkgutil.iter_modules(places)]


def _attribute(module: ModuleType, name: str, source: str) -> object:
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [known for known in dir(found) if not known.startswith("_")]
            why = f"it has: {', '.join(public[:20])}{' ...' if public[20:] else ''}" if public else "it defines nothing"
            fix = did_you_mean(part, public) or "name one of these"
            raise ReferenceNotFound(f"{source} has no {name!r}", why=why, fix=fix)
        found = getattr(found, part)
    return found


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """``folder`` first on the path meanwhile, and last afterwards.

    Afterwards it must still be there, for imports inside the user's functions, but no longer in front, where a
    user's ``onnx.py`` would hide the real one from edgeopt.
    """
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with suppress(ValueError):  # the user's code may have taken it away
            sys.path.remove(entry)
        if entry not in sys.path:
            sys.path.append(entry)


@contextmanager
def _raising_is_reported(source: str) -> Iterator[None]:
    try:
        with kept():
            yield
    except (Exception, SystemExit) as error:  # a script that calls sys.exit on import must not end the tool silently
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            raise MissingExtra(f"{source} cannot be imported", why=cause(error), fix=extras.command("torch")) from error
        fix = f"python must be able to import {source} without an error"
        raise ModelError(f"{source} cannot be imported", why=cause(error), fix=fix) from error


def load_model(
    reference: str, *, inputs: tuple[InputSpec, ...] = (), calibration: str | None = None, evaluate: str | None = None
) -> Model:
    """The model that ``reference`` names, with its data; what is given here goes before what the model brings.

    The reference leads to an nn.Module, to an edgeopt.Model, to a function or class that gives one of them without
    arguments, or to a .pt2 file. Raises InputError where neither the model nor ``inputs`` say what it takes.
    """
    model = load(reference)
    if inputs:
        model = replace(model, example_inputs=generate(inputs))
    if calibration:
        model = replace(model, calibration=_data(calibration))
    if evaluate:
        model = replace(model, evaluate=load_evaluate(evaluate))
    if model.example_inputs is None:
        fix = f"pass --input for each of its inputs ({INPUT_EXAMPLE}), or make {reference} an edgeopt.Model"
        raise InputError(f"nothing says what inputs {reference} takes", fix=fix)
    return model


def load(reference: str) -> Model:
    """The model that ``reference`` names, as :func:`load_model` takes it; its ``example_inputs`` may be None.

    Where it is an nn.Module, its attribute (or method) ``example_inputs`` is looked for, then that name beside it in its file.
    """
    extras.require("torch", f"the model {reference} cannot be run here")
    model = _as_model(reference, resolve(reference))
    if model.example_inputs is None and not reference.endswith(".pt2"):
        model = replace(model, example_inputs=_own_inputs(reference, model))
    return model


def _own_inputs(reference: str, model: Model) -> Batch:
    """What the user's code calls ``example_inputs``; None where nothing has that name."""
    from torch import nn

    found = getattr(model.module, _EXAMPLE_INPUTS, None) if isinstance(model.module, nn.Module) else None
    beside = f"{reference.rpartition(':')[0]}:{_EXAMPLE_INPUTS}"
    if found is None:
        try:
            found = resolve(beside)
        except ReferenceNotFound:
            return None
    return (
        _called(beside, found, "it is called without arguments and must return one call's inputs") if callable(found) else found
    )


def _as_model(reference: str, found: object) -> Model:
    from torch import nn

    if isinstance(found, Path):
        program = read_program(found)
        args, kwargs = program.example_inputs or ((), {})
        return Model(program, kwargs or args or None, name=stem(reference))
    if not isinstance(found, nn.Module | Model) and callable(found):
        found = _called(reference, found, "it is called without arguments and must return the model")
    if isinstance(found, nn.Module):
        return Model(found, name=stem(reference))
    if isinstance(found, Model):
        return found if found.name != DEFAULT_NAME else replace(found, name=stem(reference))
    wanted = "an nn.Module, an edgeopt.Model, or a function that returns one of them"
    raise ModelError(f"{reference} is a {type(found).__name__}, not a model", fix=f"name {wanted}")


def _called(reference: str, build: Callable[[], object], fix: str) -> object:
    try:
        return build()
    except EdgeoptError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{reference} raised", why=cause(error), fix=fix) from error


def _data(reference: str) -> Calibration:
    found = resolve(reference)
    if is_placeholder(found):
        raise CalibrationError(f"{reference} is a placeholder", why=_UNFILLED, fix=_FILL_IN)
    if callable(found) or isinstance(found, Iterable):
        return found
    fix = "name a function that yields batches, or a list of them"
    raise CalibrationError(f"{reference} is a {type(found).__name__}, not calibration data", fix=fix)


def load_evaluate(reference: str) -> Evaluate:
    """The function that ``reference`` names. Raises EvaluationError where it is none."""
    found = resolve(reference)
    if is_placeholder(found):
        raise EvaluationError(f"{reference} is a placeholder", why=_UNFILLED, fix=_FILL_IN)
    if callable(found):
        return found
    fix = "name a function evaluate(predict) -> dict[str, float]"
    raise EvaluationError(f"{reference} is a {type(found).__name__}, not a function", fix=fix)
