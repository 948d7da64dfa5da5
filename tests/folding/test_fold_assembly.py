"""How a fold is put together: which nodes stand where, what they are called, and where new constants lie."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from folding_support import constants, fold, folded, model, norm, weights
from onnx import helper, numpy_helper

from bnfold.assembly import Fresh

W = weights(4, 3, 3, 3)
NORM = "BatchNormalization (c, g, be, m, v)"


def lines(nodes: list[onnx.NodeProto]) -> list[str]:
    """`name: outputs = Operator <attributes> (inputs)` of each node."""
    found = []
    for node in nodes:
        said = ", ".join(f"{a.name} = {helper.get_attribute_value(a)}" for a in node.attribute)
        told = f"{node.op_type} <{said}>" if said else node.op_type
        found.append(f"{node.name}: {', '.join(node.output)} = {told} ({', '.join(node.input)})")
    return found


def named(proto: onnx.ModelProto, **names: str) -> onnx.ModelProto:
    """The model itself, whose nodes with these outputs have names."""
    for node in proto.graph.node:
        node.name = names.get(node.output[0], "")
    return proto


def test_fresh_names_are_counted_from_one_for_each_name() -> None:
    fresh = Fresh({"a", "b_1"})
    assert [fresh(name) for name in ("a", "a", "b", "b", "c")] == ["a_1", "a_2", "b", "b_2", "c"]


# --- the Add behind a home ------------------------------------------------------------------------------------------


def dense(opset: int = 17) -> onnx.ModelProto:
    text = "(float[2,4,3] x) => (float[] y) { c = MatMul (x, V)  n = %s  r = Relu (n)  y = Abs (r) }"
    square = {"V": weights(3, 3)}
    before = model(text % f"Transpose <perm = [0, 2, 1]> (c)  b = {NORM.replace('c,', 'n,')}", opset=opset, **square)
    before.graph.node[3].input[0] = "b"
    before.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in norm(3).items())
    return before


@pytest.mark.parametrize(
    ("names", "added"),
    [
        ({}, ""),
        ({"c": "product"}, "product_bias"),
        ({"c": "product", "y": "product_bias"}, "product_bias_1"),
        ({"c": "product", "r": "product_bias", "y": "product_bias_1"}, "product_bias_2"),
    ],
)
def test_an_add_stands_right_behind_its_home_under_a_name_of_its_own(names: dict[str, str], added: str) -> None:
    after = folded(named(dense(), **names))
    said = {output: names.get(output, "") for output in "cry"}
    assert list(constants(after.proto)) == ["V_folded", "V_bias"]
    assert lines(after.proto.graph.node) == [
        f"{said['c']}: c_folded_1 = MatMul (x, V_folded)",
        f"{added}: c_folded = Add (c_folded_1, V_bias)",
        ": b = Transpose <perm = [0, 2, 1]> (c_folded)",
        f"{said['r']}: r = Relu (b)",
        f"{said['y']}: y = Abs (r)",
    ]


def test_before_opset_7_an_add_says_along_which_axis_its_constant_lies() -> None:
    after = fold(dense(opset=6), assume_inference=True)
    assert lines(after.proto.graph.node)[1] == ": c_folded = Add <broadcast = 1, axis = 2> (c_folded_1, V_bias)"


# --- copies of dequantisations --------------------------------------------------------------------------------------

QUANTISED = (
    "(float[2,3,5,5] x) => (float[2,4,3,3] y, float[4,3,3,3] z) { d = %s  c = Conv (x, d)  y = %s  z = Relu (d) }"
)


def quantised(text: str, scale: np.ndarray, names: dict[str, str]) -> list[str]:
    integers = np.random.default_rng(0).integers(-7, 8, W.shape).astype(np.int8)
    zero = {"p": np.zeros(scale.shape, np.int8)}
    before = model(QUANTISED % (text, NORM), opset=21, ir=10, q=integers, s=scale, **zero, **norm(4))
    after = folded(named(before, **names)).proto
    onnx.checker.check_model(after)  # all that is read is there
    return lines(after.graph.node)


ONE, FOUR = np.array(0.25, np.float32), np.float32([0.25, 0.5, 1, 2])
COPIES = {
    "DequantizeLinear (q, s, p)": (ONE, {}, ": d_folded = DequantizeLinear <axis = 0> (q, s_folded, p_folded)"),
    "DequantizeLinear <axis = 3> (q, s)": (
        ONE, {"d": "weight"}, "weight_folded: d_folded = DequantizeLinear <axis = 0> (q, s_folded)",
    ),
    "DequantizeLinear <axis = 0> (q, s, p)": (
        FOUR, {"d": "weight", "z": "weight_folded"},
        "weight_folded_1: d_folded = DequantizeLinear <axis = 0> (q, s_folded, p)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", COPIES)
def test_a_copy_has_the_attributes_of_its_like_and_names_and_constants_of_its_own(text: str) -> None:
    scale, names, copy = COPIES[text]
    assert quantised(text, scale, names) == [
        f"{names.get('d', '')}: d = {text}",
        copy,
        ": y = Conv (x, d_folded, d_bias)",
        f"{names.get('z', '')}: z = Relu (d)",
    ]


# --- where constants lie --------------------------------------------------------------------------------------------

BRANCHES = f"""(float[2,3,5,5] x, bool k) => (float[] y) {{
    y = If (k) <then_branch = t () => (float[] p) {{ c = Conv (x, W)  p = {NORM} }},
                else_branch = e () => (float[] q) {{ d = Conv (x, W)  q = Relu (d) }}>
}}"""


@pytest.mark.parametrize("ir", [3, 4, 8])
def test_what_was_a_node_becomes_an_initializer_of_its_reader_s_graph_and_below_ir_4_of_the_main_one(ir: int) -> None:
    before = model(BRANCHES, ir=ir, opset=9)
    made = [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, name))
            for name, values in {"W": W, **norm(4)}.items()]  # fmt: skip
    made.append(onnx.NodeProto.FromString(before.graph.node[0].SerializeToString()))
    del before.graph.node[:]
    before.graph.node.extend(made)
    main = folded(before).proto.graph
    branch = main.node[-1].attribute[0].g
    assert [node.op_type for node in main.node] == ["Constant", "If"]
    assert [[t.name for t in graph.initializer] for graph in (main, branch)] == (
        [["W_folded", "W_bias"], []] if ir == 3 else [[], ["W_folded", "W_bias"]]
    )
    assert [entry.name for entry in main.input][2:] == (["W_folded", "W_bias"] if ir == 3 else [])


def test_what_was_a_node_stands_behind_the_initializers_that_stay() -> None:
    text = f"(float[2,3,5,5] x) => (float[] y, float[] z) {{ c = Conv (x, W)  y = {NORM}  z = Relu (last) }}"
    before = model(text, **norm(4), last=weights(2))
    made = helper.make_node("Constant", [], ["W"], value=numpy_helper.from_array(W, "W"))
    before.graph.node.insert(0, made)
    after = folded(before).proto
    assert list(constants(after)) == ["last", "W_folded", "W_bias"]


@pytest.mark.parametrize("ir", [3, 8])
def test_in_a_function_a_constant_is_a_node(ir: int) -> None:
    held = {"W": W, **norm(4)}
    text = f"""<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
        g (float[2,3,5,5] x) => (float[] y) {{ y = own.block (x) }}
        <domain: "own", opset_import: ["" : 17]> block (x) => (y) {{ c = Conv (x, W)  y = {NORM} }}"""
    before = onnx.parser.parse_model(text)
    before.ir_version = ir
    body = before.functions[0]
    nodes = [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, name))
             for name, values in held.items()]  # fmt: skip
    nodes += [onnx.NodeProto.FromString(node.SerializeToString()) for node in body.node]
    del body.node[:]
    body.node.extend(nodes)
    after = folded(before).proto
    assert [(node.op_type, list(node.output)) for node in after.functions[0].node] == [
        ("Constant", ["W_folded"]), ("Constant", ["W_bias"]), ("Conv", ["y"]),
    ]  # fmt: skip
    assert constants(after) == {}
