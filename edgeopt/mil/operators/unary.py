"""Elementwise operators of one tensor."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgeopt.mil.operator import operator


def _unary(name: str, kernel: Callable[[Tensor], Tensor], *, exact: bool = False) -> None:
    """Registers an operator that is the kernel of PyTorch with the same meaning."""

    def call(x: Tensor) -> Tensor:
        return kernel(x)

    operator(name, exact=exact)(call)


_unary("abs", torch.abs, exact=True)
_unary("acos", torch.acos)
_unary("asin", torch.asin)
_unary("atan", torch.atan)
_unary("atanh", torch.atanh)
_unary("ceil", torch.ceil, exact=True)
_unary("cos", torch.cos)
_unary("cosh", torch.cosh)
_unary("erf", torch.erf)
_unary("exp", torch.exp)
_unary("floor", torch.floor, exact=True)
_unary("logical_not", torch.logical_not)
_unary("round", torch.round, exact=True)  # halves to even, both
_unary("sign", torch.sign, exact=True)
_unary("sin", torch.sin)
_unary("sinh", torch.sinh)
_unary("sqrt", torch.sqrt)
_unary("square", torch.square)
_unary("tan", torch.tan)
_unary("tanh", torch.tanh)


@operator("exp2")
def exp2(x: Tensor) -> Tensor:
    """2 ** x, of integers an integer again: 0 where x is negative."""
    return torch.exp2(x).to(x.dtype)


@operator("clip", exact=True)
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(max(x, alpha), beta)."""
    return x.clamp(alpha, beta)


@operator("threshold", exact=True)
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    """max(x, alpha). PyTorch's operator of this name puts another value below the threshold."""
    return torch.maximum(x, alpha)


@operator("inverse")
def inverse(x: Tensor, epsilon: float) -> Tensor:
    """1 / (x + epsilon)."""
    return (x + epsilon).reciprocal_()


@operator("log")
def log(x: Tensor, epsilon: float) -> Tensor:
    """log(x + epsilon). The default of 1e-45 is 0 in float16."""
    return (x + epsilon).log_()


@operator("rsqrt")
def rsqrt(x: Tensor, epsilon: float) -> Tensor:
    """1 / sqrt(x + epsilon)."""
    return (x + epsilon).rsqrt_()
