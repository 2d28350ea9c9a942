"""What moves values without computing: views, permutations, parts, padding, resizing, indexing."""

import math

from tests.fuzz.draw import Draw, Step, Unfit, operator


@operator(2.5)
def reshape(d: Draw) -> Step:
    source = d.value(where=lambda v: v.dim() >= 2)
    batch, *rest = d.shape(source)
    count = math.prod(rest)
    factors = [size for size in (2, 3, 4, 6) if count % size == 0]
    shapes = [[batch, -1], [batch, 1, count], [batch, count, 1], *([batch, size, -1] for size in factors)]
    if len(rest) == 3:
        shapes += [[batch, rest[0], -1], [batch, -1, rest[2]]]
    if len(rest) == 2:
        shapes += [[batch, rest[0], *_split(d, rest[1])], [batch * rest[0], rest[1]]]
    name = d.choice(["reshape", "reshape", "contiguous().view"])
    return d.step("{0}.{name}({shape})", source, name=name, shape=d.choice(shapes))


def _split(d: Draw, size: int) -> list[int]:
    part = d.choice([part for part in range(1, size + 1) if size % part == 0])
    return [part, size // part]


@operator(1)
def flatten(d: Draw) -> Step:
    calls = [
        "{0}.flatten(1)",
        "{0}.flatten(2)",
        "{0}.squeeze()",
        "{0}.squeeze(-1)",
        "{0}.unsqueeze(1)",
        "{0}.unsqueeze(-1)",
        "{0}[:, None]",
        "{0}[None]",
        "{0}.unflatten(1, (1, -1))",
    ]
    return d.step(d.choice(calls), d.value())


@operator(2)
def permute(d: Draw) -> Step:
    source = d.value(where=lambda v: v.dim() >= 2)
    rank = len(d.shape(source))
    if d.chance(0.4):
        return d.step("{0}.transpose({a}, {b})", source, a=d.axis(source), b=d.axis(source))
    first = [0] if d.chance(0.75) else []
    order = first + d.random.sample(range(len(first), rank), rank - len(first))
    return d.step("{0}.permute({order})", source, order=order)


@operator(2.5)
def slices(d: Draw) -> Step:
    source = d.value(where=lambda v: v.dim() >= 2 and max(v.shape[1:]) >= 3)
    rank = len(d.shape(source))
    axis = d.choice([axis for axis in range(1, rank) if d.shape(source)[axis] >= 3])
    before = ":, " * axis
    part = d.choice(["1:", ":2", "::2", "1::2", "-2:", ":-1", "0", "-1", "1:2", "[0, 2]", "[2, 0, 1, 1]"])
    return d.step("{0}[{index}]", source, index=before + part)


@operator(1.5)
def parts(d: Draw) -> Step:
    """Several parts of one value."""
    source = d.value(where=lambda v: v.dim() >= 2 and max(v.shape[1:]) >= 2)
    axis = d.choice([axis for axis in range(1, len(d.shape(source))) if d.shape(source)[axis] >= 2])
    size = d.shape(source)[axis]
    calls = [
        "{0}.chunk({n}, {dim})",
        "{0}.split({n}, {dim})",
        "{0}.split([{a}, {b}], {dim})",
        "{0}.unbind({dim})",
        "{0}.tensor_split({n}, {dim})",
    ]
    first = d.whole(1, size - 1)
    return d.step(d.choice(calls), source, n=d.whole(2, min(4, size)), dim=axis, a=first, b=size - first)


@operator(1.2)
def repeated(d: Draw) -> Step:
    source = d.value(2, 3, 4)
    rank = len(d.shape(source))
    axis = d.axis(source, 1)
    calls = [
        "{0}.flip({dim})", "{0}.roll(2, {dim})", "{0}.repeat_interleave(2, {dim})", "{0}.repeat({times})",
        "{0}.narrow({dim}, 0, 1)",
        "{0}.select({dim}, 0)", "{0}.movedim({dim}, 1)", "{0}.narrow({dim}, 0, 1).expand({sizes})", "{0}.unfold({dim}, 2, 1)",
        "{0}.tile((2,))",
        "{0}.index_select({dim}, torch.tensor([1, 0]))", "{0}.swapaxes(-1, {dim})", "{0}.gather({dim}, {0}.argsort({dim}))",
        "{0}.rot90(1, (1, {dim}))",
        "{0}.diagonal(0, -2, -1)", "{0}.tril()", "{0}.triu(1)",
        "{0}.take_along_dim(torch.zeros({ones}, dtype=torch.int64), {dim})",
    ]  # fmt: skip
    times, sizes = [1, 2, *[1] * (rank - 2)], list(d.shape(source))
    return d.step(d.choice(calls), source, dim=axis, times=times, sizes=sizes, ones=[1] * rank)


@operator(0.8)
def shuffle(d: Draw) -> Step:
    """Channels to pixels and back, channel shuffles, patches."""
    source = d.value(4)
    calls = [
        "F.pixel_shuffle({0}, 2)",
        "F.pixel_unshuffle({0}, 2)",
        "F.channel_shuffle({0}, {g})",
        "F.unfold({0}, {k}, padding={p}, stride={s})",
    ]
    c, height, width = d.shape(source)[1:]
    call = d.choice(calls)
    if ("_shuffle({0}, 2)" in call and c % 4) or ("unshuffle" in call and (height % 2 or width % 2)):
        raise Unfit
    return d.step(
        call, source, g=d.choice([g for g in (1, 2, 3, 4) if c % g == 0]), k=d.whole(1, 3), p=d.whole(0, 1), s=d.whole(1, 2)
    )


@operator(0.3)
def fold(d: Draw) -> Step:
    source = d.value(3, where=lambda v: v.shape[1] % 4 == 0 and v.shape[2] in (9, 12, 16))
    sizes = {9: (4, 4), 12: (4, 5), 16: (5, 5)}[d.shape(source)[2]]
    return d.step("F.fold({0}, {sizes}, (2, 2))", source, sizes=sizes)


@operator(1.5)
def pad(d: Draw) -> Step:
    source = d.value(2, 3, 4)
    axes = len(d.shape(source)) - 2 or 1
    mode = d.choice(["constant", "constant", "constant", "reflect", "replicate", "circular"])
    amounts = [d.whole(0, 2) for _ in range(2 * axes)]
    if mode == "constant" and d.chance(0.2):
        amounts[-1] = -1
    value = d.choice([0, 0, 1.5, -3]) if mode == "constant" else None
    return d.step("F.pad({0}, {amounts}, mode={mode!r}, value={value})", source, amounts=amounts, mode=mode, value=value)


@operator(1.2)
def resize(d: Draw) -> Step:
    source = d.value(3, 4)
    if len(d.shape(source)) == 3:
        call = d.choice(
            [
                "F.interpolate({0}, scale_factor=2)",
                "F.interpolate({0}, size=7, mode='linear')",
                "F.interpolate({0}, scale_factor=2, mode='linear', align_corners=True)",
            ]
        )
        return d.step(call, source)
    mode = d.choice(["nearest", "nearest", "bilinear", "bilinear", "bicubic", "nearest-exact", "area"])
    size = d.choice(
        ["scale_factor=2", "scale_factor=2", "size=(5, 9)", "scale_factor=(1.5, 2)", "scale_factor=0.5", "size=(13, 7)"]
    )
    more = d.choice([", align_corners=True", ", align_corners=False", ", antialias=True"]) if mode.startswith("bi") else ""
    return d.step("F.interpolate({0}, {size}, mode={mode!r}{more})", source, size=size, mode=mode, more=more)


@operator(0.3)
def grid_sample(d: Draw) -> Step:
    source = d.value(4)
    grid = d.value(4, where=lambda v: v.shape[-1] == 2 and v.shape[0] == d.shape(source)[0])
    return d.step("F.grid_sample({0}, torch.tanh({1}), align_corners=False)", source, grid)
