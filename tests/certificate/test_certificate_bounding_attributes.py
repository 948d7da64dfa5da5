"""Clip and Pad before opset 11, whose numbers are attributes: right folds hold, and each wrong one is refused.

All are written by hand. The attribute of a claimed home may have another number; whatever else changes is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from certificate_folds import copied
from certificate_pairs import Draw, Pair, pair_of, wide
from onnx import helper

SCALE, SHIFT = 1.5, -0.7
LOW, HIGH, FILL = -1.25, 2.5, 0.5
LARGEST = 3.4028234663852886e38
PADS = "pads=[0,0,1,1,0,0,1,1]"
KINDS = {"float": np.float32, "float16": np.float16, "double": np.float64}


def back(  # noqa: PLR0913  # what stands before and behind, and of what
    old: str, new: str, *, scale: float = SCALE, shift: float = SHIFT, kind: str = "float", opset: int = 10
) -> Pair:
    """Conv, a Clip or Pad that reads `c`, a scale and a shift, which are those of the data's type."""
    draw = Draw(21, element=kind)
    w, b = draw.weights(2, 3, 1, 1), draw.terms(2)
    k, d = (np.asarray(number, KINDS[kind]) for number in (scale, shift))
    found = pair_of(
        draw, "(float[1,3,4,4] x) => (float[1,2,a,b] y)",
        f"c = Conv(x,w,b) p = {old} n = Mul(p,k) u = Add(n,d) y = Relu(u)",
        f"c1 = Conv(x,w1,b1) u = {new.replace('(c)', '(c1)')} y = Relu(u)", ["n: p -> p c", "u: p -> p c"],
        old={"w": w, "b": b, "k": k, "d": d}, new={"w1": wide(w) * wide(k), "b1": wide(b) * wide(k) + wide(d)},
        opset=opset,
    )  # fmt: skip
    return whole(found)


def ahead(old: str, new: str, *, scale: float = SCALE, homes: str = "p y") -> Pair:
    """A scale, a Clip or Pad that reads `n`, and a Conv."""
    draw = Draw(24)
    w, b = draw.weights(2, 3, 1, 1), draw.terms(2)
    found = pair_of(
        draw, "(float[1,3,4,4] x) => (float[1,2,a,b] y)", f"n = Mul(x,k) p = {old} y = Conv(p,w,b)",
        f"p1 = {new.replace('(n)', '(x)')} y = Conv(p1,w1,b)", f"n: p -> {homes}", shared={"b": b},
        old={"w": w, "k": np.asarray(scale, np.float32)}, new={"w1": wide(w) * scale}, opset=10,
    )  # fmt: skip
    return whole(replace(found, claims=tuple(replace(claim, ahead=True) for claim in found.claims)))


def whole(pair: Pair) -> Pair:
    """By its claims every home takes the shift."""
    return replace(pair, claims=tuple(replace(claim, unshifted=()) for claim in pair.claims))


def clip(low: float | None = None, high: float | None = None, data: str = "c") -> str:
    said = [f"{name}={number!r}" for name, number in (("min", low), ("max", high)) if number is not None]
    return f"Clip<{','.join(said)}>({data})" if said else f"Clip({data})"


def pad(fill: float | None = None, more: str = "", data: str = "c") -> str:
    return f"Pad<{PADS}{more}{'' if fill is None else f',value={fill!r}'}>({data})"


def borne(number: float, kind: str = "float", scale: float = SCALE, shift: float = SHIFT) -> float:
    """In the type in which it acts."""
    k, d = (np.asarray(each, KINDS[kind]).astype(np.float64) for each in (scale, shift))
    return float((number * k + d).astype(np.float32 if kind == "double" else KINDS[kind]))


RIGHT = {
    "both": back(clip(LOW, HIGH), clip(borne(LOW), borne(HIGH))),
    "both, opset 7": back(clip(LOW, HIGH), clip(borne(LOW), borne(HIGH)), opset=7),
    "from below": back(clip(LOW), clip(borne(LOW))),
    "from above": back(clip(None, HIGH), clip(None, borne(HIGH))),
    "no bound": back(clip(), clip()),
    "no bound that says so": back(clip(LOW, LARGEST), clip(borne(LOW), LARGEST)),
    "no bound below that says so": back(clip(-LARGEST, HIGH), clip(-LARGEST, borne(HIGH))),
    "infinite, negative": back(pad().replace(">", ",value=inf>"), pad().replace(">", ",value=-inf>"), scale=-SCALE),
    "infinite": back(clip(LOW).replace(">", ",max=inf>"), clip(borne(LOW)).replace(">", ",max=inf>")),
    "float16": back(clip(LOW, HIGH), clip(borne(LOW, "float16"), borne(HIGH, "float16")), kind="float16"),
    "float16, from below": back(clip(LOW), clip(borne(LOW, "float16")), kind="float16"),
    "float64": back(clip(LOW, HIGH), clip(-1.375, 4.25), shift=0.5, kind="double"),
    "what is padded": back(pad(FILL), pad(borne(FILL))),
    "what is padded, opset 7": back(pad(FILL), pad(borne(FILL)), opset=7),
    "zeros": back(pad(), pad(borne(0))),
    "a negative scale": back(pad(FILL), pad(borne(FILL, scale=-SCALE)), scale=-SCALE),
    "padded, float16": back(pad(FILL), pad(borne(FILL, "float16")), kind="float16"),
    "padded, float64": back(pad(FILL), pad(1.25), shift=0.5, kind="double"),
    "ahead": ahead(clip(-3.0, 1.5, "n"), clip(-2.0, 1.0, "n")),
    "ahead, padded": ahead(pad(FILL, data="n"), pad(float(np.float32(FILL / SCALE)), data="n")),
    "ahead, padded, negative": ahead(
        pad(FILL, data="n"), pad(float(np.float32(-FILL / SCALE)), data="n"), scale=-SCALE
    ),
}
WRONG = {
    "a bound that stays": (back(clip(LOW, HIGH), clip(borne(LOW), HIGH)), "attribute max of Clip#1"),
    "both bounds stay": (back(clip(LOW, HIGH), clip(LOW, HIGH)), "attribute min of Clip#1"),
    "the shift forgotten": (back(clip(LOW), clip(borne(LOW, shift=0))), "attribute min of Clip#1"),
    "the scale forgotten": (back(clip(LOW), clip(borne(LOW, scale=1))), "attribute min of Clip#1"),
    "exchanged": (back(clip(LOW, HIGH), clip(borne(HIGH), borne(LOW))), "attribute min of Clip#1"),
    "a unit too much": (back(clip(LOW), clip(float(np.nextafter(np.float32(borne(LOW)), np.float32(0))))),
                        "attribute min of Clip#1"),
    "a negative scale, exchanged": (
        back(clip(LOW, HIGH), clip(borne(HIGH, scale=-SCALE), borne(LOW, scale=-SCALE)), scale=-SCALE),
        "not above zero",
    ),
    "a bound that came": (back(clip(LOW), clip(borne(LOW), borne(HIGH))), "has come or gone"),
    "a bound that went": (back(clip(LOW, HIGH), clip(borne(LOW))), "has come or gone"),
    "a bound that is none, scaled": (
        back(clip(LOW, LARGEST), clip(borne(LOW, scale=0.5), LARGEST / 2), scale=0.5), "has come or gone",
    ),
    "infinite no more": (back(clip(LOW).replace(">", ",max=inf>"), clip(borne(LOW), HIGH)), "should be inf"),
    "infinite, the sign stays": (
        back(pad().replace(">", ",value=inf>"), pad().replace(">", ",value=inf>"), scale=-SCALE), "should be -inf",
    ),
    "infinite, times zero": (
        back(pad().replace(">", ",value=inf>"), pad().replace(">", ",value=inf>"), scale=0.0), "should be nan",
    ),
    "float16, a number of float32": (
        back(clip(LOW), clip(float(np.float32(LOW * 1.5 + float(np.float16(SHIFT)) + 1e-5))), kind="float16"),
        "which is no float16",
    ),
    "float16, a number that is none": (back(clip(0.1), clip(borne(0.1, "float16")), kind="float16"), "is no float16"),
    "float64, rounded": (
        back(clip(LOW, HIGH), clip(borne(LOW, "double"), borne(HIGH, "double")), kind="double"),
        "attribute min of Clip#1",
    ),
    "float64, without a bound": (back(clip(LOW), clip(-1.375), shift=0.5, kind="double"), "without max"),
    "float64, a bound as large": (
        back(clip(LOW, LARGEST), clip(-1.375, LARGEST), shift=0.5, kind="double"), "without max"
    ),
    "what is padded stays": (back(pad(FILL), pad(FILL)), "attribute value of Pad#1"),
    "zeros stay": (back(pad(), pad()), "attribute value of Pad#1"),
    "what is padded went": (back(pad(FILL), pad()), "has come or gone"),
    "padded, float64, rounded": (back(pad(FILL), pad(borne(FILL, "double")), kind="double"), "value of Pad#1"),
    "another padding": (back(pad(FILL), pad(borne(FILL)).replace("0,0,1,1]", "0,0,1,0]")), "no counterpart"),
    "another mode": (back(pad(FILL), pad(borne(FILL), ',mode="edge"')), "no counterpart"),
    "ahead, multiplied": (ahead(clip(-3.0, 1.5, "n"), clip(-4.5, 2.25, "n")), "attribute min of Clip#1"),
    "ahead, a bound stays": (ahead(clip(-3.0, 1.5, "n"), clip(-2.0, 1.5, "n")), "attribute max of Clip#1"),
    "ahead, not claimed": (ahead(clip(-3.0, data="n"), clip(-2.0, data="n"), homes="y"), "no counterpart"),
    "ahead, claimed to stay": (ahead(clip(-3.0, data="n"), clip(-3.0, data="n"), homes="y"), "bounds stay"),
    "ahead, padded stays": (ahead(pad(FILL, data="n"), pad(FILL, data="n")), "attribute value of Pad#1"),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_attributes_that_bear_what_the_value_bears_are_certified(case: str) -> None:
    checked = RIGHT[case].certificate()
    assert (checked.failure, checked.uncertain) == (None, None)
    parts = [part.what for check in checked.homes for part in check.parts]
    assert case == "no bound" or any(what.startswith("attribute") for what in parts)


@pytest.mark.parametrize("case", WRONG)
def test_attributes_that_do_not_are_refused(case: str) -> None:
    pair, sentence = WRONG[case]
    checked = pair.certificate()
    assert not checked.holds
    assert sentence in str(checked.failure or checked.uncertain)


def node(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(each for each in model.graph.node if each.op_type in {"Clip", "Pad"})


def another_attribute(after: onnx.ModelProto) -> None:
    node(after).attribute.append(helper.make_attribute("mid", 0.0))


def the_same_twice(after: onnx.ModelProto) -> None:
    node(after).attribute.append(helper.make_attribute(node(after).attribute[-1].name, 0.0))


def of_another_type(after: onnx.ModelProto) -> None:
    node(after).attribute[-1].CopyFrom(helper.make_attribute(node(after).attribute[-1].name, 1))


def a_further_list(after: onnx.ModelProto) -> None:
    node(after).attribute[-1].floats.append(1.0)


def a_tensor_in_it(after: onnx.ModelProto) -> None:
    node(after).attribute[-1].t.CopyFrom(onnx.numpy_helper.from_array(np.zeros(1, np.float32)))


def another_text(after: onnx.ModelProto) -> None:
    node(after).attribute[-1].doc_string = "as we like it"


def another_name_of_the_node(after: onnx.ModelProto) -> None:
    node(after).name = "other"


SPOILT: tuple[Callable[[onnx.ModelProto], None], ...] = (
    another_attribute, the_same_twice, of_another_type, a_further_list, a_tensor_in_it, another_text,
    another_name_of_the_node,
)  # fmt: skip


@pytest.mark.parametrize("case", ["both", "what is padded"])
@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_nothing_else_of_a_home_may_change(spoil: Callable[[onnx.ModelProto], None], case: str) -> None:
    pair = RIGHT[case]
    after = copied(pair.after)
    spoil(after)
    checked = pair.certificate(after)
    assert not checked.holds
    assert "no counterpart" in str(checked.failure)


@pytest.mark.parametrize("other", ["Clip<max=3.0>(q)", "Pad<pads=[0,0,1,1,0,0,1,1],value=3.0>(q)"])
def test_the_attribute_of_a_node_that_is_no_home_stays(other: str) -> None:
    pair = RIGHT["both"]
    models = [copied(model) for model in (pair.before, pair.after)]
    line = helper.make_node("Relu", ["y"], ["q"])
    op = onnx.parser.parse_node(f"z = {other}")
    for model, number in zip(models, (3.0, 4.0), strict=True):
        model.graph.node.extend([line, op])
        model.graph.node[-1].attribute[-1].f = number
        model.graph.output[0].name = "z"
    checked = replace(pair, before=models[0], after=models[1]).certificate()
    assert "no counterpart" in str(checked.failure)


def test_zeros_that_a_scale_passes_stay_an_attribute_that_is_zero() -> None:
    """A Pad on the way that is no home keeps its attribute, whatever passes it."""
    draw = Draw(25)
    w, k = draw.weights(2, 3, 1, 1), np.array([1.0, 2.0], np.float32).reshape(2, 1, 1)

    def passed(new: str) -> Pair:
        return whole(pair_of(
            draw, "(float[1,3,4,4] x) => (float[1,2,6,6] y)", f"c = Conv(x,w) p = {pad()} n = Mul(p,k) y = Relu(n)",
            f"c1 = Conv(x,w1) n = {new.replace('(c)', '(c1)')} y = Relu(n)", "n: p -> c", old={"w": w, "k": k},
            new={"w1": wide(w) * wide(k)[..., None]}, opset=10,
        ))  # fmt: skip

    assert passed(pad()).certificate().holds
    for new in (pad(0.5), pad(0.0)):
        assert "no counterpart" in str(passed(new).certificate().failure)


@pytest.mark.parametrize(
    ("old", "new", "opset", "sentence"),
    [("Clip<min=-1.0>(c)", "Clip<min=-2.0>(c1)", 5, "no counterpart"),
     ("Clip<min=0.0>(c)", "Clip<min=0.0>(c1)", 5, "min of Clip#1 is not known in this opset"),
     ("Pad<paddings=[0,0,1,1,0,0,1,1],value=1.0>(c)", "Pad<paddings=[0,0,1,1,0,0,1,1],value=2.0>(c1)", 1,
      "no counterpart"),
     ("Pad<paddings=[0,0,1,1,0,0,1,1]>(c)", "Pad<paddings=[0,0,1,1,0,0,1,1]>(c1)", 1,
      "value of Pad#1 is not known in this opset")],
)  # fmt: skip
def test_attributes_of_versions_before_are_not_followed(old: str, new: str, opset: int, sentence: str) -> None:
    """Of a Clip they had no default, and a Pad called its sizes otherwise."""
    draw = Draw(26)
    w, k = draw.weights(2, 3, 1, 1), np.full(1, 2, np.float32)
    pair = pair_of(
        draw, "(float[1,3,4,4] x) => (float[1,2,a,b] y) <float[1,2,a,b] p, float[1,2,a,b] n>",
        f"c = Conv(x,w) p = {old} n = Mul<broadcast=1>(p,k) y = Relu(n)",
        f"c1 = Conv(x,w1) n = {new} y = Relu(n)", "n: p -> p c", old={"w": w, "k": k}, new={"w1": wide(w) * 2},
        opset=opset,
    )  # fmt: skip
    checked = whole(pair).certificate()
    assert sentence in str(checked.failure or checked.uncertain)
