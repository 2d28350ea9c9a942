"""Functions of single elements, and of two values element by element."""

from tests.fuzz.draw import Draw, Step, Unfit, operator

COMMON = (
    "torch.relu({0})", "F.relu6({0})", "F.hardswish({0})", "F.hardsigmoid({0})", "F.hardtanh({0}, -2, 2)", "F.silu({0})",
    "F.gelu({0})", "F.gelu({0}, approximate='tanh')", "F.leaky_relu({0}, 0.2)", "torch.sigmoid({0})", "torch.tanh({0})",
    "F.relu({0}, inplace=True)", "F.silu({0}, inplace=True)", "F.hardswish({0}, inplace=True)",
)  # fmt: skip
RARE = (
    "F.elu({0})", "F.elu({0}, 0.5)", "F.selu({0})", "F.celu({0}, 0.7)", "F.softplus({0})", "F.softplus({0}, 2.0, 1.0)",
    "F.mish({0})",
    "F.logsigmoid({0})", "F.hardshrink({0}, 0.3)", "F.softshrink({0}, 0.3)", "F.tanhshrink({0})", "F.softsign({0})",
    "F.threshold({0}, 0.1, -0.5)", "F.hardtanh({0}, 0.2, 0.9)", "torch.clamp({0}, -1.5, 0.5)", "torch.clamp({0}, min=-0.3)",
    "torch.clamp({0}, max=1.2)", "{0}.abs()", "-{0}", "{0} ** 2", "{0}.pow(3)", "torch.sqrt({0}.abs() + 0.1)",
    "torch.rsqrt({0} * {0} + 0.5)", "1 / ({0}.abs() + 0.5)", "torch.exp({0}.clamp(max=3))", "torch.log({0}.abs() + 0.2)",
    "torch.log1p({0}.abs())", "torch.expm1({0}.clamp(max=2))", "torch.sin({0})", "torch.cos({0})", "torch.atan({0})",
    "torch.erf({0})", "torch.exp2({0}.clamp(max=3))", "torch.logit(torch.sigmoid({0}))", "torch.sinh({0}.clamp(-2, 2))",
    "torch.sign({0}) * {0}", "{0}.square()", "torch.reciprocal({0}.abs() + 1)", "F.relu({0}).sqrt()", "{0}.nan_to_num()",
    "{0}.masked_fill({0} < -1, -1)", "torch.where({0} > 0, {0}, {0} * 0.1)", "torch.abs({0}).pow(0.7)",
    "torch.atan2({0}, {0}.abs() + 1)",
    "torch.floor({0} * 0.5)", "torch.round({0})", "torch.ceil({0})", "torch.trunc({0})", "{0} % 3", "torch.fmod({0}, 2)",
    "{0} // 2",
    "{0}.double().float()", "{0}.to(torch.float64).mul(0.5).float()", "({0} > 0).float()", "({0} > 0).to({0}.dtype) * {0}",
)  # fmt: skip


@operator(5)
def activation(d: Draw) -> Step:
    call = d.choice(COMMON)
    if "inplace" in call:
        call = call.replace("{0}", "{0} * 1.0" if d.chance(0.2) else "{0}.clone()")
    return d.step(call, d.value())


@operator(4)
def function(d: Draw) -> Step:
    return d.step(d.choice(RARE), d.value())


@operator(0.6)
def prelu(d: Draw) -> Step:
    source = d.value(2, 3, 4)
    return d.step("{m}({0})", source, layer="nn.PReLU({c})", c=d.choice([1, d.shape(source)[1]]))


@operator(1)
def softmax(d: Draw) -> Step:
    source = d.value(where=lambda v: v.dim() >= 2)
    kind = d.choice(["softmax", "softmax", "softmax", "log_softmax", "softmin"])
    return d.step("F.{kind}({0}, dim={dim})", source, kind=kind, dim=d.axis(source, 1))


@operator(0.5)
def glu(d: Draw) -> Step:
    source = d.value(where=lambda v: v.dim() >= 2 and v.shape[1] % 2 == 0)
    return d.step("F.glu({0}, dim=1)", source)


@operator(4)
def add(d: Draw) -> Step:
    """A sum, at times with a residual of another scale."""
    first = d.value()
    calls = ["{0} + {1}"] * 3 + [
        "{0} - {1}",
        "torch.add({0}, {1}, alpha=0.3)",
        "{0} + 100 * {1}",
        "{0} * 0.01 + {1}",
        "torch.rsub({0}, {1}, alpha=2)",
    ]
    return d.step(d.choice(calls), first, d.like(first))


@operator(2)
def multiply(d: Draw) -> Step:
    first = d.value()
    calls = [
        "{0} * {1}",
        "{0} * torch.sigmoid({1})",
        "torch.tanh({0}) * {1}",
        "{0} / ({1}.abs() + 0.5)",
        "torch.addcmul({0}, {0}, {1}, value=0.5)",
    ]
    return d.step(d.choice(calls), first, d.like(first))


@operator(0.7)
def extreme(d: Draw) -> Step:
    first = d.value()
    return d.step(
        d.choice(["torch.maximum({0}, {1})", "torch.minimum({0}, {1})", "torch.max({0}, {1})", "torch.lerp({0}, {1}, 0.3)"]),
        first,
        d.like(first),
    )


@operator(1.2)
def scalar(d: Draw) -> Step:
    calls = ["{0} * 640", "{0} * 0.003", "{0} + 5", "1 - {0}", "{0} / 255", "2.5 * {0} - 0.7", "{0} * -1.0"]
    return d.step(d.choice(calls), d.value())


@operator(3)
def broadcast(d: Draw) -> Step:
    """Two values of which one is broadcast: gates, biases, masks per channel."""
    first = d.value(where=lambda v: v.dim() >= 2)
    shape = d.shape(first)
    second = d.value(
        where=lambda v: (
            0 < v.dim() <= len(shape)
            and tuple(v.shape) != shape
            and all(b in (1, a) for a, b in zip(reversed(shape), reversed(v.shape), strict=False))
        )
    )
    return d.step(d.choice(["{0} + {1}", "{0} * {1}", "{1} - {0}"]), first, second)


@operator(1)
def in_place(d: Draw) -> Step:
    """Writes into a copy, into a part of one, or into what a layer gave."""
    source = d.value(where=lambda v: v.dim() >= 2 and v.shape[1] >= 2)
    other = d.like(source)
    calls = [
        "{out} = {0}.clone()\n{out} += {1}", "{out} = {0} * 2\n{out}.mul_({1}).add_(0.5)",
        "{out} = {0}.clone()\n{out}[:, :1] = {1}[:, 1:2]",
        "{out} = {0}.clone()\n{out}[:, 1:] *= 0.5", "{out} = {0} + 0\n{out}.clamp_(-1, 2)",
        "{out} = torch.zeros_like({0})\n{out}[:, 0] = {1}[:, 1]",
        "{out} = {0}.clone()\n{out}.transpose(0, 1)[0].add_(1)", "{out} = {0}.clone()\n{out}[..., 0].zero_()",
        "{out} = {0}.clone()\n{out}.masked_fill_({1} > 0.5, 0.0)", "{out} = torch.empty_like({0})\n{out}.copy_({1})",
    ]  # fmt: skip
    return d.step(d.choice(calls), source, other)


@operator(1.5)
def parameter(d: Draw) -> Step:
    """A scale, shift or positional embedding that the model holds itself: a parameter or a buffer."""
    source = d.value(where=lambda v: v.dim() >= 2)
    shape = list(d.shape(source))
    sizes = [1, *shape[1:]] if d.chance(0.4) else [1, shape[1], *([1] * (len(shape) - 2))]
    layer = d.choice(["nn.Parameter(torch.zeros({sizes}))", "buffer torch.zeros({sizes})"])
    call = d.choice(["{0} + {m}", "{0} * {m}", "{m} - {0}", "{0} * (1 + {m})", "{0} * {m}.exp()", "{0} + {m}.abs().sqrt()"])
    return d.step(call, source, layer=layer, sizes=sizes)


@operator(0.8)
def constant(d: Draw) -> Step:
    """A constant that forward makes."""
    source = d.value(2, 3, 4)
    size = d.shape(source)[-1]
    made = [
        "torch.arange({n})",
        "torch.linspace(-1, 1, {n})",
        "torch.ones({n})",
        "torch.eye({n})[0]",
        "torch.full(({n},), 0.3)",
        "torch.tensor([0.5])",
    ]
    return d.step(d.choice(["{0} + ", "{0} * "]) + d.choice(made), source, n=size)


@operator(0.8)
def masked(d: Draw) -> Step:
    """Elements chosen by a mask: an input's, or a comparison's."""
    import torch

    source = d.value()
    try:
        mask = d.value(2, dtype=torch.bool)
    except Unfit:
        other = d.like(source)
        return d.step(
            d.choice(["torch.where({1} > 0.2, {0}, 0.5)", "{0}.masked_fill({1} < 0, 0.0)", "{0} * ({1} >= -0.5)"]),
            source,
            other,
        )
    size = d.shape(mask)[1]
    source = d.value(3, where=lambda v: v.shape[0] == d.shape(mask)[0] and v.shape[1] == size)
    return d.step("{0}.masked_fill(~{1}.unsqueeze(-1), 0.0)", source, mask)
