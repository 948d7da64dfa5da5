"""BatchNormalization is one affine in every version that runs: the parameters decide, not their storage or names."""

from __future__ import annotations

import numpy as np
import pytest
from folding_draws import NORM_OPSETS
from folding_support import (
    assert_same_function,
    bits,
    folded,
    inputs,
    model,
    norm,
    operands,
    plan_of,
    refusal,
    run,
    scale_and_shift,
    weights,
)
from onnx import TensorProto, helper

CONV = """({kind}[N,3,5,5] x) => ({kind}[] y) {{
    c = Conv <pads = [1, 1, 1, 1]> (x, W)
    y = BatchNormalization {attributes} (c, g, be, m, v)
}}"""


def conv(attributes: str = "", kind: str = "float") -> str:
    return CONV.format(attributes=attributes, kind=kind)


@pytest.mark.parametrize("opset", NORM_OPSETS)
def test_every_version_of_the_operator_is_the_same_affine(opset: int) -> None:
    before = model(conv("<epsilon = 0.01>"), opset=opset, W=weights(4, 3, 3, 3), **norm(4))
    after = folded(before)
    a, s = scale_and_shift(norm(4), eps=0.01)
    _, weight, bias = operands(after.proto, "Conv")
    exact = weights(4, 3, 3, 3).astype(np.float64) * a.reshape(4, 1, 1, 1)
    assert bits(weight) == bits(exact.astype(np.float32))
    assert bits(bias) == bits(s.astype(np.float32))
    assert_same_function(before, after.proto, inputs(before), 27)


@pytest.mark.parametrize("attributes", ["<spatial = 1>", "<spatial = 1, momentum = 0.5>"])
@pytest.mark.parametrize("opset", [7, 8])
def test_spatial_1_is_the_per_channel_norm(opset: int, attributes: str) -> None:
    before = model(conv(attributes), opset=opset, W=weights(4, 3, 3, 3), **norm(4))
    assert_same_function(before, folded(before).proto, inputs(before), 27)


def test_momentum_changes_nothing_at_inference() -> None:
    plain, with_momentum = (
        folded(model(conv(text), W=weights(4, 3, 3, 3), **norm(4))).proto for text in ("", "<momentum = 0.1>")
    )
    assert plain == with_momentum


def test_epsilon_is_a_float32_even_in_a_float64_computation() -> None:
    parameters = norm(2, dtype=np.float64) | {"v": np.array([1e-9, 0.0])}
    before = model(
        "(double[N,3] x) => (double[] y) { p = Gemm (x, W)  y = BatchNormalization (p, g, be, m, v) }",
        W=weights(3, 2, dtype=np.float64),
        **parameters,
    )
    after = folded(before)
    a, _ = scale_and_shift(parameters, eps=1e-5)
    wrong, _ = (parameters["g"] / np.sqrt(parameters["v"] + 1e-5), None)
    found = operands(after.proto, "Gemm")[1]
    assert bits(found) == bits(weights(3, 2, dtype=np.float64) * a)
    assert bits(found) != bits(weights(3, 2, dtype=np.float64) * wrong)
    assert_same_function(before, after.proto, inputs(before), 3)


@pytest.mark.parametrize(("opset", "mixed"), [(14, "mv"), (15, "mv"), (15, "gbemv"), (17, "gbemv")])
def test_half_precision_data_may_have_statistics_in_single_precision(opset: int, mixed: str) -> None:
    parameters = {k: v.astype(np.float32 if k in mixed else np.float16) for k, v in norm(4).items()}
    before = model(conv(kind="float16"), opset=opset, W=weights(4, 3, 3, 3, dtype=np.float16), **parameters)
    after = folded(before)
    _, weight, bias = operands(after.proto, "Conv")
    a, s = scale_and_shift(parameters)
    exact = weights(4, 3, 3, 3, dtype=np.float16).astype(np.float64) * a.reshape(4, 1, 1, 1)
    assert bits(weight) == bits(exact.astype(np.float16))
    assert bits(bias) == bits(s.astype(np.float16))
    if mixed == "gbemv":  # onnxruntime has no kernel for a mean of another type than the scale
        assert_same_function(before, after.proto, inputs(before), 27)


def test_half_precision_epsilon_does_not_vanish() -> None:
    """1e-8 is zero in fp16; the affine is computed in float64."""
    parameters = norm(4, dtype=np.float16) | {"v": np.zeros(4, np.float16), "m": np.zeros(4, np.float16)}
    parameters["g"] = np.full(4, 1e-3, np.float16)
    before = model(conv("<epsilon = 1e-8>", "float16"), W=weights(4, 3, 3, 3, dtype=np.float16), **parameters)
    after = folded(before)
    assert np.float16(1e-8) == 0
    assert_same_function(before, after.proto, inputs(before), 27)


def test_nine_to_thirteen_with_four_empty_outputs_is_inference() -> None:
    before = model(conv(), opset=9, W=weights(4, 3, 3, 3), **norm(4))
    plain = folded(before).proto
    before.graph.node[1].output.extend(["", "", "", ""])
    assert folded(before).proto == plain  # the original itself would crash onnxruntime; the plain one is the same


def test_fourteen_and_later_with_two_empty_outputs_is_inference() -> None:
    before = model(conv("<training_mode = 0>"), W=weights(4, 3, 3, 3), **norm(4))
    plain = folded(before).proto
    before.graph.node[1].output.extend(["", ""])
    assert folded(before).proto == plain


def test_training_mode_means_nothing_before_opset_14() -> None:
    """The attribute is no part of opset 13; onnx's checker says so, and the node is refused nowhere as training."""
    before = model(conv(), opset=13, W=weights(4, 3, 3, 3), **norm(4))
    assert plan_of(before).moves
    before.graph.node[1].output.append("running")
    refusal(before, "training-mode")


def test_a_negative_variance_within_epsilon_folds() -> None:
    parameters = norm(4) | {"v": np.float32([-5e-4, 1, 2, 3])}
    before = model(conv("<epsilon = 1e-3>"), W=weights(4, 3, 3, 3), **parameters)
    assert_same_function(before, folded(before).proto, inputs(before), 27)


def test_a_variance_at_minus_epsilon_is_refused_for_nothing_finite_is_there() -> None:
    parameters = norm(4) | {"v": np.float32([1, 1, -0.5, 2])}
    before = model(conv("<epsilon = 0.5>"), W=weights(4, 3, 3, 3), **parameters)
    found = refusal(before, "variance-not-positive")
    assert "channel 2" in found.detail
    (y,) = run(before, inputs(before))
    assert not np.any(np.isfinite(y[:, 2]))
    assert np.all(np.isfinite(y[:, [0, 1, 3]]))


def test_gamma_zero_folds_into_a_constant_channel() -> None:
    parameters = norm(4)
    parameters["g"][1] = 0
    before = model(conv(), W=weights(4, 3, 3, 3), **parameters)
    after = folded(before)
    (y,) = run(after.proto, inputs(before))
    assert np.all(y[:, 1] == parameters["be"][1])
    assert_same_function(before, after.proto, inputs(before), 27)


def test_bfloat16_statistics_are_read_like_any_other() -> None:
    ones = {k: helper.make_tensor(k, TensorProto.BFLOAT16, [2], [1.0, 2.0]) for k in ("g", "be", "m", "v")}
    before = model(
        "(float16[N,3] x) => (float16[] y) { p = Gemm (x, W)  y = BatchNormalization (p, g, be, m, v) }",
        opset=15,
        W=weights(3, 2, dtype=np.float16),
        **ones,
    )
    a = np.array([1.0, 2.0]) / np.sqrt(np.array([1.0, 2.0]) + np.float64(np.float32(1e-5)))
    exact = weights(3, 2, dtype=np.float16).astype(np.float64) * a
    assert bits(operands(folded(before).proto, "Gemm")[1]) == bits(exact.astype(np.float16))
