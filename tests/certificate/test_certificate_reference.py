"""What the certificate knows of each affine, against onnx's reference evaluator; what is none; who reads form alone."""

from __future__ import annotations

import numpy as np
import pytest
from certificate_folds import parsed, put
from onnx import helper
from onnx.reference import ReferenceEvaluator

from bnfold.equality.claim import DeviationError, Link, UncertainError
from bnfold.equality.constants import Constants
from bnfold.equality.reference import (
    affine_of,
    dequantises,
    follow,
    is_factor,
    is_normalization,
    is_term,
    keeps_rank,
    lacks_bias,
    linear_map,
    permuted_rank,
    reads_form_alone,
    trains,
)
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.nodes import Node

K = np.array([1.5, -2.0, 0.25], np.float32).reshape(3, 1)
NORM = {"g": [2, -1, 0.5], "e": [1, 0, -3], "m": [0.5, -2, 4], "v": [0.25, 1, 4]}


def opened(text: str, opset: int = 17, **arrays: np.ndarray) -> tuple[Constants, Node]:
    """The one node of a model with the inputs x and z, and the model's constants."""
    given = {"k": K, **{name: np.array(values, np.float32) for name, values in NORM.items()}, **arrays}
    model = put(parsed(f"(float[2,3,4] x, float[2,3,4] z) => (float[] y) {{ {text} }}", opset=opset), **given)
    graph = Graph.of(read(model))
    return Constants(graph), graph.nodes[0]


def linked(text: str, data: int = 0, opset: int = 17, **arrays: np.ndarray) -> tuple[Constants, Link]:
    constants, node = opened(text, opset, **arrays)
    return constants, Link(node, data)


AFFINES = {
    "Mul": ("y = Mul(x,k)", 0, (0.0, 0.0)), "Mul on the left": ("y = Mul(k,x)", 1, (0.0, 0.0)),
    "Div": ("y = Div(x,k)", 0, (0.0, 0.0)), "Add": ("y = Add(x,k)", 0, (1.0, 1.0)),
    "Add on the left": ("y = Add(k,x)", 1, (1.0, 1.0)), "Sub": ("y = Sub(x,k)", 0, (1.0, 1.0)),
    "Sub from": ("y = Sub(k,x)", 1, (1.0, 1.0)), "Neg": ("y = Neg(x)", 0, (0.0, 0.0)),
}  # fmt: skip


@pytest.mark.parametrize("kind", AFFINES)
def test_a_hand_written_affine_is_what_the_evaluator_makes_of_it(kind: str) -> None:
    text, data, _ = AFFINES[kind]
    constants, link = linked(text, data)
    found = affine_of(constants, link, 3)
    x = np.random.default_rng(0).integers(-8, 9, (2, 3, 4)).astype(np.float32)
    (y,) = ReferenceEvaluator(constants.graph.model.proto).run(None, {"x": x, "z": x})
    assert np.allclose(found.scale * x + found.shift, y, rtol=1e-6, atol=0)
    assert np.array_equal(found.magnitude, np.abs(found.shift))
    assert found.scale.ndim == found.shift.ndim == 3
    assert np.broadcast_shapes(found.scale.shape, found.shift.shape) in {(1, 3, 1), (1, 1, 1)}


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_a_normalization_is_its_definition_along_axis_1(rank: int) -> None:
    constants, link = linked("y = BatchNormalization<epsilon=0.25>(x,g,e,m,v)")
    found = affine_of(constants, link, rank)
    gamma, beta, mean, var = (np.array(NORM[name], np.float64) for name in "gemv")
    a = gamma / np.sqrt(var + 0.25)
    for part, expected in (
        (found.scale, a),
        (found.shift, beta - mean * a),
        (found.magnitude, np.abs(beta) + np.abs(mean * a)),
    ):
        assert part.shape == (1, 3, *[1] * (rank - 2))
        assert np.array_equal(part.reshape(-1), expected)


def test_epsilon_is_a_float32_and_has_a_default() -> None:
    def scale(attributes: str) -> np.ndarray:
        return affine_of(*linked(f"y = BatchNormalization{attributes}(x,g,e,m,v)"), 3).scale.reshape(-1)

    def expected(epsilon: float) -> np.ndarray:
        return np.array(NORM["g"], np.float64) / np.sqrt(np.array(NORM["v"]) + np.float64(np.float32(epsilon)))

    assert np.array_equal(scale(""), expected(1e-5))
    assert np.array_equal(scale("<epsilon=0.1>"), expected(0.1))
    assert not np.array_equal(expected(0.1), np.array(NORM["g"]) / np.sqrt(np.array(NORM["v"]) + 0.1))


NONE = {
    "a value instead of a constant": ("y = Mul(x,z)", 0, UncertainError),
    "one divided": ("y = Div(k,x)", 1, DeviationError),
    "division by zero": ("y = Div(x,zero)", 0, DeviationError),
    "another operator": ("y = Pow(x,k)", 0, DeviationError),
    "an operator of one operand": ("y = Relu(x)", 0, DeviationError),
    "an operator of three operands": ("y = Clip(x,zero,k)", 0, DeviationError),
    "training": ("y,p,q = BatchNormalization<training_mode=1>(x,g,e,m,v)", 0, DeviationError),
}


@pytest.mark.parametrize("kind", NONE)
def test_what_is_no_affine_is_refused(kind: str) -> None:
    text, data, error = NONE[kind]
    with pytest.raises(error):
        affine_of(*linked(text, data, zero=np.array([[1.0], [0.0], [1.0]], "f")), 3)


def test_a_normalization_of_a_vector_is_refused() -> None:
    with pytest.raises(DeviationError, match="are not one number for each channel"):
        affine_of(*linked("y = BatchNormalization(x,g,e,m,v)"), 1)


@pytest.mark.parametrize("name", ["g", "e", "m", "v"])
def test_parameters_of_different_lengths_are_refused(name: str) -> None:
    constants, link = linked("y = BatchNormalization(x,g,e,m,v)")
    right = constants.vector
    constants.vector = lambda value: np.ones(2) if value is not None and value.name == name else right(value)  # type: ignore[method-assign]
    with pytest.raises(DeviationError, match="are not one number for each channel"):
        affine_of(constants, link, 3)


def norm(opset: int, outputs: str = "y", **attributes: int) -> tuple[Constants, Node]:
    constants, node = opened(f"{outputs} = BatchNormalization(x,g,e,m,v)", opset)
    for name, value in attributes.items():
        node.proto.attribute.append(helper.make_attribute(name, value))
    return constants, node


@pytest.mark.parametrize("opset", [1, 6, 7, 8, 9, 13, 14, 15, 17])
def test_which_normalizations_train_by_the_text_of_each_version(opset: int) -> None:
    old = opset < 7
    assert trains(*norm(opset)) is old
    assert trains(*norm(opset, is_test=0)) is old
    assert trains(*norm(opset, is_test=1)) is False
    assert trains(*norm(opset, is_test=1, spatial=0)) is (opset < 9)
    assert trains(*norm(opset, is_test=1, spatial=1)) is False
    assert trains(*norm(opset, is_test=1, training_mode=1)) is (opset >= 14)
    assert trains(*norm(opset, is_test=1, training_mode=0)) is False
    assert trains(*norm(opset, "y,p,q", is_test=1, training_mode=0)) is True
    assert trains(*norm(opset, "y,p", is_test=1)) is True


def test_where_inference_is_assumed_is_test_does_not_count() -> None:
    for opset, outputs, expected in ((6, "y", False), (6, "y,p", True), (1, "y", False), (8, "y,p", True)):
        constants, node = norm(opset, outputs)
        assumed = Constants(constants.graph, assume_inference=True)
        assert trains(assumed, node) is expected
    constants, node = norm(6, spatial=0)
    assert trains(Constants(constants.graph, assume_inference=True), node) is True


def test_a_normalization_that_trains_is_no_home() -> None:
    with pytest.raises(DeviationError, match="no BatchNormalization at inference"):
        linear_map(*norm(15, training_mode=1), 3)


# What operators are for the certificate.

OPERATORS = (
    "Add", "BatchNormalization", "Conv", "DequantizeLinear", "Div", "Dropout", "Einsum", "Gemm", "Identity", "MatMul",
    "Mul", "Neg", "Relu", "Reshape", "Sub", "Transpose",
)  # fmt: skip
SETS = (
    (is_normalization, {"BatchNormalization"}),
    (is_factor, {"Mul", "Div", "Neg"}),
    (is_term, {"Add", "Sub"}),
    (lacks_bias, {"MatMul", "Einsum"}),
    (keeps_rank, {"Identity", "Dropout", "Transpose", "BatchNormalization"}),
    (dequantises, {"DequantizeLinear"}),
)


@pytest.mark.parametrize(("asked", "expected"), SETS, ids=[asked.__name__ for asked, _ in SETS])
def test_what_an_operator_is(asked, expected: set[str]) -> None:
    assert {op for op in OPERATORS if asked(opened(f"y = {op}(x)")[1])} == expected


def test_the_rank_that_a_permutation_demands() -> None:
    assert permuted_rank(opened("y = Transpose<perm=[1,0,2,3]>(x)")[1]) == 4
    assert permuted_rank(opened("y = Transpose(x)")[1]) is None
    assert permuted_rank(opened("y = Relu(x)")[1]) is None


@pytest.mark.parametrize(
    ("text", "form_alone"),
    [
        ("y = Shape(x)", True), ("y = Size(x)", True), ("y = EyeLike(x)", True), ("y = RandomNormalLike(x)", True),
        ("y = RandomUniformLike(x)", True), ("y = CastLike(z,x)", True), ("y = CastLike(x,z)", False),
        ("y = Relu(x)", False), ("y = ConstantOfShape(x)", False), ("y = Reshape(z,x)", False),
    ],
)  # fmt: skip
def test_who_looks_at_the_form_of_a_value_alone(text: str, form_alone: bool) -> None:
    constants, _ = opened(text)
    graph = constants.graph
    (reader,) = graph.readers(next(value for value in graph.values if value.name == "x"))
    assert reads_form_alone(reader) is form_alone


# Layout, by carrying the elements' own numbers along.

LAYOUTS = [
    "Identity(x)", "Dropout(x)", "Transpose(x)", "Transpose<perm=[2,0,1]>(x)", "Reshape(x,s)", "Flatten(x)",
    "Flatten<axis=0>(x)", "Flatten<axis=-1>(x)", "Flatten<axis=2>(x)", "Unsqueeze(x,a)", "Unsqueeze(x,b)",
]  # fmt: skip


@pytest.mark.parametrize("text", LAYOUTS)
def test_layout_moves_labels_as_the_evaluator_moves_elements(text: str) -> None:
    arrays = {"s": np.array([0, -1, 2]), "a": np.array([0, 2]), "b": np.array([-1])}
    constants, link = linked(f"y = {text}", **arrays)
    labels = np.arange(24).reshape(2, 3, 4)
    run = ReferenceEvaluator(constants.graph.model.proto).run
    (y,) = run(None, {"x": labels.astype(np.float32), "z": labels.astype(np.float32)})
    (moved,) = follow(constants, link, labels, 7)
    assert np.array_equal(moved, y)


def test_what_is_no_layout_is_not_followed() -> None:
    labels = np.arange(24).reshape(2, 3, 4)
    for text, data in (("y = Sigmoid(x)", 0), ("y = Reshape(z,x)", 1)):
        with pytest.raises(UncertainError, match="no operator that the certificate follows"):
            follow(*linked(text, data), labels, 7)
