"""What pools, pads, rectifiers, joins and parts do not let pass, why, and what is nearly the same and folds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_support import (
    assert_same_function,
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
POSITIVE = norm(4) | {"g": np.abs(norm(4)["g"])}
SCALE = POSITIVE | {"be": np.zeros(4, np.float32), "m": np.zeros(4, np.float32)}
NEGATIVE = SCALE | {"g": -SCALE["g"]}
SCALES = np.array([1, 1, 2, 2], np.float32)
PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1])


def behind(line: str, parameters: dict[str, np.ndarray], opset: int = 17, **held: object) -> onnx.ModelProto:
    text = (
        f"(float[2,3,6,6] x) => (float[] y) {{ c = Conv (x, W)  p = {line}  y = BatchNormalization (p, g, be, m, v) }}"
    )
    return model(text, opset=opset, W=W, **held, **parameters)


CROP = 'Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (c, roi, scales)'
COUNTED = "AveragePool <kernel_shape = [2, 2], count_include_pad = 1{}> (c)"
CASES = {  # the line, what does not pass and the code, and what nearly the same does
    "Relu, a shift": (("Relu (c)", POSITIVE), "shift-stays", ("Relu (c)", SCALE)),
    "Relu, a negative scale": (("Relu (c)", NEGATIVE), "negative-scale", ("Identity (c)", NEGATIVE)),
    "LeakyRelu, a shift": (("LeakyRelu (c)", POSITIVE), "shift-stays", ("LeakyRelu (c)", SCALE)),
    "Abs, a negative scale": (("Abs (c)", NEGATIVE), "negative-scale", ("Abs (c)", SCALE)),
    "AveragePool, counted pads": (
        (COUNTED.format(", pads = [1, 1, 1, 1]"), POSITIVE), "padding", (COUNTED.format(", pads = [1, 1, 1, 1]"), SCALE)
    ),
    "AveragePool, counted pads of SAME": (
        (COUNTED.format(', auto_pad = "SAME_UPPER"'), POSITIVE), "padding",
        (COUNTED.format(', auto_pad = "SAME_UPPER", strides = [2, 2]'), POSITIVE),
    ),
    "AveragePool, a counted place beyond the end": (
        (COUNTED.format(', auto_pad = "SAME_LOWER", strides = [3, 3]'), POSITIVE), "padding",
        (COUNTED.format(", strides = [2, 2], ceil_mode = 1"), POSITIVE),
    ),
    "MaxPool, a negative scale": (
        ("MaxPool <kernel_shape = [2, 2]> (c)", NEGATIVE), "negative-scale",
        ("AveragePool <kernel_shape = [2, 2]> (c)", NEGATIVE),
    ),
    "GlobalMaxPool, a negative scale": (
        ("GlobalMaxPool (c)", NEGATIVE), "negative-scale", ("GlobalMaxPool (c)", POSITIVE)
    ),
    "LpPool, a shift": (
        ("LpPool <kernel_shape = [2, 2]> (c)", POSITIVE), "shift-stays", ("LpPool <kernel_shape = [2, 2]> (c)", SCALE)
    ),
    "ReduceMin, a negative scale": (
        ("ReduceMin <axes = [2, 3]> (c)", NEGATIVE), "negative-scale", ("ReduceMean <axes = [2, 3]> (c)", NEGATIVE)
    ),
    "ReduceL1, a shift": (("ReduceL1 <axes = [3]> (c)", POSITIVE), "shift-stays", ("ReduceL1 <axes = [3]> (c)", SCALE)),
    "ReduceL2, a negative scale": (
        ("ReduceL2 <axes = [3]> (c)", NEGATIVE), "negative-scale", ("ReduceL2 <axes = [3]> (c)", SCALE)
    ),
    "Pad, a shift": (("Pad (c, pads)", POSITIVE), "padding", ('Pad <mode = "edge"> (c, pads)', POSITIVE)),
    "Clip, a bound": (("Clip (c, one)", POSITIVE), "blocked", ("Clip (c)", POSITIVE)),
    "Resize, a crop with a shift": ((CROP, POSITIVE), "padding", (CROP, SCALE)),
    "Pad, another number": (("Pad (c, pads, one)", SCALE), "padding", ("Pad (c, pads)", SCALE)),
    "Resize, a crop": (
        ('Resize <coordinate_transformation_mode = "tf_crop_and_resize", extrapolation_value = 9.0> (c, roi, scales)',
         SCALE),
        "padding", ("Resize (c, roi, scales)", SCALE),
    ),
}  # fmt: skip
HELD = {
    "pads": PADS,
    "both": np.array([0, 0, 1, -1, 0, 0, -1, 0]),
    "cuts": np.array([0, 0, 0, -1, 0, 0, -1, 0]),
    "one": np.float32(1).reshape(()),
    "scales": SCALES,
    "roi": np.array([0, 0, 0, 0, 1, 1, 2, 2], np.float32),
}


def held(line: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in HELD.items() if f", {name}" in line}


@pytest.mark.parametrize(("line", "parameters"), [("Pad (c, both)", POSITIVE), ("Pad (c, both, one)", SCALE)])
def test_what_is_cut_passes_and_what_is_padded_besides_does_not(line: str, parameters: dict[str, np.ndarray]) -> None:
    before = behind(line, parameters, **held(line))
    refusal(before, "padding", "Pad")
    assert clearly_wrong(before, naive(before), inputs(before), 27)
    passes = behind(
        line.replace("both", "cuts"), NEGATIVE | {"be": POSITIVE["be"]}, **held(line.replace("both", "cuts"))
    )
    assert_same_function(passes, folded(passes).proto, inputs(passes), 27 * 36)


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_pass_would_be_another_function(case: str) -> None:
    (line, parameters), code, near = CASES[case]
    before = behind(line, parameters, **held(line))
    refusal(before, code, line.split()[0])
    assert clearly_wrong(before, naive(before), inputs(before), 27)
    passes = behind(near[0], near[1], **held(near[0]))
    assert_same_function(passes, folded(passes).proto, inputs(passes), 27 * 36)


def test_a_sum_of_nothing_and_a_sum_of_an_unknown_number() -> None:
    text = """(float[2,3,H,6] x) => (float[] y) {
        c = Conv (x, W)  p = ReduceSum (c, axes)  y = BatchNormalization (p, g, be, m, v) }"""
    unknown = model(text, W=W, axes=[2], **POSITIVE)
    assert "unknown number" in refusal(unknown, "layout-lost", "ReduceSum").detail
    assert clearly_wrong(unknown, naive(unknown), inputs(unknown, H=6), 27)
    known = model(text, W=W, axes=[3], **POSITIVE)
    assert_same_function(known, folded(known).proto, inputs(known, H=6), 27 * 6)
    empty = text.replace("2,3,H,6", "2,3,0,6")
    refusal(model(empty, W=weights(4, 3, 1, 1), axes=[2], **POSITIVE), "shift-stays", "ReduceSum")
    folded(model(empty, W=weights(4, 3, 1, 1), axes=[2], **SCALE))


def test_a_window_that_ends_outside_counts_what_is_there() -> None:
    """onnxruntime divides by the whole window, of which a part holds nothing: no shift passes."""
    line = COUNTED.format(", strides = [2, 2], ceil_mode = 1, kernel_shape = [3, 3]").replace(
        "kernel_shape = [2, 2], ", ""
    )
    before = behind(line, POSITIVE)
    refusal(before, "padding", "AveragePool")
    folded(behind(line, SCALE))


@pytest.mark.parametrize(("how", "said"), [('auto_pad = "SAME_UPPER"', "SAME_UPPER"), ("ceil_mode = 1", "ceil_mode=1")])
def test_whether_a_pool_counts_a_padding_may_depend_on_the_size(how: str, said: str) -> None:
    """Where a window hangs over, versions of onnxruntime divide by other numbers: only SAME is shown to be wrong."""
    line = COUNTED.format(f", strides = [2, 2], {how}")
    unknown = behind(line, POSITIVE)
    unknown.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "M"
    refused = refusal(unknown, "padding-unknown", "AveragePool")
    assert said in refused.detail
    assert "SAME" not in how or clearly_wrong(unknown, naive(unknown), inputs(unknown, M=5), 27)
    even = behind(line, POSITIVE)
    assert_same_function(even, folded(even).proto, inputs(even), 27 * 36)


RESIZES = {
    "a number that stays by rounding": ('Resize <mode = "linear"> (c, , scales)', np.array([1, 1.2, 1, 1], np.float32)),
    "a size that stays by an aspect": (
        'Resize <mode = "linear", keep_aspect_ratio_policy = "not_larger"> (c, , , scales)', np.array([3, 5, 11, 11])
    ),
    "a half place further": (
        'Resize <mode = "linear", coordinate_transformation_mode = "tf_half_pixel_for_nn"> (c, none, scales)', SCALES
    ),
    "more channels": ("Resize (c, , scales)", np.array([1, 1, 1, 1], np.float32) * 2),
}  # fmt: skip


@pytest.mark.parametrize("case", RESIZES)
def test_channels_that_may_be_resized_hold_an_affine_back(case: str) -> None:
    line, scales = RESIZES[case]
    opset = 11 if "none" in line else 18
    extra = {"none": np.zeros(0, np.float32)} if "none" in line else {}
    text = f"(float[2,3,12,12] x) => (float[] y) {{ c = Conv (x, W)  p = {line}  y = Mul (p, k) }}"
    channels = 8 if case == "more channels" else 4
    before = model(text, opset=opset, W=W, k=weights(channels, 1, 1), scales=scales, **extra)
    assert "may be resized" in refusal(before, "layout-lost", "Resize", op="Mul").detail
    same = SCALES if scales.dtype.kind == "f" else np.array([2, 4, 12, 12])
    line = line.replace("not_larger", "stretch").replace("tf_half_pixel_for_nn", "half_pixel")
    text = f"(float[2,3,12,12] x) => (float[] y) {{ c = Conv (x, W)  p = {line}  y = Mul (p, k) }}"
    after = model(text, opset=opset, W=W, k=weights(4, 1, 1), scales=same, **extra)
    assert_same_function(after, folded(after).proto, inputs(after), 27)


def test_what_says_where_the_largest_is_holds_a_scale_of_zero_back() -> None:
    text = """(float[2,3,6,6] x) => (float[] y, int64[] i) {
        c = Conv (x, W)  p, i = MaxPool <kernel_shape = [2, 2]> (c)  y = BatchNormalization (p, g, be, m, v) }"""
    before = model(text, W=W, **(POSITIVE | {"g": np.zeros(4, np.float32)}))
    refusal(before, "several-ways", "MaxPool")
    wrong = naive(before)
    assert not np.array_equal(run(before, inputs(before))[1], run(wrong, inputs(before))[1])
    folded(model(text.replace(", int64[] i", "").replace("p, i", "p"), W=W, **POSITIVE))


def test_a_cast_that_rounds_holds_back() -> None:
    text = """(float[2,3,6,6] x) => (float16[] y) {{
        c = Conv (x, W)  p = Cast <to = {}> (c)  q = Mul (p, k)  y = Cast <to = 10> (q) }}"""
    half = model(text.format(10), W=W, k=weights(4, 1, 1, dtype=np.float16))
    refusal(half, "rounded", "Cast", op="Mul")
    fold_of = fold(model(text.format(11), W=W, k=weights(4, 1, 1, dtype=np.float64)))
    assert fold_of.ops == ["Conv", "Cast", "Cast"]


# --- several values -------------------------------------------------------------------------------------------------

TWO = "(float[2,3,6,6] x) => (float[] y)"


def two(
    line: str, parameters: dict[str, np.ndarray], further: str = "", outputs: str = "", **held: object
) -> onnx.ModelProto:
    text = f"""{TWO.replace(" y)", f" y{outputs})")} {{ c = Conv (x, W)  d = Conv (x, V)  {further}  p = {line}
        y = BatchNormalization (p, g, be, m, v) }}"""
    return model(text, W=W, **({"V": weights(4, 3, 3, 3, seed=3)} | held), **parameters)


@pytest.mark.parametrize("op", ["Add", "Max", "Mul", "Concat"])
def test_a_branch_that_something_else_reads_holds_all_of_them_back(op: str) -> None:
    line = "Concat <axis = 0> (c, d)" if op == "Concat" else f"{op} (c, d)"
    parameters = SCALE if op == "Mul" else POSITIVE
    before = two(line, parameters, "r = Relu (d)", ", float[] r")
    if op == "Mul":  # which of the two bears the scale is free
        after = folded(before)
        assert_same_function(before, after.proto, inputs(before), 27 * 27)
        return
    refusal(before, "other-readers", "Relu")
    assert clearly_wrong(before, naive(before), inputs(before), 54)
    assert_same_function(two(line, parameters), folded(two(line, parameters)).proto, inputs(before), 54)


def test_a_branch_without_a_home_holds_all_of_them_back() -> None:
    before = two("Add (c, s)", POSITIVE, "s = Sigmoid (d)")
    refusal(before, "blocked", "Sigmoid")
    assert clearly_wrong(before, naive(before), inputs(before), 54)
    shift = two("Add (c, s)", POSITIVE, "s = Relu (d)")
    assert_same_function(shift, folded(shift).proto, inputs(shift), 54)


def test_a_negative_scale_does_not_go_through_a_maximum() -> None:
    before = two("Max (c, d)", NEGATIVE)
    refusal(before, "negative-scale", "Max")
    folded(two("Where (t, c, d)", NEGATIVE, t=np.array([True, False, True, False])))


def test_a_product_lets_no_shift_pass_and_a_quotient_no_scale_of_its_divisor() -> None:
    before = two("Mul (c, d)", POSITIVE)
    refusal(before, "shift-stays", "Mul")
    assert clearly_wrong(before, naive(before), inputs(before), 27 * 27)
    narrow = two("Div (s, d)", SCALE, "s = Sigmoid (c)")
    refusal(narrow, "blocked", "Sigmoid")
    folded(two("Div (c, d)", SCALE))


@pytest.mark.parametrize("line", ["Add (c, c)", "Mul (c, c)", "Concat <axis = 0> (c, c)", "Max (c, c)"])
def test_a_value_that_is_read_twice_holds_back(line: str) -> None:
    before = behind(line, SCALE)
    refusal(before, "other-readers", line.split(maxsplit=1)[0])


SPLIT = (
    "(float[2,3,6,6] x) => (float[] y{}) {{ c = Conv (x, W)  s, t = Split <axis = 1> (c, two)  {}  y = Mul (p, k) }}"
)


@pytest.mark.parametrize(
    ("line", "channels", "detail"),
    [
        ("p = Concat <axis = 1> (t, s)", 4, "two ways lead back to Split"),
        ("p = Add (s, t)", 2, "two ways lead back to Split"),
        ("p = Mul (s, t)", 2, "another output of Split is read on the way too"),
    ],
)
def test_parts_that_come_together_again_hold_back(line: str, channels: int, detail: str) -> None:
    before = model(SPLIT.format("", line), W=W, two=[2, 2], k=weights(channels, 1, 1))
    assert refusal(before, "several-ways", "Split", op="Mul").detail == detail
    gated = model(SPLIT.format("", "u = Sigmoid (t)  p = Mul (s, u)"), W=W, two=[2, 2], k=weights(2, 1, 1))
    assert_same_function(gated, folded(gated).proto, inputs(gated), 54)


def test_the_other_part_of_a_split_keeps_its_name_and_its_values() -> None:
    """Also where it is an output of the graph, and read beside what changes."""
    for line, moves in (("p = Mul (s, t)", 0), ("u = Sigmoid (t)  p = Mul (s, u)", 1), ("p = Relu (s)", 1)):
        before = model(SPLIT.format(", float[] t", line), W=W, two=[2, 2], k=np.abs(weights(2, 1, 1)))
        after = fold(before)
        assert len(after.plan.moves) == moves
        assert [entry.name for entry in after.proto.graph.output] == ["y", "t"]
        assert np.array_equal(run(before, inputs(before))[1], run(after.proto, inputs(before))[1])


def test_a_channel_that_is_taken_twice_bears_one_affine() -> None:
    line = "Gather <axis = 1> (c, places)"
    before = behind(line, POSITIVE, places=[0, 1, 1, 2])
    refusal(before, "axis-not-owned", "Gather")
    assert clearly_wrong(before, naive(before), inputs(before), 27)
    alike = {name: array[[0, 1, 1, 2]] for name, array in POSITIVE.items()}
    folded(behind(line, alike, places=[0, 1, 1, 2]))


def test_rows_of_which_others_are_read_bear_nothing_alone() -> None:
    text = """(float[2,3,6,6] x) => (float[] y, float[] r) {
        c = Conv (x, W)  p, r = AXIS (c, two)  y = BatchNormalization (p, g, be, m, v) }"""
    before = model(text.replace("AXIS", "Split <axis = 2>"), W=W, two=[2, 2], **POSITIVE)
    refusal(before, "axis-not-owned", "Conv")
    assert clearly_wrong(before, naive(before), inputs(before), 27)
    two_of_four = {name: array[:2] for name, array in POSITIVE.items()}
    folded(model(text.replace("AXIS", "Split <axis = 1>"), W=W, two=[2, 2], **two_of_four))


def test_cuts_that_are_not_known_hold_back() -> None:
    text = """(float[2,3,6,6] x, int64[1] from) => (float[] y) {
        c = Conv (x, W)  p = Slice (c, from, four, one)  y = BatchNormalization (p, g, be, m, v) }"""
    before = model(text, W=W, four=[4], one=[1], **POSITIVE)
    assert plan_of(before).refusals[0].reason.code == "layout-lost"
    known = model(text.replace(", int64[1] from", ""), W=W, four=[4], one=[1], **POSITIVE, **{"from": [0]})
    folded(known)


def test_several_layers_without_a_bias_do_not_each_get_an_add() -> None:
    text = """(float[2,5,3] x) => (float[] y) {{
        c = MatMul (x, W)  d = MatMul (x, V)  p = {}  q = Transpose <perm = [0, 2, 1]> (p)
        y = BatchNormalization (q, g, be, m, v) }}"""
    side = model(text.format("Concat <axis = 2> (c, d)"), W=weights(3, 2), V=weights(3, 2, seed=2), **POSITIVE)
    assert "would each get an Add" in refusal(side, "no-gain", "MatMul").detail
    summed = model(text.format("Add (c, d)"), W=weights(3, 4), V=weights(3, 4, seed=2), **POSITIVE)
    assert sorted(folded(summed).ops) == ["Add", "Add", "MatMul", "MatMul", "Transpose"]


def test_a_value_that_a_nested_graph_reads_holds_back() -> None:
    text = """(float[2,3,6,6] x, bool t) => (float[] y, float[] z) {
        c = Conv (x, W)  d = Conv (x, V)  p = Add (c, d)  y = BatchNormalization (p, g, be, m, v)
        z = If (t) <then_branch = a () => (float[] i) { i = Identity (d) },
                    else_branch = b () => (float[] j) { j = Relu (x) }> }"""
    before = model(text, W=W, V=weights(4, 3, 3, 3, seed=3), **POSITIVE)
    refusal(before, "outer-scope", "Identity")
    assert clearly_wrong(before, naive(before), inputs(before), 54)
