"""Where neither way is open to a whole affine, its scale goes back and its shift forward: a*u + s = (a*u) + s.

y = f(c(x))*a + s      c' = a*c      what reads y reads a*f(c(x)), and takes the shift over      (f a rectifier, a > 0)
"""

from __future__ import annotations

import numpy as np
import pytest
from folding_draws import arrays, examples, kinds, statistics
from folding_support import constants, fold, inputs, model, norm, proven, scale_and_shift
from forward_support import certified, rounded_once
from hypothesis import given
from hypothesis import strategies as st

from bnfold.moves import Plan

MIXERS = {
    "a skip connection": "s = Add (z, x)",
    "the other operand": "s = Add (x, z)",
    "taken away": "s = Sub (x, z)",
    "taken from": "s = Sub (z, x)",
    "a Sum": "s = Sum (z, x)",
    "a sum of three": "s = Sum (x, z, r)",
    "two sums": "q = Add (z, x) s = Sub (x, q)",
}
PROVEN = {("forward", op) for op in ("Add", "Sub", "Sum")}
SIGNS = {"taken away": -1.0, "two sums": -1.0}


@pytest.mark.parametrize("mixer", MIXERS)
@examples(30)
@given(st.data())
def test_the_scale_goes_back_and_the_shift_forward(mixer: str, data: st.DataObject) -> None:
    kind = data.draw(kinds())
    weight, other = data.draw(arrays((4, 1, 3, 3), kind.data)), data.draw(arrays((3, 4, 1, 1), kind.data))
    parameters = data.draw(statistics(4, kind))
    parameters |= {"g": np.abs(parameters["g"]), "be": np.where(parameters["be"] == 0, 1, parameters["be"])}
    text = (
        "c = Conv <group = 4, pads = [1,1,1,1]> (x, W) r = Relu (c) z = BatchNormalization (r, g, be, m, v) "
        f"{MIXERS[mixer]} y = Conv (s, U)"
    )
    parameters["be"] = parameters["be"].astype(parameters["m"].dtype)
    head = f"({kind.text}[2,4,5,5] x) => ({kind.text}[] y)"
    before = model(f"{head} {{ {text} }}", opset=kind.opset, W=weight, U=other, **parameters)
    if mixer == "a sum of three":
        assert fold(before).plan.moves == (), "what it reads is read by another too"
        return
    scale, shift = scale_and_shift(parameters)
    if np.all(scale == 1) or not np.any(shift):
        return
    done = proven(before, inputs(before), 24)
    assert [move.onward is not None for move in done.plan.moves] == [True]
    assert "BatchNormalization" not in done.ops
    certified(before, done)
    assert Plan.from_json(done.plan.to_json()) == done.plan or any(np.isnan(scale))
    found = constants(done.proto)
    rows, terms = other.astype(np.float64).reshape(3, 4), np.abs(other.astype(np.float64).reshape(3, 4))
    sizes = np.abs(parameters["be"].astype(np.float64)) + np.abs(parameters["m"].astype(np.float64) * scale)
    assert rounded_once(found["W_folded"], weight * scale.reshape(-1, 1, 1, 1), np.abs(weight * scale.max()))
    new_bias = next((array for array in found.values() if array.shape == (3,)), np.zeros(3, kind.data))
    assert rounded_once(new_bias, SIGNS.get(mixer, 1.0) * rows @ shift, terms @ sizes)


def test_every_reader_takes_the_shift() -> None:
    text = (
        "c = Conv <group = 4, pads = [1,1,1,1]> (x, W) r = Relu (c) z = BatchNormalization (r, g, be, m, v) "
        "s = Add (z, x) d = Conv (s, U) e = Conv (s, V) y = Add (d, e)"
    )
    held = {"W": np.ones((4, 1, 3, 3), np.float32), "U": np.ones((4, 4, 1, 1), np.float32), **norm(4)}
    held |= {"V": np.full((4, 4, 1, 1), 0.5, np.float32), "g": np.abs(held["g"])}
    before = model(f"(float[2,4,5,5] x) => (float[] y) {{ {text} }}", **held)
    done = proven(before, inputs(before), 24)
    certified(before, done)
    assert done.ops == ["Conv", "Relu", "Add", "Conv", "Conv", "Add"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("r = Relu (c) z = BN s = Add (z, x) y = Conv <pads = [1,1,1,1]> (s, T)", "a padding"),
        ("r = Relu (c) z = BN s = Mul (z, x) y = Conv (s, U)", "a product lets no shift pass"),
        ("r = Sigmoid (c) z = BN s = Add (z, x) y = Conv <pads = [1,1,1,1]> (s, T)", "nothing lets the scale pass"),
        ("r = Relu (c) z = BN s = Add (z, x) k = Conv (s, U) y = Sigmoid (s)", "another reader takes no shift"),
        ("r = Relu (c) z = BN s = Add (z, x) k = Relu (c) y = Conv (s, U)", "the scale meets another reader"),
        ("r = Relu (c) z = BN y = Add (z, x)", "an output"),
        ("r = Relu (c) z = BN s = Add (z, x) q = Relu (s) y = Conv (q, U)", "a rectifier before the layer"),
    ],
)  # fmt: skip
def test_where_one_half_finds_no_home_both_stay(text: str, why: str) -> None:
    held = {"W": np.ones((4, 1, 3, 3), np.float32), "U": np.ones((4, 4, 1, 1), np.float32), **norm(4)}
    held |= {"T": np.ones((4, 4, 3, 3), np.float32), "g": np.abs(held["g"])}
    text = text.replace("= BN", "= BatchNormalization (r, g, be, m, v)")
    text += "" if "k =" in text else " k = Relu (x)"
    head = "(float[2,4,5,5] x) => (float[] y, float[] k) { c = Conv <group = 4, pads = [1,1,1,1]> (x, W)"
    done = fold(model(f"{head} {text} }}", **held))
    assert len(done.plan.refusals) == 1, why
    assert done.plan.moves == ()


def test_a_negative_scale_does_not_pass_the_rectifier() -> None:
    held = {"W": np.ones((4, 1, 3, 3), np.float32), "U": np.ones((4, 4, 1, 1), np.float32), **norm(4)}
    held["g"] = -np.abs(held["g"])
    text = (
        "c = Conv <group = 4, pads = [1,1,1,1]> (x, W) r = Relu (c) z = BatchNormalization (r, g, be, m, v) "
        "s = Add (z, x) y = Conv (s, U)"
    )
    assert fold(model(f"(float[2,4,5,5] x) => (float[] y) {{ {text} }}", **held)).plan.moves == ()
