"""Constants that only look like one per channel: by broadcast shape, never by a length that happens to match."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_support import (
    Array,
    bits,
    bounds_off,
    clearly_wrong,
    constants,
    fold,
    inputs,
    model,
    norm,
    plan_of,
    proven,
    refusal,
    run,
    scale_and_shift,
    weights,
)
from onnx import SparseTensorProto, TensorProto, helper

C = 4
CONV = "(float[2,3,4,4] x) => (float[] y) {{ c = Conv (x, W, b)  y = {op} (c, k) }}"


def of_channels(op: str, k: Array) -> onnx.ModelProto:
    """What a folder writes that goes by the length: k, one per channel, in weight and bias."""
    each = np.resize(k.reshape(-1), C).astype(np.float64)
    scale, shift = {"Mul": (each, 0), "Div": (1 / each, 0), "Add": (np.ones(C), each), "Sub": (np.ones(C), -each)}[op]
    text = "(float[2,3,4,4] x) => (float[] y) { y = Conv (x, W, b) }"
    weight = weights(C, 3, 1, 1) * scale.reshape(C, 1, 1, 1)
    return model(text, W=weight.astype(np.float32), b=(weights(C) * scale + shift).astype(np.float32))


@pytest.mark.parametrize("op", ["Mul", "Div", "Add", "Sub"])
@pytest.mark.parametrize("dims", [(C,), (1, C), (C, 1), (1, C, 1), (1, 1, 1, C), (1, 1, C, 1)])
def test_a_constant_along_height_or_width_is_no_channel_whatever_its_length(op: str, dims: tuple[int, ...]) -> None:
    k = weights(*dims, seed=4)
    before = model(CONV.format(op=op), W=weights(C, 3, 1, 1), b=weights(C), k=k)
    refusal(before, "axis-not-owned", "Conv", op=op)
    assert clearly_wrong(before, of_channels(op, k), inputs(before), 4)
    near_miss = model(CONV.format(op=op), W=weights(C, 3, 1, 1), b=weights(C), k=k.reshape(C, 1, 1))
    assert bits(constants(proven(near_miss, inputs(near_miss), 4).proto)["W_folded"]) == bits(
        constants(of_channels(op, k))["W"]
    )


def test_along_the_batch_is_no_channel_either() -> None:
    k = weights(2, 1, 1, 1, seed=4)
    before = model(CONV.format(op="Mul"), W=weights(C, 3, 1, 1), b=weights(C), k=k)
    refusal(before, "axis-not-owned", "Conv", op="Mul")
    assert clearly_wrong(before, of_channels("Mul", k), inputs(before), 4)


@pytest.mark.parametrize("op", ["Mul", "Div", "Add", "Sub"])
def test_a_constant_of_a_whole_image_is_no_affine_and_no_norm_s_scale(op: str) -> None:
    """It is not counted among what could fold; what comes behind it passes, or stays."""
    k = weights(C, 4, seed=4)
    before = model(CONV.format(op=op), W=weights(C, 3, 1, 1), b=weights(C), k=k)
    plan = plan_of(before)
    assert (plan.moves, plan.refusals) == ((), ())
    assert clearly_wrong(before, of_channels(op, k[:, 0]), inputs(before), 4)


# --- it may give its value larger dimensions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "k", "code"),
    [
        ((1, 3), (2, 4), None),  # varies along both
        ((1, 3), (2, 1), "layout-lost"),  # a second row
        ((2, 3), (1, 2, 4), None),
        ((2, 3), (2, 1, 1), "layout-lost"),  # a third dimension
        ((2, 3), (1, 1, 1), "layout-lost"),  # of one element
    ],
)
def test_a_constant_that_enlarges_its_value_does_more_than_an_affine(
    x: tuple[int, ...], k: tuple[int, ...], code: str | None
) -> None:
    text = f"(float{list(x)} x) => (float[] y) {{ c = Gemm (x, W)  y = Mul (c, k) }}"
    before = model(text, W=weights(3, 4), k=weights(*k))
    if code is not None:
        refusal(before, code, op="Mul")
    plan = plan_of(before)
    assert plan.moves == ()
    without = run(model(text.replace("Mul (c, k)", "Identity (c)"), W=weights(3, 4)), inputs(before))
    assert run(before, inputs(before))[0].shape != without[0].shape


@pytest.mark.parametrize("op", ["Mul", "Add", "Sub", "Div"])
@pytest.mark.parametrize("dims", [(2, 1), (2, 4)])
def test_a_constant_that_is_the_same_everywhere_still_enlarges(op: str, dims: tuple[int, ...]) -> None:
    """Looked at as the one number that it holds, it would be an affine, and a row would be lost."""
    text = f"(float[1,3] x) => (float[] y) {{ c = Gemm (x, W)  y = {op} (c, k) }}"
    before = model(text, W=weights(3, 4), k=np.full(dims, 3, np.float32))
    assert "axis 0" in refusal(before, "layout-lost", op=op).detail
    assert run(before, inputs(before))[0].shape == (2, 4)
    near_miss = model(text, W=weights(3, 4), k=np.full((1, 4), 3, np.float32))
    assert proven(near_miss, inputs(near_miss), 4).ops == ["Gemm"]


def test_channels_of_unknown_number_are_not_taken_for_as_many_as_the_constant_has() -> None:
    text = "(float[1,c,4] x) => (float[] y) { r = Mul (x, k)  y = Mul (r, q) }"
    before = model(text, k=np.array(2, np.float32), q=weights(4, 1))
    refusal(before, "layout-lost", index=1, op="Mul")
    assert run(before, inputs(before, c=1))[0].shape == (1, 4, 4)


def test_a_norm_behind_a_constant_that_enlarges_stays() -> None:
    """The channels are the constant's alone: in the weight, which has one output, there is no place for four."""
    text = "(float[2,3,5] x) => (float[] y) { p = Conv (x, W)  c = OP (p, k)  y = BatchNormalization (c, g, be, m, v) }"
    for op in ("Mul", "Add"):
        before = model(text.replace("OP", op), W=weights(1, 3, 1), k=weights(4, 1), **norm(4))
        assert plan_of(before).moves == ()
        refusal(before, "layout-lost", op, index=1)
        assert run(before, inputs(before))[0].shape == (2, 4, 5)


# --- zeros and divisors ---------------------------------------------------------------------------------------------


def test_a_zero_in_a_factor_lets_no_shift_through() -> None:
    text = """(float[2,3,4] x) => (float[] y) {
        p = Conv (x, W)  b = Add (p, e)  c = Mul (b, k)  y = BatchNormalization (c, g, be, m, v) }"""
    held = {"W": weights(4, 3, 1), "e": weights(4, 4), **norm(4)}
    k = weights(4, 4, seed=6)
    near_miss = model(text, k=k, **held)
    assert proven(near_miss, inputs(near_miss), 6).ops == ["Conv", "Add", "Mul"]
    k[1, 2] = 0
    before = model(text, k=k, **held)
    refusal(before, "shift-stays", "Mul")
    _, s = scale_and_shift(norm(4))
    (y,) = run(before, inputs(before))
    assert np.all(y[:, 1, 2] == y[0, 1, 2])  # there the shift is all, and no e makes 0*(p + e) give it
    assert abs(y[0, 1, 2] - s[1]) < 8 * 2.0**-24 * (np.abs(norm(4)["be"][1]) + np.abs(norm(4)["be"][1] - s[1]))
    assert s[1] != 0


def test_a_scale_without_shift_passes_a_zero() -> None:
    text = """(float[2,3,4] x) => (float[] y) { c = Conv (x, W)  m = Mul (c, k)  y = Mul (m, q) }"""
    k = weights(4, 4)
    k[1, 2] = 0
    before = model(text, W=weights(4, 3, 1), k=k, q=weights(4, 1, seed=3))
    assert proven(before, inputs(before), 5).ops == ["Conv", "Mul"]


def test_a_constant_divided_by_a_value_is_no_affine_of_it() -> None:
    text = """(float[2,3,4] x) => (float[] y) {
        p = Conv (x, W)  c = Div (k, p)  y = BatchNormalization (c, g, be, m, v) }"""
    before = model(text, W=weights(4, 3, 1), k=weights(4, 1), **norm(4))
    refusal(before, "blocked", "Div")
    a, s = (v.reshape(4, 1, 1) for v in scale_and_shift(norm(4)))
    wrong = model(text.replace("c = Div (k, p)", "c = Identity (p)").replace("BatchNormalization (c, g, be, m, v)",
                  "Div (k, c)"), W=(weights(4, 3, 1) * a).astype(np.float32), k=weights(4, 1))  # fmt: skip
    assert clearly_wrong(before, wrong, inputs(before), 4)
    assert np.any(s)


def test_a_factor_takes_no_shift_where_nothing_before_it_does() -> None:
    text = "(float[2,4,3] x) => (float[] y) { r = Relu (x)  c = Mul (r, k)  y = BatchNormalization (c, g, be, m, v) }"
    before = model(text, k=weights(4, 1), **norm(4))
    refusal(before, "shift-stays", "Relu", index=1)
    a, _ = scale_and_shift(norm(4))
    scaled = model(text.replace("BatchNormalization (c, g, be, m, v)", "Identity (c)"),
                   k=(weights(4, 1) * a.reshape(4, 1)).astype(np.float32))  # fmt: skip
    assert clearly_wrong(before, scaled, inputs(before))


def test_a_divisor_of_zero_gives_nothing_finite_to_fold() -> None:
    k = weights(4, 1, 1)
    k[2] = 0
    before = model(CONV.format(op="Div"), W=weights(C, 3, 1, 1), b=weights(C), k=k)
    refusal(before, "not-finite", op="Div")
    (y,) = run(before, inputs(before))
    assert not np.any(np.isfinite(y[:, 2]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_a_constant_that_is_not_finite_stays_where_it_is(op: str, bad: float) -> None:
    k = weights(4, 1, 1)
    k[1] = bad
    before = model(CONV.format(op=op), W=weights(C, 3, 1, 1), b=weights(C), k=k)
    refusal(before, "not-finite", op=op)
    (y,) = run(before, inputs(before))
    assert np.all(np.isfinite(y[:, [0, 2, 3]]))
    assert not np.all(np.isfinite(y[:, 1]))


@pytest.mark.parametrize(("op", "size"), [("Mul", 300.0), ("Add", 6e4)])
def test_a_constant_of_half_precision_that_would_overflow_takes_nothing(op: str, size: float) -> None:
    text = f"(float16[2,4,3] x) => (float16[] y) {{ r = Tanh (x)  c = {op} (r, k)  y = {op} (c, q) }}"
    held = {name: np.full((4, 1), size, np.float16) for name in ("k", "q")}
    before = model(text, **held)
    refusal(before, *(("blocked", "Tanh") if op == "Mul" else ("overflow", "Add")), index=1, op=op)
    together = size * size if op == "Mul" else size + size
    assert together > float(np.finfo(np.float16).max)
    near_miss = model(text, **{name: np.full((4, 1), 200.0, np.float16) for name in ("k", "q")})
    assert fold(near_miss).ops == ["Tanh", op]


def test_a_factor_of_half_precision_that_would_become_zero_takes_nothing() -> None:
    text = "(float16[2,4,3] x) => (float16[] y) { r = Tanh (x)  c = Mul (r, k)  y = Mul (c, q) }"
    before = model(text, k=np.full((4, 1), 1e-4, np.float16), q=np.full((4, 1), 1e-4, np.float16))
    refusal(before, "blocked", "Tanh", index=1, op="Mul")
    assert np.float16(1e-4) * np.float16(1e-4) == 0
    near_miss = model(text, k=np.full((4, 1), 0.1, np.float16), q=np.full((4, 1), 0.1, np.float16))
    assert fold(near_miss).ops == ["Tanh", "Mul"]


# --- not constant, not of this graph, not free ----------------------------------------------------------------------


def test_a_constant_that_a_caller_may_replace_is_none() -> None:
    text = CONV.format(op="Mul").replace("x) =>", "x, float[4,1,1] k) =>")
    before = model(text, W=weights(C, 3, 1, 1), b=weights(C), k=weights(C, 1, 1))
    plan = plan_of(before)
    assert (plan.moves, plan.refusals) == ((), ())
    other = inputs(before) | {"k": weights(C, 1, 1, seed=9)}
    assert clearly_wrong(before, of_channels_with_input("Mul", weights(C, 1, 1)), other, 4)


def of_channels_with_input(op: str, k: Array) -> onnx.ModelProto:
    """The fold by the default, which still declares the input and no longer hears it."""
    wrong = of_channels(op, k)
    wrong.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [C, 1, 1]))
    return wrong


def test_a_norm_behind_a_factor_that_a_caller_may_replace_stays() -> None:
    text = """(float[2,3,4] x, float[4,1] k) => (float[] y) {
        p = Conv (x, W)  c = Mul (p, k)  y = BatchNormalization (c, g, be, m, v) }"""
    before = model(text, W=weights(C, 3, 1), k=weights(C, 1), **norm(4))
    refusal(before, "overridable", "Mul")


def test_a_sparse_constant_is_not_written_dense() -> None:
    before = model(CONV.format(op="Mul"), W=weights(C, 3, 1, 1), b=weights(C))
    values = helper.make_tensor("k", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("at", TensorProto.INT64, [2], [1, 3])
    before.graph.sparse_initializer.append(SparseTensorProto(values=values, indices=indices, dims=[C, 1, 1]))
    assert plan_of(before).moves == ()
    assert "k" not in constants(before)


@pytest.mark.parametrize("op", ["Mul", "Add", "Neg"])
def test_a_value_that_is_read_elsewhere_holds_a_hand_written_affine_back_too(op: str) -> None:
    reads = "c" if op == "Neg" else "c, k"
    text = f"(float[2,3,4] x) => (float[] y, float[] z) {{ c = Conv (x, W)  z = Relu (c)  y = {op} ({reads}) }}"
    before = model(text, W=weights(C, 3, 1), k=weights(C, 1))
    refusal(before, "other-readers", "Relu", op=op)
    output = model(
        text.replace("z = Relu (c)", "").replace("float[] z", "float[] c"), W=weights(C, 3, 1), k=weights(C, 1)
    )
    refusal(output, "graph-output", "Conv", op=op)


BODIES = {
    "If": """(float[2,3,4] x, bool p) => (float[] y, float[] z) {{
        c = Conv (x, W)  y = Mul (c, k)
        z = If (p) <then_branch = t () => (float[] q) {{ q = Relu (c) }},
                    else_branch = e () => (float[] r) {{ r = Identity (x) }}> }}""",
    "Loop": """(float[2,3,4] x, bool p) => (float[] y, float[] z) {{
        c = Conv (x, W)  y = Mul (c, k)
        z = Loop (two, p, x) <body = b (int64 i, bool go, float[2,3,4] s) => (bool more, float[2,3,4] r) {{
            more = Identity (go)  e = ReduceMax (c)  r = Add (s, e) }}> }}""",
    "Scan": """(float[2,3,4] x, bool p) => (float[] y, float[] z) {{
        c = Conv (x, W)  y = Mul (c, k)
        z = Scan (x) <num_scan_inputs = 1, body = b (float[3,4] s) => (float[3,4] r) {{
            e = ReduceMax <keepdims = 0> (c)  r = Add (s, e) }}> }}""",
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("op", ["Mul", "BatchNormalization"])
def test_a_value_that_a_nested_graph_captures_is_not_changed(body: str, op: str) -> None:
    text = BODIES[body].format()
    if op == "BatchNormalization":
        text = text.replace("Mul (c, k)", "BatchNormalization (c, g, be, m, v)")
    before = model(text, W=weights(C, 3, 1), k=weights(C, 1), two=np.array(2), **norm(4))
    found = refusal(before, "outer-scope", {"If": "Relu"}.get(body, "ReduceMax"), op=op)
    assert "nested" in found.detail
    scaled = onnx.ModelProto()
    scaled.CopyFrom(before)
    scaled.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights(C, 3, 1) * 3, "W"))
    ours, theirs = (run(proto, inputs(before))[1] for proto in (before, scaled))
    assert np.abs(ours - theirs).max() > 0.1


def test_before_opset_7_a_constant_takes_no_further_axes() -> None:
    """There a constant broadcasts by an attribute, which says nothing of axes that the constant does not have."""
    text = """(float[2,4,3] x, float[1] k, float[4] q) => (float[2,4,3] y) {
        r = Relu (x)  c = OP <broadcast = 1> (r, k)  y = OP <broadcast = 1, axis = 1> (c, q) }"""
    before = model(text.replace("OP", "Add"), opset=6, ir=3, k=weights(1), q=weights(4))
    assert "opset 7" in refusal(before, "axis-not-owned", "Add", index=1, op="Add").detail
    assert np.broadcast_shapes((1,), (4, 1)) == (4, 1)  # and (4, 1) needs axis = 1 beside it
    near_miss = model(text.replace("OP", "Add").replace("[4] q", "[1] q"), opset=6, ir=3, k=weights(1), q=weights(1))
    near_miss.graph.node[2].attribute[1].i = 2
    assert len(plan_of(near_miss).moves) == 1


def test_with_bn_only_what_is_written_by_hand_stays_and_still_takes_what_comes_behind_it() -> None:
    text = """(float[2,3,4] x) => (float[] y) {
        p = Conv (x, W)  t = Mul (p, k)  c = Add (t, e)  y = BatchNormalization (c, g, be, m, v) }"""
    before = model(text, W=weights(C, 3, 1), k=weights(C, 1), e=weights(C, 1, seed=2), **norm(4))
    done = fold(before, bn_only=True)
    assert done.ops == ["Conv", "Mul", "Add"]
    assert [r.reason.code for r in done.plan.refusals] == ["skipped", "skipped"]
    assert bounds_off(before, done.proto, inputs(before), 5) <= 1
    assert fold(before).ops == ["Conv"]


@pytest.mark.parametrize(
    ("line", "ops", "code"),
    [
        ("p = MatMul (x, W)  q = Add (p, k)  y = Sub (q, k)", ["MatMul", "Add", "Sub"], "no-gain"),
        ("p = Relu (x)  q = Mul (p, k)  y = Div (q, k)", ["Relu", "Mul", "Div"], "negative-scale"),
    ],
)
def test_two_constants_that_cancel_leave_no_node_that_does_nothing(line: str, ops: list[str], code: str) -> None:
    """A node that adds zero would go in the next fold: folding twice has to be folding once."""
    before = model(f"(float[2,4] x) => (float[] y) {{ {line} }}", W=weights(4, 4), k=weights(4, seed=1))
    once = fold(before)
    assert once.ops == ops
    assert once.plan.refusals[-1].reason.code == code
    assert fold(once.proto).bytes == once.bytes
    other = model(f"(float[2,4] x) => (float[] y) {{ {line} }}".replace("(q, k)", "(q, l)"),
                  W=weights(4, 4), k=weights(4, seed=1), l=weights(4, seed=2))  # fmt: skip
    assert fold(other).ops == ops[:2]
