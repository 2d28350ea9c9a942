"""Packages to evaluate: of PyTorch functions, many in one conversion, and of programs written in MIL."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil import Builder
from torch import Tensor, nn

import edgeopt.coreml
from edgeopt.mil.precision import Precision

IOS = {15: ct.target.iOS15, 16: ct.target.iOS16, 17: ct.target.iOS17, 18: ct.target.iOS18}


@dataclass(frozen=True)
class Case:
    """A function of tensors, and the tensors (at least one of them with floats)."""

    call: Callable[..., Tensor | tuple[Tensor, ...]]
    inputs: tuple[Tensor, ...]


class _Cases(nn.Module):
    def __init__(self, cases: Sequence[Case]) -> None:
        super().__init__()
        self.cases = cases

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        left = list(inputs)
        for case in self.cases:
            own, left = left[: len(case.inputs)], left[len(case.inputs) :]
            found = case.call(*own)
            outputs += found if isinstance(found, tuple) else (found,)
        return tuple(outputs)


def agree(cases: Sequence[Case], *, ios: int = 17, traced: bool = False, relative: float = 1e-4) -> None:
    """Asserts that the package coremltools makes of ``cases``, one conversion for all, gives what PyTorch gives.

    ``traced``: by torch.jit.trace, for operators that coremltools' frontend for exported programs lacks.
    """
    module = _Cases(cases).eval()
    inputs = tuple(each for case in cases for each in case.inputs)
    with torch.no_grad():
        expected = module(*inputs)
    names = [f"in_{index}" for index in range(len(inputs))]
    outputs = [f"out_{index}" for index in range(len(expected))]
    with tempfile.TemporaryDirectory() as folder:
        package = converted(
            module, inputs, Path(folder) / "model.mlpackage", ios=ios, traced=traced, names=names, outputs=outputs
        )
        found = edgeopt.coreml.load(package, precision="float32")(**dict(zip(names, map(_fed, inputs), strict=True)))
    for name, want in zip(outputs, expected, strict=True):
        close(found[name], want.numpy(), relative, name)


def close(found: Any, want: Any, relative: float = 1e-4, name: str = "") -> None:
    """Asserts equal shapes, and values within ``relative`` of the greatest; integers and booleans must be equal."""
    want = np.asarray(want)
    assert found.shape == want.shape, f"{name}: {found.shape} for {want.shape}"
    if want.dtype.kind in "biu":
        np.testing.assert_array_equal(found.astype(np.int64), want.astype(np.int64), err_msg=name)
        return
    finite = np.abs(want[np.isfinite(want)])
    room = relative * max(float(finite.max(initial=0.0)), 1e-6)
    np.testing.assert_allclose(found, want, rtol=0, atol=room, err_msg=name)


def converted(
    module: nn.Module, inputs: tuple[Tensor, ...], out: Path, *, ios: int = 17, traced: bool = False, half: bool = False,
    names: Sequence[str] = (), outputs: Sequence[str] = (),
) -> Path:  # fmt: skip
    """The package that coremltools makes of ``module``, in float32 or ``half``."""
    with torch.no_grad():
        if traced:
            program: Any = torch.jit.trace(module, inputs, check_trace=False)  # type: ignore[no-untyped-call]
        else:
            program = torch.export.export(module, inputs, strict=False).run_decompositions({})
    ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=IOS[ios],
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        skip_model_load=True,
        package_dir=str(out),
        inputs=[ct.TensorType(name=name, shape=tuple(value.shape), dtype=_dtype(value)) for name, value in
                zip(names or [f"in_{index}" for index in range(len(inputs))], inputs, strict=True)],
        outputs=[ct.TensorType(name=name) for name in outputs] or None,
    )  # fmt: skip
    return out


def run_mil(
    build: Callable[..., Any], inputs: dict[str, Any], *, ios: int = 17, precision: Precision = "float32"
) -> dict[str, np.ndarray[Any, Any]]:
    """Evaluates a program written in MIL: ``build(**vars)`` gives its outputs of mb operators; float16 arrays stay float16."""
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    specs = [Builder.TensorSpec(shape=array.shape, dtype=ct.converters.mil.mil.types.numpy_type_to_builtin_type(array.dtype))
             for array in arrays.values()]  # fmt: skip
    wrapped = _with_names(build, list(arrays))
    program = Builder.program(input_specs=specs, opset_version=IOS[ios])(wrapped)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.mlpackage"
        ct.convert(
            program, convert_to="mlprogram", minimum_deployment_target=IOS[ios], compute_precision=ct.precision.FLOAT32,
            skip_model_load=True, package_dir=str(out), pass_pipeline=ct.PassPipeline.EMPTY,
        )  # fmt: skip
        return edgeopt.coreml.load(out, precision=precision)(**arrays)


def _with_names(build: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """``build`` with the parameters that mb.program looks for."""
    scope: dict[str, Any] = {"build": build}
    arguments = ", ".join(names)
    exec(f"def program({arguments}):\n    return build({', '.join(f'{name}={name}' for name in names)})", scope)
    return scope["program"]  # type: ignore[no-any-return]


def _dtype(value: Tensor) -> Any:
    return np.float32 if value.is_floating_point() else np.int32


def _fed(value: Tensor) -> Any:
    return value.numpy()
