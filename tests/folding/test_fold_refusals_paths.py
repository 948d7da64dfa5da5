"""A value that something else depends on, or an operator that lets nothing pass, holds an affine back; and why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_support import (
    assert_same_function,
    cannot_run,
    clearly_wrong,
    fold,
    folded,
    inputs,
    model,
    naive,
    norm,
    plan_of,
    refusal,
    run,
    weights,
)

W = weights(4, 3, 3, 3)
HEAD = "(float[2,3,5,5] x) => (float[] y)"
NORM = "BatchNormalization (c, g, be, m, v)"


def wrong_if_folded(before: onnx.ModelProto, code: str, blamed: str | None, fan_in: int = 27) -> str:
    """Refused, and the fold regardless of that is clearly another function. Gives the detail."""
    found = refusal(before, code, blamed)
    assert clearly_wrong(before, naive(before), inputs(before), fan_in)
    return found.detail


# --- who else reads -------------------------------------------------------------------------------------------------


def test_another_reader_would_see_the_changed_value() -> None:
    before = model(f"{HEAD} {{ c = Conv (x, W)  n = {NORM}  y = Add (n, c) }}", W=W, **norm(4))
    assert wrong_if_folded(before, "other-readers", "Add") == "'c' has 2 readers"


def test_another_output_would_see_the_changed_value() -> None:
    text = f"(float[2,3,5,5] x) => (float[] y, float[] r) {{ c = Conv (x, W)  y = {NORM}  r = Relu (c) }}"
    assert wrong_if_folded(model(text, W=W, **norm(4)), "other-readers", "Relu") == "'c' has 2 readers"
    only_shape = model(text.replace("Relu", "Shape").replace("float[] r", "int64[] r"), W=W, **norm(4))
    after = folded(only_shape)
    assert after.ops == ["Conv", "Shape"]
    assert after.proto.graph.node[1].input == ["y"]
    assert all(np.array_equal(*pair) for pair in [(f(only_shape)[1], f(after.proto)[1]) for f in (on_inputs,)])


def on_inputs(proto: onnx.ModelProto) -> list[np.ndarray]:
    return run(proto, inputs(proto))


def test_two_norms_after_one_convolution_are_each_other_s_readers() -> None:
    text = f"""{HEAD} {{ c = Conv (x, W)  n = {NORM}
               k = BatchNormalization (c, hg, hbe, hm, hv)  y = Sub (n, k) }}"""
    before = model(text, W=W, **norm(4), **norm(4, "h", seed=7))
    assert [r.reason.code for r in plan_of(before).refusals] == ["other-readers"] * 2
    assert clearly_wrong(before, naive(before, norm_at=0), inputs(before), 27)


def test_a_node_that_reads_a_value_twice_is_another_reader_of_it() -> None:
    """Dropout passes what it reads as data; what it reads as its ratio would change under it."""
    text = (
        "(float[2,3] x) => (float[] y) { p = Gemm (x, W)  c = Dropout (p, p)  y = BatchNormalization (c, g, be, m, v) }"
    )
    found = refusal(model(text, W=weights(3, 4), **norm(4)), "other-readers", "Dropout")
    assert found.detail == "'p' has 2 readers"
    near_miss = model(text.replace("(p, p)", "(p)"), W=weights(3, 4), **norm(4))
    assert_same_function(near_miss, folded(near_miss).proto, inputs(near_miss), 3)


def test_a_square_is_not_scaled_by_scaling_its_root() -> None:
    text = "(float[2,3] x) => (float[] y) { p = Gemm (x, W)  c = Mul (p, p)  y = BatchNormalization (c, g, be, m, v) }"
    wrong_if_folded(model(text, W=weights(3, 4), **norm(4)), "shift-stays", "Mul", 3)


def test_a_norm_that_reads_one_value_as_data_and_as_parameter_stays() -> None:
    text = "(float[4,3] x) => (float[] y) { p = Gemm (x, W)  y = BatchNormalization (p, p, be, m, v) }"
    before = model(text, W=weights(3, 4), **norm(4))
    assert refusal(before, "not-constant").detail.startswith("scale: ")


def test_an_output_in_the_middle_is_promised_to_the_caller() -> None:
    before = model(HEAD.replace("y)", "y, float[] c)") + f" {{ c = Conv (x, W)  y = {NORM} }}", W=W, **norm(4))
    assert wrong_if_folded(before, "graph-output", "Conv") == "'c' is an output of the graph"


def test_an_output_on_the_way_through_a_layout_is_promised_to_the_caller() -> None:
    text = f"""(float[2,3,5,5] x) => (float[] y, float[] t) {{ c = Conv (x, W)
               t = Transpose <perm = [0, 1, 3, 2]> (c)  y = {NORM.replace("(c", "(t")} }}"""
    assert wrong_if_folded(model(text, W=W, **norm(4)), "graph-output", "Transpose") == "'t' is an output of the graph"


@pytest.mark.parametrize("op", ["Shape", "Size"])
def test_who_looks_only_at_the_shape_is_no_reader_and_is_shown_the_new_value(op: str) -> None:
    text = f"""(float[2,3,5,5] x) => (float[] y, int64[] s) {{ c = Conv (x, W)  t = Transpose (c)  s = {op} (c)
               u = Transpose (t)  y = BatchNormalization (u, g, be, m, v) }}"""
    before = model(text, W=W, **norm(4))
    after = folded(before)
    assert after.proto.graph.node[2].input == ["c_folded"]
    feeds = inputs(before)
    assert np.array_equal(run(before, feeds)[1], run(after.proto, feeds)[1])


# --- other graphs ---------------------------------------------------------------------------------------------------

BRANCH = """(float[2,3,5,5] x, bool k) => (float[] y) {
    c = Conv (x, W)  n = %s
    y = If (k) <then_branch = t () => (float[] p) { p = %s (n) }, else_branch = e () => (float[] q) { q = %s (%s) }>
}"""


def test_a_nested_graph_that_reads_the_value_would_see_it_changed() -> None:
    before = model(BRANCH % (NORM, "Identity", "Identity", "c"), W=W, **norm(4))
    found = refusal(before, "outer-scope", "Identity")
    assert found.detail == "'c' is read in a nested graph"
    feeds = inputs(before) | {"k": np.array(False)}
    ours, theirs = run(before, feeds)[0], run(naive(before), feeds)[0]
    assert np.abs(ours - theirs).max() > 1
    near_miss = model(BRANCH % (NORM, "Identity", "Relu", "n"), W=W, **norm(4))
    assert [m.site.op for m in folded(near_miss).plan.moves] == ["BatchNormalization"]


def test_a_nested_graph_that_looks_at_the_shape_is_shown_the_new_value() -> None:
    text = BRANCH.replace("q = %s (%s)", "h = Shape (c)  q = ConstantOfShape (h)") % (NORM, "Identity")
    before = model(text, W=W, **norm(4))
    after = folded(before)
    assert after.proto.graph.node[1].attribute[1].g.node[0].input == ["n"]
    for answer in (True, False):
        feeds = inputs(before) | {"k": np.array(answer)}
        assert run(after.proto, feeds)[0].shape == run(before, feeds)[0].shape


def test_a_norm_in_a_branch_does_not_settle_outside_it() -> None:
    text = """(float[2,3,5,5] x, bool k) => (float[] y) { c = Conv (x, W)
        y = If (k) <then_branch = t () => (float[] p) { p = BatchNormalization (c, g, be, m, v) },
                    else_branch = e () => (float[] q) { q = Identity (c) }> }"""
    before = model(text, W=W, **norm(4))
    found = refusal(before, "outer-scope", "Conv")
    assert found.site.scope.startswith("If#1")
    outside = model(f"{HEAD} {{ c = Conv (x, W)  y = {NORM} }}", W=W, **norm(4))
    feeds = inputs(before)
    off = run(before, feeds | {"k": np.array(False)})[0]  # the branch that a fold outside would have changed
    assert np.abs(off - run(outside, {"x": feeds["x"]})[0]).max() > 1


# --- nothing before, or nothing that lets pass ----------------------------------------------------------------------


def test_a_norm_of_the_input_has_no_home() -> None:
    before = model(f"(float[2,4,5,5] c) => (float[] y) {{ y = {NORM} }}", **norm(4))
    assert refusal(before, "no-home").detail == "'c' is no node's output"
    (y,) = run(before, inputs(before))
    assert np.abs(y - inputs(before)["c"]).max() > 1  # it cannot simply go


def test_a_norm_of_a_further_output_has_no_home() -> None:
    text = """(float[2,8,5,5] x) => (float[] y) { a, c = TopK <axis = 1> (x, four)
              f = Cast <to = 1> (c)  d, t = Dropout (f)  u = Cast <to = 1> (t)
              y = BatchNormalization (u, g, be, m, v) }"""
    refusal(model(text, opset=13, four=[4], **norm(4)), "blocked", "Cast")


def test_a_norm_of_a_part_of_an_input_has_no_home() -> None:
    text = """(float[2,8,5,5] x) => (float[] y) { a, c = Split <axis = 1> (x, halves)
              y = BatchNormalization (c, g, be, m, v) }"""
    found = refusal(model(text, opset=13, halves=[4, 4], **norm(4)), "no-home")
    assert found.detail == "'x' is no node's output"


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "Softsign", "HardSwish", "Softplus"])
def test_no_nonlinear_function_is_passed(op: str) -> None:
    before = model(f"{HEAD} {{ r = Conv (x, W)  c = {op} (r)  y = {NORM} }}", W=W, **norm(4))
    assert wrong_if_folded(before, "blocked", op) == f"{op} lets no per-channel affine pass"


def test_no_sum_with_an_input_is_passed_as_if_its_other_value_were_all() -> None:
    before = model("""(float[2,3,7,7] x, float[2,4,5,5] z) => (float[] y) {
        r = Conv (x, W)  c = Add (r, z)  y = BatchNormalization (c, g, be, m, v) }""", W=W, **norm(4))  # fmt: skip
    assert refusal(before, "no-home").detail == "'z' is no node's output"


def test_an_operator_of_another_domain_is_not_the_one_it_is_named_like() -> None:
    text = f"{HEAD} {{ c = other.Conv (x, W)  y = {NORM} }}"
    found = refusal(model(text, imports=', "other" : 1', W=W, **norm(4)), "blocked", "other.Conv")
    assert "other.Conv" in found.detail


def test_a_function_named_like_an_operator_is_not_that_operator() -> None:
    """A model may define its own Conv; here it squares what the real one gives."""
    before = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
        g (float[2,3,5,5] x) => (float[] y) {{ c = own.Conv (x, W)  y = {NORM} }}
        <domain: "own", opset_import: ["" : 17]> Conv (p, w) => (q) {{ r = Conv (p, w)  q = Mul (r, r) }}""")
    plain = model(f"{HEAD} {{ c = Conv (x, W)  y = {NORM} }}", W=W, **norm(4))
    before.graph.initializer.extend(plain.graph.initializer)
    refusal(before, "function-call", "function own.Conv")
    feeds = inputs(before)
    assert np.abs(run(before, feeds)[0] - run(folded(plain).proto, feeds)[0]).max() > 1


# --- another axis ---------------------------------------------------------------------------------------------------


def test_channels_that_are_pixels_belong_to_no_weight() -> None:
    text = f"{HEAD} {{ r = Conv (x, W)  c = Transpose <perm = [0, 2, 1, 3]> (r)  y = {NORM} }}"
    before = model(text.replace("[2,3,5,5]", "[2,3,6,5]"), W=W, **norm(4))
    assert "(1, 1, 4, 1)" in wrong_if_folded(before, "axis-not-owned", "Conv")


def test_flatten_after_a_convolution_gives_each_pixel_a_channel() -> None:
    before = model(f"{HEAD} {{ r = Conv (x, W)  c = Flatten (r)  y = {NORM} }}", W=W, **norm(36))
    refusal(before, "axis-not-owned", "Conv")
    a = norm(36)["g"] / np.sqrt(norm(36)["v"])
    assert np.ptp(a.reshape(4, 9), axis=1).min() > 1  # one weight per channel, nine scales
    one_pixel = model(
        f"{HEAD} {{ r = Conv (x, W)  c = Flatten (r)  y = {NORM} }}".replace("5,5", "3,3"), W=W, **norm(4)
    )
    assert_same_function(one_pixel, folded(one_pixel).proto, inputs(one_pixel), 27)


def test_flatten_with_the_same_parameters_for_each_pixel_folds() -> None:
    each = {k: p.repeat(9) for k, p in norm(4).items()}
    before = model(f"{HEAD} {{ r = Conv (x, W)  c = Flatten (r)  y = {NORM} }}", W=W, **each)
    after = folded(before)
    assert after.ops == ["Conv", "Flatten"]
    assert_same_function(before, after.proto, inputs(before), 27)


def test_rows_of_a_gemm_are_not_its_columns() -> None:
    text = (
        "(float[4,3] x) => (float[] y) { p = Gemm (x, W)  c = Transpose (p)  y = BatchNormalization (c, g, be, m, v) }"
    )
    before = model(text, W=weights(3, 4), **norm(4))
    wrong_if_folded(before, "axis-not-owned", "Gemm", 3)


@pytest.mark.parametrize(
    ("to", "x", "channels"),
    [([2, -1, 3], "[N,3]", None), ([-1, 2, 4], "[N,3]", 2), ([6, -1], "[N,3]", None), ([-1, 6], "[N,3]", 6)],
)
def test_a_reshape_that_mixes_channels_with_rows_of_unknown_number_is_not_passed(
    to: list[int], x: str, channels: int | None
) -> None:
    text = f"(float{x} x) => (float[] y) {{ p = Gemm (x, W)  c = Reshape (p, to)  y = {NORM} }}"
    before = model(text, W=weights(3, 4), to=to, **norm(channels or 2))
    assert plan_of(before).moves == ()
    (found,) = plan_of(before).refusals
    assert found.reason.code == "layout-lost"
    assert found.detail
    if channels is None:
        return
    rows = 6
    (p,) = run(model("(float[N,3] x) => (float[] p) { p = Gemm (x, W) }", W=weights(3, 4)), inputs(before, N=rows))
    where = np.broadcast_to(np.arange(4), p.shape).reshape(to)
    meets = [set(np.moveaxis(where, 1, 0)[k].ravel().tolist()) for k in range(where.shape[1])]
    assert any(len(weights_met) > 1 for weights_met in meets) or len(meets) != 4


def test_known_rows_are_no_help_where_they_mix_and_are_where_they_do_not() -> None:
    text = f"(float[6,3] x) => (float[] y) {{ p = Gemm (x, W)  c = Reshape (p, to)  y = {NORM} }}"
    mixed = model(text, W=weights(3, 4), to=[2, 3, 4], **norm(3))
    wrong_rows = refusal(mixed, "axis-not-owned", "Gemm")
    assert "axis 1" in wrong_rows.detail
    kept = model(text, W=weights(3, 4), to=[6, 4, 1], **norm(4))
    assert_same_function(kept, folded(kept).proto, inputs(kept), 3)


def test_a_zero_that_means_zero_copies_no_dimension() -> None:
    """With allowzero the result is empty, and there is no model for two rows; without, 0 copies their number."""
    text = f"(float[N,3] x) => (float[] y) {{ p = Gemm (x, W)  c = Reshape <allowzero = 1> (p, to)  y = {NORM} }}"
    before = model(text, W=weights(3, 4), to=[0, 4], **norm(4))
    refusal(before, "layout-lost", "Reshape")
    assert cannot_run(before, inputs(before, N=2))
    near_miss = model(text.replace("<allowzero = 1>", ""), W=weights(3, 4), to=[0, 4], **norm(4))
    assert_same_function(near_miss, folded(near_miss).proto, inputs(near_miss, N=2), 3)


def test_a_shape_that_the_caller_feeds_is_not_known() -> None:
    text = f"(float[6,3] x, int64[2] to) => (float[] y) {{ p = Gemm (x, W)  c = Reshape (p, to)  y = {NORM} }}"
    before = model(text, W=weights(3, 4), **norm(4))
    assert [r.reason.code for r in plan_of(before).refusals] == ["layout-lost"]
    x = inputs(before)["x"]
    other = {"x": x, "to": np.array([6, 4])}
    assert clearly_wrong(before, naive(before), other, 3) is False  # with (6, 4) a fold would be right,
    assert np.prod([3, 8]) == np.prod([6, 4])  # and with (3, 8) there would be 8 channels


def test_axes_that_the_caller_feeds_are_not_known() -> None:
    text = f"(float[1,3,1,1] x, int64[1] a) => (float[1,4,1] y) {{ p = Conv (x, W)  c = Squeeze (p, a)  y = {NORM} }}"
    before = model(text, W=weights(4, 3, 1, 1), **norm(4))
    assert plan_of(before).moves == ()
    near_miss = model(text.replace("x, int64[1] a)", "x)"), W=weights(4, 3, 1, 1), a=[3], **norm(4))
    assert fold(near_miss).ops == ["Conv", "Squeeze"]
