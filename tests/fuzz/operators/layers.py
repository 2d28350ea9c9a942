"""Layers with weights: convolutions of every kind, products, and the same layer or weight used again."""

from tests.fuzz.draw import Draw, Step, Unfit, operator

_CONV = (
    "nn.{kind}({cin}, {cout}, {kernel}, stride={stride}, padding={padding}, dilation={dilation}, "
    "groups={groups}, bias={bias}{more})"
)


def _groups(d: Draw, channels: int) -> int:
    return d.choice([1, 1, 1, channels, *(size for size in (2, 3) if channels % size == 0)])


def _convolution(d: Draw, kind: str, axes: int) -> Step:
    source = d.value(axes + 2)
    channels, *sizes = d.shape(source)[1:]
    groups = _groups(d, channels)
    odd = d.chance(0.3)
    kernel = tuple(d.whole(1, min(4 if odd else 3, size)) for size in sizes)
    stride = d.choice([1, 1, 1, 2, 3, (2, 1)[:axes] if axes == 2 else 2])
    same = stride == 1 and d.chance(0.2)
    padding = "'same'" if same else d.choice([0, 1, 1, tuple(d.whole(0, 2) for _ in sizes)])
    mode = d.choice(["reflect", "replicate", "circular"]) if d.chance(0.08) else "zeros"
    settings = {
        "kind": kind, "cin": channels, "cout": groups * d.whole(1, max(1, 8 // groups)),
        "kernel": kernel[0] if axes == 1 else kernel,
        "stride": stride, "padding": padding, "dilation": d.choice([1, 1, 1, 2]), "groups": groups, "bias": d.chance(0.7),
        "more": "" if mode == "zeros" else f", padding_mode={mode!r}",
    }  # fmt: skip
    return d.step("{m}({0})", source, layer=_CONV, **settings)


@operator(5)
def conv2d(d: Draw) -> Step:
    return _convolution(d, "Conv2d", 2)


@operator(2.5)
def conv1d(d: Draw) -> Step:
    return _convolution(d, "Conv1d", 1)


@operator(0.3)
def conv3d(d: Draw) -> Step:
    source = d.value(5)
    cin = d.shape(source)[1]
    layer = "nn.Conv3d({cin}, {cout}, {kernel}, padding={padding})"
    return d.step(
        "{m}({0})", source, layer=layer, cin=cin, cout=d.whole(1, 6), kernel=d.choice([1, 2, (1, 2, 2)]), padding=d.whole(0, 1)
    )


def _transposed(d: Draw, kind: str, axes: int) -> Step:
    source = d.value(axes + 2)
    channels = d.shape(source)[1]
    groups = _groups(d, channels)
    stride = d.choice([1, 2, 2, 3])
    kernel = tuple(d.whole(1, 4) for _ in range(axes))
    settings = {
        "kind": kind, "cin": channels, "cout": groups * d.whole(1, max(1, 6 // groups)),
        "kernel": kernel[0] if axes == 1 else kernel,
        "stride": stride, "padding": d.choice([0, 0, 1]), "dilation": d.choice([1, 1, 1, 2]), "groups": groups,
        "bias": d.chance(0.7), "output_padding": d.whole(0, stride - 1) if d.chance(0.4) else 0,
    }  # fmt: skip
    return d.step("{m}({0})", source, layer=_CONV.replace("{more}", ", output_padding={output_padding}"), **settings)


@operator(1.5)
def conv_transpose2d(d: Draw) -> Step:
    return _transposed(d, "ConvTranspose2d", 2)


@operator(0.8)
def conv_transpose1d(d: Draw) -> Step:
    return _transposed(d, "ConvTranspose1d", 1)


@operator(3)
def linear(d: Draw) -> Step:
    source = d.value(2, 3, 4)
    layer = "nn.Linear({cin}, {cout}, bias={bias})"
    return d.step("{m}({0})", source, layer=layer, cin=d.shape(source)[-1], cout=d.whole(1, 16), bias=d.chance(0.75))


@operator(0.4)
def weight_norm(d: Draw) -> Step:
    source = d.value(2, 3)
    layer = "nn.utils.parametrizations.weight_norm(nn.Linear({cin}, {cout}))"
    return d.step("{m}({0})", source, layer=layer, cin=d.shape(source)[-1], cout=d.whole(2, 8))


@operator(0.3)
def bilinear(d: Draw) -> Step:
    first = d.value(2, 3)
    second = d.value(where=lambda v: tuple(v.shape[:-1]) == d.shape(first)[:-1])
    settings = {"a": d.shape(first)[-1], "b": d.shape(second)[-1], "cout": d.whole(2, 6)}
    return d.step("{m}({0}, {1})", first, second, layer="nn.Bilinear({a}, {b}, {cout})", **settings)


@operator(4)
def again(d: Draw) -> Step:
    """A layer that was called before, on another value of as many channels (and perhaps another size), or on the same one."""
    owners = [step for step in d.steps if step.layer and step.call.startswith("{m}(") and len(step.inputs) == 1]
    if not owners:
        raise Unfit
    owner = d.choice(owners)
    shape = d.shape(owner.inputs[0])
    axis = -1 if "Linear" in owner.layer or "LayerNorm" in owner.layer else 1
    source = d.value(len(shape), where=lambda v: v.shape[axis] == shape[axis])
    return d.step(owner.call, source, shares=owner.id)


@operator(1.5)
def tied(d: Draw) -> Step:
    """A layer's weight used once more: as it is, transposed (autoencoders), or an embedding's table as the output layer."""
    owner = d.choice([step for step in d.steps if "nn.Linear" in step.layer or "nn.Embedding" in step.layer] or [None])
    if owner is None or "weight_norm" in owner.layer:
        return _tied_convolution(d)
    rows, columns = (owner.settings["cout"], owner.settings["cin"])
    if d.chance(0.5):
        source = d.value(2, 3, where=lambda v: v.shape[-1] == columns)
        return d.step("F.linear({0}, {m}.weight)", source, shares=owner.id)
    source = d.value(2, 3, where=lambda v: v.shape[-1] == rows)
    return d.step("{0} @ {m}.weight", source, shares=owner.id)


def _tied_convolution(d: Draw) -> Step:
    owners = [step for step in d.steps if step.op == "conv2d"]
    if not owners:
        raise Unfit
    owner = d.choice(owners)
    channels = d.shape(owner.inputs[0])[1]
    source = d.value(4, where=lambda v: v.shape[1] == channels)
    call = d.choice(
        ["F.conv2d({0}, {m}.weight, padding=1, groups={groups})", "F.conv2d({0}, {m}.weight * 0.5, stride=2, groups={groups})"]
    )
    return d.step(call, source, shares=owner.id, groups=owner.settings["groups"])


@operator(1.2)
def matmul(d: Draw) -> Step:
    first = d.value(2, 3, 4)
    rows, columns = d.shape(first)[-2:]
    if d.chance(0.4):
        return d.step("{0} @ {0}.transpose(-1, -2)", first)
    second = d.value(
        len(d.shape(first)), where=lambda v: v.shape[:-2] == d.values[first].shape[:-2] and v.shape[-2] in (columns, rows)
    )
    call = "torch.matmul({0}, {1})" if d.shape(second)[-2] == columns else "{0}.transpose(-1, -2) @ {1}"
    return d.step(call, first, second)


@operator(0.4)
def einsum(d: Draw) -> Step:
    first = d.value(4)
    second = d.value(4, where=lambda v: v.shape[:2] == d.values[first].shape[:2] and v.shape[-1] == d.shape(first)[-1])
    return d.step('torch.einsum("bcik,bcjk->bcij", {0}, {1})', first, second)


@operator(0.7)
def squeeze_excite(d: Draw) -> Step:
    source = d.value(4)
    squeezed = "nn.AdaptiveAvgPool2d(1), nn.Conv2d({c}, {hidden}, 1), nn.ReLU(), nn.Conv2d({hidden}, {c}, 1), nn.{gate}()"
    layer = f"nn.Sequential({squeezed})"
    gate = d.choice(["Sigmoid", "Hardsigmoid", "Tanh"])
    return d.step("{0} * {m}({0})", source, layer=layer, c=d.shape(source)[1], hidden=d.whole(2, 4), gate=gate)
