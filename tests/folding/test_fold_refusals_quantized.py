"""Where the scale of a dequantisation cannot take an affine over: another axis, too few scales, an integer bias."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_support import (
    Array,
    bits,
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
from onnx import TensorProto, helper, numpy_helper

Q = np.random.default_rng(5).integers(-99, 99, (4, 4, 1)).astype(np.int8)
SCALE = np.float32([0.01, 0.02, 0.015, 0.005])
HEAD = "(float[2,4,5] x) => (float[] y)"
NORM = "y = BatchNormalization (c, g, be, m, v)"


def layer(dequantize: str, conv: str = "Conv (x, d)") -> str:
    return f"{HEAD} {{ d = DequantizeLinear {dequantize}  c = {conv}  {NORM} }}"


def with_scale(proto: onnx.ModelProto, scale: Array, bias: Array | None = None) -> onnx.ModelProto:
    """The fold regardless: another scale, the norm an Identity, its shift as the layer's bias."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(proto)
    held = next(t for t in wrong.graph.initializer if t.name == "qs")
    held.CopyFrom(numpy_helper.from_array(scale.astype(np.float32), "qs"))
    if bias is not None:
        wrong.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), "naive b"))
        conv = next(node for node in wrong.graph.node if node.op_type.startswith("Conv"))
        conv.input[2:] = ["naive b"]
    wrong.graph.node[-1].CopyFrom(helper.make_node("Identity", ["c"], ["y"]))
    return wrong


def test_a_scale_per_input_is_no_scale_per_output() -> None:
    before = model(layer("<axis = 1> (Q, qs)"), Q=Q, qs=SCALE, **norm(4))
    refusal(before, "quantized", "Conv")
    a, s = scale_and_shift(norm(4))
    assert clearly_wrong(before, with_scale(before, SCALE * a, s), inputs(before), 4)
    near_miss = model(layer("<axis = 0> (Q, qs)"), Q=Q, qs=SCALE, **norm(4))
    assert proven(near_miss, inputs(near_miss), 4).ops == ["DequantizeLinear", "Conv"]


def test_blocks_along_the_outputs_are_one_scale_for_several() -> None:
    blocked = "<axis = 0, block_size = 2> (Q, qs)"
    scale = np.abs(weights(2, 4, 1)) * np.float32(0.02)
    before = model(layer(blocked), opset=21, ir=10, Q=Q, qs=scale, **norm(4))
    refusal(before, "quantized", "Conv")
    a, s = scale_and_shift(norm(4))
    assert clearly_wrong(before, with_scale(before, scale * a[::2].reshape(2, 1, 1), s), inputs(before), 4)
    pairs = {k: v.repeat(2) for k, v in norm(2).items()}
    same_in_a_block = model(layer(blocked), opset=21, ir=10, Q=Q, qs=scale, **pairs)
    assert plan_of(same_in_a_block).moves == ()  # not looked for: a block and a channel need not go together


@pytest.mark.parametrize("opset", [10, 12])
def test_before_opset_13_there_is_one_scale_in_all(opset: int) -> None:
    before = model(layer("(Q, qs)"), opset=opset, Q=Q, qs=SCALE[0], **norm(4))
    refusal(before, "quantized", "Conv")
    a, s = scale_and_shift(norm(4))
    assert clearly_wrong(before, with_scale(before, np.asarray(SCALE[0] * a[0]), s), inputs(before), 4)
    near_miss = model(layer("(Q, qs)"), opset=13, Q=Q, qs=SCALE[0], **norm(4))
    assert len(proven(near_miss, inputs(near_miss), 4).plan.moves) == 1


@pytest.mark.parametrize("per_axis", [False, True])
def test_the_groups_of_a_transposed_convolution_share_the_scales_of_their_outputs(per_axis: bool) -> None:
    """The axis of outputs has two entries; each serves one output of each of two groups."""
    weight = np.ascontiguousarray(Q[:, :2])
    scale = SCALE[:2] if per_axis else SCALE[0]
    text = layer("<axis = 1> (Q, qs)" if per_axis else "(Q, qs)", "ConvTranspose <group = 2> (x, d)")
    before = model(text, Q=weight, qs=scale, **norm(4))
    assert "groups" in refusal(before, "quantized", "ConvTranspose").detail
    a, s = scale_and_shift(norm(4))
    guess = scale * a[:2] if per_axis else np.asarray(scale * a[0])
    assert clearly_wrong(before, with_scale(before, guess, s), inputs(before), 2)
    uniform = {k: np.full(4, v[0], np.float32) for k, v in norm(4).items()}
    near_miss = model(text, Q=weight, qs=scale, **uniform)
    assert len(proven(near_miss, inputs(near_miss), 2).plan.moves) == 1


BIASED = f"""{HEAD} {{ d = DequantizeLinear <axis = 0> (Q, qs)  b = DequantizeLinear <axis = 0> (B, bs)
    c = Conv (x, d, b)  {NORM} }}"""


def test_a_bias_of_integers_takes_no_shift() -> None:
    held = {"Q": Q, "qs": SCALE, "B": np.int32([100, -200, 300, 50]), "bs": SCALE / 10}
    before = model(BIASED, **held, **norm(4))
    assert "take no shift" in refusal(before, "quantized", "Conv").detail
    a, _ = scale_and_shift(norm(4))
    wrong = with_scale(before, SCALE * a)
    bias = next(t for t in wrong.graph.initializer if t.name == "bs")
    bias.CopyFrom(numpy_helper.from_array((SCALE / 10 * a).astype(np.float32), "bs"))
    assert clearly_wrong(before, wrong, inputs(before), 5)
    centred = norm(4) | {"be": np.zeros(4, np.float32), "m": np.zeros(4, np.float32)}
    near_miss = model(BIASED, **held, **centred)
    done = proven(near_miss, inputs(near_miss), 5)
    assert bits(constants(done.proto)["B"]) == bits(held["B"])


def test_a_float_bias_beside_an_integer_weight_takes_the_shift() -> None:
    text = layer("<axis = 0> (Q, qs)", "Conv (x, d, b)")
    before = model(text, Q=Q, qs=SCALE, b=weights(4), **norm(4))
    assert proven(before, inputs(before), 5).ops == ["DequantizeLinear", "Conv"]


@pytest.mark.parametrize("op", ["Conv (x, d)", "Conv (w, d)"])
def test_between_the_layer_and_the_norm_rounding_has_happened_already(op: str) -> None:
    """Activations that go through integers: what was cut off there does not come back by scaling before it."""
    text = f"""{HEAD} {{ w = Relu (x)  d = DequantizeLinear <axis = 0> (Q, qs)  p = {op}
        i = QuantizeLinear (p, step, zero)  c = DequantizeLinear (i, step, zero)  {NORM} }}"""
    held = {"Q": Q, "qs": SCALE, "step": np.float32(0.05).reshape(()), "zero": np.array(0, np.int8)}
    before = model(text, **held, **norm(4))
    refusal(before, "rounded", "DequantizeLinear")
    a, s = scale_and_shift(norm(4))
    (y,), (wrong,) = (run(proto, inputs(before)) for proto in (before, with_scale(before, SCALE * a, s)))
    assert np.abs(y - wrong).max() > 0.05  # a step of the integers


def test_a_scale_computed_while_the_model_runs_is_not_constant() -> None:
    text = f"""(float[2,4,5] x, float[4] qs) => (float[] y) {{
        d = DequantizeLinear <axis = 0> (Q, qs)  c = Conv (x, d)  {NORM} }}"""
    before = model(text, Q=Q, **norm(4))
    assert "scale" in refusal(before, "not-constant", "Conv").detail
    feeds = inputs(before)
    assert np.abs(run(before, feeds)[0] - run(before, feeds | {"qs": feeds["qs"] * 2})[0]).max() > 0.1


def test_integers_that_are_fed_take_the_affine_in_their_scale_all_the_same() -> None:
    """The algebra asks the scale alone to be constant, and the shape to be known."""
    text = f"""(float[2,4,5] x, int8[4,4,1] Q) => (float[] y) {{
        d = DequantizeLinear <axis = 0> (Q, qs)  c = Conv (x, d)  {NORM} }}"""
    before = model(text, qs=SCALE, **norm(4))
    done = fold(before)
    assert done.ops == ["DequantizeLinear", "Conv"]
    feeds = inputs(before) | {"Q": Q}
    known = model(layer("<axis = 0> (Q, qs)"), Q=Q, qs=SCALE, **norm(4))
    assert np.array_equal(run(done.proto, feeds)[0], run(fold(known).proto, {"x": feeds["x"]})[0])
    unknown = model(text.replace("int8[4,4,1]", "int8[m,n,k]"), qs=SCALE, **norm(4))
    refusal(unknown, "quantized", "Conv")


@pytest.mark.parametrize(
    ("scale", "gamma", "code"), [(1e38, 1e3, "overflow"), (1e-38, 1e-12, "precision-lost"), (np.nan, 1.0, "not-finite")]
)
def test_a_scale_that_would_leave_its_type_takes_nothing(scale: float, gamma: float, code: str) -> None:
    parameters = norm(4) | {"g": np.full(4, gamma, np.float32)}
    before = model(layer("<axis = 0> (Q, qs)"), Q=Q, qs=np.full(4, scale, np.float32), **parameters)
    refusal(before, code, "Conv")
    a, _ = scale_and_shift(parameters)
    with np.errstate(over="ignore", under="ignore"):
        new = (scale * a).astype(np.float32)
    assert not np.all(np.isfinite(new) & (new != 0))


def test_a_scale_that_does_not_fit_its_tensor_is_not_guessed_at() -> None:
    before = model(layer("<axis = 0> (Q, qs)"), Q=Q, qs=SCALE[:3], **norm(4))
    refusal(before, "quantized", "Conv")
    per_layer = model(layer("<axis = 7> (Q, qs)"), Q=Q, qs=SCALE, **norm(4))
    refusal(per_layer, "quantized", "Conv")


def test_a_norm_s_own_parameters_of_integers_are_not_written_as_floats() -> None:
    text = f"""{HEAD} {{ g = DequantizeLinear <axis = 0> (G, qs)  c = Conv (x, W)  {NORM} }}"""
    held = {k: v for k, v in norm(4).items() if k != "g"}
    before = model(text, G=np.int8([90, -80, 70, 60]), qs=SCALE, W=weights(4, 4, 1), **held)
    assert refusal(before, "quantized", "DequantizeLinear").detail.startswith("scale: ")
    assert len(constants(before)["G"].tobytes()) == 4  # of float32 they would be four times as many bytes


def test_a_matmul_of_integers_alone_is_of_no_type_that_is_folded() -> None:
    text = "(int32[2,3] x) => (int32[] y) { c = MatMul (x, W)  y = Neg (c) }"
    proto = model(text, W=np.arange(12, dtype=np.int32).reshape(3, 4))
    assert plan_of(proto).moves == ()
    assert {tensor.data_type for tensor in proto.graph.initializer} == {TensorProto.INT32}
