"""The sum of two convolutions of the same data is one, where each tap of the one sees what a tap of the other does.

Each draw says by itself which taps of the wider kernel see the same, and float64 says what the weight must be.
"""

from __future__ import annotations

import numpy as np
import pytest
from folding_draws import Array, Kind, arrays, examples, kinds, statistics
from folding_support import constants, fold, inputs, model, norm, proven, scale_and_shift
from forward_support import certified, rounded_once
from hypothesis import event, given
from hypothesis import strategies as st

from bnfold.moves import Plan

Axis = tuple[int, int, int, int]
"""Along one axis: size of the kernel, dilation, padding before and behind."""


@st.composite
def axes(draw: st.DrawFn) -> tuple[Axis, Axis, list[int] | None]:
    """A wide and a narrow kernel along one axis, and the taps of the wide one that see what the narrow one sees."""
    size, step = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    first, last = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    taps = sorted(draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=size)))
    gaps = set(np.diff(taps))
    if len(gaps) > 1:
        taps = [taps[0]]
    its_step = step * int(gaps.pop()) if len(taps) > 1 else draw(st.integers(1, 3))
    its_first = first - taps[0] * step
    its_last = first + last - step * (size - 1) + its_step * (len(taps) - 1) - its_first
    if its_first < 0 or its_last < 0:
        return (size, step, first, last), (size, step, first, last), list(range(size))
    match draw(st.sampled_from(["right", "right", "right", "right", "larger", "between"])):
        case "larger":
            return (size, step, first, last), (len(taps), its_step, its_first, its_last + 1), None
        case "between" if its_last and step > 1:
            return (size, step, first, last), (len(taps), its_step, its_first + 1, its_last - 1), None
        case _:
            return (size, step, first, last), (len(taps), its_step, its_first, its_last), taps


def conv(kernel: list[Axis], strides: list[int], group: int, operands: list[str]) -> str:
    pads = [axis[2] for axis in kernel] + [axis[3] for axis in kernel]
    steps = [axis[1] for axis in kernel]
    return f"Conv <group = {group}, dilations = {steps}, strides = {strides}, pads = {pads}> ({', '.join(operands)})"


def layer(
    draw: st.DataObject, name: str, kind: Kind, channels: tuple[int, int], kernel: list[Axis]
) -> dict[str, Array]:
    """A weight, perhaps a bias, perhaps the statistics of a normalization behind; each with `name` in its own."""
    found = {f"W{name}": draw.draw(arrays((*channels, *(axis[0] for axis in kernel)), kind.data))}
    if draw.draw(st.booleans()):
        found[f"b{name}"] = draw.draw(arrays((channels[0],), kind.data))
    return found | (draw.draw(statistics(channels[0], kind, name)) if draw.draw(st.booleans()) else {})


def lines(name: str, held: dict[str, Array], kernel: list[Axis], strides: list[int], group: int) -> list[str]:
    operands = ["x", *(one for one in (f"W{name}", f"b{name}") if one in held)]
    return [f"c{name} = {conv(kernel, strides, group, operands)}", *lines_behind(name, held)]


def lines_behind(name: str, held: dict[str, Array]) -> list[str]:
    if f"{name}g" not in held:
        return []
    return [f"n{name} = BatchNormalization (c{name}, {', '.join(name + part for part in ('g', 'be', 'm', 'v'))})"]


def exact(name: str, held: dict[str, Array]) -> tuple[Array, Array]:
    """The weight and the bias of a layer with what is behind it, in float64."""
    weight = held[f"W{name}"].astype(np.float64)
    bias = held[f"b{name}"].astype(np.float64) if f"b{name}" in held else np.zeros(len(weight))
    if f"{name}g" not in held:
        return weight, bias
    own = {part: held[name + part] for part in ("g", "be", "m", "v")}
    scale, shift = scale_and_shift(own)
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), bias * scale + shift


@pytest.mark.parametrize("which", ["p + q", "q + p", "p - q", "Sum"])
@examples(60)
@given(st.data())
def test_two_convolutions_of_the_same_data_that_are_added_are_one(which: str, data: st.DataObject) -> None:
    kind = data.draw(kinds())
    group = data.draw(st.sampled_from([1, 2]))
    channels = group * data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    drawn = [data.draw(axes()) for _ in range(data.draw(st.integers(1, 2)))]
    wide, narrow, taps = [axis[0] for axis in drawn], [axis[1] for axis in drawn], [axis[2] for axis in drawn]
    strides = [data.draw(st.integers(1, 2)) for _ in drawn]
    held = layer(data, "p", kind, channels, wide) | layer(data, "q", kind, channels, narrow)
    p, q = (f"n{name}" if f"{name}g" in held else f"c{name}" for name in "pq")
    total = {
        "p + q": f"Add ({p}, {q})",
        "q + p": f"Add ({q}, {p})",
        "p - q": f"Sub ({p}, {q})",
        "Sum": f"Sum ({p}, {q})",
    }
    text = lines("p", held, wide, strides, group) + lines("q", held, narrow, strides, group)
    extents = ",".join(["9"] * len(drawn))
    head = f"({kind.text}[2,{group * channels[1]},{extents}] x) => ({kind.text}[] y)"
    before = model(f"{head} {{ {' '.join(text)} y = {total[which]} }}", opset=kind.opset, **held)
    if any(places is None for places in taps):
        assert fold(before, merge_branches=True).plan.merges == ()
        event("no such taps")
        return
    event("merged")
    done = proven(before, inputs(before), held["Wp"][0].size + held["Wq"][0].size + 6, merge_branches=True)
    assert done.ops == ["Conv"]
    certified(before, done)
    (one, of_one), (other, of_other) = exact("p", held), exact("q", held)
    sign, whole, sizes = (-1.0 if which == "p - q" else 1.0), one.copy(), np.abs(one)
    if one[0].size < other[0].size or done.plan.merges[0].home.index != text.index(next(t for t in text if "cp" in t)):
        return  # both fit, and the other one stayed: what it must be is held by running and by the certificate
    seen = np.ix_(*(np.arange(size) for size in one.shape[:2]), *[np.array(places) for places in taps])
    whole[seen] += sign * other
    sizes[seen] += np.abs(other)
    found = constants(done.proto)
    new_weight = next(array for array in found.values() if array.ndim == one.ndim)
    assert rounded_once(new_weight, whole, sizes)
    new_bias = next((array for array in found.values() if array.ndim == 1), np.zeros(len(one), kind.data))
    terms = sum(np.abs(held[n].astype(np.float64)).sum() for n in held if not n.startswith("W"))
    assert rounded_once(new_bias, of_one + sign * of_other, np.abs(of_one) + np.abs(of_other) + terms)


@examples(60)
@given(st.data())
def test_two_that_pad_on_their_own_are_one_where_one_covers_the_other(data: st.DataObject) -> None:
    """An output at p sees p - before ... p - before + size - 1: of SAME_LOWER the longer part lies before."""
    kind, dims = data.draw(kinds()), data.draw(st.integers(1, 2))
    lines, seen, held = [], list[list[range]](), dict[str, Array]()
    for name in "pq":
        kernel = [data.draw(st.integers(1, 4)) for _ in range(dims)]
        held |= layer(data, name, kind, (2, 2), [(size, 1, 0, 0) for size in kernel])
        end = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"] + ["VALID"] * (set(kernel) == {1})))
        before = [size // 2 if end == "SAME_LOWER" else (size - 1) // 2 for size in kernel]
        seen.append([range(-first, size - first) for first, size in zip(before, kernel, strict=True)])
        operands = ", ".join(["x", *(one for one in (f"W{name}", f"b{name}") if one in held)])
        found = lines_behind(name, held)
        lines += [f'c{name} = Conv <auto_pad = "{end}"> ({operands})', *found]
    p, q = (f"n{name}" if f"{name}g" in held else f"c{name}" for name in "pq")
    extents = ",".join(["6"] * dims)
    text = f"({kind.text}[2,2,{extents}] x) => ({kind.text}[] y) {{ {' '.join(lines)} y = Add ({p}, {q}) }}"
    before_it = model(text, opset=kind.opset, **held)
    covered = any(
        all(set(theirs) <= set(ours) for ours, theirs in zip(one, other, strict=True))
        for one, other in (seen, seen[::-1])
    )
    event("one" if covered else "two")
    if not covered:
        assert fold(before_it, merge_branches=True).plan.merges == ()
        return
    done = proven(before_it, inputs(before_it), held["Wp"][0].size + held["Wq"][0].size + 6, merge_branches=True)
    assert done.ops == ["Conv"]
    certified(before_it, done)


BLOCKS = {
    "three, the widest last": "t = Add (d, e) s = Add (t, c) z = BatchNormalization (s, g, be, m, v) y = Relu (z)",
    "three, the widest first": "t = Add (c, d) s = Add (t, e) z = BatchNormalization (s, g, be, m, v) y = Relu (z)",
    "an identity": "n = BatchNormalization (x, g, be, m, v) t = Add (c, d) s = Add (t, e) u = Add (s, n) y = Relu (u)",
    "a difference": "t = Sub (c, d) s = Add (e, t) z = BatchNormalization (s, g, be, m, v) y = Relu (z)",
}


@pytest.mark.parametrize("block", BLOCKS)
@examples(12)
@given(st.data())
def test_a_block_of_three_is_one(block: str, data: st.DataObject) -> None:
    held = {
        "W": data.draw(arrays((4, 4, 3, 3), np.float32)),
        **data.draw(statistics(4, Kind(np.float32, np.float32, 17))),
    }
    held |= {name: data.draw(arrays((4, 4, 1, 1), np.float32)) for name in ("U", "V")}
    head = "(float[1,4,6,6] x) => (float[] y) { c = Conv <pads = [1,1,1,1]> (x, W) d = Conv (x, U) e = Conv (x, V) "
    text = f"{head} {BLOCKS[block]} }}"
    before = model(text, **held)
    done = proven(before, inputs(before), 80, merge_branches=True)
    assert done.ops == ["Conv", "Relu"]
    certified(before, done)
    assert Plan.from_json(done.plan.to_json()).merges == done.plan.merges


@examples(20)
@given(st.data())
def test_what_went_forward_into_both_is_in_the_one(data: st.DataObject) -> None:
    held = {"W": data.draw(arrays((4, 4, 3, 3), np.float32)), "U": data.draw(arrays((4, 4, 1, 1), np.float32))}
    held |= data.draw(statistics(4, Kind(np.float32, np.float32, 17)))
    text = "n = BatchNormalization (x, g, be, m, v) c = Conv (n, W) d = Conv <strides = [1,1]> (q, U) y = Add (c, d)"
    crop = "q = Slice (n, at, end, axes)"
    one = text.replace("(q,", "(n,").replace("Conv (n, W)", "Conv (n, U)")
    before = model(f"(float[1,4,6,6] x) => (float[] y) {{ {one} }}", **held)
    done = proven(before, inputs(before), 80, merge_branches=True)
    assert done.ops == ["Conv"]
    certified(before, done)
    cut = {"at": np.array([1, 1]), "end": np.array([5, 5]), "axes": np.array([2, 3])}
    apart = text.replace("c =", f"{crop} c =")
    before = model(f"(float[1,4,6,6] x) => (float[] y) {{ {apart} }}", **held, **cut)
    assert fold(before, merge_branches=True).plan.merges == (), "a part of the data is other data"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("C3 (x, W) d = Conv (r, U) y = Add (c, d)", "other data"),
        ("C3 (x, W) d = Conv (x, U) y = Mul (c, d)", "no sum"),
        ("C3 (x, W) d = Conv (x, U) y = Sub (d, c)", "the wider one is taken away"),
        ("C3 (x, W) d = Conv (x, U) s = Add (c, d) y = Add (s, d)", "one is read twice"),
        ("C3 (x, W) d = Conv (x, U) t = Relu (d) y = Add (c, t)", "a nonlinearity between"),
        ("C3 (x, W) d = Conv <pads = [1,1,1,1]> (x, U) y = Add (c, d)", "another size"),
        ('c = Conv <auto_pad = "SAME_UPPER"> (x, W) d = Conv (x, U) y = Add (c, d)', None),
        ('c = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (x, W) d = Conv <strides = [2,2]> (x, U) y = Add (c, d)',
         "what SAME pads depends on the size"),
        ('c = Conv <auto_pad = "SAME_UPPER", dilations = [2,2]> (x, W) d = Conv (x, U) y = Add (c, d)', "spread"),
        ('c = Conv <auto_pad = "VALID"> (x, W) d = Conv (x, U) y = Add (c, d)', "another size"),
        ("C3 (x, h) d = Conv (x, U) y = Add (c, d)", "a weight that is computed"),
        ("C3 (x, W) d = Conv <group = 4> (x, G) y = Add (c, d)", "other groups"),
        ("c = Conv <pads = [0,1,0,1]> (x, R) d = Conv <pads = [1,0,1,0]> (x, C) y = Add (c, d)", "neither covers"),
        ("c = Conv <pads = [2,2,0,0]> (x, W) d = Conv <dilations = [2,2]> (x, U) y = Add (c, d)", None),
        ("C3 (x, W) d = ConvTranspose (x, U) y = Add (c, d)", "not a Conv"),
    ],
)  # fmt: skip
def test_where_a_tap_sees_what_no_other_does_both_stay(text: str, why: str | None) -> None:
    head = "(float[1,4,6,6] x, float[4,4,3,3] h) => (float[] y) { r = Relu (x) k = Relu (r) "
    held = {"W": (4, 4, 3, 3), "U": (4, 4, 1, 1), "G": (4, 1, 1, 1), "R": (4, 4, 1, 3), "C": (4, 4, 3, 1)}
    text = text.replace("C3", "c = Conv <pads = [1,1,1,1]>")
    before = model(head + text + " }", **{n: np.linspace(-1, 1, int(np.prod(s)), dtype=np.float32).reshape(s)
                                          for n, s in held.items()})  # fmt: skip
    merges = fold(before, merge_branches=True).plan.merges
    assert len(merges) == (why is None), why


def test_nothing_is_merged_unasked() -> None:
    held = {"W": np.ones((4, 4, 3, 3), np.float32), "U": np.ones((4, 4, 1, 1), np.float32), **norm(4)}
    text = "c = Conv <pads = [1,1,1,1]> (x, W) d = Conv (x, U) s = Add (c, d) y = BatchNormalization (s, g, be, m, v)"
    before = model(f"(float[1,4,6,6] x) => (float[] y) {{ {text} }}", **held)
    assert fold(before).ops == ["Conv", "Conv", "Add"]


def test_what_would_overflow_is_not_merged() -> None:
    held = {"W": np.full((1, 1, 1, 1), 4e4, np.float16), "U": np.full((1, 1, 1, 1), 4e4, np.float16)}
    before = model("(float16[1,1,2,2] x) => (float16[] y) { c = Conv (x, W) d = Conv (x, U) y = Add (c, d) }", **held)
    assert fold(before, merge_branches=True).plan.merges == ()
