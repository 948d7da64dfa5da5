"""A norm that stays takes over the ones behind it; and a norm of before opset 7 is the same affine where it is told to.

(a2, s2) after (a1*(z - m) + beta):      gamma' = a2*gamma      beta' = a2*beta + s2      m, v, epsilon stay
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_draws import Array, Kind, arrays, epsilons, examples, kinds, statistics
from folding_support import (
    Folded,
    assert_same_function,
    bits,
    constants,
    fold,
    inputs,
    model,
    norm,
    operands,
    proven,
    scale_and_shift,
    weights,
)
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, version_converter

PROVEN = {("linear", "BatchNormalization")}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Kind, str, dict[str, Array], Array, float]:
    kind = draw(kinds(double=True))
    dims = (2, 4, *draw(st.sampled_from([(), (3,), (2, 2)])))
    between = draw(st.sampled_from(["", "Identity", "Dropout"]))
    eps = draw(epsilons())
    middle = f"k = {between} (h)" if between else ""
    text = f"""({kind.text}{list(dims)} x) => ({kind.text}[] y) {{
        r = Relu (x)  h = BatchNormalization (r, hg, hbe, hm, hv)  {middle}
        y = BatchNormalization <epsilon = {eps:.9g}> ({"k" if between else "h"}, g, be, m, v) }}"""
    tensors = {**draw(statistics(4, kind, "h")), **draw(statistics(4, kind))}
    return kind, text, tensors, draw(arrays(dims, kind.data)), eps


@examples(80)
@given(pairs())
def test_a_norm_takes_over_the_norm_behind_it(drawn: tuple[Kind, str, dict[str, Array], Array, float]) -> None:
    kind, text, tensors, x, eps = drawn
    before = model(text, opset=kind.opset, **tensors)
    done = proven(before, {"x": x}, 2, left=1)
    assert done.ops.count("BatchNormalization") == 1
    (a, s), gamma, beta = scale_and_shift(tensors, eps=eps), *(tensors[k].astype(np.float64) for k in ("hg", "hbe"))
    _, new_gamma, new_beta, mean, variance = operands(done.proto, "BatchNormalization")
    assert bits(new_gamma) == bits((a * gamma).astype(kind.statistics))
    assert bits(new_beta) == bits((a * beta + s).astype(kind.statistics))
    assert bits(mean) == bits(tensors["hm"])
    assert bits(variance) == bits(tensors["hv"])


def test_parameters_that_two_norms_share_are_cloned_for_the_one_that_changes() -> None:
    text = """(float[2,4,3] x) => (float[] y, float[] z) {
        r = Relu (x)  h = BatchNormalization (r, g, be, m, v)  y = BatchNormalization (h, qg, qbe, qm, qv)
        z = BatchNormalization (x, g, be, m, v) }"""
    before = model(text, **norm(4), **norm(4, "q", 3))
    done = proven(before, inputs(before), 2, left=2)
    assert set(done.cloned) == {"g", "be"}
    assert {k: bits(constants(done.proto)[k]) for k in norm(4)} == {k: bits(v) for k, v in norm(4).items()}


# --- before opset 7 -------------------------------------------------------------------------------------------------

OLD = """(float[2,3,4,4] x, float[4,3,1,1] W, float[4] g, float[4] be, float[4] m, float[4] v) => (float[2,4,4,4] y) {
    c = Conv <kernel_shape = [1, 1]> (x, W)  y = BatchNormalization <ATTRIBUTES> (c, g, be, m, v) }"""


def old(opset: int, attributes: str) -> onnx.ModelProto:
    consumed = ", consumed_inputs = [0, 0, 0, 1, 1]" if opset < 6 else ""
    text = OLD.replace("ATTRIBUTES", attributes + consumed)
    return model(text, opset=opset, ir=3, W=weights(4, 3, 1, 1), **norm(4))


def in_opset_9(proto: onnx.ModelProto, *, inference: bool = False) -> onnx.ModelProto:
    """What onnx's converter makes of an old model, which onnxruntime does not run; `inference`: is_test is 1."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.ir_version = 4
    del copy.graph.input[1:]
    for node in copy.graph.node:
        kept = [a for a in node.attribute if a.name != "is_test"]
        if node.op_type == "BatchNormalization" and inference:
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("is_test", 1)])
    return version_converter.convert_version(copy, 9)


def check_old(before: onnx.ModelProto, done: Folded) -> None:
    assert done.ops == ["Conv"]
    assert [entry.name for entry in done.proto.graph.input] == ["x", "W_folded", "W_bias"]
    a, s = scale_and_shift(norm(4))
    exact = weights(4, 3, 1, 1).astype(np.float64) * a.reshape(4, 1, 1, 1)
    assert bits(operands(done.proto, "Conv")[1]) == bits(exact.astype(np.float32))
    assert bits(operands(done.proto, "Conv")[2]) == bits(s.astype(np.float32))
    onnx.checker.check_model(done.proto)
    if before.opset_import[0].version == 6:
        ours = in_opset_9(before, inference=True)
        assert_same_function(ours, in_opset_9(done.proto), inputs(ours), 3)


@pytest.mark.parametrize("opset", [1, 2, 5, 6])
def test_is_test_1_is_inference_before_opset_7(opset: int) -> None:
    before = old(opset, "is_test = 1")
    done = fold(before)
    assert done.plan.refusals == ()
    check_old(before, done)
    assert fold(done.bytes).bytes == done.bytes


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize("attributes", ["is_test = 0", "momentum = 0.9"])
def test_is_test_0_is_inference_where_the_user_says_so(opset: int, attributes: str) -> None:
    before = old(opset, attributes)
    done = fold(before, assume_inference=True)
    assert done.plan.assumes_inference
    assert done.plan.refusals == ()
    check_old(before, done)
    assert fold(done.bytes, assume_inference=True).bytes == done.bytes


@pytest.mark.parametrize("opset", [1, 6])
def test_an_add_behind_a_matmul_says_before_opset_7_along_which_axis_it_goes(opset: int) -> None:
    consumed = ", consumed_inputs = [0, 0, 0, 1, 1]" if opset < 6 else ""
    text = f"""(float[2,3] x, float[3,4] W, float[4] g, float[4] be, float[4] m, float[4] v) => (float[2,4] y) {{
        c = MatMul (x, W)  y = BatchNormalization <is_test = 1{consumed}> (c, g, be, m, v) }}"""
    before = model(text, opset=opset, ir=3, W=weights(3, 4), **norm(4))
    done = fold(before)
    assert done.ops == ["MatMul", "Add"]
    assert {a.name: a.i for a in done.proto.graph.node[1].attribute} == {"broadcast": 1, "axis": 1}
    onnx.checker.check_model(done.proto)
    later = model(text.replace(", float[3,4] W, float[4] g, float[4] be, float[4] m, float[4] v", "")
                  .replace(f"<is_test = 1{consumed}>", ""), opset=7, W=weights(3, 4), **norm(4))  # fmt: skip
    after = onnx.ModelProto()
    after.CopyFrom(done.proto)
    after.opset_import[0].version = 7
    del after.graph.node[1].attribute[:]  # along the last axis, opset 7 says the same without
    assert_same_function(later, after, inputs(later), 4)
