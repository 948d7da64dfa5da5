from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper, parser

from bnfold.equality.discrete import coarsest_half_unit, discrete_upstream


def parsed(text: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        ("y = Mul (x, x)", ""),
        ("a = Mul (x, x) y = Round (a)", "Round"),
        ("a = Mul (x, x) b = Floor (a) y = Add (b, x)", "Floor"),
        ("a = Mul (x, x) b = Cast <to = 7> (a) y = Cast <to = 1> (b)", "Cast"),
        ("a = Mul (x, x) b = Cast <to = 10> (a) y = Cast <to = 1> (b)", ""),
        ("a = Mul (x, x) b = Greater (a, x) y = Where (b, a, x)", "Greater"),
        ("a = Mul (x, x) i = ArgMax (a) y = Cast <to = 1> (i)", "ArgMax"),
        ("a = Mul (x, x) q = QuantizeLinear (a, k) y = DequantizeLinear (q, k)", "QuantizeLinear"),
        # On the way to no output.
        ("a = Mul (x, x) b = Round (a) y = Neg (a)", ""),
        # On constants, on shapes, and on what is the input itself in both models.
        ("b = Round (k) y = Mul (x, b)", ""),
        ("a = Mul (x, x) s = Shape (a) t = Equal (s, s) y = Where (t, a, x)", ""),
        ("b = Greater (x, k) a = Mul (x, x) y = Where (b, a, x)", ""),
        ("r = Relu (x) b = Greater (r, k) a = Mul (x, x) y = Where (b, a, x)", ""),
        ("a = Mul (x, x) y = CastLike (x, a)", ""),
    ],
)
def test_what_counts_as_a_discrete_ancestor(body: str, operator: str) -> None:
    model = parsed(f"(float[4] x) => (float[4] y) <float k = {{0.5}}> {{ {body} }}")
    assert discrete_upstream(model) == {"y": operator}


def test_each_output_has_its_own_answer() -> None:
    model = parsed("(float[4] x) => (float[4] y, float[4] z) { a = Exp (x) y = Ceil (a) z = Neg (a) }")
    assert discrete_upstream(model) == {"y": "Ceil", "z": ""}


def test_nested_graphs_are_searched_in_both_directions() -> None:
    inside = parsed("""(bool c, float[4] x) => (float[4] y) { a = Exp (x) y = If (c) <
        then_branch = t () => (float[4] u) { u = Round (a) }, else_branch = e () => (float[4] v) { v = Neg (a) }> }""")
    assert discrete_upstream(inside) == {"y": "Round"}
    outside = parsed("""(bool c, float[4] x) => (float[4] y) { a = Exp (x) r = Round (a) y = If (c) <
        then_branch = t () => (float[4] u) { u = Neg (r) }, else_branch = e () => (float[4] v) { v = Neg (a) }> }""")
    assert discrete_upstream(outside) == {"y": "Round"}


def test_a_bool_input_alone_makes_nothing_discrete() -> None:
    model = parsed("""(bool c, float[4] x) => (float[4] y) { a = Exp (x) y = If (c) <
        then_branch = t () => (float[4] u) { u = Exp (a) }, else_branch = e () => (float[4] v) { v = Neg (a) }> }""")
    assert discrete_upstream(model) == {"y": ""}


def test_a_loop_hands_on_what_it_carries() -> None:
    model = parsed("""(float[4] x) => (float[4] y, float[4] z) <int64 n = {3}, bool go = {1}> {
      y, z = Loop (n, go, x, x) <
        body = b (int64 i, bool c, float[4] p, float[4] q) => (bool d, float[4] r, float[4] s) {
        d = Identity (c) e = Exp (p) r = Floor (e) s = Exp (q) }> }""")
    assert discrete_upstream(model)["y"] == "Floor"


def test_functions_are_searched() -> None:
    model = parsed("(float[4] x) => (float[4] y, float[4] z) { a = Exp (x) y = Neg (a) z = Exp (a) }")
    model.graph.node[1].op_type, model.graph.node[1].domain = "F", "own"
    nodes = [helper.make_node("Round", ["p"], ["q"])]
    model.functions.append(helper.make_function("own", "F", ["p"], ["q"], nodes, [helper.make_opsetid("", 17)]))
    assert discrete_upstream(model) == {"y": "Round", "z": ""}


def test_deep_nesting_and_long_chains_take_no_recursion() -> None:
    nodes = [helper.make_node("Exp", [f"v{k}"], [f"v{k + 1}"]) for k in range(20000)]
    port = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [port("v0", TensorProto.FLOAT, [1])], [port("v20000", TensorProto.FLOAT, [1])]
    )
    assert discrete_upstream(helper.make_model(graph)) == {"v20000": ""}


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("(float[4] x) => (float[4] y) { y = Neg (x) }", 2.0**-24),
        ("(double[4] x) => (double[4] y) { y = Neg (x) }", 2.0**-53),
        ("(float[4] x) => (float[4] y) { a = Cast <to = 10> (x) y = Cast <to = 1> (a) }", 2.0**-11),
        ("(float[4] x) => (float[4] y) <float16[1] w = {1}> { a = Cast <to = 1> (w) y = Mul (a, x) }", 2.0**-11),
        ("(bfloat16[4] x) => (float[4] y) { y = Cast <to = 1> (x) }", 2.0**-8),
        ("(int64[4] x) => (int64[4] y) { y = Neg (x) }", 2.0**-53),
    ],
)
def test_the_coarsest_type_sets_the_unit(text: str, unit: float) -> None:
    assert coarsest_half_unit(parsed(text)) == unit
