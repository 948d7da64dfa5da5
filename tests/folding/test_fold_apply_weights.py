"""Whose weight it is: shared, aliased, orphaned, in a Constant node, behind an expression; and rounded once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_support import (
    assert_same_function,
    bits,
    constants,
    fold,
    folded,
    inputs,
    model,
    norm,
    operands,
    run,
    scale_and_shift,
    weights,
)
from onnx import TensorProto, helper, numpy_helper

W = weights(4, 3, 3, 3)
HEAD = "(float[2,3,5,5] x) => (float[] y)"
NORM = "BatchNormalization (c, g, be, m, v)"
BOTH = f"{HEAD} {{ c = Conv (x, W)  n = {NORM}  d = Conv (x, W)  k = BatchNormalization (d, OTHERS)  y = Add (n, k) }}"
SHAPED = HEAD.replace("float[] y", "float[2,4,3,3] y")


def scaled(weight: np.ndarray, a: np.ndarray) -> np.ndarray:
    return (weight.astype(np.float64) * a.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)


# --- shared ---------------------------------------------------------------------------------------------------------


def test_a_weight_that_another_convolution_reads_is_cloned_and_that_is_reported() -> None:
    before = model(f"{HEAD} {{ c = Conv (x, W)  n = {NORM}  d = Conv (x, W)  y = Add (n, d) }}", W=W, **norm(4))
    after = folded(before)
    assert after.cloned == ("W",)
    assert set(constants(after.proto)) == {"W", "W_folded", "W_bias"}
    assert bits(constants(after.proto)["W"]) == bits(W)
    assert_same_function(before, after.proto, inputs(before), 27)
    other = naive_in_place(before, after.proto)
    assert np.abs(run(before, inputs(before))[0] - run(other, inputs(before))[0]).max() > 1


def naive_in_place(before: onnx.ModelProto, after: onnx.ModelProto) -> onnx.ModelProto:
    """The same fold, but written over the shared weight."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(after)
    for node in wrong.graph.node:
        node.input[:] = ["W_folded" if name == "W" else name for name in node.input]
    assert len(before.graph.node) == len(after.graph.node) + 1
    return wrong


def test_two_convolutions_with_one_weight_and_a_norm_each_get_a_weight_each() -> None:
    before = model(BOTH.replace("OTHERS", "hg, hbe, hm, hv"), W=W, **norm(4), **norm(4, "h", seed=4))
    after = folded(before, moves=2)
    assert after.cloned == ()  # two for one, but nobody reads the old one any more
    assert set(constants(after.proto)) == {"W_folded", "W_bias", "W_folded_1", "W_bias_1"}
    for which, prefix in enumerate(["", "h"]):
        a, s = scale_and_shift(norm(4, prefix, seed=4 * which), prefix)
        _, weight, bias = operands(after.proto, "Conv", which)
        assert bits(weight) == bits(scaled(W, a))
        assert bits(bias) == bits(s.astype(np.float32))
    assert_same_function(before, after.proto, inputs(before), 27)


def test_parameters_that_two_norms_share_go_with_the_second() -> None:
    before = model(BOTH.replace("OTHERS", "g, be, m, v"), W=W, **norm(4))
    after = folded(before, moves=2)
    assert not {"g", "be", "m", "v"} & set(constants(after.proto))
    assert_same_function(before, after.proto, inputs(before), 27)


def test_parameters_that_a_norm_which_stays_reads_stay() -> None:
    text = (
        BOTH.replace("OTHERS", "g, be, m, v")
        .replace("BatchNormalization (d", "BatchNormalization (x4")
        .replace("d = Conv (x, W)", "d = Conv (x, W)  x4 = Relu (d)")
    )
    before = model(text, W=W, **norm(4))
    after = fold(before)
    assert [len(after.plan.moves), len(after.plan.refusals)] == [1, 1]
    assert {"g", "be", "m", "v", "W"} <= set(constants(after.proto))
    assert after.cloned == ("W",)
    assert_same_function(before, after.proto, inputs(before), 27)


def test_a_weight_that_is_an_output_stays() -> None:
    before = model(HEAD.replace("y)", "y, float[4,3,3,3] W)") + f" {{ c = Conv (x, W)  y = {NORM} }}", W=W, **norm(4))
    after = folded(before)
    assert bits(run(after.proto, inputs(before))[1]) == bits(W)
    assert after.cloned == ("W",)


# --- aliases --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", ["g, be, be, v", "g, g, g, g", "v, be, m, v"])
def test_parameters_may_be_one_tensor(roles: str) -> None:
    before = model(f"{HEAD} {{ c = Conv (x, W)  y = BatchNormalization (c, {roles}) }}", W=W,
                   **{k: np.abs(p) for k, p in norm(4).items()})  # fmt: skip
    after = folded(before)
    unread = {"g", "be", "m", "v"} - set(roles.split(", "))
    assert set(constants(after.proto)) == {"W_folded", "W_bias"} | unread
    assert_same_function(before, after.proto, inputs(before), 27)


def test_the_bias_may_be_the_norm_s_beta() -> None:
    before = model(f"{HEAD} {{ c = Conv (x, W, be)  y = {NORM} }}", W=W, **norm(4))
    after = folded(before)
    assert set(constants(after.proto)) == {"W_folded", "be_folded"}
    assert_same_function(before, after.proto, inputs(before), 27)


def test_the_weight_of_a_gemm_may_be_its_addend() -> None:
    text = "(float[4,4] x) => (float[] y) { p = Gemm (x, W, W)  y = BatchNormalization (p, g, be, m, v) }"
    before = model(text, W=weights(4, 4), **norm(4))
    after = folded(before)
    assert set(constants(after.proto)) == {"W_folded", "W_folded_1"}
    assert_same_function(before, after.proto, inputs(before), 5)


# --- composition ----------------------------------------------------------------------------------------------------

CHAIN = """(float[2,3,5,5] x) => (float[] y) { c = Conv (x, W, b)  n = BatchNormalization (c, g, be, m, v)
    %s y = BatchNormalization (%s, hg, hbe, hm, hv) }"""


def chain(between: str = "", last: str = "n", channels: int = 4) -> onnx.ModelProto:
    return model(CHAIN % (between, last), W=W, b=weights(4), **norm(4), **norm(channels, "h", seed=9))


def test_a_chain_of_norms_is_composed_in_float64_and_rounded_once() -> None:
    before = chain()
    after = folded(before, moves=2)
    (a, s), (a2, s2) = scale_and_shift(norm(4)), scale_and_shift(norm(4, "h", seed=9), "h")
    _, weight, bias = operands(after.proto, "Conv")
    assert bits(weight) == bits(scaled(W, a2 * a))
    assert bits(bias) == bits((weights(4).astype(np.float64) * (a2 * a) + (a2 * s + s2)).astype(np.float32))
    assert_same_function(before, after.proto, inputs(before), 28)
    twice = scaled(scaled(W, a), a2)
    assert bits(weight) != bits(twice)  # what folding one after the other would have written


def test_norms_on_both_sides_of_a_layout_meet_in_one_convolution() -> None:
    before = chain("t = Transpose <perm = [0, 1, 3, 2]> (n)", "t")
    after = folded(before, moves=2)
    assert after.ops == ["Conv", "Transpose"]
    assert_same_function(before, after.proto, inputs(before), 28)


def test_a_norm_of_another_axis_stays_where_the_first_one_went() -> None:
    before = chain("t = Transpose <perm = [0, 2, 1, 3]> (n)", "t", channels=3)
    after = fold(before)
    assert after.ops == ["Conv", "Transpose", "BatchNormalization"]
    assert after.plan.refusals[0].reason.code == "axis-not-owned"
    assert_same_function(before, after.proto, inputs(before), 28)


def test_five_norms_in_a_row_become_one_convolution() -> None:
    lines = "".join(f"n{i} = BatchNormalization (n{i - 1}, {', '.join(norm(4, f'p{i}'))})  " for i in range(5))
    held = {k: p for i in range(5) for k, p in norm(4, f"p{i}", seed=i).items()}
    text = f"{HEAD} {{ c = Conv (x, W)  {lines} y = Identity (n4) }}"
    before = model(text.replace("n-1", "c"), W=W, **held)
    after = folded(before, moves=5)
    assert after.ops == ["Conv", "Identity"]
    assert len(constants(after.proto)) == 2
    assert_same_function(before, after.proto, inputs(before), 32)


# --- where weights lie ----------------------------------------------------------------------------------------------


def test_weights_in_constant_nodes_become_initializers_and_their_nodes_go() -> None:
    before = model(f"{HEAD} {{ c = Conv (x, W)  y = {NORM} }}")
    made = [helper.make_node("Constant", [], [k], value=numpy_helper.from_array(a, k))
            for k, a in {"W": W, **norm(4)}.items()]  # fmt: skip
    rest = list(before.graph.node)
    del before.graph.node[:]
    before.graph.node.extend([*made, *rest])
    after = folded(before)
    assert after.ops == ["Conv"]
    plain = folded(model(f"{HEAD} {{ c = Conv (x, W)  y = {NORM} }}", W=W, **norm(4)))
    assert {k: bits(a) for k, a in constants(after.proto).items()} == {
        k: bits(a) for k, a in constants(plain.proto).items()
    }


def test_parameters_in_other_forms_of_constants_are_read_as_well() -> None:
    text = f"""{HEAD} {{ W = Identity (stored)  g = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()
               c = Conv (x, W)  y = {NORM} }}"""
    before = model(text, stored=W, **{k: p for k, p in norm(4).items() if k != "g"})
    after = folded(before)
    assert after.ops == ["Conv"]
    a, _ = scale_and_shift(norm(4) | {"g": np.float32([1, 2, 3, 4])})
    assert bits(operands(after.proto, "Conv")[1]) == bits(scaled(W, a))


def test_the_missing_bias_that_dynamo_writes_as_an_expression_goes_with_its_nodes() -> None:
    text = f"""{HEAD} {{ z = CastLike (zero, x)  s = Shape <start = 0, end = 1> (W)  b = Expand (z, s)
               c = Conv (x, W, b)  y = {NORM} }}"""
    before = model(text, W=W, zero=np.array(0, np.int64), **norm(4))
    after = folded(before)
    assert after.ops == ["Conv"]
    assert set(constants(after.proto)) == {"W_folded", "b_folded"}
    assert_same_function(before, after.proto, inputs(before), 27)


def test_an_expression_that_something_else_reads_stays() -> None:
    text = f"""{HEAD.replace("y)", "y, float[] r)")} {{ two = Add (one, one)  q = Mul (v, two)
               c = Conv (x, W)  y = {NORM.replace("v)", "q)")}  r = Relu (two) }}"""
    before = model(text, W=W, one=np.float32([1]), **norm(4))
    after = folded(before)
    assert after.ops == ["Add", "Conv", "Relu"]
    doubled = norm(4) | {"v": norm(4)["v"] * 2}
    plain = folded(model(f"{HEAD} {{ c = Conv (x, W)  y = {NORM} }}", W=W, **doubled))
    assert constants(after.proto).keys() == {"W_folded", "W_bias", "one"}
    assert bits(constants(after.proto)["W_folded"]) == bits(constants(plain.proto)["W_folded"])
    assert run(after.proto, inputs(before))[1] == 2


def test_what_nobody_read_before_stays() -> None:
    text = f"{HEAD} {{ idle = Mul (spare, spare)  c = Conv (x, W)  y = {NORM} }}"
    before = model(text, W=W, spare=np.float32([2]), unused=np.float32([3]), **norm(4))
    after = folded(before)
    assert after.ops == ["Mul", "Conv"]
    assert {"spare", "unused"} <= set(constants(after.proto))


def test_value_info_goes_with_its_value_or_to_its_new_name() -> None:
    text = f"{SHAPED} {{ c0 = Conv (x, W)  c = Transpose <perm = [0, 1, 3, 2]> (c0)  y = {NORM} }}"
    before = model(text, W=W, **norm(4))
    for name, dims in (("c0", [2, 4, 3, 3]), ("c", [2, 4, 3, 3]), ("g", [4]), ("W", [4, 3, 3, 3])):
        before.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    after = folded(before)
    assert [info.name for info in after.proto.graph.value_info] == ["c0_folded"]
    onnx.checker.check_model(after.proto)


def test_below_ir_4_inputs_come_and_go_with_their_initializers() -> None:
    text = f"{SHAPED} {{ c = Conv (x, W)  n = {NORM}  d = Conv (x, W)  y = Add (n, d) }}"
    before = model(text, ir=3, opset=9, W=W, **norm(4))
    for name, array in constants(before).items():
        before.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    after = folded(before)
    listed = [entry.name for entry in after.proto.graph.input]
    assert sorted(listed) == sorted(["x", *constants(after.proto)])
    assert {"W", "W_folded", "W_bias"} == set(constants(after.proto))
    onnx.checker.check_model(after.proto)
    assert_same_function(before, after.proto, inputs(before), 27)


# --- biases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Conv (x, W)", 'Conv (x, W, "")'])
def test_a_shift_of_exactly_zero_creates_no_bias(text: str) -> None:
    still = norm(4) | {"be": np.zeros(4, np.float32), "m": np.float32([0, -0.0, 0, 0])}
    before = model(f"{HEAD} {{ c = {text}  y = {NORM} }}", W=W, **still)
    after = folded(before)
    assert set(constants(after.proto)) == {"W_folded"}
    assert not any(after.proto.graph.node[0].input[2:])
    assert_same_function(before, after.proto, inputs(before), 27)
    nearly = model(f"{HEAD} {{ c = {text}  y = {NORM} }}", W=W, **still | {"be": np.float32([0, 0, 1e-30, 0])})
    assert set(constants(folded(nearly).proto)) == {"W_folded", "W_bias"}


@pytest.mark.parametrize(
    ("weight", "bias"), [("conv1.weight", "conv1.bias"), ("W", "W_bias"), ("weight", "bias"), ("my_weight", "my_bias")]
)
def test_a_new_bias_is_named_after_its_weight(weight: str, bias: str) -> None:
    before = model(f"{HEAD} {{ c = Conv (x, W)  y = {NORM} }}", W=W, **norm(4))
    before.graph.node[0].input[1] = before.graph.initializer[0].name = weight
    assert set(constants(folded(before).proto)) == {f"{weight}_folded", bias}


def test_a_new_bias_takes_no_name_that_is_taken() -> None:
    before = model(f"{HEAD} {{ c = Conv (x, W)  y = {NORM} }}", W=W, W_bias=weights(9), W_folded=weights(7), **norm(4))
    after = folded(before)
    assert set(constants(after.proto)) == {"W_bias", "W_folded", "W_bias_1", "W_folded_1"}
    assert bits(constants(after.proto)["W_bias"]) == bits(weights(9))
    assert_same_function(before, after.proto, inputs(before), 27)
