"""An affine passes an operator on its way forward exactly when behind it it is the same; else a number shows it is not.

f(a*x + s) = a*f(x) + s        asked of onnxruntime, for negative scales and positive ones, with a shift and without
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_draws import Kind, arrays, examples, statistics
from folding_support import (
    bits,
    bounds_off,
    clearly_wrong,
    fold,
    inputs,
    model,
    operands,
    run,
    scale_and_shift,
    weights,
)
from forward_support import certified, forward
from hypothesis import event, given
from hypothesis import strategies as st
from test_fold_theorem_passing import STEPS
from test_fold_theorem_passing import Chain as Layout
from test_fold_theorem_passing import _unsqueeze as unsqueeze

KINDS = ("both", "positive, shift", "negative", "positive")
"""Affines: of either sign and with a shift, and those that lack one of the two."""

EVERYTHING, RISING, ANY_SCALE, FACTOR, NOTHING = (
    set(KINDS), {"positive", "positive, shift"}, {"positive", "negative"}, {"positive"}, set()
)  # fmt: skip
PASSES = {
    "Identity (n)": EVERYTHING,
    "Dropout (n)": EVERYTHING,
    "Transpose <perm = [0,1,3,2]> (n)": EVERYTHING,
    "GlobalAveragePool (n)": EVERYTHING,
    "AveragePool <kernel_shape = [2,2]> (n)": EVERYTHING,
    "AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (n)": EVERYTHING,
    'AveragePool <kernel_shape = [3,3], auto_pad = "SAME_UPPER"> (n)': EVERYTHING,
    "AveragePool <kernel_shape = [3,3], strides = [2,2], ceil_mode = 1> (n)": EVERYTHING,
    "AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1> (n)": ANY_SCALE,
    'AveragePool <kernel_shape = [3,3], auto_pad = "SAME_LOWER", count_include_pad = 1> (n)': ANY_SCALE,
    "ReduceMean <axes = [2,3]> (n)": EVERYTHING,
    "ReduceMean <axes = [-1]> (n)": EVERYTHING,
    "GlobalMaxPool (n)": RISING,
    "MaxPool <kernel_shape = [2,2]> (n)": RISING,
    "MaxPool <kernel_shape = [3,3], pads = [1,1,1,1], dilations = [2,2]> (n)": RISING,
    "ReduceMax <axes = [2,3]> (n)": RISING,
    "ReduceMin <axes = [3]> (n)": RISING,
    "Mul (n, z)": ANY_SCALE,
    "Mul (z, n)": ANY_SCALE,
    "Mul (n, gate)": ANY_SCALE,
    "Div (n, z)": ANY_SCALE,
    "Relu (n)": FACTOR,
    "LeakyRelu <alpha = 0.3> (n)": FACTOR,
    "LeakyRelu <alpha = -0.3> (n)": FACTOR,
    "PRelu (n, slope)": FACTOR,
    "Abs (n)": ANY_SCALE,
    "LpPool <kernel_shape = [2,2]> (n)": ANY_SCALE,
    "LpPool <kernel_shape = [3,3], pads = [1,1,1,1], p = 1> (n)": ANY_SCALE,
    "GlobalLpPool (n)": ANY_SCALE,
    "ReduceL1 <axes = [2,3]> (n)": ANY_SCALE,
    "ReduceL2 <axes = [2,3]> (n)": ANY_SCALE,
    "ReduceSum (n, rows)": EVERYTHING,
    "Cast <to = 1> (n)": EVERYTHING,
    "Pad (n, pads)": ANY_SCALE,
    'Pad <mode = "reflect"> (n, pads)': EVERYTHING,
    'Pad <mode = "edge"> (n, pads)': EVERYTHING,
    "Pad (n, pads, low)": NOTHING,
    "Resize (n, , scales)": EVERYTHING,
    'Resize <mode = "cubic"> (n, , scales)': EVERYTHING,
    "Slice (n, one, three, rows)": EVERYTHING,
    "Gather <axis = 2> (n, places)": EVERYTHING,
    "Div (z, n)": NOTHING,
    "Add (n, z)": NOTHING,
    "Sub (z, n)": NOTHING,
    "Max (n, z)": NOTHING,
    "Sigmoid (n)": NOTHING,
    "Tanh (n)": NOTHING,
    "Elu (n)": NOTHING,
    "Softplus (n)": NOTHING,
    "Exp (n)": NOTHING,
    "Clip (n, low)": NOTHING,
    "Softmax <axis = 1> (n)": NOTHING,
    "LRN <size = 3> (n)": NOTHING,
    "InstanceNormalization (n, ones, zeros)": NOTHING,
}
PROVEN = {("forward", line.split()[0]) for line, passing in PASSES.items() if passing}
PROVEN |= {("forward", op) for op in ("Concat", "Flatten", "Reshape", "Squeeze", "Unsqueeze")}
MAY_BE_EXACT = ("Pad", "ReduceL2")
"""Left alone in any case; for some affines they need not be."""
HELD = {
    "W": weights(3, 4, 1, 1), "b": weights(3), "slope": weights(4, 1, 1, seed=3), "low": np.float32(-0.5),
    "ones": weights(4, seed=4), "zeros": weights(4, seed=5),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "rows": np.array([2], np.int64),
    "one": np.array([1], np.int64), "three": np.array([3], np.int64), "places": np.array([3, 0, 0], np.int64),
    "scales": np.array([1, 1, 2, 2], np.float32),
}  # fmt: skip


def parameters(kind: str) -> dict[str, np.ndarray]:
    """gamma, beta, mean, var; without a shift, exactly: mean and beta are zero."""
    sign = np.array([1, -1, 1, -1]) if kind in {"both", "negative"} else np.ones(4)
    has_shift = float("shift" in kind or kind == "both")
    values = {"g": [2.0, 0.5, 3, 1.5] * sign, "be": np.array([1, -1.5, 0.7, -0.6]) * has_shift}
    values |= {"m": np.array([0.5, 1, -0.75, -1]) * has_shift, "v": np.array([0.5, 2, 1, 3])}
    return {name: array.astype(np.float32) for name, array in values.items()}


def graph(body: str) -> str:
    return f"(float[2,4,6,6] x, float[2,4,6,6] z, float[2,1,6,6] gate) => (float[] y) {{ {body} y = Conv (t, W, b) }}"


def used(text: str) -> dict[str, np.ndarray]:
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return {name: array for name, array in HELD.items() if name in words}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operator", PASSES)
def test_an_affine_passes_exactly_when_it_is_the_same_behind(operator: str, kind: str) -> None:
    norm = "BatchNormalization ({}, g, be, m, v)"
    text = graph(f"n = {norm.format('x')} t = {operator}")
    before = model(text, **used(text), **parameters(kind))
    feeds = inputs(before)
    if kind in PASSES[operator]:
        done = forward(before, feeds, 4)
        assert "BatchNormalization" not in done.ops
        return
    (refused,) = fold(before).plan.refusals
    codes = {
        "blocked",
        "layout-lost",
        "negative-scale",
        "padding",
        "several-ways",
        "shift-stays",
        "other-readers",
        "no-home",
    }
    assert refused.reason.code in codes
    if operator.startswith(MAY_BE_EXACT) and "shift" not in kind:
        return
    behind = operator.replace("(n", "(x").replace(", n)", ", x)")
    text = graph(f"u = {behind} t = {norm.format('u')}")
    wrong = model(text, **used(text), **parameters(kind))
    assert clearly_wrong(before, wrong, feeds, 4)


PROVEN |= {("forward", "Split"), ("forward", "Upsample")}


@pytest.mark.parametrize("kind", KINDS)
def test_each_part_of_a_split_bears_its_own(kind: str) -> None:
    text = (
        "(float[2,4,6,6] x) => (float[] y) { n = BatchNormalization (x, g, be, m, v) "
        "p, q = Split <axis = 1> (n, parts) c = Conv (p, V) d = Conv (q, U) y = Concat <axis = 1> (c, d) }"
    )
    held = {"parts": np.array([1, 3], np.int64), "V": weights(3, 1, 1, 1), "U": weights(3, 3, 1, 1, seed=6)}
    before = model(text, **held, **parameters(kind))
    assert "BatchNormalization" not in forward(before, inputs(before), 4).ops
    missed = text.replace("d = Conv (q, U)", "d = Relu (q)")
    assert fold(model(missed, **held, **parameters("both"))).plan.moves == (), "both parts, or none"


@pytest.mark.parametrize("kind", KINDS)
def test_an_upsample_lets_everything_pass(kind: str) -> None:
    text = (
        "(float[2,4,6,6] x) => (float[] y) { n = BatchNormalization (x, g, be, m, v) "
        'u = Upsample <mode = "nearest"> (n, scales) y = Conv (u, V) }'
    )
    before = model(text, opset=9, scales=HELD["scales"], V=weights(3, 4, 1, 1), **parameters(kind))
    assert "BatchNormalization" not in forward(before, inputs(before), 4).ops
    apart = before.graph.initializer[[t.name for t in before.graph.initializer].index("scales")]
    apart.raw_data = np.array([1, 2, 2, 2], np.float32).tobytes()
    before.graph.initializer[[t.name for t in before.graph.initializer].index("V")].CopyFrom(
        onnx.numpy_helper.from_array(weights(3, 8, 1, 1), "V")
    )
    assert fold(before).plan.moves == (), "channels that are repeated are others"


@pytest.mark.parametrize("operator", ["ReduceMean <axes = [1]> (n)", "ReduceMax <axes = [1]> (n)", "ReduceMean (n)"])
def test_what_is_reduced_over_the_channels_does_not_pass(operator: str) -> None:
    """Two values that are one behind the operator, and two before it: nothing behind it could tell them apart."""
    norm = "n = BatchNormalization (x, g, be, m, v)"
    text = f"(float[2,4,6,6] x) => (float[] y) {{ {norm} t = {operator} y = Conv (t, W) }}"
    before = model(text, W=weights(3, 1, 1, 1), **parameters("positive"))
    (refused,) = fold(before).plan.refusals
    assert refused.reason.code == "layout-lost"
    x = inputs(before)
    mixed = {"x": np.ascontiguousarray(x["x"][:, [1, 2, 3, 0]])}
    assert not np.allclose(run(before, x)[0], run(before, mixed)[0], rtol=0.05)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], Layout]:
    """A chain of layout operators behind a value of static shape, of a result of rank 2 or more."""
    opset = draw(st.sampled_from([7, 8, 10, 12, 13, 14, 17, 21]))
    extents = draw(st.sampled_from([(), (1,), (2,), (5,), (1, 1), (2, 2), (2, 3)]))
    first = (draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 3, 4, 6])), *extents)
    chain = Layout(opset, first)
    for _ in range(draw(st.integers(1, 4))):
        draw(st.sampled_from(STEPS))(draw, chain)
    while len(chain.shape) < 2:
        unsqueeze(draw, chain)
    return first, chain


@examples(300)
@given(layouts(), st.data())
def test_layout_is_passed_exactly_when_each_channel_of_the_layer_meets_one_of_the_norm(
    drawn: tuple[tuple[int, ...], Layout], data: st.DataObject
) -> None:
    """Brute force: the channel of every element is carried through numpy's reshape and transpose."""
    x_shape, chain = drawn
    rank, shape = len(chain.shape), chain.shape
    choices = ["MatMul"] + ["Gemm"] * (rank == 2 and chain.opset >= 11) + ["Conv"] * (rank in {3, 4, 5})
    op = data.draw(st.sampled_from(choices))
    axis = 1 if op == "Conv" else rank - 1
    channels = shape[axis]
    weight = data.draw(arrays((2, channels, *[1] * (rank - 2)) if op == "Conv" else (channels, 2), np.float32))
    whose = chain.apply(np.broadcast_to(np.arange(x_shape[1]).reshape(1, -1, *[1] * (len(x_shape) - 2)), x_shape))
    meets = [sorted(set(np.take(whose, channel, axis).ravel().tolist())) for channel in range(channels)]
    norm = data.draw(statistics(x_shape[1], Kind(np.float32, np.float32, chain.opset)))
    norm["g"] = np.linspace(0.5, 1.5, x_shape[1], dtype=np.float32)  # no two channels alike by accident
    norm["v"] = np.linspace(1.0, 1.1, x_shape[1], dtype=np.float32)
    before = model(
        f"(float{list(x_shape)} x) => (float[] y) {{ t0 = BatchNormalization (x, g, be, m, v) {' '.join(chain.lines)}"
        f" y = {op} (t{len(chain.lines)}, W) }}",
        opset=chain.opset, W=weight, **chain.tensors, **norm,
    )  # fmt: skip
    possible = all(len(channel) == 1 for channel in meets)
    event(f"{op} {'moves' if possible else 'stays'}")
    if not possible:
        (refused,) = fold(before).plan.refusals
        assert refused.reason.code in {"axis-not-owned", "layout-lost"}
        return
    done = forward(before, inputs(before), channels)
    a, _ = (vector[[channel[0] for channel in meets]] for vector in scale_and_shift(norm))
    exact = weight.astype(np.float64) * a.reshape((1, -1, *[1] * (rank - 2)) if op == "Conv" else (-1, 1))
    assert bits(operands(done.proto, op)[1]) == bits(exact.astype(np.float32))


CONCATS = {
    "on channels, first": ("Concat <axis = 1> (n, z)", 8, True),
    "on channels, last": ("Concat <axis = -3> (z, z2, n)", 12, True),
    "on channels, between": ("Concat <axis = 1> (z, n, z2)", 12, True),
    "on rows": ("Concat <axis = 2> (z, n)", 4, False),
    "on batches": ("Concat <axis = 0> (n, z)", 4, False),
}


@pytest.mark.parametrize("pads", [0, 1])
@pytest.mark.parametrize("case", CONCATS)
def test_beside_others_they_bear_the_identity(case: str, pads: int) -> None:
    line, channels, passes = CONCATS[case]
    kind = "negative" if pads else "both"
    before = model(
        f"(float[2,4,6,6] x, float[2,4,6,6] z, float[2,4,6,6] z2) => (float[] y)"
        f" {{ n = BatchNormalization (x, g, be, m, v) t = {line} y = Conv <pads = {[pads] * 4}> (t, W, b) }}",
        W=weights(3, channels, 2, 2), b=weights(3), **parameters(kind),
    )  # fmt: skip
    if not passes:
        (refused,) = fold(before).plan.refusals
        assert refused.reason.code == "axis-not-owned"
        return
    done = forward(before, inputs(before), channels * 4)
    old, new = weights(3, channels, 2, 2), operands(done.proto, "Conv")[1]
    place = {"first": 0, "last": 8, "between": 4}[case.split(", ")[1]]
    kept = [channel for channel in range(channels) if not place <= channel < place + 4]
    assert bits(old[:, kept]) == bits(new[:, kept])
    assert np.all(old[:, place : place + 4] != new[:, place : place + 4])


def test_a_value_of_unknown_size_beside_it_lets_nothing_pass() -> None:
    """Which channels of the layer are the affine's is not known; with the size it is (the test before)."""
    text = """(float[2,4,6,6] x, float[2,{},6,6] z) => (float[] y) {{ n = BatchNormalization (x, g, be, m, v)
    t = Concat <axis = 1> (z, n)  y = Conv (t, W, b) }}"""
    held = {"W": weights(3, 8, 1, 1), "b": weights(3), **parameters("both")}
    (refused,) = fold(model(text.format("C"), **held)).plan.refusals
    assert refused.reason.code == "layout-lost"
    known = model(text.format(4), **held)
    certified(known, forward(known, inputs(known), 8))
    first = model(text.format(4).replace("(z, n)", "(n, z)"), **held)
    assert bounds_off(known, first, inputs(known), 8) > 100
