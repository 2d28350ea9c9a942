"""Activations: elementwise, and softmax."""

import torch
from torch import Tensor
from torch.nn import functional

from edgeopt.mil.operator import operator


@operator("relu", exact=True, half=True)
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return torch.relu(x)


@operator("relu6", exact=True, half=True)
def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6)."""
    return x.clamp(0, 6)


@operator("clamped_relu")
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(beta, x) where x >= 0, min(beta, alpha * x) elsewhere."""
    return functional.leaky_relu(x, alpha).clamp_(max=beta)


@operator("thresholded_relu", exact=True)
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """x where x >= alpha, 0 elsewhere. PyTorch's threshold has 0 at alpha itself."""
    return x.where(x >= alpha, 0.0)


@operator("leaky_relu")
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """x where x >= 0, alpha * x elsewhere."""
    return functional.leaky_relu(x, alpha)


@operator("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """x where x > 0, alpha * x elsewhere; x [n, c, *size], alpha [c]."""
    return functional.prelu(x, alpha)


@operator("elu")
def elu(x: Tensor, alpha: float) -> Tensor:
    """x where x > 0, alpha * (e^x - 1) elsewhere."""
    return functional.elu(x, alpha)


@operator("gelu")
def gelu(x: Tensor, mode: str) -> Tensor:
    """Gaussian error linear unit: EXACT, TANH_APPROXIMATION or SIGMOID_APPROXIMATION (x * sigmoid(1.702 * x))."""
    if mode == "SIGMOID_APPROXIMATION":
        return torch.sigmoid(x * 1.702).mul_(x)
    return functional.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


@operator("silu")
def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return functional.silu(x)


@operator("sigmoid", half=True)
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x)."""
    return torch.sigmoid(x)


@operator("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(max(alpha * x + beta, 0), 1)."""
    return (x * alpha).add_(beta).clamp_(0, 1)


@operator("linear_activation")
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * x + beta."""
    return (x * alpha).add_(beta)


@operator("scaled_tanh")
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * tanh(beta * x)."""
    return (x * beta).tanh_().mul_(alpha)


@operator("softplus")
def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x)."""
    return functional.softplus(x)


@operator("softplus_parametric")
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha * log(1 + e^(beta * x)); x [n, c, *size], alpha [c], beta [c]. PyTorch's divides by beta instead."""
    channels = (-1,) + (1,) * (x.dim() - 2)
    return functional.softplus(x * beta.view(channels)).mul_(alpha.view(channels))


@operator("softsign")
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return functional.softsign(x)


@operator("softmax")
def softmax(x: Tensor, axis: int) -> Tensor:
    """e^x / sum(e^x) along ``axis``."""
    return torch.softmax(x, axis)
