"""Reductions, pooling and scans."""

import torch

from tests.fuzz.draw import Draw, Step, operator


@operator(1.5)
def reduce(d: Draw) -> Step:
    source = d.value(where=lambda v: v.dim() >= 2)
    kinds = ["mean", "mean", "sum", "amax", "amin", "std", "var", "logsumexp", "norm"]
    kind = d.choice(kinds)
    axis: object = d.axis(source, 1)
    if len(d.shape(source)) == 4 and kind in ("mean", "sum", "amax", "amin") and d.chance(0.5):
        axis = d.choice([(2, 3), (-1, -2), (1, 3)])
    return d.step("{0}.{kind}(dim={dim}, keepdim={keep})", source, kind=kind, dim=axis, keep=d.chance(0.5))


@operator(0.4)
def whole_reduction(d: Draw) -> Step:
    """Over all elements, or by an operator that also gives where."""
    source = d.value(where=lambda v: v.dim() >= 2)
    calls = [
        "{0}.mean()",
        "{0}.sum() * 0.01",
        "{0}.max()",
        "{0}.max(dim={dim})[0]",
        "{0}.min(dim={dim}).values",
        "{0}.median(dim={dim})[0]",
        "{0}.prod(dim={dim})",
    ]
    return d.step(d.choice(calls), source, dim=d.axis(source, 1))


@operator(0.6)
def scan(d: Draw) -> Step:
    source = d.value(where=lambda v: v.dim() >= 2)
    calls = [
        "{0}.cumsum({dim})",
        "{0}.sort(dim={dim})[0]",
        "{0}.topk({k}, dim={dim})[0]",
        "{0}.cumprod({dim})",
        "{0}.cummax({dim})[0]",
        "{0}.diff(dim={dim})",
    ]
    axis = d.axis(source, 1)
    return d.step(d.choice(calls), source, dim=axis, k=min(3, d.shape(source)[axis]))


@operator(0.4)
def where_greatest(d: Draw) -> Step:
    source = d.value(where=lambda v: v.dim() >= 2)
    return d.step(
        d.choice(["{0}.argmax({dim})", "{0}.argmin({dim})", "{0}.topk(1, dim={dim})[1]", "{0}.argsort({dim})"]),
        source,
        dim=d.axis(source, 1),
    )


@operator(0.4)
def comparison(d: Draw) -> Step:
    source = d.value()
    return d.step(d.choice(["{0} > 0.1", "({0} < 0.4) & ({0} > -0.4)", "~({0} >= 0)", "{0} != 0"]), source)


@operator(2)
def pool2d(d: Draw) -> Step:
    source = d.value(4)
    kernel = tuple(d.whole(1, min(3, size)) for size in d.shape(source)[-2:])
    padding = d.choice([0, 0, tuple(size // 2 for size in kernel)])
    settings = {"kernel": kernel, "stride": d.choice([1, 2, kernel]), "padding": padding, "ceil": d.chance(0.3)}
    if d.chance(0.5):
        call = "F.max_pool2d({0}, {kernel}, {stride}, {padding}, {dilation}, ceil_mode={ceil})"
        return d.step(call, source, dilation=d.choice([1, 1, 1, 2]), **settings)
    call = "F.avg_pool2d({0}, {kernel}, {stride}, {padding}, ceil_mode={ceil}, count_include_pad={count}{more})"
    return d.step(call, source, count=d.chance(0.6), more=d.choice(["", "", "", ", divisor_override=3"]), **settings)


@operator(1)
def pool1d(d: Draw) -> Step:
    source = d.value(3)
    kernel = d.whole(1, min(3, d.shape(source)[-1]))
    settings = {"kernel": kernel, "stride": d.whole(1, 3), "padding": d.choice([0, kernel // 2]), "ceil": d.chance(0.3)}
    kind = d.choice(["max", "avg"])
    return d.step("F.{kind}_pool1d({0}, {kernel}, {stride}, {padding}, ceil_mode={ceil})", source, kind=kind, **settings)


@operator(1)
def adaptive_pool(d: Draw) -> Step:
    source = d.value(3, 4)
    axes = len(d.shape(source)) - 2
    kind = d.choice(["avg", "avg", "max"])
    size = d.choice([1, 1, 2, 3, 5, (1, None), (3, 2)]) if axes == 2 else d.choice([1, 2, 3])
    return d.step("F.adaptive_{kind}_pool{axes}d({0}, {size})", source, kind=kind, axes=axes, size=size)


@operator(0.2)
def lp_pool(d: Draw) -> Step:
    return d.step("F.lp_pool2d({0}, 2, {kernel}, {stride})", d.value(4), kernel=2, stride=d.whole(1, 2))


@operator(0.4)
def from_integers(d: Draw) -> Step:
    """Floats from integers or booleans, sums and pieces of them included."""
    dtype = d.choice([torch.int64, torch.bool])
    source = d.value(dtype=dtype)
    calls = ["{0}.float()", "{0}.float() * 0.1 - 1"] + (
        ["({0} + 1).float()", "({0} % 3).to(torch.float32)", "({0} == 2).float()"] if dtype == torch.int64 else []
    )
    return d.step(d.choice(calls), source)
