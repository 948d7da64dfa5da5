"""An affine of conv(x) + x goes back through the skip connection: the convolution gets a tap that makes up for it.

    a*(c + x) + s = (a*c + (a - 1)*x + s) + x

Float64 says what the weight and the bias must be. Where no tap sees the data of the output's own place, the affine
stays, and where a is so small that rounding (a - 1)*x and x to their size would be seen beside a*x.
"""

from __future__ import annotations

import numpy as np
import pytest
from folding_draws import Kind, arrays, examples, kinds, statistics
from folding_support import constants, fold, inputs, model, norm, proven, scale_and_shift
from forward_support import certified, rounded_once
from hypothesis import event, given
from hypothesis import strategies as st

from bnfold.searching import MOST_MADE_UP

SUMS = {"Add (c, x)": 1.0, "Add (x, c)": 1.0, "Sum (c, x)": 1.0, "Sub (c, x)": -1.0}


@pytest.mark.parametrize("total", SUMS)
@examples(40)
@given(st.data())
def test_an_affine_goes_back_through_a_skip_connection(total: str, data: st.DataObject) -> None:
    kind = data.draw(kinds())
    group = data.draw(st.sampled_from([1, 2, 4]))
    size, step = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    place = data.draw(st.integers(0, size - 1))
    pads = [place * step] * 2 + [(size - 1 - place) * step] * 2
    weight = data.draw(arrays((4, 4 // group, size, size), kind.data))
    bias = {"b": data.draw(arrays((4,), kind.data))} if data.draw(st.booleans()) else {}
    parameters = data.draw(statistics(4, kind))
    if data.draw(st.integers(0, 3)):
        sizes = data.draw(st.lists(st.floats(0.5, 2, width=16), min_size=4, max_size=4))
        parameters |= {"g": np.array(sizes).astype(parameters["g"].dtype), "v": np.ones_like(parameters["v"])}
    conv = f"Conv <group = {group}, dilations = [{step}, {step}], pads = {pads}> ({', '.join(['x', 'W', *bias])})"
    text = f"c = {conv} t = {total} y = BatchNormalization (t, g, be, m, v)"
    head = f"({kind.text}[2,4,6,6] x) => ({kind.text}[] y)"
    before = model(f"{head} {{ {text} }}", opset=kind.opset, W=weight, **bias, **parameters)
    scale, shift = scale_and_shift(parameters)
    size = np.sqrt(np.sum(weight.astype(np.float64) ** 2, axis=(1, 2, 3)))
    if np.any(np.abs(scale - 1) + 1 > MOST_MADE_UP * np.abs(scale) * (1 + size)):
        assert [refusal.reason.code for refusal in fold(before).plan.refusals] == ["precision-lost"]
        event("a is too small")
        return
    event("goes")
    done = proven(before, inputs(before), weight[0].size + 2)
    assert done.ops == ["Conv", total.split(maxsplit=1)[0]]
    certified(before, done)
    own = np.arange(4)
    exact = weight.astype(np.float64) * scale.reshape(-1, 1, 1, 1)
    exact[own, own % (4 // group), place, place] += SUMS[total] * (scale - 1)
    found = constants(done.proto)
    sizes = np.abs(weight.astype(np.float64)) * np.abs(scale).max() + np.abs(scale).max() + 1
    assert rounded_once(next(array for array in found.values() if array.ndim == 4), exact, sizes)
    added = bias["b"].astype(np.float64) if bias else np.zeros(4)
    new_bias = next((array for array in found.values() if array.ndim == 1), np.zeros(4, kind.data))
    terms = np.abs(parameters["m"].astype(np.float64) * scale) + np.abs(parameters["be"].astype(np.float64))
    assert rounded_once(new_bias, added * scale + shift, np.abs(added * scale) + terms)


BLOCKS = {
    "two branches": "d = Conv (x, U) u = Add (c, d) t = Add (u, x) z = BatchNormalization (t, g, be, m, v)",
    "a normalization of its own": "n = BatchNormalization (c, g, be, m, v) d = Conv (x, U) u = Add (n, d) "
    "t = Add (x, u) z = BatchNormalization (t, g, be, m, v)",
    "two affines": "t = Add (c, x) n = BatchNormalization (t, g, be, m, v) z = Mul (n, q)",
    "a layout between": "t = Add (c, x) p = Transpose <perm = [0, 2, 3, 1]> (t) a = Mul (p, l) "
    "z = Transpose <perm = [0, 3, 1, 2]> (a)",
}


@pytest.mark.parametrize("block", BLOCKS)
@examples(12)
@given(st.data())
def test_a_block_with_a_skip_connection(block: str, data: st.DataObject) -> None:
    held = {"W": data.draw(arrays((4, 1, 3, 3), np.float32)), "U": data.draw(arrays((4, 4, 1, 1), np.float32))}
    near_one = st.lists(st.floats(0.75, 2, width=32), min_size=4, max_size=4).map(lambda n: np.array(n, np.float32))
    held |= {"q": data.draw(near_one).reshape(1, 4, 1, 1), "l": data.draw(near_one)}
    held |= data.draw(statistics(4, Kind(np.float32, np.float32, 17))) | {"g": data.draw(near_one)}
    held["v"] = np.full(4, 0.5, np.float32)
    text = f"c = Conv <group = 4, pads = [1,1,1,1]> (x, W) {BLOCKS[block]} y = Relu (z)"
    before = model(f"(float[1,4,6,6] x) => (float[] y) {{ {text} }}", **held)
    done = proven(before, inputs(before), 40)
    assert set(done.ops) <= {"Conv", "Add", "Relu", "Transpose"}
    certified(before, done)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("c = CONV (x, W) s = Add (c, x) t = Add (s, x)", "two skip connections"),
        ("c = CONV (r, W) t = Add (c, x) k = Relu (x)", "other data"),
        ("c = CONV (x, W) q = Relu (c) t = Add (q, x)", "a nonlinearity between"),
        ("c = CONV (x, W) q = AveragePool <kernel_shape = [1,1]> (c) t = Add (q, x)", "another operator between"),
        ("c = CONV (x, W) t = Sub (x, c)", "the convolution is taken away"),
        ("c = Conv <kernel_shape = [2,2]> (p, V) t = Add (c, x)", "a kernel that sees another place"),
        ('c = Conv <group = 4, auto_pad = "SAME_UPPER", dilations = [2,2]> (x, W) t = Add (c, x)', "SAME that spreads"),
        ("c = CONV (x, W) t = Mul (c, x)", "no sum"),
        ("c = CONV (x, W) t = Add (c, x) k = Relu (c)", "the convolution is read twice"),
    ],
)  # fmt: skip
def test_where_no_tap_makes_up_for_it_the_affine_stays(text: str, why: str) -> None:
    head = "(float[1,4,6,6] x0) => (float[] y, float[] r, float[] k) { x = Sigmoid (x0) r = Relu (x) "
    head += 'p = Pad <mode = "constant"> (x, ends) '
    text = text.replace("CONV", "Conv <group = 4, pads = [1,1,1,1]>")
    text += "" if "k =" in text else " k = Relu (x)"
    held = {"W": np.linspace(-1, 1, 36, dtype=np.float32).reshape(4, 1, 3, 3), **norm(4)}
    held |= {"V": np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 4, 2, 2)}
    held |= {"ends": np.array([0, 0, 1, 1, 0, 0, 0, 0])}
    before = model(f"{head} {text} y = BatchNormalization (t, g, be, m, v) }}", **held)
    done = fold(before)
    assert len(done.plan.refusals) == 1, why
    assert done.plan.moves == ()


@pytest.mark.parametrize("end", ["UPPER", "LOWER"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_convolution_that_pads_on_its_own_has_that_tap_too(end: str, size: int) -> None:
    weight = np.linspace(-1, 1, 4 * size * size, dtype=np.float32).reshape(4, 1, size, size)
    lines = (
        f'c = Conv <group = 4, auto_pad = "SAME_{end}"> (x, W) t = Add (c, x) n = BatchNormalization (t, g, be, m, v)'
    )
    before = model(f"(float[1,4,6,6] x) => (float[] y) {{ {lines} y = Relu (n) }}", W=weight, **norm(4))
    done = proven(before, inputs(before), 20)
    assert sorted(done.ops) == ["Add", "Conv", "Relu"]
    certified(before, done)


def test_a_tap_that_overflows_leaves_the_affine_where_it_is() -> None:
    held = {"W": np.full((1, 1, 1, 1), 1, np.float16), "q": np.full((1, 1, 1, 1), 6e4, np.float16)}
    held["W"][0] = 1.5
    text = "c = Conv (x, W) t = Add (c, x) y = Mul (t, q)"
    before = model(f"(float16[1,1,2,2] x) => (float16[] y) {{ {text} }}", **held)
    assert fold(before).plan.moves == ()
