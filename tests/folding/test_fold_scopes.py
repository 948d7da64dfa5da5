"""Branches, loop bodies and functions: what stands in one graph folds in it, with weights wherever they lie."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_support import bits, constants, fold, folded, inputs, model, norm, refusal, run, scale_and_shift, weights
from onnx import numpy_helper, parser

W = weights(4, 3, 3, 3)
V = weights(4, 4, 3, 3, seed=2)
PAIR = "{c} = Conv ({x}, {w})  {y} = BatchNormalization ({c}, g, be, m, v)"


def same(before: onnx.ModelProto, after: onnx.ModelProto, **given: object) -> None:
    """Within the rounding of one Conv: 27 terms of size below 2, scales below 7."""
    feeds = inputs(before) | {k: np.asarray(v) for k, v in given.items()}
    ours, theirs = run(before, feeds)[0], run(after, feeds)[0]
    assert np.ptp(ours) > 1
    assert np.abs(ours - theirs).max() <= (4 * np.sqrt(36) + 8) * 2**-24 * 36 * 2 * 2 * 7 * 7


IF = f"""(float[2,3,5,5] x, bool k) => (float[] y) {{
    y = If (k) <then_branch = t () => (float[] p) {{ {PAIR.format(c="c", x="x", w="W", y="p")} }},
                else_branch = e () => (float[] q) {{ {PAIR.format(c="d", x="x", w="W", y="q")} }}>
}}"""


def test_both_branches_of_an_if_fold_with_weights_of_the_outer_graph() -> None:
    before = model(IF, W=W, **norm(4))
    after = folded(before, moves=2)
    assert [b.g.node[0].op_type for b in after.proto.graph.node[0].attribute] == ["Conv", "Conv"]
    assert all(len(b.g.node) == 1 for b in after.proto.graph.node[0].attribute)
    assert set(constants(after.proto)) == {"W_folded", "W_folded_1", "W_bias", "W_bias_1"}
    assert all(move.site.scope != after.plan.moves[0].site.scope for move in after.plan.moves[1:])
    same(before, after.proto, k=True)
    same(before, after.proto, k=False)


def test_one_branch_folds_and_leaves_the_weight_to_the_other() -> None:
    text = IF.replace("BatchNormalization (d, g, be, m, v)", "Relu (d)")
    before = model(text, W=W, **norm(4))
    after = folded(before)
    assert set(constants(after.proto)) == {"W", "W_folded", "W_bias"}
    assert after.cloned == ("W",)
    assert bits(constants(after.proto)["W"]) == bits(W)
    same(before, after.proto, k=True)
    same(before, after.proto, k=False)


@pytest.mark.parametrize("ir", [3, 8])
def test_constant_nodes_outside_become_initializers_inside_and_below_ir_4_of_the_main_graph(ir: int) -> None:
    before = model(IF.replace("BatchNormalization (d, g, be, m, v)", "Relu (d)"), ir=ir, opset=9)
    held = {"W": W, **norm(4)}
    made = [onnx.helper.make_node("Constant", [], [k], value=numpy_helper.from_array(a, k)) for k, a in held.items()]
    made.append(before.graph.node[0])
    branching = [type(node).FromString(node.SerializeToString()) for node in made]
    del before.graph.node[:]
    before.graph.node.extend(branching)
    after = folded(before)
    main, branch = after.proto.graph, after.proto.graph.node[-1].attribute[0].g
    assert [n.op_type for n in main.node] == ["Constant", "If"]  # the other branch reads the weight as it was
    holder = main if ir == 3 else branch
    assert [t.name for t in holder.initializer] == ["W_folded", "W_bias"]
    assert [i.name for i in main.input][2:] == (["W_folded", "W_bias"] if ir == 3 else [])
    same(before, after.proto, k=True)
    same(before, after.proto, k=False)


def test_initializers_inside_a_branch_are_replaced_where_they_lie() -> None:
    before = model(IF, W=W, **norm(4))
    branch = before.graph.node[0].attribute[0].g
    branch.initializer.append(numpy_helper.from_array(W * 2, "Inner"))
    branch.node[0].input[1] = "Inner"
    after = folded(before, moves=2)
    assert [t.name for t in after.proto.graph.node[0].attribute[0].g.initializer] == ["Inner_folded", "Inner_bias"]
    same(before, after.proto, k=True)


LOOP = """(float[2,4,5,5] x, int64 n) => (float[] y) {
    y = Loop (n, on, x) <body = b (int64 i, bool go, float[2,4,5,5] s) => (bool more, float[] r) {
        more = Identity (go)  c = Conv <pads = [1, 1, 1, 1]> (s, V)  r = BatchNormalization (c, g, be, m, v) }>
}"""


def test_a_loop_body_folds_and_is_run_as_often_as_before() -> None:
    before = model(LOOP, V=V / 8, on=np.array(True), **norm(4))
    after = folded(before)
    for times in (0, 1, 2):
        same(before, after.proto, n=np.int64(times))


def test_a_value_that_goes_from_turn_to_turn_is_an_output_of_the_body() -> None:
    text = LOOP.replace("float[] r)", "float[] c, float[] r)").replace("y = Loop", "z, y = Loop")
    before = model(text, V=V / 8, on=np.array(True), **norm(4))
    found = refusal(before, "graph-output", "Conv")
    assert "Loop#0" in found.site.scope
    feeds = inputs(before) | {"n": np.array(2)}
    outside = model(LOOP, V=V / 8, on=np.array(True), **norm(4))
    assert np.abs(run(before, feeds)[0] - run(folded(outside).proto, feeds)[0]).max() > 0.1


FUNCTION = """<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
g (float[2,3,5,5] x) => (float[] y) { t = local.block (x)  y = Relu (t) }
<domain: "local", opset_import: ["" : %d]>
block (a) => (r) { %s  c = Conv (a, W)  r = BatchNormalization (c, g, be, m, v) }"""


def function(body: str = "", opset: int = 17, **tensors: np.ndarray) -> onnx.ModelProto:
    proto = parser.parse_model(FUNCTION % (opset, body))
    held = [onnx.helper.make_node("Constant", [], [k], value=numpy_helper.from_array(a, k)) for k, a in tensors.items()]
    rest = list(proto.functions[0].node)
    del proto.functions[0].node[:]
    proto.functions[0].node.extend([*held, *rest])
    return proto


def test_a_function_with_its_weights_in_constant_nodes_folds() -> None:
    before = function(W=W, **norm(4))
    after = folded(before)
    body = after.proto.functions[0].node
    assert [n.op_type for n in body] == ["Constant", "Constant", "Conv"]
    assert body[-1].output == ["r"]
    found = [numpy_helper.to_array(n.attribute[0].t) for n in body[:2]]
    a, s = scale_and_shift(norm(4))
    assert bits(found[0]) == bits((W.astype(np.float64) * a.reshape(4, 1, 1, 1)).astype(np.float32))
    assert bits(found[1]) == bits(s.astype(np.float32))
    same(before, after.proto)


def test_a_function_has_opsets_of_its_own() -> None:
    before = function(opset=6, W=W, **norm(4))
    found = refusal(before, "is-test-zero")
    assert found.site.scope == "function local.block"
    assert len(fold(before, assume_inference=True).plan.moves) == 1


def test_two_functions_whose_full_names_read_alike_are_two() -> None:
    """Domain a.b with function c, and domain a with function b.c."""
    before = function(W=W, **norm(4))
    before.functions.append(before.functions[0])
    before.functions[0].domain, before.functions[0].name = "a.b", "c"
    before.functions[1].domain, before.functions[1].name = "a", "b.c"
    before.functions[1].node.insert(0, onnx.helper.make_node("Identity", ["a"], ["unused"]))
    before.graph.node[0].domain, before.graph.node[0].op_type = "a.b", "c"
    after = folded(before, moves=2)
    assert [len(f.node) for f in after.proto.functions] == [3, 4]


def test_a_function_is_folded_once_however_often_it_is_called() -> None:
    before = function(W=V / 8, **norm(4))
    call = before.graph.node[0]
    again = onnx.helper.make_node("block", ["t"], ["t2"], domain="local")
    before.graph.node.insert(1, again)
    before.graph.node[2].input[0] = "t2"
    before.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    assert call.op_type == again.op_type
    after = folded(before)
    same(before, after.proto)


@pytest.mark.parametrize("parameter", ["W", "m"])
def test_what_a_function_is_given_as_input_is_not_constant(parameter: str) -> None:
    held = {"W": W, **norm(4)}
    before = function(**{k: a for k, a in held.items() if k != parameter})
    before.functions[0].input.append(parameter)
    before.graph.node[0].input.append("given")
    before.graph.initializer.append(numpy_helper.from_array(held[parameter], "given"))
    refusal(before, "not-constant", "Conv" if parameter == "W" else None)
    feeds = inputs(before)
    (first,) = run(before, feeds)
    before.graph.initializer[0].CopyFrom(numpy_helper.from_array(held[parameter] * 2, "given"))
    assert np.abs(first - run(before, feeds)[0]).max() > 0.1  # another caller, another weight


def test_an_attribute_that_a_caller_gives_is_not_known() -> None:
    before = function(W=W, **norm(4))
    before.functions[0].attribute.append("eps")
    bn = before.functions[0].node[-1]
    bn.attribute.append(onnx.AttributeProto(name="epsilon", ref_attr_name="eps", type=onnx.AttributeProto.FLOAT))
    before.graph.node[0].attribute.append(onnx.helper.make_attribute("eps", 10.0))
    refusal(before, "not-constant")
    assumed = folded(function(W=W, **norm(4)))
    feeds = inputs(before)
    assert np.abs(run(before, feeds)[0] - run(assumed.proto, feeds)[0]).max() > 0.1


def test_a_convolution_whose_group_a_caller_gives_is_not_known() -> None:
    before = function(W=W, **norm(4))
    before.functions[0].attribute.append("groups")
    conv = before.functions[0].node[-2]
    conv.attribute.append(onnx.AttributeProto(name="group", ref_attr_name="groups", type=onnx.AttributeProto.INT))
    before.graph.node[0].attribute.append(onnx.helper.make_attribute("groups", 1))
    refusal(before, "not-constant", "Conv")
    assert fold(before).ops == ["block", "Relu"]
    assert conv.attribute[-1].i == 0  # what a naive reader takes for the number of groups
