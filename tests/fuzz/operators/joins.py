"""Values put together: concatenations, stacks and sums of unlike things."""

from tests.fuzz.draw import Draw, Step, operator


@operator(3.5)
def concat(d: Draw) -> Step:
    first = d.value(where=lambda v: v.dim() >= 2)
    axis = d.axis(first, 1)
    position = axis % len(d.shape(first))

    def fits(value: object) -> bool:
        shape = tuple(value.shape)  # type: ignore[attr-defined]
        wanted = d.shape(first)
        return len(shape) == len(wanted) and all(
            a == b for i, (a, b) in enumerate(zip(shape, wanted, strict=True)) if i != position
        )

    second = d.value(where=fits)
    parts = d.choice(
        [
            "[{0}, {1}]",
            "[{0}, {1}]",
            "[{1}, {0}, {1}]",
            "[{0} * 640, {1}]",
            "[torch.sigmoid({0}), {1}]",
            "[torch.tanh({0}), {1}]",
            "[{0}.softmax({dim}), {1} * 30]",
            "[{0}, torch.zeros_like({1})]",
        ]
    )
    return d.step(f"torch.cat({parts}, {{dim}})", first, second, dim=axis)


@operator(1)
def stack(d: Draw) -> Step:
    first = d.value(where=lambda v: v.dim() <= 4)
    parts = d.choice(["[{0}, {1}]", "[{0}, {1}, {0}]", "[{0}, torch.sigmoid({1})]", "[{0} * 100, {1}]"])
    return d.step(
        f"torch.stack({parts}, {{dim}})", first, d.like(first), dim=d.whole(1, len(d.shape(first))) if d.shape(first) else 0
    )


@operator(0.7)
def gated(d: Draw) -> Step:
    """A mixture by a gate, as in recurrent cells and highway networks."""
    first = d.value()
    second, third = d.like(first), d.like(first)
    calls = [
        "torch.sigmoid({2}) * {0} + (1 - torch.sigmoid({2})) * {1}",
        "{0} + torch.sigmoid({2}) * ({1} - {0})",
        "torch.tanh({0}) + {1} * torch.sigmoid({2})",
    ]
    return d.step(d.choice(calls), first, second, third)


@operator(0.4)
def outer(d: Draw) -> Step:
    source = d.value(2, 3)
    return d.step("{0}.unsqueeze(-1) * {0}.unsqueeze(-2)", source)


@operator(0.4)
def distances(d: Draw) -> Step:
    source = d.value(2, 3)
    calls = [
        "({0}.unsqueeze(-2) - {0}.unsqueeze(-3)).abs().mean(-1)",
        "F.cosine_similarity({0}, {0} * {0}, dim=-1)",
        "torch.cdist({0}, {0} + 1)",
    ]
    return d.step(d.choice(calls), source)
