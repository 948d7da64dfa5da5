"""An affine of x that is added to a convolution of x becomes a tap of it, exactly where its outputs lie as its data do.

Each draw says by itself whether there is such a tap, and float64 says what the weight and the bias must be.
"""

from __future__ import annotations

import numpy as np
import pytest
from folding_draws import Array, Kind, arrays, examples, kinds, statistics
from folding_support import constants, fold, inputs, model, proven, scale_and_shift
from forward_support import certified, rounded_once
from hypothesis import event, given
from hypothesis import strategies as st

PROVEN = {("sideways", "Conv")}


@st.composite
def convolutions(draw: st.DrawFn, group: int, dims: int) -> tuple[str, list[int], list[int] | None]:
    """A Conv as text without its inputs, its kernel, and where the tap of the own place is in that, if anywhere."""
    kernel, spread = ([draw(st.integers(1, 3)) for _ in range(dims)] for _ in range(2))
    places = [draw(st.integers(0, size - 1)) for size in kernel]
    begin = [place * step for place, step in zip(places, spread, strict=True)]
    end = [(size - 1 - place) * step for size, place, step in zip(kernel, places, spread, strict=True)]
    steps, found = [1] * dims, True
    if draw(st.integers(0, 3)) == 0:
        end = draw(st.sampled_from(["UPPER", "LOWER"]))
        own = [(size - 1) // 2 if end == "UPPER" else size // 2 for size in kernel]
        return f'Conv <group = {group}, auto_pad = "SAME_{end}">', kernel, own
    match draw(st.sampled_from(["right", "right", "right", "elsewhere", "stride", "between"])):
        case "elsewhere" if any(step > 1 for step in spread):  # its place is between two taps, the size is kept
            axis = next(i for i, step in enumerate(spread) if step > 1)
            found = begin[axis] + end[axis] == 0
            moved = 1 if end[axis] else -1
            if not found:
                begin[axis], end[axis] = begin[axis] + moved, end[axis] - moved
        case "stride":
            steps[draw(st.integers(0, dims - 1))] = 2
            found = False
        case _:
            pass
    text = f"Conv <group = {group}, kernel_shape = {kernel}, dilations = {spread}, strides = {steps}, "
    return text + f"pads = {begin + end}>", kernel, places if found else None


def sum_of(which: str) -> tuple[str, float]:
    """A sum of the convolution `c` and the affine `n` as text, and the sign that it gives the latter."""
    return {"c + n": ("Add (c, n)", 1.0), "n + c": ("Add (n, c)", 1.0), "Sum": ("Sum (c, n)", 1.0),
            "c - n": ("Sub (c, n)", -1.0)}[which]  # fmt: skip


@st.composite
def affines(draw: st.DrawFn, channels: int, rank: int, kind: Kind) -> tuple[str, dict[str, Array], Array, Array]:
    """One affine of x per channel as text, its constants, and its scale and shift in float64."""
    if draw(st.booleans()):
        parameters = draw(statistics(channels, kind))
        return "n = BatchNormalization (x, g, be, m, v)", parameters, *scale_and_shift(parameters)
    factor = np.where(values := draw(arrays((1, channels, *[1] * (rank - 2)), kind.data)), values, 1)
    flat = factor.astype(np.float64).ravel()
    return "n = Mul (x, q)", {"q": factor.astype(kind.data)}, flat, 0 * flat


@pytest.mark.parametrize("which", ["c + n", "n + c", "Sum", "c - n"])
@examples(60)
@given(st.data())
def test_an_affine_beside_a_convolution_of_the_same_data_is_a_tap(which: str, data: st.DataObject) -> None:
    kind = data.draw(kinds())
    group = data.draw(st.sampled_from([1, 2, 3]))
    channels, dims = group * data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    conv, kernel, place = data.draw(convolutions(group, dims))
    weight = data.draw(arrays((channels, channels // group, *kernel), kind.data))
    bias = {"b": data.draw(arrays((channels,), kind.data))} if data.draw(st.booleans()) else {}
    line, parameters, scale, shift = data.draw(affines(channels, dims + 2, kind))
    total, sign = sum_of(which)
    extents = ",".join(["7"] * dims)
    lines = [line, f"c = {conv} ({', '.join(['x', 'W', *bias])})"]
    if data.draw(st.booleans()):
        lines.reverse()
    text = f"({kind.text}[2,{channels},{extents}] x) => ({kind.text}[] y) {{ {' '.join(lines)} y = {total} }}"
    before = model(text, opset=kind.opset, W=weight, **bias, **parameters)
    if place is None:
        assert len(fold(before).plan.refusals) == 1
        event("no such tap")
        return
    event("a tap")
    done = proven(before, inputs(before), weight[0].size + 1)
    assert done.ops == ["Conv"]
    certified(before, done)
    exact, added = weight.astype(np.float64), np.zeros(channels) if not bias else bias["b"].astype(np.float64)
    own = np.arange(channels)
    exact[own, own % (channels // group), *(np.full(channels, at) for at in place)] += sign * scale
    found = constants(done.proto)
    new_weight = next(array for array in found.values() if array.ndim == dims + 2)
    assert rounded_once(new_weight, exact, np.abs(weight.astype(np.float64)) + np.abs(scale).max())
    new_bias = next((array for array in found.values() if array.ndim == 1), np.zeros(channels, kind.data))
    assert rounded_once(new_bias, added + sign * shift, np.abs(added) + sizes_of_shift(parameters, shift))


def sizes_of_shift(parameters: dict[str, Array], shift: Array) -> Array:
    """The sizes of the terms of a shift: beta - mean * scale."""
    if "g" not in parameters:
        return np.abs(shift)
    scale, _ = scale_and_shift(parameters)
    return np.abs(parameters["be"].astype(np.float64)) + np.abs(parameters["m"].astype(np.float64) * scale)


BLOCK = """(float[2,4,6,6] x) => (float[] y) {
  c = Conv <pads = [1,1,1,1]> (x, W) nc = BatchNormalization (c, g, be, m, v)
  d = Conv (x, U) nd = BatchNormalization (d, ag, abe, am, av)
  n = BatchNormalization (x, bg, bbe, bm, bv)
  t = Add (nc, nd) s = Add (t, n) y = Relu (s) }"""


def block_parameters(draw: st.DataObject) -> dict[str, Array]:
    kind = Kind(np.float32, np.float32, 17)
    found = {"W": draw.draw(arrays((4, 4, 3, 3), np.float32)), "U": draw.draw(arrays((4, 4, 1, 1), np.float32))}
    for prefix in ("", "a", "b"):
        found |= draw.draw(statistics(4, kind, prefix))
    return found


@examples(60)
@given(st.data())
def test_a_block_with_two_convolutions_and_an_identity_is_two_convolutions(data: st.DataObject) -> None:
    before = model(BLOCK, **block_parameters(data))
    done = proven(before, inputs(before), 40)
    assert sorted(done.ops) == ["Add", "Conv", "Conv", "Relu"]
    certified(before, done)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("c = Conv <pads = [1,1,1,1]> (r, W) y = Add (c, n)", "the convolution has other data"),
        ("c = Conv <pads = [1,1,1,1]> (x, W) y = Mul (c, n)", "no sum"),
        ("c = Conv <pads = [1,1,1,1]> (x, W) y = Sub (n, c)", "the convolution is taken away"),
        ("c = Conv <pads = [1,1,1,1]> (x, W) s = Add (c, n) y = Add (s, c)", "the convolution is read twice"),
        ("c = Conv <pads = [1,1,1,1]> (x, W) s = Add (c, n) y = Add (s, n)", "the affine is read twice"),
        ("c = Conv <pads = [1,1,1,1]> (x, W) t = Relu (c) y = Add (t, n)", "a nonlinearity between"),
        ('c = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (x, W) y = Add (c, n)', "other places"),
        ('c = Conv <auto_pad = "SAME_UPPER", dilations = [2,2]> (x, W) y = Add (c, n)', "SAME and a dilation"),
        ('c = Conv <auto_pad = "VALID"> (x, W) y = Add (c, n)', "another size"),
        ("c = ConvTranspose <pads = [1,1,1,1]> (x, W) y = Add (c, n)", "not a Conv"),
        ("c = Conv <pads = [1,1,1,1]> (x, h) y = Add (c, n)", "a weight that is computed"),
    ],
)  # fmt: skip
def test_where_there_is_no_such_tap_the_affine_stays(text: str, why: str) -> None:
    head = "(float[1,4,6,6] x, float[4,4,3,3] h) => (float[] y) { r = Relu (x) k = Relu (r) n = Mul (x, q) "
    weight = np.linspace(-1, 1, 144, dtype=np.float32).reshape(4, 4, 3, 3)
    before = model(head + text + " }", W=weight, q=np.linspace(0.5, 2, 4, dtype=np.float32).reshape(1, 4, 1, 1))
    done = fold(before)
    assert len(done.plan.refusals) == 1, why
    assert done.plan.moves == ()


ROWS = {
    "a sum": "a = Add (n, k)",
    "a product and a sum": "r = Mul (n, q) a = Add (r, k)",
    "a sum, a product": "r = Add (n, q) a = Mul (r, k)",
    "taken away": "r = Add (n, q) p = Mul (r, q) a = Sub (k, p)",
}


@pytest.mark.parametrize("total", ["Add (a, d)", "Add (d, a)", "Sub (d, a)"])
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("first", ["Mul (x, q)", "BatchNormalization (x, g, be, m, v)"])
@examples(8)
@given(st.data())
def test_a_row_of_affines_beside_a_convolution_goes_as_one(
    first: str, row: str, total: str, data: st.DataObject
) -> None:
    kind = Kind(np.float32, np.float32, 17)
    held = {"W": data.draw(arrays((4, 4, 3, 3), np.float32)), **data.draw(statistics(4, kind))}
    held |= {name: data.draw(arrays((1, 4, 1, 1), np.float32)) for name in "kq"}
    lines = [f"n = {first}", ROWS[row], "c = Conv <pads = [1,1,1,1]> (x, W)", "d = BatchNormalization (c, g, be, m, v)"]
    before = model(f"(float[1,4,6,6] x) => (float[] y) {{ {' '.join(lines)} y = {total} }}", **held)
    done = proven(before, inputs(before), 40 + 8 * len(lines))
    assert done.ops == ["Conv"]
    certified(before, done)
