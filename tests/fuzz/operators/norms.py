"""Normalisations, after anything."""

from tests.fuzz.draw import Draw, Step, operator


@operator(4)
def batch_norm(d: Draw) -> Step:
    source = d.value(2, 3, 4)
    kind = "BatchNorm2d" if len(d.shape(source)) == 4 else "BatchNorm1d"
    more = d.choice(["", "", "", ", affine=False", ", eps=0.1"])
    return d.step("{m}({0})", source, layer="nn.{kind}({c}{more})", kind=kind, c=d.shape(source)[1], more=more)


@operator(0.3)
def batch_statistics(d: Draw) -> Step:
    """A batch norm without running statistics: it takes those of its input, in evaluation too."""
    source = d.value(4, where=lambda v: v[0, 0].numel() >= 8)
    return d.step("{m}({0})", source, layer="nn.BatchNorm2d({c}, track_running_stats=False)", c=d.shape(source)[1])


@operator(1.5)
def layer_norm(d: Draw) -> Step:
    source = d.value(2, 3, 4, where=lambda v: v.shape[-1] >= 3)
    axes = 2 if len(d.shape(source)) > 2 and d.chance(0.3) else 1
    more = d.choice(["", "", ", elementwise_affine=False", ", eps=1e-2"])
    return d.step("{m}({0})", source, layer="nn.LayerNorm({sizes}{more})", sizes=list(d.shape(source)[-axes:]), more=more)


@operator(0.8)
def channels_norm(d: Draw) -> Step:
    """A layer norm over the channels of an image (ConvNeXt)."""
    source = d.value(4, where=lambda v: v.shape[1] >= 3)
    call = "{m}({0}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)"
    return d.step(call, source, layer="nn.LayerNorm({c})", c=d.shape(source)[1])


@operator(1.2)
def group_norm(d: Draw) -> Step:
    source = d.value(3, 4, where=lambda v: v[0].numel() >= 16)
    c = d.shape(source)[1]
    groups = d.choice([size for size in (1, 2, 3) if c % size == 0])
    return d.step(
        "{m}({0})", source, layer="nn.GroupNorm({groups}, {c}, affine={affine})", groups=groups, c=c, affine=d.chance(0.8)
    )


@operator(1)
def instance_norm(d: Draw) -> Step:
    source = d.value(3, 4, where=lambda v: v[0, 0].numel() >= 8)
    kind = "InstanceNorm2d" if len(d.shape(source)) == 4 else "InstanceNorm1d"
    more = d.choice(["", ", affine=True", ", affine=True, track_running_stats=True"])
    return d.step("{m}({0})", source, layer="nn.{kind}({c}{more})", kind=kind, c=d.shape(source)[1], more=more)


@operator(0.6)
def rms_norm(d: Draw) -> Step:
    source = d.value(2, 3, where=lambda v: v.shape[-1] >= 3)
    return d.step("{m}({0})", source, layer="nn.RMSNorm({c})", c=d.shape(source)[-1])


@operator(0.4)
def normalize(d: Draw) -> Step:
    source = d.value(where=lambda v: v.dim() >= 2)
    return d.step("F.normalize({0}, dim={dim})", source, dim=d.axis(source, 1))


@operator(0.3)
def local_response_norm(d: Draw) -> Step:
    return d.step(
        "F.local_response_norm({0}, {size}, alpha=0.1)", d.value(4, where=lambda v: v.shape[1] >= 3), size=d.choice([2, 3, 5])
    )
