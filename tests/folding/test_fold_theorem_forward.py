"""An affine goes forward into every layer that reads it; a shift only where that is exact, and float64 says how much.

Each draw says by itself whether the affine may go: a shift needs a layer of which every output sees every tap, or a
place for it.
"""

from __future__ import annotations

import numpy as np
import pytest
from folding_draws import Array, Chain, Kind, chained, examples, kinds, spread, statistics
from folding_support import bounds_off, constants, fold, inputs, model, proven, scale_and_shift
from forward_support import (
    Layer,
    certified,
    convolutions,
    forward,
    gemms,
    matmuls,
    rounded_once,
    transposed,
)
from hypothesis import assume, event, given
from hypothesis import strategies as st

LAYERS = {"Conv": convolutions, "ConvTranspose": transposed, "Gemm": gemms, "MatMul": matmuls}
PROVEN = {("feeding", op) for op in LAYERS}


def written(layer: Layer, kind: Kind, body: str, *, data: str = "n") -> str:
    """A graph of one input, with the affine in `body` and the layer behind it."""
    dims = ",".join(str(size) for size in layer.shape)
    return f"({kind.text}[{dims}] x) => ({kind.text}[] y) {{ {body} y = {layer.text.format(x=data)} }}"


@st.composite
def affines(draw: st.DrawFn, layer: Layer, kind: Kind) -> tuple[str, dict[str, Array], Array, Array]:
    """One affine along the channels of a layer's data as text, its constants, and its scale and shift in float64."""
    one, none = np.ones(layer.channels), np.zeros(layer.channels)
    ops = ["Mul", "Div", "Neg", "Add", "Sub"] + ["norm"] * 5 * (layer.axis == 1)
    op = draw(st.sampled_from(ops))
    if op == "norm":
        parameters = draw(statistics(layer.channels, kind))
        return "n = BatchNormalization (x, g, be, m, v)", parameters, *scale_and_shift(parameters)
    if op == "Neg":
        return "n = Neg (x)", {}, -one, none
    c = draw(spread(Chain(kind, len(layer.shape), layer.axis, layer.channels, "x")))
    values = np.broadcast_to(c.astype(np.float64).ravel(), (layer.channels,))
    parts = {"Mul": (values, none), "Div": (1 / values, none), "Add": (one, values), "Sub": (one, -values)}[op]
    return f"n = {op} (x, c)", {"c": c}, *parts


@pytest.mark.parametrize("name", LAYERS)
@examples(150)
@given(st.data())
def test_one_affine_goes_into_the_layer_behind_it(name: str, data: st.DataObject) -> None:
    kind = data.draw(kinds(double=name in {"Gemm", "MatMul"}))
    layer = data.draw(LAYERS[name](kind))
    body, tensors, a, s = data.draw(affines(layer, kind))
    before = model(written(layer, kind, body), opset=kind.opset, **layer.tensors, **tensors)
    sums, sizes = layer.added(s)
    shifts, adds = bool(np.any(s)), name == "MatMul" and bool(np.any(sums))
    possible = (not shifts or layer.sees_all) and not (adds and body.startswith(("n = Add", "n = Sub")))
    if possible and kind.data is np.float16 and fold(before).plan.refusals:
        assert fold(before).plan.refusals[0].reason.code in {"precision-lost", "overflow"}
        event("lost in 16 bits")
        return
    event(f"{name} {'moves' if possible else 'stays'}")
    if not possible:
        (refused,) = proven(before, inputs(before), layer.fan_in, left=1).plan.refusals
        borders = "axis-not-owned" if name == "MatMul" else "padding"
        assert refused.reason.code == ("no-gain" if layer.sees_all else borders)
        return
    done = forward(before, inputs(before), layer.fan_in)
    assert done.ops == [name] + ["Add"] * adds
    (node, *rest) = done.proto.graph.node
    held = constants(done.proto)
    weight = next(held[i] for i in node.input if i in held and i.startswith("W"))
    assert rounded_once(weight, layer.exact_weight(a), 0 * weight)
    if rest:
        assert rounded_once(held[rest[0].input[1]].ravel(), sums, sizes)
    elif name.startswith("Conv") and shifts and len(node.input) > 2:
        b = layer.tensors.get("b", np.zeros(1, kind.data)).astype(np.float64)
        assert rounded_once(held[node.input[2]], b + sums, np.abs(b) + sizes)
    elif not shifts and len(node.input) > 2 and name != "Gemm":
        assert np.array_equal(held[node.input[2]], layer.tensors["b"])


@pytest.mark.parametrize("name", ["Conv", "ConvTranspose", "Gemm"])
@examples(80)
@given(st.data())
def test_a_chain_of_affines_goes_into_the_layer_behind_it(name: str, data: st.DataObject) -> None:
    kind = Kind(np.float32, np.float32, data.draw(st.sampled_from([7, 9, 13, 17, 21])))
    layer = data.draw(LAYERS[name](kind))
    assume(layer.sees_all)
    chain = data.draw(chained(Chain(kind, len(layer.shape), layer.axis, layer.channels, "x"), least=2, most=4))
    text = written(layer, kind, " ".join(chain.lines), data=chain.value)
    before = model(text, opset=kind.opset, **layer.tensors, **chain.tensors)
    event(f"{len(chain.lines)} affines")
    done = forward(before, inputs(before), layer.fan_in, moves=len(chain.lines))
    assert done.ops == [name]


@examples(80)
@given(st.data())
def test_every_reader_takes_it_over_or_none_does(data: st.DataObject) -> None:
    """Two or three layers; the third may be padded, and keeps a shift from all of them then."""
    kind = data.draw(kinds())
    first = data.draw(convolutions(kind, pads=False))
    others = [data.draw(convolutions(kind, like=first, prefix=f"p{i}")) for i in range(data.draw(st.integers(1, 2)))]
    layers = [first, *others]
    body, tensors, _, s = data.draw(affines(first, kind))
    lines = [f"y{i} = {layer.text.format(x='n')}" for i, layer in enumerate(layers)]
    outputs = ", ".join(f"{kind.text}[] y{i}" for i in range(len(layers)))
    dims = ",".join(str(size) for size in first.shape)
    held = {name: array for layer in layers for name, array in layer.tensors.items()} | tensors
    before = model(f"({kind.text}[{dims}] x) => ({outputs}) {{ {body} {' '.join(lines)} }}", opset=kind.opset, **held)
    fan_in = max(layer.fan_in for layer in layers)
    possible = all(layer.sees_all for layer in layers) or not np.any(s)
    if possible and kind.data is np.float16 and fold(before).plan.refusals:
        event("lost in 16 bits")
        return
    event(f"{len(layers)} layers, {'moves' if possible else 'stays'}")
    if not possible:
        assert not proven(before, inputs(before), fan_in, left=1).plan.moves
        return
    done = forward(before, inputs(before), fan_in)
    assert done.ops == ["Conv"] * len(layers)
    assert len(done.plan.moves[0].arrivals) == len(layers)


@examples(60)
@given(st.data())
def test_a_layer_that_also_takes_over_what_stands_behind_it(data: st.DataObject) -> None:
    """Both compose: the weight is computed once, from the original."""
    kind = data.draw(kinds())
    layer = data.draw(convolutions(kind, pads=False))
    body, tensors, a, s = data.draw(affines(layer, kind))
    outputs = len(layer.weight)
    behind = data.draw(statistics(outputs, kind, "z"))
    text = written(layer, kind, body).replace("y = Conv", "q = Conv").replace(
        " }", " y = BatchNormalization (q, zg, zbe, zm, zv) }"
    )  # fmt: skip
    before = model(text, opset=kind.opset, **layer.tensors, **tensors, **behind)
    if kind.data is np.float16 and fold(before).plan.refusals:
        event("lost in 16 bits")
        return
    done = proven(before, inputs(before), layer.fan_in)
    assert [move.is_forward for move in done.plan.moves] == [True, False]
    assert done.ops == ["Conv"]
    certified(before, done)
    after, t = scale_and_shift(behind, "z")
    held = constants(done.proto)
    _, name, *biases = done.proto.graph.node[0].input
    exact = layer.exact_weight(a) * after.reshape(-1, *[1] * (layer.weight.ndim - 1))
    assert rounded_once(held[name], exact, np.abs(exact))
    sums, sizes = layer.added(s)
    b = layer.tensors.get("b", np.zeros(1, kind.data)).astype(np.float64)
    terms = np.abs(after) * (np.abs(b) + sizes) + np.abs(t)
    new = held[biases[0]] if biases else np.zeros(outputs, kind.data)
    assert rounded_once(new, after * (b + sums) + t, terms)


def test_a_convolution_and_a_gemm_read_it() -> None:
    held = {"W": np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4, 1, 1), "b": np.ones(6, np.float32)}
    held |= {"K": np.linspace(-2, 1, 4 * 25 * 3, dtype=np.float32).reshape(100, 3)}
    parameters = {"g": [2, -1, 0.5, 3], "be": [1, 2, -1, 0], "m": [0.5, 1, -1, 2], "v": [1, 2, 0.5, 4]}
    before = model(
        """(float[2,4,5,5] x) => (float[] y, float[] z) { n = BatchNormalization (x, g, be, m, v)
        y = Conv (n, W, b)  f = Flatten (n)  z = Gemm (f, K) }""",
        **held, **{name: np.array(values, np.float32) for name, values in parameters.items()},
    )  # fmt: skip
    done = forward(before, inputs(before), 100)
    assert done.ops == ["Conv", "Flatten", "Gemm"]
    (a, s), (y, z) = scale_and_shift(constants(before)), (done.proto.graph.node[i] for i in (0, 2))
    new = constants(done.proto)
    exact = held["K"].astype(np.float64) * np.repeat(a, 25)[:, None]
    assert rounded_once(new[z.input[1]], exact, 0 * exact)
    terms = held["K"].astype(np.float64) * np.repeat(s, 25)[:, None]
    assert rounded_once(new[z.input[2]], terms.sum(0), np.abs(terms).sum(0))
    assert y.input[1] == "W_folded"


def test_the_draws_would_notice_a_shift_that_was_forgotten() -> None:
    """The bound is tight enough: without its new bias the very same fold is refused by it."""
    before = model(
        "(float[2,3,5,5] x) => (float[] y) { n = Add (x, c)  y = Conv (n, W, b) }",
        c=np.array([0.5, 1, -2], np.float32).reshape(3, 1, 1), W=np.ones((2, 3, 1, 1), np.float32), b=[1.0, 2.0],
    )  # fmt: skip
    done = forward(before, inputs(before), 3)
    bias = next(t for t in done.proto.graph.initializer if t.name == done.proto.graph.node[0].input[2])
    bias.raw_data = np.array([1, 2], np.float32).tobytes()
    assert bounds_off(before, done.proto, inputs(before), 3) > 100
