"""What Clip and Pad do not let pass, the number that shows why, and what is nearly the same and folds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_support import (
    assert_same_function,
    clearly_wrong,
    fold,
    inputs,
    model,
    naive,
    norm,
    plan_of,
    refusal,
    run,
    weights,
)
from passing_support import certified

W = weights(4, 3, 1, 1)
PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1])
HELD = {"W": W, "lo": np.float32(-1), "hi": np.float32(2), "pads": PADS, "one": np.float32(1)}
BACK = "(float[2,3,4,4] x) => (float[] y) {{ c = Conv (x, W) p = {} y = {} }}"
AHEAD = "(float[2,3,4,4] x) => (float[] y) {{ n = {} p = {} y = Conv (p, W) }}"


def used(text: str, opset: int = 17, **more: object) -> onnx.ModelProto:
    words = text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return model(text, opset=opset, **{name: array for name, array in (HELD | more).items() if name in words})


def folds(before: onnx.ModelProto, ops: list[str]) -> None:
    done = fold(before)
    assert done.ops == ops
    checked = certified(before, done)
    assert (checked.failure, checked.uncertain) == (None, None)
    assert_same_function(before, done.proto, inputs(before), 64)


@pytest.mark.parametrize("line", ["Clip (c, lo, hi)", "Clip (c, lo)", "Pad (c, pads, one)"])
def test_channels_that_bear_different_affines_have_one_number(line: str) -> None:
    before = used(BACK.format(line, "BatchNormalization (p, g, be, m, v)"), **norm(4))
    refusal(before, "padding" if line.startswith("Pad") else "blocked", line.split(maxsplit=1)[0])
    assert clearly_wrong(before, naive(before), inputs(before), 3)
    folds(
        used(BACK.format(line, "Mul (p, k)"), k=np.full((4, 1, 1), 1.5, np.float32)),
        ["Conv", line.split(maxsplit=1)[0]],
    )


INF = np.float32(np.inf)
MOST = "3.4028234663852886e38"


@pytest.mark.parametrize(
    ("line", "more"),
    [("Clip (c)", {}), ("Clip (c, lo, hi)", {"lo": -INF, "hi": INF}), ("Clip (c, lo)", {"lo": -INF}),
     ("Clip <old = 1> (c)", {}), (f"Clip <old = 1, max = {MOST}> (c)", {}), (f"Clip <old = 1, min = -{MOST}> (c)", {})],
)  # fmt: skip
def test_a_clip_without_bounds_lets_everything_pass(line: str, more: dict[str, object]) -> None:
    opset = 10 if "old" in line else 17
    line = line.replace("<old = 1> ", "").replace("old = 1, ", "")
    behind, ahead = BACK.format(line, "BatchNormalization (p, g, be, m, v)"), AHEAD.format("Neg (x)", line)
    for text, held in ((behind, norm(4)), (ahead.replace("Clip (c", "Clip (n").replace("> (c)", "> (n)"), {})):
        before = used(text, opset=opset, **held, **more)
        done = fold(before)
        assert sorted(done.ops) == ["Clip", "Conv"]
        checked = certified(before, done)
        assert (checked.failure, checked.uncertain) == (None, None)
        for node in before.graph.node:
            if node.op_type == "Clip":
                node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output))
        assert_same_function(before, done.proto, inputs(before), 64)


@pytest.mark.parametrize(
    "more", [{"lo": -INF, "hi": np.float32(9)}, {"lo": INF, "hi": INF}, {"lo": -INF, "hi": np.float32(np.nan)}]
)
def test_one_bound_is_enough_to_keep_it(more: dict[str, object]) -> None:
    norms = "BatchNormalization (p, g, be, m, v)"
    refusal(used(BACK.format("Clip (c, lo, hi)", norms), **norm(4), **more), "blocked", "Clip")


def test_a_scale_below_zero_would_exchange_the_bounds() -> None:
    before = used(BACK.format("Clip (c, lo, hi)", "Mul (p, k)"), k=np.float32(-2))
    refusal(before, "negative-scale", "Clip", op="Mul")
    wrong = used(BACK.format("Clip (c, lo, hi)", "Identity (p)"), W=-2 * W, lo=np.float32(2), hi=np.float32(-4))
    assert clearly_wrong(before, wrong, inputs(before), 3)
    folds(used(BACK.format("Clip (c, lo, hi)", "Mul (p, k)"), k=np.float32(2)), ["Conv", "Clip"])


def test_a_scale_of_zero_is_no_factor_of_bounds() -> None:
    refusal(used(BACK.format("Clip (c, lo, hi)", "Mul (p, k)"), k=np.float32(0)), "negative-scale", "Clip", op="Mul")


BEFORE_11 = "({kind}[2,3,4,4] x) => ({kind}[] y) {{ c = Conv (x, W) p = {line} y = {affine} }}"
KINDS = {"float": np.float32, "float16": np.float16, "double": np.float64}
LARGEST = 3.4028234663852886e38
"""Of float32: what a bound is that is not there."""

PADDED = "pads = [0,0,1,1,0,0,1,1]"


def before_11(
    line: str, kind: str = "float", k: float = 2, affine: str = "Mul (p, k)", opset: int = 10
) -> onnx.ModelProto:
    held = {"W": weights(4, 3, 1, 1, dtype=KINDS[kind]), "k": np.asarray(k, KINDS[kind])}
    return model(BEFORE_11.format(kind=kind, line=line, affine=affine), opset=opset, **held)


@pytest.mark.parametrize(
    ("kind", "k", "code", "line", "near"),
    [
        ("float16", 2, "type", "Clip <min = 0.1> (c)", "Clip <min = 0.125> (c)"),
        ("float16", 2, "type", "Clip <max = 1e6> (c)", "Clip <max = 1e3> (c)"),
        ("float16", 2, "overflow", "Clip <max = 6e4> (c)", "Clip <max = 3e4> (c)"),
        ("float", 2, "overflow", "Clip <max = 3e38> (c)", "Clip <max = 1e38> (c)"),
        ("double", 1.1, "precision-lost", "Clip <min = 0.0, max = 6.0> (c)", "Clip <min = 0.0, max = 0.0> (c)"),
        ("double", 2, "type", "Clip <min = 0.0> (c)", "Clip <min = 0.0, max = 1e38> (c)"),
        ("double", 2, "type", "Clip <max = 6.0> (c)", "Clip <min = -inf, max = 6.0> (c)"),
        ("double", 0.5, "type", f"Clip <min = 0.0, max = {LARGEST}> (c)", "Clip <min = 0.0, max = 3e38> (c)"),
        ("float16", 2, "type", f"Pad <{PADDED}, value = 0.1> (c)", f"Pad <{PADDED}, value = 0.5> (c)"),
        ("double", 1.1, "precision-lost", f"Pad <{PADDED}, value = 0.1> (c)", f"Pad <{PADDED}> (c)"),
    ],
)
def test_attributes_that_would_be_rounded_where_they_act_stay(
    kind: str, k: float, code: str, line: str, near: str
) -> None:
    refusal(before_11(line, kind, k), code, line.split(maxsplit=1)[0], op="Mul")
    nearly = before_11(near, kind, k)
    done = fold(nearly)
    assert done.ops == ["Conv", line.split(maxsplit=1)[0]]
    checked = certified(nearly, done)
    assert (checked.failure, checked.uncertain) == (None, None)


def test_channels_that_bear_different_affines_have_one_attribute() -> None:
    for line, code in (("Clip <min = -1.0> (c)", "blocked"), (f"Pad <{PADDED}, value = 1.0> (c)", "padding")):
        text = BEFORE_11.format(kind="float", line=line, affine="BatchNormalization (p, g, be, m, v)")
        before = model(text, opset=10, W=W, **norm(4))
        refusal(before, code, line.split(maxsplit=1)[0])
        assert clearly_wrong(before, naive(before), inputs(before), 3)


@pytest.mark.parametrize(
    ("line", "since", "before"),
    [("Clip <min = -1.0> (c)", 6, "Clip <min = -1.0> (c)"),
     ("Pad <pads = [0,0,1,1,0,0,1,1], value = 1.0> (c)", 2, "Pad <paddings = [0,0,1,1,0,0,1,1], value = 1.0> (c)")],
)  # fmt: skip
def test_an_attribute_of_a_version_before_stays(line: str, since: int, before: str) -> None:
    """Of a Clip it had no default, and a Pad called its sizes otherwise."""
    text = BEFORE_11.replace("{affine}", "Mul <broadcast = 1> (p, k)").replace("y)", "y) <float[2,4,a,b] c>")
    held = {"W": W, "k": np.array([2], np.float32)}
    older = model(text.format(kind="float", line=before), opset=since - 1, **held)
    refusal(older, "not-constant", line.split(maxsplit=1)[0], op="Mul")
    near = model(text.format(kind="float", line=line), opset=since, **held)
    done = fold(near)
    assert done.ops == ["Conv", line.split(maxsplit=1)[0]]
    assert [a.f for a in done.proto.graph.node[1].attribute if a.name in {"min", "value"}] == [-2 if since == 6 else 2]


def test_a_scale_below_zero_would_exchange_the_attributes() -> None:
    refusal(before_11("Clip <min = -1.0, max = 2.0> (c)", k=-2), "negative-scale", "Clip", op="Mul")


def test_an_attribute_that_is_given_to_a_function_stays() -> None:
    text = """<ir_version: 8, opset_import: ["" : 10, "local" : 1]>
        g (float[2,3,4,4] x) => (float[] y) { y = local.f <low = 1.0> (x) }
        <domain: "local", opset_import: ["" : 10]> f <low> (x) => (y) {
        W = Constant <value = float[1,3,1,1] {1.0, 2.0, 3.0}> () k = Constant <value = float {2.0}> ()
        c = Conv (x, W) p = Clip <min: float = @low> (c) y = Mul (p, k) }"""
    plan = plan_of(onnx.parser.parse_model(text))
    assert plan.moves == ()
    assert [refused.blamed.op for refused in plan.refusals if refused.blamed is not None] == ["Clip"]


@pytest.mark.parametrize("line", ["Clip <min = 1> (c)", 'Clip <min = "1"> (c)'])
def test_an_attribute_that_is_no_float_stays(line: str) -> None:
    assert plan_of(before_11(line)).moves == ()


@pytest.mark.parametrize("computed", ["lo", "hi"])
def test_bounds_that_are_computed_stay(computed: str) -> None:
    text = BACK.format("Clip (c, lo, hi)", "Mul (p, k)").replace("] x)", f"] x, float {computed})")
    held = {name: value for name, value in {**HELD, "k": np.float32(2)}.items() if name in {"W", "lo", "hi", "k"}}
    del held[computed]
    refusal(model(text, **held), "not-constant", "Clip", op="Mul")


def test_a_bound_that_a_caller_may_override_stays() -> None:
    text = BACK.format("Clip (c, lo)", "Mul (p, k)").replace("] x)", "] x, float lo)")
    refusal(used(text, k=np.float32(2)), "overridable", "Clip", op="Mul")


@pytest.mark.parametrize(
    ("number", "factor", "code"), [(3e38, 4.0, "overflow"), (np.nan, 4.0, "not-finite"), (np.inf, 4.0, "")]
)
def test_a_bound_that_would_not_be_finite(number: float, factor: float, code: str) -> None:
    before = used(BACK.format("Clip (c, lo, hi)", "Mul (p, k)"), hi=np.float32(number), k=np.float32(factor))
    if code:
        refusal(before, code, "Clip", op="Mul")
        return
    folds(before, ["Conv", "Clip"])


def test_numbers_that_bear_one_affine_bear_all_that_follow() -> None:
    """Behind the shift, it no longer pads with zeros: a scale per channel does not pass any more."""
    text = BACK.format("Pad (c, pads)", "Mul (a, k)").replace("y =", "a = Add (p, one) y =")
    before = used(text, k=weights(4, 1, 1))
    done = fold(before)
    assert [move.site.op for move in done.plan.moves] == ["Add"]
    assert [refused.reason.code for refused in done.plan.refusals] == ["layout-lost"]
    assert_same_function(before, done.proto, inputs(before), 64)
    wrong = used(BACK.format("Pad (b, pads, two)", "Identity (p)").replace("p =", "b = Add (c, s) p ="),
                 W=W * weights(4, 1, 1, 1), s=weights(4, 1, 1), two=np.float32(1))  # fmt: skip
    assert clearly_wrong(before, wrong, inputs(before), 3)
    folds(used(text, k=np.float32(-1.5)), ["Conv", "Pad"])
    folds(used(BACK.format("Pad (c, pads)", "Add (a, one)").replace("y =", "a = Mul (p, k) y ="), k=weights(4, 1, 1)),
          ["Conv", "Pad"])  # fmt: skip


def test_of_two_that_go_forward_the_second_meets_the_numbers_of_the_first() -> None:
    text = AHEAD.format("Mul (a, k)", "Clip (n, lo)").replace("{ n", "{ a = Add (x, one) n")
    folds(used(text, k=np.float32(3)), ["Clip", "Conv"])
    refusal(used(text, k=weights(3, 1, 1)), "blocked", "Clip", index=1, op="Mul")


def test_a_shift_does_not_go_forward_into_what_is_padded() -> None:
    """Exact, but what the layer adds everywhere would cancel there: an output that is zero would be rounded."""
    refusal(used(AHEAD.format("Add (x, one)", "Pad (n, pads)")), "padding", "Pad", op="Add")
    folds(used(AHEAD.format("Mul (x, k)", "Pad (n, pads, one)"), k=np.float32(3)), ["Pad", "Conv"])
    before = used(AHEAD.format("Add (x, one)", "Pad (n, pads)"), one=np.float32(0.7))
    shift = np.float32(0.7)
    bias = (W.astype(np.float64).sum((1, 2, 3)) * float(shift)).astype(np.float32)
    exact = used("(float[2,3,4,4] x) => (float[] y) { p = Pad (x, pads, minus) y = Conv (p, W, b) }",
                 minus=-shift, b=bias)  # fmt: skip
    border = [run(proto, inputs(before))[0][:, :, 0] for proto in (before, exact)]
    assert np.all(border[0] == 0)
    assert np.any(border[1] != 0)


def test_a_scale_of_zero_cannot_be_undone_in_front() -> None:
    plan = plan_of(used(AHEAD.format("Mul (x, k)", "Pad (n, pads, one)"), k=np.float32(0)))
    assert [refused.reason.code for refused in plan.refusals] == ["blocked"]


def test_a_pad_of_integers_beside_floats_is_none() -> None:
    """Shapes are padded too: what is no float is folded nowhere."""
    text = "(int64[4] x) => (int64[] y) { p = Pad (x, pads) y = Add (p, k) }"
    before = model(text, pads=np.array([1, 1]), k=np.array([2]))
    assert plan_of(before).moves == ()
