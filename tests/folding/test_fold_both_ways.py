"""Networks drawn at random in which affines go back and forward past one another: each fold is the same function."""

from __future__ import annotations

import numpy as np
from folding_draws import Array, examples
from folding_support import Folded, assert_same_function, fold, inputs, is_valid, model
from forward_support import certified
from hypothesis import event, given
from hypothesis import strategies as st

STEPS = {
    "Mul": "Mul ({x}, {p}k)", "negative": "Mul ({x}, {p}n)", "Add": "Add ({x}, {p}d)", "Sub": "Sub ({p}d, {x})",
    "norm": "BatchNormalization ({x}, {p}g, {p}be, {p}m, {p}v)", "Relu": "Relu ({x})", "Identity": "Identity ({x})",
    "Conv": "Conv ({x}, {p}W, {p}b)", "no bias": "Conv ({x}, {p}W)", "integers": "Conv ({x}, {p}W, {p}B)",
    "padded": "Conv <pads = [1,1,1,1], kernel_shape = [3,3]> ({x}, {p}V, {p}b)", "gate": "Mul ({x}, {z})",
    "MaxPool": "MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> ({x})", "sum": "Add ({x}, {z})",
    "scalar": "Mul ({x}, {p}c)", "shift": "Add ({x}, {p}s)", "Clip": "Clip ({x}, {p}lo, {p}hi)", "Abs": "Abs ({x})",
    "Pad": "Pad ({x}, {p}w, {p}f)",
    "AveragePool": "AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> ({x})",
}  # fmt: skip
AFFINE = ["Mul", "Mul", "negative", "Add", "Add", "Sub", "norm", "norm", "scalar", "shift"]
OTHER = ["Relu", "Identity", "MaxPool", "AveragePool", "gate", "sum", "Clip", "Clip", "Pad", "Abs"]
LAYER = ["Conv", "no bias", "integers", "padded"]


@st.composite
def networks(draw: st.DrawFn) -> tuple[str, dict[str, Array]]:
    """A row of affines and what lets them pass, between layers; now and then a value is read by one more node.

    Errors of the layers add up, so that the terms of all of them count for one.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lines, tensors, value, outputs, seen = ["v0 = Neg (x)"], {}, "v0", [], ["v0"]
    kinds = [AFFINE, AFFINE, AFFINE, OTHER, LAYER]
    for number in range(1, draw(st.integers(3, 9))):
        name, prefix = draw(st.sampled_from(draw(st.sampled_from(kinds)))), f"p{number}"
        source = draw(st.sampled_from([value] * 8 + seen[-3:]))
        if source != value:
            outputs.append(value)
        text = STEPS[name].format(x=source, p=prefix, z=draw(st.sampled_from(["z", *seen[-2:]])))
        if name == "integers":
            lines.append(f"{prefix}B = DequantizeLinear ({prefix}I, {prefix}u)")
            tensors |= {f"{prefix}I": rng.integers(-9, 9, 3).astype(np.int32), f"{prefix}u": np.float32(0.1)}
        made = {
            "k": rng.uniform(0.5, 2, (3, 1, 1)), "n": rng.uniform(-2, 2, (3, 1, 1)), "d": rng.uniform(-1, 1, (3, 1, 1)),
            "g": rng.uniform(-2, 2, 3), "be": rng.uniform(-1, 1, 3), "b": rng.normal(size=3),
            "m": rng.uniform(-1, 1, 3), "v": rng.uniform(0.5, 2, 3), "W": rng.normal(size=(3, 3, 1, 1)) / 2,
            "V": rng.normal(size=(3, 3, 3, 3)) / 4, "c": rng.uniform(0.5, 2, ()), "s": rng.uniform(-1, 1, ()),
            "lo": rng.uniform(-2, 0, ()), "hi": rng.uniform(0, 2, ()), "f": rng.uniform(-1, 1, ()),
        }  # fmt: skip
        words = text.replace("(", " ").replace(")", " ").replace(",", " ").split()
        tensors |= {f"{prefix}{k}": a.astype(np.float32) for k, a in made.items() if f"{prefix}{k}" in words}
        if name == "Pad":  # as much as it adds on one side, it takes away on the other
            tensors[f"{prefix}w"] = np.array([0, 0, 1, -1, 0, 0, -1, 1], np.int64)
        value = f"v{number}"
        lines.append(f"{value} = {text}")
        seen.append(value)
    names = dict.fromkeys([*outputs, value])
    ends = [f"y{i} = Conv ({name}, E{i}, F{i})" for i, name in enumerate(names)]
    for i in range(len(names)):
        tensors |= {f"E{i}": rng.normal(size=(2, 3, 1, 1)).astype(np.float32), f"F{i}": np.ones(2, np.float32)}
    typed = ", ".join(f"float[] y{i}" for i in range(len(names)))
    ports = "float[1,3,4,4] x, float[1,3,4,4] z"
    return f"({ports}) => ({typed}) {{ {' '.join(lines + ends)} }}", tensors


@examples(200)
@given(networks())
def test_affines_that_go_both_ways_leave_the_function_what_it_was(drawn: tuple[str, dict[str, Array]]) -> None:
    text, tensors = drawn
    before = model(text, **tensors)
    done: Folded = fold(before)
    ways = {move.is_forward for move in done.plan.moves}
    event(f"forward and back: {sorted(ways)}")
    certified(before, done)
    assert is_valid(done.proto) or not is_valid(before)
    assert_same_function(before, done.proto, inputs(before), 27 * len(before.graph.node) ** 2)
