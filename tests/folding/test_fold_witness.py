"""What shows a refusal: the numbers are those of onnxruntime, and where there are none, that is said."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from folding_support import model, norm, run, scale_and_shift, weights
from onnx import helper, numpy_helper
from reason_models import ENDS, EXAMPLES, NORM3, conv, through
from test_fold_reasons import of_op, planned
from test_fold_refusals_passing import CASES, behind, held
from test_fold_theorem_ahead import KINDS, MAY_BE_EXACT, PASSES, parameters, used
from test_fold_theorem_ahead import graph as ahead

import bnfold
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.ops.affine import AffineOp, affine_of
from bnfold.ops.facts import Facts
from bnfold.ops.reasons import REASONS
from bnfold.witnessing import CLEARLY, Witness, witnesses_of
from bnfold.witnessing.ways import Walk
from bnfold.witnessing.wrong_folds import nearest

NUMBERS = {"axis-not-owned", "blocked", "negative-scale", "overflow", "padding", "precision-lost", "rounded"} | {
    "shift-stays"
}
NOTHING = {"mismatch", "no-gain", "old-opset", "search-limit"}


def witness(proto: onnx.ModelProto, seed: int = 0) -> Witness:
    """The witness of the only BatchNormalization that stays."""
    (found,) = bnfold.witness(proto, seed=seed)
    return found


def shown(code: str) -> Witness:
    example = EXAMPLES[code]()
    graph, plan = planned(example.before, example.options)
    (found,) = witnesses_of(graph, plan, tuple(of_op(plan, example.op)))
    return found


@pytest.mark.parametrize("code", REASONS)
def test_every_reason_is_shown_by_a_fact_by_numbers_or_plainly_by_nothing(code: str) -> None:
    found = shown(code)
    assert found.refusal.reason.code == code
    assert found.kind == ("numbers" if code in NUMBERS else "none" if code in NOTHING else "fact")
    assert found.label
    assert found.sentence
    assert (found.numbers is not None) == (code in NUMBERS)
    assert found.numbers is None or found.numbers.bounds_off > CLEARLY
    assert bool(found.names) == (code not in NOTHING)
    json.dumps(found.to_json())


# --- the numbers are true -------------------------------------------------------------------------------------------


def alone(proto: onnx.ModelProto, nodes: tuple[int, ...], fed: str, array: np.ndarray) -> np.ndarray:
    """Some nodes of a model by themselves, run by onnxruntime on an array in place of the value `fed`."""
    kept = [proto.graph.node[i] for i in nodes]
    port = helper.make_tensor_value_info(fed, 1, array.shape)
    out = helper.make_tensor_value_info(kept[-1].output[0], 1, None)
    used = {name for node in kept for name in node.input}
    held_there = [t for t in proto.graph.initializer if t.name in used]
    graph = helper.make_graph(kept, "alone", [port], [out], held_there)
    part = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=8)
    return run(part, {fed: array.astype(np.float32)})[0]


REGIONS = {"axis-not-owned": (0, 1, 2), "blocked": (1, 2), "negative-scale": (1, 2), "shift-stays": (1, 2)}


@pytest.mark.parametrize("code", REGIONS)
def test_the_original_s_number_is_what_onnxruntime_gives_there(code: str) -> None:
    proto, found = EXAMPLES[code]().before, shown(code).numbers
    assert found is not None
    ((name, array),) = found.inputs.items()
    result = alone(proto, REGIONS[code], name, array)
    if code == "axis-not-owned":
        result = result.transpose(0, 2, 1, 3)  # seen from the Conv
    assert abs(result[found.index] - found.original) <= found.bound


def test_the_folded_number_of_a_rectifier_is_that_of_the_norm_before_it() -> None:
    proto, found = EXAMPLES["shift-stays"]().before, shown("shift-stays").numbers
    assert found is not None
    ((name, array),) = found.inputs.items()
    swapped = onnx.ModelProto()
    swapped.CopyFrom(proto)
    swapped.graph.node[1].CopyFrom(helper.make_node("BatchNormalization", [name, "g", "be", "m", "v"], ["n"]))
    swapped.graph.node[2].CopyFrom(helper.make_node("Relu", ["n"], ["y"]))
    assert abs(alone(swapped, (1, 2), name, array)[found.index] - found.folded) <= found.bound


def test_a_padded_convolution_is_shown_by_what_a_folded_one_gives_at_the_border() -> None:
    proto, found = EXAMPLES["padding"]().before, shown("padding").numbers
    assert found is not None
    ((name, array),) = found.inputs.items()
    assert name == "n (before the affine)"
    assert abs(alone(proto, (0, 1), "x", array)[found.index] - found.original) <= found.bound
    assert set(found.index[2:]) & {0, 4}
    held_there = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    a, s = scale_and_shift(NORM3)
    weight = held_there["W"] * a.reshape(1, 3, 1, 1)
    folded = onnx.ModelProto()
    folded.CopyFrom(proto)
    folded.graph.node[1].input[:] = ["x", "folded W", "folded b"]
    bias = (held_there["W"] * s.reshape(1, 3, 1, 1)).sum(axis=(1, 2, 3))
    for key, value in (("folded W", weight), ("folded b", bias)):
        folded.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), key))
    assert abs(alone(folded, (1,), "x", array)[found.index] - found.folded) <= found.bound


@pytest.mark.parametrize(("code", "kept"), [("overflow", False), ("precision-lost", True)])
def test_a_number_that_does_not_fit_is_the_product_of_weight_and_scale(code: str, kept: bool) -> None:
    proto, found = EXAMPLES[code]().before, shown(code).numbers
    assert found is not None
    held_there = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}
    scale = held_there["g"] / np.sqrt(held_there["v"] + np.float64(np.float32(1e-5)))
    exact = held_there["W"] * scale
    assert found.original == exact[found.index]
    with np.errstate(over="ignore"):
        assert found.folded == float(np.float16(exact[found.index]))
    assert np.isfinite(found.folded) == kept
    assert found.inputs == {}


# --- further operators ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_pass_is_shown_by_numbers_far_beyond_the_bound(case: str) -> None:
    (line, parameters), _, _ = CASES[case]
    found = witness(behind(line, parameters, **held(line)))
    assert found.numbers is not None, found.sentence
    assert found.numbers.bounds_off > CLEARLY


LINES = {
    "a largest of two": "s = Conv (x, W)  c = Max (r, s)",
    "a reduction that drops its axes": "q = ReduceMax <axes = [2], keepdims = 0> (r)  c = Unsqueeze (q, two)",
    "a product": "s = Relu (x)  t = Conv (s, W)  c = Mul (r, t)",
    "integers": "q = QuantizeLinear (r, step)  c = DequantizeLinear (q, step)",
    "a quotient": "c = Div (k, r)",
    "further on": "t = Tanh (r)  u = Transpose <perm = [0, 1, 3, 2]> (t)  c = Identity (u)",
    "behind an affine": "t = Softplus (r)  c = Mul (t, k)",
    "a softmax": "c = Softmax <axis = 1> (r)",
}


@pytest.mark.parametrize("case", LINES)
def test_other_operators_are_shown_by_numbers_too(case: str) -> None:
    held_there = {"two": [2], "step": np.float32(0.5).reshape(()), "k": weights(4, 1, 1, seed=2)}
    line = LINES[case]
    used = {name: value for name, value in held_there.items() if f"{name})" in line or f"({name}," in line}
    found = bnfold.witness(through(line, **used), at=["y"])[0]
    assert found.numbers is not None, (found.sentence, found.refusal)
    assert found.numbers.bounds_off > CLEARLY


@pytest.mark.parametrize("line", ["y = Sigmoid (n)", "y = Relu (n)", "y = MaxPool <kernel_shape = [2,2]> (n)"])
def test_going_forward_is_shown_from_the_other_side(line: str) -> None:
    text = f"(float[2,3,5,5] x) => (float[] y) {{ n = BatchNormalization (x, g, be, m, v)  {line} }}"
    found = witness(model(text, **norm(3)))
    assert found.numbers is not None, found.sentence
    assert found.numbers.bounds_off > CLEARLY
    assert "instead" in found.numbers.assumed


def test_all_that_reads_a_value_is_named() -> None:
    head = "(float[2,3,5,5] x) => (float[] y, float[] z, float[] w)"
    text = f"{head} {{ c = Conv (x, W)  z = Relu (c)  w = Tanh (c)  y = BatchNormalization (c, g, be, m, v) }}"
    assert witness(conv(text)).names == ("Relu#1", "Tanh#2")


def test_what_a_parameter_depends_on_is_named() -> None:
    text = """(float[2,3,5,5] x, float[4] u, float[4] w) => (float[] y) {
        c = Conv (x, W)  s = Add (u, w)  g = Exp (s)  y = BatchNormalization (c, g, be, m, v) }"""
    assert witness(conv(text, {k: p for k, p in norm(4).items() if k != "g"})).names == ("u", "w")


# --- what passes differs by nothing ---------------------------------------------------------------------------------


def off_at(proto: onnx.ModelProto, node: int, norm_at: int) -> float:
    """By how many bounds the nearest fold past a node is off, whether it is allowed or not."""
    graph = Graph.of(read(proto))
    facts = Facts(graph)
    affine = affine_of(facts, graph.nodes[norm_at])
    assert isinstance(affine, AffineOp)
    reached = Walk(facts, affine, graph.nodes[node]).reached()
    behind_it = affine.node.output(0)
    assert reached is not None
    assert behind_it is not None
    return nearest(facts, reached, behind_it, seed=3).bounds_off


@pytest.mark.parametrize("case", CASES)
def test_a_fold_back_that_is_right_is_not_shown_to_be_wrong(case: str) -> None:
    _, _, (line, parameters) = CASES[case]
    assert off_at(behind(line, parameters, **held(line)), 1, 2) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operator", [op for op in PASSES if not op.startswith(("Cast", "Dropout", "GlobalLpPool"))])
def test_a_fold_ahead_is_shown_to_be_wrong_only_where_it_is(operator: str, kind: str) -> None:
    text = ahead(f"n = BatchNormalization (x, g, be, m, v) t = {operator}")
    off = off_at(model(text, **used(text), **parameters(kind)), 1, 0)
    may_be_right = operator.startswith(MAY_BE_EXACT)
    assert off < 1e-6 if kind in PASSES[operator] else off > CLEARLY or may_be_right


@pytest.mark.parametrize("layer", ["Conv (n, W)", "Conv <strides = [2,2], dilations = [2,1]> (n, W, b)", "Gemm"])
def test_a_layer_ahead_that_takes_everything_is_right(layer: str) -> None:
    dims, weight = ("2,3", weights(3, 4)) if layer == "Gemm" else ("2,3,7,7", weights(4, 3, 3, 3))
    layer = layer.replace("Gemm", "Gemm <alpha = 0.5> (n, W, b)")
    text = f"(float[{dims}] x) => (float[] y) {{ n = BatchNormalization (x, g, be, m, v)  y = {layer} }}"
    held_there = {"b": weights(4)} if ", b" in layer else {}
    assert off_at(model(text, W=weight, **held_there, **norm(3)), 1, 0) < 1e-6


def test_a_layer_whose_own_channels_the_affine_has_is_right() -> None:
    assert off_at(conv(), 0, 1) < 1e-6


@pytest.mark.parametrize("line", ["c = Relu (r)", "c = MaxPool <kernel_shape = [2,2]> (r)", "c = Sigmoid (r)"])
def test_in_half_precision_the_number_is_given_as_it_is(line: str) -> None:
    text = f"(float16[2,3,5,5] x) => (float16[] y) {{ r = Conv (x, W)  {line}  {ENDS} }}"
    found = witness(model(text, W=weights(4, 3, 3, 3, dtype=np.float16), **norm(4, dtype=np.float16)))
    assert found.kind == "numbers"
    assert found.numbers is not None
    assert CLEARLY / 4 < found.numbers.bounds_off < CLEARLY * 4


# --- nothing is made up ---------------------------------------------------------------------------------------------


def test_a_fold_that_would_hardly_differ_is_no_witness() -> None:
    ones = {"g": np.ones(4, np.float32), "m": np.zeros(4, np.float32), "v": np.full(4, 1 - 1e-5, np.float32)}
    found = witness(through("c = Relu (r)", ones | {"be": np.full(4, 1e-12, np.float32)}))
    assert (found.refusal.reason.code, found.kind) == ("shift-stays", "none")
    assert "within its bound" in found.sentence
    assert found.numbers is not None
    assert found.numbers.bounds_off < 1


def test_an_operator_that_nobody_knows_is_not_evaluated() -> None:
    text = "(float[2,4,5] x) => (float[] y) { c = other.Thing (x)  y = BatchNormalization (c, g, be, m, v) }"
    found = witness(model(text, imports=', "other" : 1', **norm(4)))
    assert (found.kind, found.numbers) == ("none", None)
    assert found.label == "an operator that ONNX does not define"


@pytest.mark.parametrize("line", ["c = RandomNormalLike (r)", "c = Dropout (r, half, on)"])
def test_what_draws_is_not_evaluated(line: str) -> None:
    held_there = {"half": np.float32(0.5).reshape(()), "on": np.array(True)} if "half" in line else {}
    assert witness(through(line, **held_there)).numbers is None


def test_a_shape_that_is_not_known_is_not_made_up() -> None:
    text = """(float[a,b,c] x, int64[n] s) => (float[] y) {
        r = Reshape (x, s)  c = Sigmoid (r)  u = Reshape (c, to)  y = BatchNormalization (u, g, be, m, v) }"""
    found = witness(model(text, to=[2, 4, 3], **norm(4)))
    assert found.numbers is None


def test_the_same_seed_gives_the_same_and_another_one_others() -> None:
    proto = EXAMPLES["blocked"]().before
    first, again, other = (witness(proto, seed).to_json() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_what_is_written_by_hand_is_asked_about_by_name_alone() -> None:
    proto = EXAMPLES["no-gain"]().before
    assert bnfold.witness(proto) == ()
    assert [one.kind for one in bnfold.witness(proto, at=["y"])] == ["none"]
    with pytest.raises(bnfold.UsageError, match="names nothing that stays"):
        bnfold.witness(proto, at=["nobody"])
    with pytest.raises(bnfold.UsageError, match="the seed is -1"):
        bnfold.witness(proto, seed=-1)
