"""Attention, recurrent layers, embeddings."""

import torch

from tests.fuzz.draw import Draw, Step, Unfit, operator


@operator(1)
def attention(d: Draw) -> Step:
    source = d.value(3)
    width = d.shape(source)[-1]
    heads = d.choice([size for size in (1, 2, 3, 4) if width % size == 0])
    layer = "nn.MultiheadAttention({width}, {heads}, batch_first=True, bias={bias})"
    other = d.value(3, where=lambda v: v.shape[0] == d.shape(source)[0] and v.shape[-1] == width)
    call = d.choice(["{m}({0}, {1}, {1}, need_weights=False)[0]", "{m}({0}, {1}, {1})[0]"])
    return d.step(call, source, other, layer=layer, width=width, heads=heads, bias=d.chance(0.8))


@operator(1)
def dot_product(d: Draw) -> Step:
    source = d.value(3, 4)
    length = d.shape(source)[-2]
    calls = [
        "F.scaled_dot_product_attention({0}, {1}, {1})", "F.scaled_dot_product_attention({0}, {0}, {1}, is_causal=True)",
        "F.scaled_dot_product_attention({0}, {1}, {1}, scale=0.2)",
        "(({0} @ {1}.transpose(-1, -2)) + torch.full(({n}, {n}), float('-inf')).triu(1)).softmax(-1) @ {1}",
        "({0} @ {1}.transpose(-1, -2)).masked_fill(torch.ones({n}, {n}).tril() == 0, -1e9).softmax(-1) @ {1}",
    ]  # fmt: skip
    return d.step(d.choice(calls), source, d.like(source), n=length)


@operator(0.6)
def masked_attention(d: Draw) -> Step:
    """Attention with a mask for padding, which is an input."""
    mask = d.value(2, dtype=torch.bool)
    source = d.value(3, where=lambda v: v.shape[:2] == d.values[mask].shape)
    allowed = "{1}[:, None, :].expand(-1, {n}, -1) | torch.eye({n}, dtype=torch.bool)"
    calls = [
        "({0} @ {0}.transpose(-1, -2)).masked_fill(~{1}[:, None, :], -1e4).softmax(-1) @ {0}",
        f"F.scaled_dot_product_attention({{0}}, {{0}}, {{0}}, attn_mask={allowed})",
        "(({0} @ {0}.transpose(-1, -2)) + (1 - {1}[:, None, :].float()) * -1e9).softmax(-1) @ {0}",
    ]
    return d.step(d.choice(calls), source, mask, n=d.shape(mask)[1])


@operator(0.4)
def transformer(d: Draw) -> Step:
    source = d.value(3, where=lambda v: v.shape[-1] >= 3)
    width = d.shape(source)[-1]
    layer = "nn.TransformerEncoderLayer({width}, {heads}, {hidden}, batch_first=True, norm_first={first}, activation={act!r})"
    heads = d.choice([size for size in (1, 2, 3) if width % size == 0])
    return d.step(
        "{m}({0})",
        source,
        layer=layer,
        width=width,
        heads=heads,
        hidden=d.whole(4, 16),
        first=d.chance(0.5),
        act=d.choice(["relu", "gelu"]),
    )


@operator(1)
def recurrent(d: Draw) -> Step:
    source = d.value(3)
    layer = "nn.{kind}({cin}, {hidden}, {depth}, batch_first={first}, bidirectional={both}, bias={bias})"
    settings = {
        "kind": d.choice(["LSTM", "GRU", "RNN"]),
        "cin": d.shape(source)[-1],
        "hidden": d.whole(2, 6),
        "depth": d.choice([1, 1, 2]),
    }
    call = d.choice(["{m}({0})", "{m}({0})", "{m}({0})[0]", "{m}({0})[0][:, -1]"])
    return d.step(call, source, layer=layer, **settings, first=d.chance(0.8), both=d.chance(0.3), bias=d.chance(0.8))


@operator(0.4)
def cell(d: Draw) -> Step:
    """A recurrent cell called step by step."""
    source = d.value(3, where=lambda v: v.shape[1] >= 2)
    kind = d.choice(["GRUCell", "RNNCell", "LSTMCell"])
    taken = "[0]" if kind == "LSTMCell" else ""
    call = f"{{out}} = {{m}}({{0}}[:, 0]){taken}\n{{out}} = {{m}}({{0}}[:, 1]){taken} + {{out}}"
    return d.step(call, source, layer="nn.{kind}({cin}, {hidden})", kind=kind, cin=d.shape(source)[-1], hidden=d.whole(2, 6))


@operator(3)
def embedding(d: Draw) -> Step:
    source = d.value(dtype=torch.int64, where=lambda v: v.dim() <= 2 and int(v.min()) >= 0)
    given = {each.id: each.below for each in d.inputs}
    if source not in given:
        raise Unfit
    layer = "nn.Embedding({cout}, {cin}{more})"
    more = d.choice(["", "", ", padding_idx=0"])
    call = d.choice(["{m}({0})", "{m}({0})", "{m}({0}).mean(1)", "{m}(({0} + 1) % {cout})"])
    return d.step(call, source, layer=layer, cout=given[source], cin=d.whole(3, 8), more=more)


@operator(0.5)
def lookup(d: Draw) -> Step:
    """A table that is indexed: a buffer, positions, one-hot vectors."""
    source = d.value(2, dtype=torch.int64, where=lambda v: int(v.min()) >= 0)
    rows = (
        int(d.values[source].max()) + 1
        if source not in {each.id for each in d.inputs}
        else next(e.below for e in d.inputs if e.id == source)
    )
    calls = [
        "{m}[{0}]",
        "F.one_hot({0}, {rows}).float()",
        "F.embedding({0}, {m})",
        "{m}.index_select(0, {0}[0])",
        "F.one_hot({0}, {rows}).float() @ {m}",
    ]
    return d.step(d.choice(calls), source, layer="nn.Parameter(torch.zeros({rows}, {width}))", rows=rows, width=d.whole(2, 6))
