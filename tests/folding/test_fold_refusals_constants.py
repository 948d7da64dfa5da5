"""What is not constant, not finite or not whole is not folded: each refusal with what a fold would have done."""

from __future__ import annotations

import numpy as np
import pytest
from folding_support import (
    assert_same_function,
    bits,
    cannot_run,
    clearly_wrong,
    constants,
    fold,
    folded,
    inputs,
    model,
    naive,
    norm,
    plan_of,
    refusal,
    run,
    two_draws_differ,
    weights,
)
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

W = weights(4, 3, 3, 3)
CONV = """(float[2,3,5,5] x) => (float[] y) {
    c = Conv (x, W)
    y = BatchNormalization (c, g, be, m, v)
}"""


# --- parameters and weights that a caller decides -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["g", "be", "m", "v"])
def test_a_parameter_fed_by_the_caller_is_not_constant(name: str) -> None:
    given = norm(4)
    text = CONV.replace("x) =>", f"x, float[4] {name}) =>")
    before = model(text, W=W, **{k: p for k, p in given.items() if k != name})
    found = refusal(before, "not-constant")
    assert repr(name) in found.detail
    feeds = inputs(before) | {name: given[name] * 3}
    assert clearly_wrong(before, naive(before, **{name: given[name]}), feeds, 27)


def test_a_weight_fed_by_the_caller_is_not_constant() -> None:
    before = model(CONV.replace("x) =>", "x, float[4,3,3,3] W) =>"), **norm(4))
    found = refusal(before, "not-constant", "Conv")
    assert found.detail.startswith("weight: ")
    assumed = naive(before, W=W)
    assert clearly_wrong(before, assumed, inputs(before), 27)


def test_a_bias_computed_from_the_input_is_not_constant() -> None:
    text = """(float[2,3,5,5] x) => (float[] y) {
        f = ReduceMean <axes = [0, 2, 3], keepdims = 0> (x)
        b = Slice (f, zero, one)  e = Expand (b, four)
        c = Conv (x, W, e)  y = BatchNormalization (c, g, be, m, v) }"""
    before = model(text, W=W, zero=[0], one=[1], four=[4], **norm(4))
    found = refusal(before, "not-constant", "Conv")
    assert found.detail.startswith("bias: ")
    assert clearly_wrong(before, naive(before, e=np.zeros(4, np.float32)), inputs(before), 27)


@pytest.mark.parametrize("name", ["W", "g", "m"])
def test_from_ir_4_on_an_initializer_that_is_an_input_is_a_mere_default(name: str) -> None:
    shape = "4,3,3,3" if name == "W" else "4"
    before = model(CONV.replace("x) =>", f"x, float[{shape}] {name}) =>"), ir=4, opset=9, W=W, **norm(4))
    refusal(before, "overridable", "Conv" if name == "W" else None)
    feeds = inputs(before) | {name: constants(before)[name] * 2}
    wrong = naive(before)
    assert name in {entry.name for entry in wrong.graph.input}  # fed as before, and no longer heard
    ours, theirs = run(before, feeds)[0], run(wrong, feeds)[0]
    ceiling = np.abs(run(before, inputs(before))[0]).max()
    assert np.abs(ours - theirs).max() > 100 * 28.8 * 2**-24 * ceiling


def test_below_ir_4_every_initializer_is_an_input_and_constant_all_the_same() -> None:
    declared = "x, float[4,3,3,3] W, float[4] g, float[4] be, float[4] m, float[4] v) =>"
    before = model(CONV.replace("x) =>", declared), ir=3, opset=9, W=W, **norm(4))
    after = folded(before)
    assert [entry.name for entry in after.proto.graph.input] == ["x", "W_folded", "W_bias"]
    assert_same_function(before, after.proto, inputs(before), 27)


def test_a_sparse_weight_would_have_to_become_dense() -> None:
    """The plain fact: the naive reader finds no dense tensor of that name."""
    before = model(
        "(float[2,8] x) => (float[] y) { p = Gemm (x, W)  y = BatchNormalization (p, g, be, m, v) }", **norm(4)
    )
    values = helper.make_tensor("W", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("W_at", TensorProto.INT64, [2], [3, 17])
    before.graph.sparse_initializer.append(SparseTensorProto(values=values, indices=indices, dims=[8, 4]))
    refusal(before, "sparse", "Gemm")
    assert "W" not in constants(before)
    assert 2 * len(values.float_data) < 8 * 4


def test_a_parameter_with_a_random_draw_in_it_is_not_constant() -> None:
    text = CONV.replace("c = Conv", "r = RandomNormal <shape = [4]> ()  n = Add (r, m)  c = Conv").replace(
        "m, v)", "n, v)"
    )
    before = model(text, W=W, **norm(4))
    refusal(before, "blocked", "RandomNormal", op="Add")
    found = refusal(before, "not-constant", "RandomNormal", index=1)
    assert "RandomNormal" in found.detail
    assert two_draws_differ(before, inputs(before))  # whatever one had folded would have been another draw


def test_a_random_draw_inside_a_function_is_no_constant_either() -> None:
    from onnx import parser  # noqa: PLC0415  # a model with a function is text of its own

    before = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2,3] x) => (float[] y) { W = local.noise ()  p = Gemm (x, W)  y = BatchNormalization (p, g, be, m, v) }
        <domain: "local", opset_import: ["" : 17]> noise () => (n) { n = RandomNormal <shape = [3, 4]> () }""")
    before.graph.initializer.extend(numpy_helper.from_array(a, k) for k, a in norm(4).items())
    refusal(before, "not-constant", "Gemm")
    assert two_draws_differ(before, inputs(before))


def test_a_weight_that_only_a_miscomputed_operator_knows_is_not_taken_from_the_reference_evaluator() -> None:
    """onnx's evaluator normalises by the batch at opset 9 to 13, which onnxruntime does not."""
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415  # slow to import

    made = "(float[2,4] x) => (float[] y) { V = BatchNormalization (U, qg, qbe, qm, qv)  p = Gemm (x, V, C)"
    before = model(
        made + "  y = BatchNormalization (p, g, be, m, v) }",
        opset=9, U=weights(4, 4), C=weights(4), **norm(4), **norm(4, "q", seed=3),
    )  # fmt: skip
    plan = plan_of(before)
    assert [r.reason.code for r in plan.refusals] == ["not-constant", "not-constant"]
    alone = model(
        "(float[4,4] U) => (float[4,4] V) { V = BatchNormalization (U, qg, qbe, qm, qv) }", opset=9, **norm(4, "q", 3)
    )
    (theirs,) = ReferenceEvaluator(alone).run(None, {"U": weights(4, 4)})
    (right,) = run(alone, {"U": weights(4, 4)})
    assert np.abs(theirs - right).max() > 0.1


# --- quantised ------------------------------------------------------------------------------------------------------


def test_a_weight_that_a_few_bytes_blow_up_is_not_computed() -> None:
    text = """(float[1,n] x) => (float[] y) {
        W = ConstantOfShape (huge)  c = Gemm <transB = 1> (x, W)  y = BatchNormalization (c, g, be, m, v) }"""
    before = model(text, huge=np.array([4, 2**38]), **norm(4))
    found = refusal(before, "not-constant", "Gemm")
    assert "too large to compute" in found.detail


def test_a_quantised_weight_stays_quantised() -> None:
    """Its scale takes the norm over; seen through another operator it cannot, and is not written as floats."""
    text = CONV.replace("c = Conv", "W = DequantizeLinear <axis = 0> (Q, s, z)  c = Conv")
    quantised = np.clip(np.round(W * 100), -127, 127).astype(np.int8)
    held = {"Q": quantised, "s": np.full(4, 0.01, np.float32), "z": np.zeros(4, np.int8), **norm(4)}
    after = folded(model(text, **held))
    assert bits(constants(after.proto)["Q"]) == bits(quantised)
    before = model(text.replace("W =", "D =").replace("c = Conv", "W = Identity (D)  c = Conv"), **held)
    found = refusal(before, "quantized", "Conv")
    assert "quantis" in found.remedy
    dense = folded(model(CONV, W=quantised.astype(np.float32) * 0.01, **norm(4)))
    stored = {t.name: len(t.raw_data) for t in dense.proto.graph.initializer}
    assert stored["W_folded"] == 4 * quantised.nbytes  # what the naive fold undoes


def test_a_quantised_weight_is_seen_through_a_transpose() -> None:
    text = """(float[2,3] x) => (float[] y) { d = DequantizeLinear (Q, s)  W = Transpose (d)
              p = Gemm (x, W)  y = BatchNormalization (p, g, be, m, v) }"""
    before = model(text, Q=np.ones((4, 3), np.int8), s=np.float32(0.5).reshape(()), **norm(4))
    refusal(before, "quantized", "Gemm")
    near_miss = model(text.replace("d = DequantizeLinear (Q, s)", "d = Mul (Q, s)"), Q=weights(4, 3),
                      s=np.float32(0.5).reshape(()), **norm(4))  # fmt: skip
    assert_same_function(near_miss, folded(near_miss).proto, inputs(near_miss), 3)


# --- shapes of parameters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("g", np.ones(5, np.float32), "elements"),
        ("v", np.ones(0, np.float32), "elements"),
        ("be", np.ones((1, 4), np.float32), "dimensions"),
        ("m", np.ones((), np.float32), "dimensions"),
    ],
)
def test_parameters_that_do_not_fit_each_other_are_broken(name: str, value: np.ndarray, word: str) -> None:
    before = model(CONV, W=W, **norm(4) | {name: value})
    assert word in refusal(before, "broken-parameters").detail
    assert cannot_run(before)


def test_parameters_for_another_number_of_channels_are_broken() -> None:
    before = model(CONV, W=W, **norm(2))
    found = refusal(before, "broken-parameters")
    assert found.detail == "the parameters are for 2 channel(s), the input has 4"
    assert cannot_run(before)


def test_parameters_of_one_channel_do_not_spread_over_many() -> None:
    """numpy would broadcast them; onnxruntime refuses the model."""
    before = model(CONV, W=W, **norm(1))
    found = refusal(before, "broken-parameters")
    assert found.detail == "the parameters are for 1 channel(s), the input has 4"
    assert cannot_run(before)
    assert (W * norm(1)["g"].reshape(-1, 1, 1, 1)).shape == W.shape
    one = model(CONV, W=W[:1], **norm(1))
    assert_same_function(one, folded(one).proto, inputs(one), 27)


def test_a_missing_parameter_is_broken() -> None:
    before = model(CONV.replace("m, v)", '"", v)'), W=W, **norm(4))
    assert refusal(before, "broken-parameters").detail == "mean is missing"
    assert cannot_run(before)


def test_a_norm_of_a_vector_is_broken() -> None:
    text = """(float[2,3] x) => (float[] y) { p = Gemm (x, W)  t = Reshape (p, flat)
              y = BatchNormalization (t, g, be, m, v) }"""
    before = model(text, W=weights(3, 4), flat=[8], **norm(1))
    refusal(before, "broken-parameters")
    assert cannot_run(model(text, W=weights(3, 4), flat=[8], **norm(8)))


@pytest.mark.parametrize("shape", [(4, 2), (1, 4), (5,), (1,), ()])
def test_a_bias_that_the_operator_itself_refuses_is_no_bias_to_fold_into(shape: tuple[int, ...]) -> None:
    before = model(CONV.replace("(x, W)", "(x, W, b)"), W=W, b=np.zeros(shape, np.float32), **norm(4))
    found = refusal(before, "broken-bias", "Conv")
    assert str(shape) in found.detail
    assert cannot_run(before)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (1, 2, 4)])
def test_a_gemm_addend_that_does_not_broadcast_is_no_bias_to_fold_into(shape: tuple[int, ...]) -> None:
    text = "(float[2,3] x) => (float[] y) { p = Gemm (x, W, C)  y = BatchNormalization (p, g, be, m, v) }"
    before = model(text, W=weights(3, 4), C=np.zeros(shape, np.float32), **norm(4))
    refusal(before, "broken-bias", "Gemm")
    assert cannot_run(before)


# --- types ----------------------------------------------------------------------------------------------------------


def test_a_weight_of_eight_bits_is_not_rounded_into_three() -> None:
    """onnxruntime convolves no float8, so nothing could be shown; and one rounding is 2^-4 of the weight."""
    text = CONV.replace("float[", "float8e4m3fn[")
    held = {"W": W, **norm(4)}
    tensors = {k: helper.make_tensor(k, TensorProto.FLOAT8E4M3FN, a.shape, a.reshape(-1)) for k, a in held.items()}
    before = model(text, opset=19, ir=9, **tensors)
    found = refusal(before, "type", "Conv")
    assert "'W'" in found.detail
    assert cannot_run(before, {"x": np.zeros((2, 3, 5, 5), np.float32)})
    assert_same_function(model(CONV, **held), folded(model(CONV, **held)).proto, inputs(model(CONV, **held)), 27)


# --- training -------------------------------------------------------------------------------------------------------


def test_training_mode_normalises_by_the_batch() -> None:
    training = CONV.replace("BatchNormalization", "BatchNormalization <training_mode = 1>")
    before = model(training.replace("y =", "y, rm, rv ="), W=W, **norm(4))
    assert refusal(before, "training-mode").detail == "training_mode is 1"
    assert clearly_wrong(before, naive(before), inputs(before), 27)


def test_five_outputs_before_opset_14_mean_training() -> None:
    before = model(CONV, opset=9, W=W, **norm(4))
    inference = fold(before)
    assert len(inference.plan.moves) == 1
    before.graph.node[1].output.extend(["rm", "rv", "sm", "sv"])
    assert refusal(before, "training-mode").detail == "it has more than one output"
    feeds = inputs(before)
    ours, theirs = run(before, feeds)[0], run(inference.proto, feeds)[0]
    assert np.abs(ours - theirs).max() > 0.1


def test_training_mode_0_with_running_statistics_in_use_is_not_folded_away() -> None:
    before = model(CONV.replace("BatchNormalization", "BatchNormalization <training_mode = 0>"), W=W, **norm(4))
    before.graph.node[1].output.extend(["rm", "rv"])
    before.graph.output.append(helper.make_tensor_value_info("rm", TensorProto.FLOAT, [4]))
    refusal(before, "training-mode")


def test_a_dropout_that_trains_stands_in_the_way() -> None:
    text = CONV.replace("y = Batch", "d = Dropout (c, ratio, on)  y = Batch").replace("n (c,", "n (d,")
    held = {"W": W, "ratio": np.float32(0.5).reshape(()), **norm(4)}
    before = model(text, on=np.array(True), **held)
    refusal(before, "training-mode", "Dropout")
    feeds = inputs(before)
    assert two_draws_differ(before, feeds)
    near_miss = model(text, on=np.array(False), **held)
    assert_same_function(near_miss, folded(near_miss).proto, feeds, 27)


def test_spatial_0_has_parameters_per_element() -> None:
    per_element = {k: np.resize(p, (4, 3, 3)) for k, p in norm(36).items()}
    before = model(CONV.replace("BatchNormalization", "BatchNormalization <spatial = 0>"), opset=7, W=W, **per_element)
    assert refusal(before, "spatial-zero").detail == "spatial is 0"
    (y,) = run(before, inputs(before))
    (c,) = run(
        model(CONV.replace("y = BatchNormalization (c, g, be, m, v)", "y = Identity (c)"), opset=7, W=W), inputs(before)
    )
    ratio = (y[0] - y[1]) / (c[0] - c[1])  # the scale, element by element: no two alike within a channel
    assert np.ptp(ratio, axis=(1, 2)).min() > 1


@pytest.mark.parametrize("opset", [1, 5, 6])
@pytest.mark.parametrize("attributes", ["is_test = 0", "momentum = 0.9"])
def test_below_opset_7_is_test_0_trains_unless_the_user_knows_better(opset: int, attributes: str) -> None:
    text = CONV.replace("BatchNormalization", f"BatchNormalization <{attributes}>")
    before = model(text, opset=opset, W=W, **norm(4))
    assert f"opset {opset}" in refusal(before, "is-test-zero").detail
    assert cannot_run(before)
    assert len(fold(before, assume_inference=True).plan.moves) == 1
    inference = model(text.replace("<", "<is_test = 1, ").replace(", is_test = 0", ""), opset=opset, W=W, **norm(4))
    assert plan_of(inference).refusals == ()


@pytest.mark.parametrize("opset", [1, 6, 7, 8])
@pytest.mark.parametrize("assume", [False, True])
def test_spatial_0_is_no_channel_in_any_version_that_has_it(opset: int, assume: bool) -> None:
    """Whatever is assumed of is_test. The numbers stand in the test above: no two elements have one scale."""
    per_element = {k: np.resize(p, (4, 3, 3)) for k, p in norm(36).items()}
    is_test = "is_test = 1, " if opset < 7 else ""
    text = CONV.replace("BatchNormalization", f"BatchNormalization <{is_test}spatial = 0>")
    before = model(text, opset=opset, W=W, **per_element)
    refusal(before, "spatial-zero")
    assert [r.reason.code for r in fold(before, assume_inference=assume).plan.refusals] == ["spatial-zero"]
    assert np.ptp(per_element["g"], axis=(1, 2)).min() > 1
