"""Folds through operators that let an affine pass, right ones and ones that only look right, all written by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from certificate_folds import array, copied, put
from certificate_pairs import Draw, Pair, pair_of, wide

from bnfold.equality.claim import Claim

Arrays = dict[str, np.ndarray]


def affine(
    draw: Draw, channels: int, *, shift: bool = True, negative: bool = False
) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """Parameters of a BatchNormalization, with a shift or a negative scale if asked for; its scale and shift."""
    parameters, _, _ = draw.normalization(channels)
    parameters["g"] = np.abs(parameters["g"]) * (np.where(np.arange(channels) == 1, -1, 1) if negative else 1)
    if not shift:
        parameters["e"], parameters["m"] = 0 * parameters["e"], 0 * parameters["m"]
    g, e, m, v = (wide(parameters[name]) for name in "gemv")
    a = g / np.sqrt(v + draw.epsilon)
    return {name: values.astype(draw.dtype) for name, values in parameters.items()}, a, e - m * a


def unshifted(pair: Pair, *places: int) -> tuple[Claim, ...]:
    """The claim of a pair, by which these of its homes take the scale alone."""
    (claim,) = pair.claims
    return (replace(claim, unshifted=tuple(claim.homes[place] for place in places)),)


def certified(pair: Pair, claims: tuple[Claim, ...] | None = None) -> None:
    checked = pair.certificate(claimed=claims)
    assert (checked.failure, checked.uncertain) == (None, None)
    assert sum(check.numbers for check in checked.homes) > 0


UNFIT = ("serves places where what settled in it differs", "do not fit its data")
"""What brings all channels together may let pass what is the same for all of them, and nothing else."""


def refused(
    pair: Pair,
    sentence: str | tuple[str, ...],
    claims: tuple[Claim, ...] | None = None,
    after: onnx.ModelProto | None = None,
) -> None:
    checked = pair.certificate(after, claimed=claims)
    assert not checked.holds
    sentences = (sentence,) if isinstance(sentence, str) else sentence
    assert any(each in str(checked.failure or checked.uncertain) for each in sentences)


# --- one value ------------------------------------------------------------------------------------------------------


def through(
    line: str, *, shift: bool = True, negative: bool = False, gain: float = 1, opset: int = 17, **held: object
) -> Pair:
    """A Conv, one operator that reads `c` and puts out `p`, and a norm, folded into the Conv."""
    draw = Draw(3)
    parameters, a, s = affine(draw, 4, shift=shift, negative=negative)
    w, b = draw.weights(4, 3, 1, 1), draw.terms(4)
    tensors = {k: np.asarray(v, np.int64 if np.asarray(v).dtype.kind == "i" else np.float32) for k, v in held.items()}
    return pair_of(
        draw, "(float[2,3,4,4] x) => (float[2,C,h,l] y)", f"c = Conv(x,w,b) p = {line} n = BN(p,g,e,m,v) y = Relu(n)",
        f"c1 = Conv(x,w1,b1) n = {line.replace('(c', '(c1')} y = Relu(n)", "n: p -> c", shared=tensors, opset=opset,
        old={"w": w, "b": b, **parameters},
        new={"w1": wide(w) * a.reshape(4, 1, 1, 1), "b1": wide(b) * a + s / gain},
    )  # fmt: skip


PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1])
CUTS = np.array([0, 0, -1, 0, 0, 0, 0, -2])
LARGEST = 3.4028234663852886e38
SCALES = np.array([1, 1, 2, 2], np.float32)
CROP = 'Resize<coordinate_transformation_mode="tf_crop_and_resize",extrapolation_value={}>(c,roi,scales)'
ROI = np.array([0, 0, 0, 0, 1, 1, 2, 2], np.float32)
COUNTED = "AveragePool<kernel_shape=[2,2],count_include_pad=1{}>(c)"
RIGHT = {
    "Relu": through("Relu(c)", shift=False),
    "PRelu": through("PRelu(c,k)", shift=False, k=np.full((4, 1, 1), -0.5)),
    "pads that are not counted": through("AveragePool<kernel_shape=[2,2],pads=[1,1,0,0]>(c)", negative=True),
    "no pads to count": through(COUNTED.format(""), negative=True),
    "SAME that pads nothing": through(COUNTED.format(',auto_pad="SAME_UPPER",strides=[2,2]'), negative=True),
    "SAME of single places": through(
        'AveragePool<kernel_shape=[1,1],count_include_pad=1,auto_pad="SAME_LOWER">(c)', negative=True
    ),
    "a window that ends with the data": through(COUNTED.format(",ceil_mode=1,strides=[2,2]"), negative=True),
    "a scale where pads are counted": through(COUNTED.format(",pads=[1,1,0,0]"), shift=False, negative=True),
    "MaxPool": through("MaxPool<kernel_shape=[2,2],pads=[1,1,0,0]>(c)"),
    "ReduceSum": through("ReduceSum(c,axes)", gain=16, negative=True, axes=[2, -1]),
    "ReduceMean": through("ReduceMean<axes=[2,3]>(c)", negative=True),
    "a scale through zeros": through("Pad(c,pads)", shift=False, negative=True, pads=PADS),
    "rows and columns cut away": through("Pad(c,cuts,k)", negative=True, cuts=CUTS, k=3.0),
    "a scale where some are cut and some padded": through("Pad(c,pads)", shift=False, pads=CUTS + PADS),
    "no bounds": through("Clip(c)", negative=True),
    "endless bounds": through("Clip(c,lo,hi)", negative=True, lo=-np.inf, hi=np.inf),
    "no bounds, as attributes": through("Clip(c)", negative=True, opset=10),
    "the largest bounds, as attributes": through(f"Clip<max={LARGEST!r},min=-{LARGEST!r}>(c)", negative=True, opset=10),
    "a crop with zeros outside": through(CROP.format("0.0"), shift=False, negative=True, roi=ROI, scales=SCALES),
    "a crop of named axes": through(
        CROP.format("0.0").replace("<", "<axes=[3,2],"), shift=False, opset=18, roi=[0, -0.5, 1, 2.0], scales=[1, 2.0]
    ),
    "reflection": through('Pad<mode="reflect">(c,pads)', negative=True, pads=PADS),
    "Resize": through('Resize<mode="cubic">(c,,scales)', negative=True, scales=SCALES),
    "Resize to sizes": through('Resize<mode="linear">(c,,,sizes)', negative=True, sizes=[2, 4, 7, 3]),
    "half a place further, rounded down": through(
        'Resize<coordinate_transformation_mode="tf_half_pixel_for_nn",nearest_mode="floor">(c,none,scales)',
        opset=11, scales=SCALES, none=np.zeros(0, np.float32),
    ),
    "Slice of rows": through("Slice(c,one,three,axes)", negative=True, one=[1], three=[3], axes=[2]),
    "Gather of columns": through("Gather<axis=3>(c,places)", negative=True, places=[3, 0, 0]),
}  # fmt: skip
WRONG = {
    "Relu with a shift": (through("Relu(c)"), "lets no shift pass"),
    "Relu with a negative scale": (through("Relu(c)", shift=False, negative=True), "a negative scale passes"),
    "Abs with a negative scale": (through("Abs(c)", shift=False, negative=True), "a negative scale passes"),
    "PRelu with a shift": (through("PRelu(c,k)", k=np.full((4, 1, 1), -0.5)), "lets no shift pass"),
    "pads that are counted": (through(COUNTED.format(",pads=[1,1,0,0]")), "lets no shift pass"),
    "pads of SAME that are counted": (through(COUNTED.format(',auto_pad="SAME_UPPER"')), "lets no shift pass"),
    "SAME that does not come out even": (
        through(COUNTED.format(',auto_pad="SAME_LOWER",strides=[3,2]')), "lets no shift pass"
    ),
    "pads beside SAME": (
        through(COUNTED.format(',auto_pad="SAME_LOWER",strides=[2,2],pads=[0,0,1,0]')), "lets no shift pass"
    ),
    "SAME that spreads": (
        through(COUNTED.format(',auto_pad="SAME_LOWER",strides=[2,2],dilations=[2,1]'), opset=19), "lets no shift pass"
    ),
    "a window beyond the end": (through(COUNTED.format(",ceil_mode=1,strides=[2,3]")), "lets no shift pass"),
    "a shift where some are cut and some padded": (through("Pad(c,pads)", pads=CUTS + PADS), "lets no shift pass"),
    "another number where some are cut and some padded": (
        through("Pad(c,pads,k)", shift=False, pads=CUTS + PADS, k=3.0), "pads with 3"
    ),
    "channels cut away": (through("Pad(c,cuts)", cuts=[0, -1, 0, 0, 0, 0, 0, 0]), UNFIT),
    "one bound": (through("Clip(c,lo)", lo=-9e9), "whose bounds stay"),
    "the other bound": (through("Clip(c,,hi)", hi=9e9), "whose bounds stay"),
    "bounds that are exchanged": (through("Clip(c,lo,hi)", lo=np.inf, hi=-np.inf), "whose bounds stay"),
    "a bound that is no number": (through("Clip(c,lo)", lo=np.nan), "whose bounds stay"),
    "one bound, as attribute": (through("Clip<max=9.0>(c)", opset=10), "whose bounds stay"),
    "a shift that a crop leaves out": (through(CROP.format("0.0"), roi=ROI, scales=SCALES), "lets no shift pass"),
    "MaxPool of negatives": (through("MaxPool<kernel_shape=[2,2]>(c)", negative=True), "a negative scale passes"),
    "GlobalMaxPool of negatives": (through("GlobalMaxPool(c)", negative=True), "a negative scale passes"),
    "LpPool of a shift": (through("LpPool<kernel_shape=[2,2]>(c)"), "lets no shift pass"),
    "a sum with the shift of one": (through("ReduceSum(c,axes)", axes=[2, 3]), "the bias of Conv#0"),
    "a mean with a part of the shift": (through("ReduceMean<axes=[2,3]>(c)", gain=16), "the bias of Conv#0"),
    "ReduceMin of negatives": (through("ReduceMin<axes=[2]>(c)", negative=True), "a negative scale passes"),
    "ReduceL2 of a shift": (through("ReduceL2<axes=[2]>(c)"), "lets no shift pass"),
    "a shift through zeros": (through("Pad(c,pads)", pads=PADS), "lets no shift pass"),
    "a scale through ones": (through("Pad(c,pads,k)", shift=False, pads=PADS, k=1.0), "pads with 1"),
    "padded channels": (
        through("Pad(c,pads)", shift=False, pads=[0, 1, 0, 0, 0, -1, 0, 0]), UNFIT
    ),
    "a crop": (through(CROP.format("5.0"), shift=False, roi=ROI, scales=SCALES), "that is not zero"),
    "a crop of the channels": (
        through(CROP.format("0.0"), shift=False, roi=np.array([0, 1, 0, 0, 1, 0, 1, 1.0]), scales=SCALES), UNFIT
    ),
    "a crop to a part of the channels": (
        through(CROP.format("0.0"), shift=False, roi=np.array([0, 0, 0, 0, 1, 0.5, 1, 1.0]), scales=SCALES), UNFIT
    ),
    "a region of other axes": (
        through(CROP.format("0.0"), shift=False, opset=18, roi=[0, 0, 1, 1.0], scales=SCALES), UNFIT
    ),
    "channels that keep their number by rounding": (
        through('Resize<mode="linear">(c,,scales)', scales=np.array([1, 1.2, 1, 1])), UNFIT
    ),
    "channels that are scaled to keep an aspect": (
        through('Resize<mode="linear",keep_aspect_ratio_policy="not_larger">(c,,,sizes)', opset=18, sizes=[2, 4, 3, 3]),
        UNFIT,
    ),
    "a region that is no scale": (
        through("Resize(c,roi,,sizes)", roi=np.ones(8), sizes=[2, 8, 4, 4]), UNFIT
    ),
    "half a place further": (
        through(
            'Resize<mode="linear",coordinate_transformation_mode="tf_half_pixel_for_nn">(c,none,scales)',
            opset=11, scales=SCALES, none=np.zeros(0, np.float32),
        ),
        UNFIT,
    ),
    "Sigmoid": (through("Sigmoid(c)", shift=False), "no operator that the certificate follows"),
    "the largest of rows and channels": (through("ReduceMax<axes=[1]>(c)"), UNFIT),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_what_an_operator_lets_pass_is_certified(case: str) -> None:
    certified(RIGHT[case])


@pytest.mark.parametrize("case", WRONG)
def test_what_it_does_not_let_pass_is_refused(case: str) -> None:
    refused(*WRONG[case])


def test_places_that_are_asked_for_hold_a_scale_back() -> None:
    """A scale of zero makes all of a window alike: the largest is then the first."""
    pair = through("MaxPool<kernel_shape=[2,2]>(c)")
    for proto in (pair.before, pair.after):
        next(node for node in proto.graph.node if node.op_type == "MaxPool").output.append("where")
    refused(pair, "puts out indices too")


def test_a_cast_that_rounds_is_refused() -> None:
    draw = Draw(4)
    w, k = draw.weights(4, 3, 1), draw.factors(4, 1)
    for kind, sentence in (("11", None), ("10", "does not only widen")):
        pair = pair_of(
            draw, "(float[1,3,8] x) => (float[1,4,8] y)",
            f"c = Conv(x,w) p = Cast<to={kind}>(c) n = Mul(p,k) y = Cast<to=1>(n)",
            f"c1 = Conv(x,w1) n = Cast<to={kind}>(c1) y = Cast<to=1>(n)", "n: p -> c",
            old={"w": w, "k": k.astype(np.float64 if kind == "11" else np.float16)},
            new={"w1": wide(w) * wide(k.astype(np.float64 if kind == "11" else np.float16))[:, :, None]},
        )  # fmt: skip
        if sentence is None:
            certified(pair)
        else:
            refused(pair, sentence)


# --- several values -------------------------------------------------------------------------------------------------

TWO = "(float[2,3,5] x, float[2,3,5] z) => (float[2,C,5] y)"


def joined(  # noqa: PLR0913  # what each of two values takes, and what there is to take
    line: str, scales: tuple[int, int] = (1, 1), shifts: tuple[float, float] = (1, 0), homes: str = "c d", *,
    shift: bool = True, negative: bool = False, **held: np.ndarray,
) -> Pair:  # fmt: skip
    """Two Convs, joined, and a norm: which of them takes the scale, and how often each the shift."""
    draw = Draw(5)
    parameters, a, s = affine(draw, 4, shift=shift, negative=negative)
    w, u, b, q = draw.weights(4, 3, 1), draw.weights(4, 3, 1), draw.terms(4), draw.terms(4)
    column, renamed = a.reshape(4, 1, 1), re.sub(r"\b([cd])\b", r"\g<1>1", line)
    new = {
        "w1": wide(w) * column ** scales[0], "b1": wide(b) * a ** scales[0] + shifts[0] * s,
        "u1": wide(u) * column ** scales[1], "q1": wide(q) * a ** scales[1] + shifts[1] * s,
    }  # fmt: skip
    return pair_of(
        draw, TWO, f"c = Conv(x,w,b) d = Conv(z,u,q) p = {line} n = BN(p,g,e,m,v) y = Relu(n)",
        f"c1 = Conv(x,w1,b1) d1 = Conv(z,u1,q1) n = {renamed} y = Relu(n)", f"n: p -> {homes}", shared=held,
        old={"w": w, "u": u, "b": b, "q": q, **parameters},
        new=new,
    )  # fmt: skip


def test_a_sum_takes_the_scale_in_all_and_the_shift_in_one() -> None:
    for line in ("Add(c,d)", "Sum(c,d)", "Sub(c,d)"):
        right = joined(line)
        certified(right, unshifted(right, 1))
        refused(right, "more than once", unshifted(right))
        refused(right, "the shift of", unshifted(right, 0, 1))
        refused(right, "the bias of Conv#", unshifted(right, 0))
        both = joined(line, shifts=(1, 1))
        refused(both, "more than once", unshifted(both))
        refused(both, "the bias of Conv#1", unshifted(both, 1))
        none = joined(line, shifts=(0, 0))
        refused(none, "the bias of Conv#0", unshifted(none, 1))
        refused(none, "the shift of", unshifted(none, 0, 1))
        one = joined(line, scales=(1, 0))
        refused(one, "the weight of Conv#1", unshifted(one, 1))
        alone = put_back(joined(line, scales=(1, 0), homes="c"))
        refused(alone, "not every value", unshifted(alone))


def test_a_shift_of_what_is_subtracted_is_negated() -> None:
    for times, sentence in ((-1, None), (1, "the bias of Conv#1")):
        pair = joined("Sub(c,d)", shifts=(0, times))
        if sentence is None:
            certified(pair, unshifted(pair, 0))
        else:
            refused(pair, sentence, unshifted(pair, 0))


def test_values_side_by_side_and_values_to_choose_from_all_take_everything() -> None:
    which = np.array([[True], [False], [True], [False]])
    for op in ("Max", "Min", "Where"):
        line, held = (f"{op}(which,c,d)", {"which": which}) if op == "Where" else (f"{op}(c,d)", {})
        right = joined(line, shifts=(1, 1), **held)
        certified(right, unshifted(right))
        refused(right, "not every value", unshifted(right, 1))
        refused(joined(line, shifts=(1, 0), **held), "the bias of Conv#1", unshifted(right))
        left = put_back(joined(line, homes="c", **held))
        refused(left, "not every value", unshifted(left))
        negative = joined(line, shifts=(1, 1), negative=True, **held)
        if op == "Where":
            certified(negative, unshifted(negative))
        else:
            refused(negative, "a negative scale passes", unshifted(negative))


def test_a_product_takes_the_scale_in_one_and_no_shift() -> None:
    for line in ("Mul(c,d)", "Mul(d,c)"):
        right = joined(line, scales=(1, 0), homes="c", shift=False)
        right = put_back(right)
        certified(right)
        both = joined(line, shift=False)
        refused(both, "by 2 of its inputs", unshifted(both, 1))
        refused(put_back(joined(line, scales=(1, 0), homes="c")), "lets no shift pass")
    divisor = put_back(joined("Div(c,d)", scales=(0, 1), homes="d", shift=False), home="c")
    refused(divisor, "the divisor")


def put_back(pair: Pair, home: str = "d") -> Pair:
    """The same pair, in which one Conv reads what it read before."""
    names = {"d": {"u1": "u", "q1": "q"}, "c": {"w1": "w", "b1": "b"}}[home]
    after = copied(pair.after)
    put(after, **{old: array(pair.before, old) for old in names.values()})
    for node in after.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.input[:] = [home if name == f"{home}1" else name for name in node.input]
        node.output[:] = [home if name == f"{home}1" else name for name in node.output]
    kept = [t for t in after.graph.initializer if t.name not in names]
    del after.graph.initializer[:]
    after.graph.initializer.extend(kept)
    return Pair(pair.before, after, pair.claims, tuple(name for name in pair.new if name not in names))


# --- parts ----------------------------------------------------------------------------------------------------------


def side_by_side(order: tuple[slice, slice] = (slice(0, 2), slice(2, 5)), homes: str = "c d") -> Pair:
    """Convs of 2 and 3 channels side by side, with these parts of the affine."""
    draw = Draw(6)
    parameters, a, s = affine(draw, 5, negative=True)
    w, u, b, q = draw.weights(2, 3, 1), draw.weights(3, 3, 1), draw.terms(2), draw.terms(3)
    (a0, s0), (a1, s1) = ((np.resize(a[part], n), np.resize(s[part], n)) for part, n in zip(order, (2, 3), strict=True))
    return pair_of(
        draw, TWO, "c = Conv(x,w,b) d = Conv(z,u,q) p = Concat<axis=-2>(c,d) n = BN(p,g,e,m,v) y = Relu(n)",
        "c1 = Conv(x,w1,b1) d1 = Conv(z,u1,q1) n = Concat<axis=-2>(c1,d1) y = Relu(n)", f"n: p -> {homes}",
        old={"w": w, "u": u, "b": b, "q": q, **parameters},
        new={"w1": wide(w) * a0.reshape(2, 1, 1), "b1": wide(b) * a0 + s0,
             "u1": wide(u) * a1.reshape(3, 1, 1), "q1": wide(q) * a1 + s1},
    )  # fmt: skip


def test_every_branch_of_a_concat_takes_its_part() -> None:
    right = side_by_side()
    certified(right, unshifted(right))
    refused(right, "not every value", unshifted(right, 1))
    refused(side_by_side((slice(3, 5), slice(0, 3))), "the weight of Conv#", unshifted(right))
    refused(side_by_side((slice(0, 2), slice(1, 4))), "the weight of Conv#1", unshifted(right))
    alone = side_by_side(homes="c")
    refused(alone, "no counterpart", unshifted(alone))
    refused(put_back(alone), "not every value", unshifted(alone))


def of_part(line: str, taken: list[int], channels: list[int] | None = None, **held: object) -> Pair:
    """A Conv of 6 channels, a part of it, and a norm, whose numbers go to these channels."""
    draw = Draw(7)
    parameters, a, s = affine(draw, len(taken), negative=True)
    w, b = draw.weights(6, 3, 1), draw.terms(6)
    scale, shift = np.ones(6), np.zeros(6)
    scale[channels or taken], shift[channels or taken] = a, s
    tensors = {name: np.asarray(value, np.int64) for name, value in held.items()}
    outputs, further = ("p,o", ", float[2,D,5] o") if line.startswith("Split") else ("p", "")
    return pair_of(
        draw, f"(float[2,3,5] x) => (float[2,C,5] y{further})",
        f"c = Conv(x,w,b) {outputs} = {line} n = BN(p,g,e,m,v) y = Relu(n)",
        f"c1 = Conv(x,w1,b1) {outputs.replace('p', 'n')} = {line.replace('(c', '(c1')} y = Relu(n)", "n: p -> c",
        shared=tensors, old={"w": w, "b": b, **parameters},
        new={"w1": wide(w) * scale.reshape(6, 1, 1), "b1": wide(b) * scale + shift},
    )  # fmt: skip


SLICE = {"st": [1], "en": [-2], "ax": [1], "sp": [1]}
BACK = {"st": [-1], "en": [0], "ax": [-2], "sp": [-2]}


def test_a_part_takes_the_affine_of_its_own_channels() -> None:
    for line, taken, wrong, held in (
        ("Split<axis=1>(c,k)", [0, 1], [4, 5], {"k": [2, 4]}),
        ("Split<axis=-2>(c,k)", [0, 1, 2, 3], [2, 3, 4, 5], {"k": [4, 2]}),
        ("Slice(c,st,en,ax,sp)", [1, 2, 3], [2, 3, 4], SLICE),
        ("Slice(c,st,en,ax,sp)", [1, 2, 3], [0, 1, 2], SLICE),
        ("Slice(c,st,en,ax,sp)", [5, 3, 1], [1, 3, 5], BACK),
        ("Gather<axis=1>(c,k)", [4, 0], [0, 4], {"k": [-2, 0]}),
    ):
        certified(of_part(line, taken, **held))
        refused(of_part(line, taken, wrong, **held), "of Conv#0", None)


def test_a_channel_that_is_taken_twice_takes_one_affine() -> None:
    refused(of_part("Gather<axis=1>(c,k)", [2, 2], k=[2, 2]), "serves places where what settled in it differs")


def test_what_is_cut_away_may_hold_anything_but_what_another_output_reads_may_not() -> None:
    pair = of_part("Slice(c,st,en,ax,sp)", [1, 2, 3], **SLICE)
    weight = array(pair.after, "w1")
    for channel, right in ((0, True), (5, True), (1, False), (3, False)):
        changed = weight.copy()
        changed[channel] *= 2
        assert pair.certificate(put(copied(pair.after), w1=changed)).holds == right
    pair = of_part("Split<axis=1>(c,k)", [0, 1], k=[2, 4])
    for channel in range(6):
        changed = array(pair.after, "w1")
        changed[channel] *= 2
        assert not pair.certificate(put(copied(pair.after), w1=changed)).holds


# --- who else reads, and what a claim names -------------------------------------------------------------------------


def test_a_value_on_the_way_that_something_else_reads_is_refused() -> None:
    pair = joined("Add(c,d)")
    for value in ("c", "d", "p"):
        before, after = copied(pair.before), copied(pair.after)
        for proto, name in ((before, value), (after, "n" if value == "p" else f"{value}1")):
            proto.graph.node.append(onnx.helper.make_node("Abs", [name], ["further"]))
            proto.graph.output.append(onnx.helper.make_tensor_value_info("further", 1, [2, 4, 5]))
        refused(Pair(before, after, unshifted(pair, 1), pair.new), "")


def test_one_value_read_twice_is_refused() -> None:
    draw = Draw(8)
    parameters, a, s = affine(draw, 4)
    w, b = draw.weights(4, 3, 1), draw.terms(4)
    for line, channels, times in (("Add(c,c)", 4, 2), ("Sub(c,c)", 4, 1), ("Mul(c,c)", 4, 1), ("Max(c,c)", 4, 1)):
        pair = pair_of(
            draw, "(float[2,3,5] x) => (float[2,C,5] y)",
            f"c = Conv(x,w,b) p = {line} n = BN(p,g,e,m,v) y = Relu(n)",
            f"c1 = Conv(x,w1,b1) n = {line.replace('c', 'c1')} y = Relu(n)", "n: p -> c",
            old={"w": w, "b": b, **parameters},
            new={"w1": wide(w) * a.reshape(channels, 1, 1), "b1": wide(b) * a + s / times},
        )  # fmt: skip
        refused(pair, "twice")


def test_a_claim_names_the_homes_that_there_are() -> None:
    pair = joined("Add(c,d)")
    (claim,) = unshifted(pair, 1)
    conv, other = claim.homes
    (path,) = claim.path
    for home, kept in ((conv, "d"), (other, "c")):
        alone = (replace(claim, homes=(home,), unshifted=()),)
        refused(pair, "no counterpart", alone)
        refused(put_back(pair, kept), "not every value", alone)
    refused(pair, "names a node twice", (replace(claim, homes=(conv, other, conv)),))
    refused(pair, "no home but those on its path", (replace(claim, homes=(path,), unshifted=()),))
    refused(pair, "is none", (replace(claim, unshifted=(path,)),))
    refused(pair, "does not read from", (replace(claim, path=()),))
    certified(pair, (claim,))
