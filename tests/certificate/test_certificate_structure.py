"""Rewritten models that differ from the original where no claim covers it: refused, each with its sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from certificate_folds import Fold, array, copied, parameters, parsed, put
from onnx import TensorProto, helper, numpy_helper

from bnfold.equality.structure import Claim
from bnfold.errors import InputRefused
from bnfold.graph import Graph
from bnfold.model import read

INTERFACE = "(bool p, float[1,4,8] x, float[1,4,8] x2) => (float[1,4,8] y, float[1,4,8] z)"
BODY = """
  c0 = Conv <pads = [1,1]> (x, w0, b0)
  n0 = BatchNormalization (c0, g0, e0, m0, v0)
  r0 = LeakyRelu <alpha = 0.25> (n0)
  c1 = Conv <pads = [1,1]> (r0, w1)
  t1 = Transpose <perm = [0,2,1]> (c1)
  u1 = Transpose <perm = [0,2,1]> (t1)
  n1 = BatchNormalization (u1, g1, e1, m1, v1)
  s = Sub (n1, r0)
  half = Constant <value = float {0.5}> ()
  h = Mul (s, half)
  k = Mul (h, const)
  z, i = If (p) <then_branch = a () => (float[1,4,8] za, float[1,4,8] ia)
                  { ca = Conv <pads = [1,1]> (k, w2) za = BatchNormalization (ca, g2, e2, m2, v2) ia = Abs (k) },
                 else_branch = b () => (float[1,4,8] zb, float[1,4,8] ib) { zb = Neg (k) ib = Abs (k) }>
  y = Sub (i, x2)
"""


def model() -> onnx.ModelProto:
    """A BN behind a Conv, one through two Transposes, one in a branch; a constant, metadata, a remark and shapes."""
    random = np.random.default_rng(0)
    weights = {f"w{k}": random.standard_normal((4, 4, 3)).astype("f") for k in range(3)}
    numbers = {k: v for i in range(3) for k, v in parameters(random, 4, str(i)).items()}
    made = put(parsed(f"{INTERFACE} {{ {BODY} }}"), **weights, **numbers, b0=random.standard_normal(4).astype("f"))
    put(made, const=random.standard_normal((4, 1)).astype("f"), unread=random.standard_normal(400).astype("f"))
    made.metadata_props.add(key="author", value="tests")
    made.graph.value_info.append(helper.make_tensor_value_info("r0", TensorProto.FLOAT, [1, 4, 8]))
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(400, "f"), "few"), numpy_helper.from_array(np.arange(400), ""), [500]
    )
    made.graph.sparse_initializer.append(sparse)
    return made


@pytest.fixture(scope="module")
def fold() -> Fold:
    made = Fold.of(model(), normalizations_alone=True)
    assert [len(claim.path) for claim in made.claims] == [0, 2, 0]
    assert made.certificate().failure is None
    return made


def node(model: onnx.ModelProto, op: str, place: int = 0) -> onnx.NodeProto:
    return [found for found in model.graph.node if found.op_type == op][place]


def initializer(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def branch(model: onnx.ModelProto) -> onnx.GraphProto:
    return node(model, "If").attribute[0].g


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def swapped(entries) -> None:
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    del entries[:]
    entries.extend(reversed(copies))


def one_bit_of_a_constant(after: onnx.ModelProto) -> None:
    tensor = initializer(after, "const")
    tensor.raw_data = flipped(tensor.raw_data, 40)


def one_bit_of_a_constant_that_nobody_reads(after: onnx.ModelProto) -> None:
    tensor = initializer(after, "unread")
    tensor.raw_data = flipped(tensor.raw_data, 12799)


def one_bit_of_a_sparse_constant(after: onnx.ModelProto) -> None:
    values = after.graph.sparse_initializer[0].values
    values.raw_data = flipped(values.raw_data, 6400)


def one_bit_of_a_tensor_in_an_attribute(after: onnx.ModelProto) -> None:
    tensor = node(after, "Constant").attribute[0].t
    tensor.float_data[0] = float(np.nextafter(np.float32(0.5), np.float32(1)))


def a_weight_takes_the_name_of_a_value_that_went(after: onnx.ModelProto) -> None:
    weight = initializer(after, node(after, "Conv").input[1])
    weight.name = node(after, "Conv").input[1] = "c0"


def the_type_of_a_weight(after: onnx.ModelProto) -> None:
    name = node(after, "Conv").input[1]
    put(after, **{name: array(after, name).astype(np.float64)})


def the_shape_of_a_constant(after: onnx.ModelProto) -> None:
    initializer(after, "const").dims[:] = [1, 4, 1]


def the_type_of_a_constant(after: onnx.ModelProto) -> None:
    initializer(after, "const").data_type = TensorProto.INT32


def a_constant_turns_into_a_computed_value(after: onnx.ModelProto) -> None:
    after.graph.initializer.remove(initializer(after, "const"))
    after.graph.node.insert(0, helper.make_node("Constant", [], ["const"], value_floats=[1.0]))


def a_computed_value_turns_into_a_constant(after: onnx.ModelProto) -> None:
    after.graph.node.remove(node(after, "LeakyRelu"))
    put(after, r0=np.zeros((1, 4, 8), "f"))


def an_attribute_of_another_node(after: onnx.ModelProto) -> None:
    node(after, "LeakyRelu").attribute[0].f = 0.2500001


def an_attribute_of_another_node_is_dropped(after: onnx.ModelProto) -> None:
    del node(after, "LeakyRelu").attribute[:]


def an_attribute_of_a_home(after: onnx.ModelProto) -> None:
    node(after, "Conv").attribute[0].ints[:] = [0, 2]


def an_attribute_more_at_a_home(after: onnx.ModelProto) -> None:
    node(after, "Conv").attribute.append(helper.make_attribute("dilations", [1]))


def the_permutation_of_a_passed_node(after: onnx.ModelProto) -> None:
    node(after, "Transpose").attribute[0].ints[:] = [0, 1, 2]


def the_operator_of_a_node(after: onnx.ModelProto) -> None:
    node(after, "Mul").op_type = "Div"


def the_domain_of_a_node(after: onnx.ModelProto) -> None:
    after.opset_import.add(domain="other", version=1)
    node(after, "Mul").domain = "other"


def the_name_of_a_node(after: onnx.ModelProto) -> None:
    node(after, "Mul").name = "another"


def the_remark_of_a_node(after: onnx.ModelProto) -> None:
    node(after, "Mul").doc_string = "another"


def the_metadata_of_a_node(after: onnx.ModelProto) -> None:
    node(after, "Mul").metadata_props.add(key="key", value="another")


def two_operands_swapped(after: onnx.ModelProto) -> None:
    node(after, "Sub").input[:] = reversed(node(after, "Sub").input)


def a_home_reads_another_input_of_the_graph(after: onnx.ModelProto) -> None:
    node(after, "Conv").input[0] = "x2"


def a_home_reads_another_value(after: onnx.ModelProto) -> None:
    node(after, "Conv", 1).input[0] = "x"


def another_node_reads_another_constant(after: onnx.ModelProto) -> None:
    node(after, "Mul", 1).input[1] = node(after, "Conv").input[2]


def two_inputs_of_the_graph_swapped(after: onnx.ModelProto) -> None:
    node(after, "Conv").input[0], node(after, "Sub", 1).input[1] = "x2", "x"


def two_homes_swap_their_weights(after: onnx.ModelProto) -> None:
    one, other = node(after, "Conv"), node(after, "Conv", 1)
    one.input[1], other.input[1] = other.input[1], one.input[1]


def a_node_dropped_and_replaced_by_the_one_before(after: onnx.ModelProto) -> None:
    mul = node(after, "Mul", 1)
    node(after, "Mul").output[0] = mul.output[0]
    after.graph.node.remove(mul)


def a_node_dropped_and_jumped_over(after: onnx.ModelProto) -> None:
    relu = node(after, "LeakyRelu")
    for reader in after.graph.node:
        reader.input[:] = [relu.input[0] if name == relu.output[0] else name for name in reader.input]
    after.graph.node.remove(relu)


def a_node_added(after: onnx.ModelProto) -> None:
    after.graph.node.append(helper.make_node("Abs", ["x"], ["unused"]))


def a_node_added_on_the_way(after: onnx.ModelProto) -> None:
    node(after, "Mul").input[0] = "squared"
    after.graph.node.insert(5, helper.make_node("Relu", ["s"], ["squared"]))


def a_constant_added_for_another_node(after: onnx.ModelProto) -> None:
    put(after, fresh=np.ones((4, 1), "f"))
    node(after, "Mul", 1).input[1] = "fresh"


def a_constant_added_that_becomes_an_output(after: onnx.ModelProto) -> None:
    put(after, fresh=np.ones((1, 4, 8), "f"))
    branch(after).output[1].name = "fresh"


def two_nodes_reordered(after: onnx.ModelProto) -> None:
    """Neither reads the other, and the file stays sorted: still not the original's order."""
    after.graph.node.insert(0, copied_node(after.graph.node[-1]))
    after.graph.node.insert(0, copied_node(after.graph.node[-2]))
    del after.graph.node[-2:]


def copied_node(found: onnx.NodeProto) -> onnx.NodeProto:
    return onnx.NodeProto.FromString(found.SerializeToString())


def two_nodes_of_a_branch_reordered(after: onnx.ModelProto) -> None:
    swapped(branch(after).node)


def an_output_renamed(after: onnx.ModelProto) -> None:
    node(after, "Sub", 1).output[0] = after.graph.output[0].name = "another"


def two_outputs_swapped(after: onnx.ModelProto) -> None:
    node(after, "Sub", 1).output[0], node(after, "If").output[0] = "z", "y"


def the_outputs_in_another_order(after: onnx.ModelProto) -> None:
    swapped(after.graph.output)


def the_outputs_of_a_branch_in_another_order(after: onnx.ModelProto) -> None:
    swapped(branch(after).output)


def the_type_of_an_output(after: onnx.ModelProto) -> None:
    after.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 9


def an_input_renamed(after: onnx.ModelProto) -> None:
    after.graph.input[2].name = node(after, "Sub", 1).input[1] = "another"


def an_input_added(after: onnx.ModelProto) -> None:
    after.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def the_branches_swapped(after: onnx.ModelProto) -> None:
    then, otherwise = node(after, "If").attribute
    then.name, otherwise.name = otherwise.name, then.name


def a_value_whose_content_stays_renamed(after: onnx.ModelProto) -> None:
    node(after, "LeakyRelu").output[0] = "another"
    for reader in after.graph.node:
        reader.input[:] = ["another" if name == "r0" else name for name in reader.input]


def a_changed_value_takes_the_name_of_one_that_went(after: onnx.ModelProto) -> None:
    _renamed(after, node(after, "Conv", 1).output[0], "u1")


def a_changed_value_keeps_its_name(after: onnx.ModelProto) -> None:
    _renamed(after, node(after, "Conv", 1).output[0], "c1")


def a_changed_value_takes_the_name_of_a_constant_that_went(after: onnx.ModelProto) -> None:
    _renamed(after, node(after, "Conv", 1).output[0], "g1")


def _renamed(after: onnx.ModelProto, old: str, new: str) -> None:
    for found in after.graph.node:
        found.input[:] = [new if name == old else name for name in found.input]
        found.output[:] = [new if name == old else name for name in found.output]


def the_opset(after: onnx.ModelProto) -> None:
    after.opset_import[0].version = 16


def an_opset_more(after: onnx.ModelProto) -> None:
    after.opset_import.add(domain="other", version=1)


def the_ir_version(after: onnx.ModelProto) -> None:
    after.ir_version = 9


def the_metadata(after: onnx.ModelProto) -> None:
    after.metadata_props[0].value = "another"


def the_producer(after: onnx.ModelProto) -> None:
    after.producer_name = "bnfold"


def the_remark_of_the_graph(after: onnx.ModelProto) -> None:
    after.graph.doc_string = "folded"


def the_name_of_the_graph(after: onnx.ModelProto) -> None:
    after.graph.name = "folded"


def a_function_added(after: onnx.ModelProto) -> None:
    nodes = [helper.make_node("Identity", ["a"], ["b"])]
    after.functions.append(helper.make_function("local", "f", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)]))


OUTSIDE = "something outside the graph's nodes and constants"
UNPAIRED = "of the rewritten model has no counterpart in the original"
DEVIATIONS: dict[Callable[[onnx.ModelProto], None], str] = {
    one_bit_of_a_constant: "the constant 'const' changed",
    one_bit_of_a_constant_that_nobody_reads: "the constant 'unread' changed",
    one_bit_of_a_sparse_constant: "a tensor in something outside",
    one_bit_of_a_tensor_in_an_attribute: "the tensor in Constant#8 changed",
    a_weight_takes_the_name_of_a_value_that_went: "the new constant 'c0'",
    the_type_of_a_weight: "the weight of Conv#0 changed its shape or type",
    the_shape_of_a_constant: "the constant 'const' changed",
    the_type_of_a_constant: "the constant 'const' changed",
    a_constant_turns_into_a_computed_value: UNPAIRED,
    a_computed_value_turns_into_a_constant: "the new constant 'r0' is read by something that was not rewritten",
    an_attribute_of_another_node: UNPAIRED,
    an_attribute_of_another_node_is_dropped: UNPAIRED,
    an_attribute_of_a_home: UNPAIRED,
    an_attribute_more_at_a_home: UNPAIRED,
    the_permutation_of_a_passed_node: UNPAIRED,
    the_operator_of_a_node: UNPAIRED,
    the_domain_of_a_node: OUTSIDE,
    the_name_of_a_node: UNPAIRED,
    the_remark_of_a_node: UNPAIRED,
    the_metadata_of_a_node: UNPAIRED,
    two_operands_swapped: "reads ['r0', 'n1'] instead of ['n1', 'r0']",
    a_home_reads_another_input_of_the_graph: "Conv#0 reads something else at input 0",
    a_home_reads_another_value: "Conv#3 reads something else at input 0",
    another_node_reads_another_constant: "Mul#10 reads",
    two_inputs_of_the_graph_swapped: "reads",
    two_homes_swap_their_weights: "the weight of Conv#0 at",
    a_node_dropped_and_replaced_by_the_one_before: "reads",
    a_node_dropped_and_jumped_over: "reads",
    a_node_added: UNPAIRED,
    a_node_added_on_the_way: UNPAIRED,
    a_constant_added_for_another_node: "Mul#10 reads",
    a_constant_added_that_becomes_an_output: "something of If#11.then_branch",
    two_nodes_reordered: UNPAIRED,
    two_nodes_of_a_branch_reordered: UNPAIRED,
    an_output_renamed: "the graph's outputs differ",
    two_outputs_swapped: UNPAIRED,
    the_outputs_in_another_order: "the graph's outputs differ",
    the_outputs_of_a_branch_in_another_order: "something of If#11.then_branch",
    the_type_of_an_output: "the graph's outputs differ",
    an_input_renamed: "the graph's inputs differ",
    an_input_added: "the graph's inputs differ",
    the_branches_swapped: "something of If#11.then_branch",
    a_value_whose_content_stays_renamed: UNPAIRED,
    a_changed_value_takes_the_name_of_one_that_went: "'c1' changes and is now called 'u1', which meant another value",
    a_changed_value_keeps_its_name: "'c1' changes and is now called 'c1', which meant another value",
    a_changed_value_takes_the_name_of_a_constant_that_went: "is now called 'g1', which meant another value",
    the_opset: OUTSIDE,
    an_opset_more: OUTSIDE,
    the_ir_version: OUTSIDE,
    the_metadata: OUTSIDE,
    the_producer: OUTSIDE,
    the_remark_of_the_graph: OUTSIDE,
    the_name_of_the_graph: OUTSIDE,
    a_function_added: OUTSIDE,
}


@pytest.mark.parametrize("deviation", DEVIATIONS, ids=lambda deviation: deviation.__name__)
def test_a_change_that_no_claim_covers_is_refused(fold: Fold, deviation: Callable[[onnx.ModelProto], None]) -> None:
    after = fold.copy()
    deviation(after)
    assert after != fold.after
    checked = fold.certificate(after)
    assert not checked.holds
    assert DEVIATIONS[deviation] in str(checked.failure)


def test_a_node_that_something_needs_cannot_even_be_read_without_it(fold: Fold) -> None:
    after = fold.copy()
    after.graph.node.remove(node(after, "Mul"))
    with pytest.raises(InputRefused):
        fold.certificate(after)


def test_a_normalization_that_stays_although_it_was_claimed_is_refused(fold: Fold) -> None:
    assert UNPAIRED in str(fold.certificate(fold.before).failure)


def test_a_normalization_that_goes_although_nobody_claimed_it_is_refused(fold: Fold) -> None:
    for left_out in fold.claims:
        checked = fold.certificate(claimed=tuple(claim for claim in fold.claims if claim is not left_out))
        assert not checked.holds
        assert checked.failure is not None


def test_an_unchanged_model_without_claims_is_certified(fold: Fold) -> None:
    assert fold.certificate(fold.before, claimed=()).holds


def test_value_info_of_a_changed_value_may_change(fold: Fold) -> None:
    after = fold.copy()
    del after.graph.value_info[:]
    assert fold.certificate(after).holds


# Claims that are themselves false.


def simple(body: str, interface: str = "(float[1,4,8] x) => (float[1,4,8] y)", **more: object) -> onnx.ModelProto:
    random = np.random.default_rng(5)
    weight = random.standard_normal((4, 4, 3)).astype("f")
    numbers = parameters(random, 4) | parameters(random, 4, "1")
    return put(parsed(f"{interface} {{ {body} }}", **more), w=weight, **numbers)


PLAIN = "c = Conv<pads=[1,1]>(x,w) n = BatchNormalization(c,g,e,m,v) y = Relu(n)"


def test_a_normalization_of_training_mode_is_no_fold() -> None:
    fold = Fold.of(simple(PLAIN))
    before = copied(fold.before)
    node(before, "BatchNormalization").attribute.append(helper.make_attribute("training_mode", 1))
    checked = replace(fold, before=before).certificate()
    assert checked.failure == "BatchNormalization#1 is no BatchNormalization at inference"


def test_a_normalization_with_further_outputs_below_opset_14_is_no_fold() -> None:
    fold = Fold.of(simple(PLAIN, opset=13))
    before = copied(fold.before)
    node(before, "BatchNormalization").output.extend(["mean", "var"])
    checked = replace(fold, before=before).certificate()
    assert checked.failure == "BatchNormalization#1 is no BatchNormalization at inference"


def test_a_normalization_per_element_of_opset_8_is_no_fold() -> None:
    fold = Fold.of(simple(PLAIN, opset=8))
    before = copied(fold.before)
    node(before, "BatchNormalization").attribute.append(helper.make_attribute("spatial", 0))
    checked = replace(fold, before=before).certificate()
    assert checked.failure == "BatchNormalization#1 is no BatchNormalization at inference"


def test_a_claim_of_another_operator_is_refused() -> None:
    fold = Fold.of(simple(PLAIN))
    claim = replace(fold.claims[0], site=replace(fold.claims[0].site, index=2, op="Relu"))
    assert not fold.certificate(claimed=(claim,)).holds


def test_a_claim_about_a_node_that_does_not_exist_is_refused() -> None:
    fold = Fold.of(simple(PLAIN))
    nowhere = replace(fold.claims[0].site, index=9)
    for claim in (
        replace(fold.claims[0], site=nowhere),
        replace(fold.claims[0], homes=(nowhere,)),
        replace(fold.claims[0], path=(nowhere,)),
    ):
        checked = fold.certificate(claimed=(claim,))
        assert checked.failure == "a claim names BatchNormalization#9, which the original has not"


def test_a_claim_with_no_home_is_not_decided_and_one_with_the_same_home_twice_is_refused() -> None:
    fold = Fold.of(simple(PLAIN))
    claim = fold.claims[0]
    assert "has 0 homes" in str(fold.certificate(claimed=(replace(claim, homes=()),)).uncertain)
    twice = fold.certificate(claimed=(replace(claim, homes=claim.homes * 2),))
    assert "names a node twice" in str(twice.failure)


def test_a_claim_made_twice_is_refused() -> None:
    fold = Fold.of(simple(PLAIN))
    assert fold.certificate(claimed=fold.claims * 2).failure == "BatchNormalization#1 is claimed twice"


def test_a_claim_that_leaves_out_a_node_on_the_way_is_refused() -> None:
    fold = Fold.of(simple("c = Conv<pads=[1,1]>(x,w) i = Identity(c) n = BatchNormalization(i,g,e,m,v) y = Relu(n)"))
    assert fold.certificate().holds
    checked = fold.certificate(claimed=(replace(fold.claims[0], path=()),))
    assert not checked.holds
    assert checked.failure is not None


def test_a_claim_that_passes_over_a_normalization_that_stays_is_refused() -> None:
    chain = "c = Conv<pads=[1,1]>(x,w) o = BatchNormalization(c,g1,e1,m1,v1) n = BatchNormalization(o,g,e,m,v)"
    fold = Fold.of(simple(f"{chain} y = Relu(n)"))
    _, outer = fold.claims
    alone = Fold.of(simple(PLAIN))
    after = copied(fold.before)
    put(after, folded=array(alone.after, alone.after.graph.node[0].input[1]))
    put(after, folded_bias=array(alone.after, alone.after.graph.node[0].input[2]))
    conv, stays, goes, relu = after.graph.node
    conv.input[1:] = ["folded", "folded_bias"]
    conv.output[0], stays.input[0], stays.output[0], relu.input[0] = "c_folded", "c_folded", "n", "n"
    after.graph.node.remove(goes)
    assert fold.certificate().holds
    checked = fold.certificate(after, claimed=(outer,))
    assert checked.failure == "a claim passes BatchNormalization#1, which stays"


SECOND_READERS = {
    "another node": "z = Abs(c)",
    "a node further on": "z = Sub(c, n)",
    "a nested graph": (
        "z = If(p) <then_branch = a () => (float[1,4,8] za) { za = Abs(c) }, "
        "else_branch = b () => (float[1,4,8] zb) { zb = Neg(x) }>"
    ),
}


def with_constants_of(fold: Fold, before: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """`before` without its BN, its Conv with the weights of `fold` and its value under `name`, whoever reads it."""
    after = copied(before)
    after.graph.initializer.extend(t for t in fold.after.graph.initializer if t.name in {"w_folded", "w_bias"})
    after.graph.node.remove(node(after, "BatchNormalization"))
    after.graph.node[0].input[:] = fold.after.graph.node[0].input
    bodies = [after.graph, *(a.g for found in after.graph.node for a in found.attribute if a.name.endswith("branch"))]
    for found in (found for body in bodies for found in body.node):
        found.input[:] = [name if old in {"c", "n"} else old for old in found.input]
    after.graph.node[0].output[0] = name
    return after


@pytest.mark.parametrize("reader", SECOND_READERS)
def test_a_fold_into_a_value_that_something_else_reads_is_refused(reader: str) -> None:
    fold = Fold.of(simple(PLAIN))
    interface = "(bool p, float[1,4,8] x) => (float[1,4,8] y, float[1,4,8] z)"
    before = simple(f"{PLAIN} {SECOND_READERS[reader]}", interface)
    checked = replace(fold, before=before).certificate(with_constants_of(fold, before, "n"))
    assert checked.failure == "'c' changes, and something else reads it"


def test_a_fold_into_a_value_that_the_caller_gets_is_refused() -> None:
    fold = Fold.of(simple(PLAIN))
    before = simple(PLAIN, "(float[1,4,8] x) => (float[1,4,8] y, float[1,4,8] c)")
    checked = replace(fold, before=before).certificate(with_constants_of(fold, before, "c"))
    assert checked.failure == "'c' changes and is now called 'c', which meant another value"


def test_a_value_that_only_its_shape_is_read_of_may_change() -> None:
    interface = "(float[1,4,8] x) => (float[1,4,8] y, int64[3] z)"
    assert Fold.of(simple(f"{PLAIN} z = Shape(c)", interface)).certificate().holds


def test_a_fold_through_a_dropout_that_drops_is_refused() -> None:
    body = "c = Conv<pads=[1,1]>(x,w) d = Dropout(c,r,t) n = BatchNormalization(d,g,e,m,v) y = Relu(n)"
    models = {drops: put(simple(body), r=np.array(0.5, "f"), t=np.array(drops)) for drops in (False, True)}
    fold = Fold.of(models[False])
    assert fold.certificate().holds
    checked = replace(fold, before=models[True]).certificate(put(fold.copy(), t=np.array(True)))
    assert checked.failure == "a claim passes Dropout#1, which drops elements"


def test_a_fold_through_a_dropout_whose_mode_a_caller_chooses_is_not_decided() -> None:
    body = "c = Conv<pads=[1,1]>(x,w) d = Dropout(c,r,t) n = BatchNormalization(d,g,e,m,v) y = Relu(n)"
    fold = Fold.of(put(simple(body), r=np.array(0.5, "f"), t=np.array(False)))
    mode = helper.make_tensor_value_info("t", TensorProto.BOOL, [])
    before, after = copied(fold.before), fold.copy()
    for model in (before, after):
        model.graph.input.append(mode)
    assert "may replace" in str(replace(fold, before=before).certificate(after).uncertain)


def test_a_fold_of_a_parameter_that_a_caller_may_replace_is_not_decided() -> None:
    fold = Fold.of(simple(PLAIN))
    for name in "gemvw":
        before, after = copied(fold.before), fold.copy()
        original = array(before, name)
        for model in (before, after):
            model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, original.shape))
        checked = replace(fold, before=before).certificate(put(after, **{name: original}))
        assert checked.uncertain == f"{name!r} is only a default, which a caller may replace"


def test_a_default_of_an_input_that_is_lost_is_refused() -> None:
    fold = Fold.of(put(simple(f"{PLAIN} q = Identity(k)"), k=np.ones(3, "f")))
    before, after = copied(fold.before), fold.copy()
    for model in (before, after):
        model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [3]))
    assert replace(fold, before=before).certificate(after).holds
    after.graph.initializer.remove(initializer(after, "k"))
    assert replace(fold, before=before).certificate(after).failure == "the input 'k' has lost its default"


def test_a_normalization_across_the_channels_of_a_home_is_no_fold_of_it() -> None:
    """Behind the Transpose every output channel meets all four parameters, of which no weight can take one."""
    body = "c = Conv<pads=[1,1]>(x,w) t = Transpose<perm=[0,2,1]>(c) n = BatchNormalization(t,g,e,m,v) y = Relu(n)"
    before = simple(body, "(float[1,4,4] x) => (float[1,4,4] y)")
    assert Fold.of(before).claims == ()
    numbers = {name: array(before, name).astype(np.float64) for name in "wgemv"}
    scale = (numbers["g"] / np.sqrt(numbers["v"] + np.float32(1e-5)))[3]
    after = copied(before)
    put(after, w_folded=(numbers["w"] * scale).astype("f"))
    put(after, b_folded=np.full(4, numbers["e"][3] - numbers["m"][3] * scale, "f"))
    conv, transpose, normalization, _ = after.graph.node
    conv.input[1:] = ["w_folded", "b_folded"]
    conv.output[0] = transpose.input[0] = "c_folded"
    transpose.output[0] = "n"
    after.graph.node.remove(normalization)
    sites = [found.site for found in Graph.of(read(before)).nodes]
    claim = Claim(sites[2], path=(sites[1],), homes=(sites[0],))
    checked = Fold(before, after, Fold.of(before).plan, (claim,)).certificate()
    assert checked.failure == "a number of a home serves places where what settled in it differs"


# Functions, whose constants are nodes.


def literal(values: np.ndarray) -> str:
    numbers = ",".join(repr(float(value)) for value in values.reshape(-1))
    return f"Constant<value = float[{','.join(map(str, values.shape))}] {{{numbers}}}>()"


def function(normalization: str = "BatchNormalization") -> onnx.ModelProto:
    random = np.random.default_rng(6)
    constants = {"w": random.standard_normal((4, 4, 3)).astype("f"), **parameters(random, 4)}
    lines = "\n".join(f"{name} = {literal(values)}" for name, values in constants.items())
    body = f"k = Constant<value_float = 2.0>() c = Conv<pads=[1,1]>(x,w) n = {normalization}(c,g,e,m,v) y = Max(n,k)"
    further = f'<domain: "local", opset_import: ["" : 17]> f <factor> (x) => (y) {{ {lines} {body} }}'
    text = "(float[1,4,8] x) => (float[1,4,8] y) { y = local.f<factor = 0.5>(x) }" + further
    return parsed(text, further=', "local" : 1')


def test_a_fold_in_a_function_is_certified() -> None:
    fold = Fold.of(function(), normalizations_alone=True)
    assert len(fold.claims) == 1
    assert fold.certificate().holds


@pytest.mark.parametrize("change", ["another number", "another form", "an output of another name"])
def test_another_constant_in_a_function_is_refused(change: str) -> None:
    fold = Fold.of(function(), normalizations_alone=True)
    after = fold.copy()
    mul = after.functions[0].node[-1]
    constant = next(found for found in after.functions[0].node if found.output[0] == "k")
    if change == "another number":
        constant.attribute[0].f = 3.0
    elif change == "another form":
        constant.CopyFrom(helper.make_node("Constant", [], ["k"], value_floats=[3.0]))
    else:
        constant.attribute[0].f = 3.0
        constant.output[0] = mul.input[1] = "k_folded"
    assert not fold.certificate(after).holds


def test_an_epsilon_that_the_caller_of_a_function_chooses_is_not_decided() -> None:
    fold = Fold.of(function("BatchNormalization<epsilon = 0.0>"), normalizations_alone=True)
    before = function()
    inside = next(found for found in before.functions[0].node if found.op_type == "BatchNormalization")
    inside.attribute.add(name="epsilon", type=onnx.AttributeProto.FLOAT, ref_attr_name="factor")
    assert fold.certificate().holds
    checked = replace(fold, before=before).certificate()
    assert "is a parameter of the function that holds it" in str(checked.uncertain)


@pytest.mark.parametrize("change", ["inputs", "outputs", "attribute", "opset"])
def test_another_frame_of_a_function_is_refused(change: str) -> None:
    fold = Fold.of(function(), normalizations_alone=True)
    after = fold.copy()
    changed = after.functions[0]
    if change == "inputs":
        changed.input.append("more")
    elif change == "outputs":
        changed.output[0] = "n"
    elif change == "attribute":
        changed.attribute.append("more")
    else:
        changed.opset_import[0].version = 16
    assert not fold.certificate(after).holds
