"""What the certificate knows of each home, against brute force: which outputs move when a constant moves."""

from __future__ import annotations

import numpy as np
import pytest
from certificate_folds import parsed, put
from onnx import helper
from onnx.reference import ReferenceEvaluator

from bnfold.equality.claim import DeviationError, UncertainError
from bnfold.equality.constants import Constants
from bnfold.equality.linear import LinearMap, aligned
from bnfold.equality.reference import linear_map
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.nodes import Node

Shape = tuple[int, ...]


def opened(text: str, x: Shape, arrays: dict[str, np.ndarray], opset: int = 17) -> tuple[Constants, Node]:
    """The one node of a model with an input x, and the model's constants."""
    sizes = ",".join(map(str, x))
    model = put(parsed(f"(float[{sizes}] x) => (float[] y) {{ y = {text} }}", opset=opset), **arrays)
    graph = Graph.of(read(model))
    return Constants(graph), graph.nodes[0]


def counted(shape: Shape) -> np.ndarray:
    return np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.float32).reshape(shape)


def map_of(text: str, rank: int | None, x: Shape = (2, 3), opset: int = 17, **shapes: Shape) -> LinearMap:
    arrays = {name: counted(shape) for name, shape in shapes.items()}
    return linear_map(*opened(text, x, arrays, opset), rank)


WEIGHTED: dict[str, tuple[str, Shape, Shape]] = {  # what stands there, the shape of x, that of the weight
    "Conv": ("Conv(x,w)", (1, 3, 6), (4, 3, 2)),
    "Conv of groups": ("Conv<group=2>(x,w)", (1, 4, 6), (6, 2, 2)),
    "Conv of an image": ("Conv(x,w)", (1, 2, 4, 4), (3, 2, 2, 2)),
    "ConvTranspose": ("ConvTranspose(x,w)", (1, 3, 4), (3, 2, 2)),
    "ConvTranspose of groups": ("ConvTranspose<group=2>(x,w)", (1, 4, 3), (4, 3, 2)),
    "ConvTranspose of one channel per group": ("ConvTranspose<group=3>(x,w)", (1, 3, 3), (3, 2, 2)),
    "Gemm": ("Gemm<alpha=0.5>(x,w)", (2, 3), (3, 4)),
    "Gemm of B transposed": ("Gemm<transB=1>(x,w)", (2, 3), (4, 3)),
    "Gemm of a constant A": ("Gemm(w,x)", (3, 4), (2, 3)),
    "Gemm of a constant A transposed": ("Gemm<transA=1>(w,x)", (3, 4), (3, 2)),
    "MatMul": ("MatMul(x,w)", (2, 3), (3, 4)),
    "MatMul of rank 3": ("MatMul(x,w)", (2, 5, 3), (3, 4)),
    "MatMul of matrices": ("MatMul(x,w)", (2, 5, 3), (2, 3, 4)),
    "MatMul of more matrices": ("MatMul(x,w)", (2, 3, 2, 4), (3, 4, 5)),
    "MatMul of a constant A": ("MatMul(w,x)", (3, 4), (2, 3)),
    "MatMul of constant matrices": ("MatMul(w,x)", (2, 3, 4), (2, 5, 3)),
    "Einsum": ('Einsum<equation="ij,jk->ik">(x,w)', (2, 3), (3, 4)),
    "Einsum of a transposed result": ('Einsum<equation="ij,jk->ki">(x,w)', (2, 3), (3, 4)),
    "Einsum of two labels": ('Einsum<equation="bi,ikl->blk">(x,w)', (2, 3), (3, 4, 5)),
    "Einsum of the first operand": ('Einsum<equation="kj,bj->bk">(w,x)', (2, 3), (4, 3)),
    "Einsum of an ellipsis": ('Einsum<equation="...j,jk->...k">(x,w)', (2, 5, 3), (3, 4)),
    "Einsum of an ellipsis at the end": ('Einsum<equation="j...,jk->k...">(x,w)', (3, 2, 2), (3, 4)),
    "Einsum of an ellipsis in between": ('Einsum<equation="aj...b,jk->a...kb">(x,w)', (2, 3, 5, 2), (3, 4)),
    "Einsum without a result": ('Einsum<equation="ij,jk">(x,w)', (2, 3), (3, 4)),
    "Einsum without a result, sorted": ('Einsum<equation="jb,ja">(x,w)', (3, 2), (3, 4)),
    "Einsum of an ellipsis without a result": ('Einsum<equation="...j,jk">(x,w)', (2, 5, 3), (3, 4)),
    "Einsum of an ellipsis of nothing": ('Einsum<equation="...j,jk">(x,w)', (3,), (3, 4)),
    "Einsum of an ellipsis before a label": ('Einsum<equation="...x,xk">(x,w)', (2, 5, 3), (3, 4)),
    "Einsum of an ellipsis and any label": ('Einsum<equation="...j,jx">(x,w)', (2, 5, 3), (3, 4)),
    "Einsum with spaces": ('Einsum<equation=" i j , j k -> i k ">(x,w)', (2, 3), (3, 4)),
    "Einsum of three operands": ('Einsum<equation="ij,jk,kl->il">(x,w,x)', (3, 3), (3, 3)),
    "Einsum of three, two labels": ('Einsum<equation="ij,jm,il->iml">(x,w,x)', (3, 3), (3, 4)),
    "Einsum of three, the first constant": ('Einsum<equation="mj,ij,il->iml">(w,x,x)', (3, 3), (4, 3)),
    "BatchNormalization": ("BatchNormalization(x,w,b,m,v)", (2, 3, 2), (3,)),
    "Mul": ("Mul(x,w)", (2, 3, 4), (1, 3, 1)),
    "Mul by a constant on the left": ("Mul(w,x)", (2, 3, 4), (1, 1, 4)),
    "Div": ("Div(x,w)", (2, 3, 4), (1, 3, 1)),
}


def evaluated(text: str, data: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """What the node makes of its data; onnx's evaluator fails on a ConvTranspose of groups, so each is run alone."""
    if text.startswith("ConvTranspose<group="):
        parts = zip(
            *(np.split(array, int(text[20]), axis) for array, axis in ((data, 1), (arrays["w"], 0))), strict=True
        )
        return np.concatenate([evaluated("ConvTranspose(x,w)", x, {"w": w}) for x, w in parts], axis=1)
    constants, _ = opened(text, data.shape, arrays)
    return np.asarray(ReferenceEvaluator(constants.graph.model.proto).run(None, {"x": data})[0])


@pytest.mark.parametrize("kind", WEIGHTED)
def test_each_weight_serves_the_outputs_of_its_cell_and_no_others(kind: str) -> None:
    text, x, shape = WEIGHTED[kind]
    arrays = {"w": counted(shape), **{name: np.ones(shape, "f") for name in "bmv" if "Norm" in text}}
    data = np.random.default_rng(0).uniform(1, 2, x).astype("f")

    def run(weight: np.ndarray) -> np.ndarray:
        return evaluated(text, data, arrays | {"w": weight})

    plain = run(arrays["w"])
    found = linear_map(*opened(text, x, arrays), plain.ndim)
    cells = np.broadcast_to(found.cell, shape)
    outputs = np.broadcast_to(np.arange(np.prod(found.grid, dtype=int)).reshape(found.grid), plain.shape)
    assert all(size in {1, full} for size, full in zip(found.grid, plain.shape, strict=True))
    for place in range(arrays["w"].size):
        weight = arrays["w"].copy()
        weight.flat[place] += 100
        moved = run(weight) != plain
        assert moved.any()
        assert set(outputs[moved].tolist()) == {int(cells.flat[place])}


def test_where_the_constants_stand_and_what_they_are_multiplied_by() -> None:
    def said(found: LinearMap) -> tuple[object, ...]:
        return found.weight_index, found.bias_index, found.factor, found.vector_bias, found.divides, found.elementwise

    one = (1.0, 1.0)
    assert said(map_of("Conv(x,w)", 3, w=(4, 3, 2))) == (1, 2, one, True, False, False)
    assert said(map_of("ConvTranspose(x,w)", 3, w=(4, 3, 2))) == (1, 2, one, True, False, False)
    assert said(map_of("Gemm(x,w)", 2, w=(3, 4))) == (1, 2, one, False, False, False)
    assert said(map_of("Gemm<alpha=0.5,beta=2.0>(x,w)", 2, w=(3, 4))) == (1, 2, (0.5, 2.0), False, False, False)
    assert said(map_of("Gemm(w,x)", 2, w=(4, 2))) == (0, 2, one, False, False, False)
    assert said(map_of("MatMul(x,w)", 2, w=(3, 4))) == (1, None, one, False, False, False)
    assert said(map_of("MatMul(w,x)", 2, w=(4, 2))) == (0, None, one, False, False, False)
    assert said(map_of('Einsum<equation="ij,jk">(x,w)', 2, w=(3, 4))) == (1, None, one, False, False, False)
    norm = dict.fromkeys("gemv", (3,))
    assert said(map_of("BatchNormalization(x,g,e,m,v)", 2, **norm)) == (1, 2, one, True, False, False)
    assert said(map_of("Mul(x,w)", 2, w=(3,))) == (1, None, one, False, False, True)
    assert said(map_of("Mul(w,x)", 2, w=(3,))) == (0, None, one, False, False, True)
    assert said(map_of("Div(x,w)", 2, w=(3,))) == (1, None, one, False, True, True)
    assert said(map_of("Add(x,w)", 2, w=(3,))) == (None, 1, one, False, False, True)
    assert said(map_of("Add(w,x)", 2, w=(3,))) == (None, 0, one, False, False, True)
    assert said(map_of("Sub(x,w)", 2, w=(3,))) == (None, 1, (1.0, -1.0), False, False, True)
    assert said(map_of("Sub(w,x)", 2, w=(3,))) == (None, 0, one, False, False, True)


def test_an_axis_of_an_einsum_is_a_label_that_no_other_operand_has() -> None:
    def grid(equation: str, *operands: str) -> Shape:
        return map_of(f'Einsum<equation="{equation}">({",".join(operands)})', 3, x=(3, 3), w=(3, 4)).grid

    assert grid("ij,jm,il->iml", "x", "w", "x") == (1, 4, 1)
    assert grid("ij,jx,il->ixl", "x", "w", "x") == (1, 4, 1)
    assert grid("jm,ij,il->iml", "w", "x", "x") == (1, 4, 1)
    assert grid("il,ij,jm->iml", "x", "x", "w") == (1, 4, 1)
    assert map_of('Einsum<equation="...j,jx">(x,w)', 3, x=(2, 5, 3), w=(3, 4)).grid == (1, 1, 4)
    # These may be scaled as well, and no fold needs them: each also lies along another operand.
    assert grid("ij,jm,ml->iml", "x", "w", "x") == (1, 1, 1)
    assert grid("mj,jm,il->iml", "x", "w", "x") == (1, 1, 1)


def test_the_channels_of_a_normalization_are_those_of_its_scale() -> None:
    shapes = {"g": (3,), "e": (1,), "m": (3,), "v": (3,)}
    assert map_of("BatchNormalization(x,g,e,m,v)", 2, **shapes).grid == (1, 3)


def test_a_term_has_the_grid_of_its_constant() -> None:
    assert map_of("Add(x,w)", 3, w=(3, 1)).grid == (1, 3, 1)
    assert map_of("Sub(w,x)", 3, w=()).grid == (1, 1, 1)


NO_RANK = {
    "MatMul": ("MatMul(x,w)", {"w": (3, 4)}, "unknown rank"),
    "Einsum": ('Einsum<equation="...j,jk->...k">(x,w)', {"w": (3, 4)}, "none that the certificate can follow"),
    "BatchNormalization": ("BatchNormalization(x,g,e,m,v)", dict.fromkeys("gemv", (3,)), "rank of what"),
    "Mul": ("Mul(x,w)", {"w": (3,)}, "rank of what"),
    "Add": ("Add(x,w)", {"w": (3,)}, "rank of what"),
}


@pytest.mark.parametrize("kind", NO_RANK)
def test_an_output_of_unknown_rank_is_not_followed(kind: str) -> None:
    text, shapes, words = NO_RANK[kind]
    with pytest.raises(UncertainError, match=words):
        map_of(text, None, **shapes)


def test_an_equation_without_an_ellipsis_tells_the_rank() -> None:
    assert map_of('Einsum<equation="ij,jk">(x,w)', None, w=(3, 4)).grid == (1, 4)


UNCERTAIN: dict[str, tuple[str, int, dict[str, Shape], str]] = {
    "a weight that is none": ("Conv(x,x)", 3, {}, "is not constant"),
    "a matrix that is none": ("Gemm(x,x)", 2, {}, "is not constant"),
    "a vector for a matrix": ("Gemm(x,w)", 2, {"w": (3,)}, "is no matrix"),
    "matrices for a matrix": ("Gemm(x,w)", 2, {"w": (1, 3, 4)}, "is no matrix"),
    "a product with a vector": ("MatMul(x,w)", 1, {"w": (3,)}, "multiplies a vector"),
    "a product with less than its weight": ("MatMul(x,w)", 2, {"w": (1, 3, 4)}, "multiplies a vector"),
    "a quotient of a constant": ("Div(w,x)", 2, {"w": (3,)}, "divides a constant"),
    "two constant operands": ('Einsum<equation="ij,jk">(w,w)', 2, {"w": (3, 3)}, "has 2 constant operands"),
    "no constant operand": ('Einsum<equation="ij,jk">(x,x)', 2, {}, "has 0 constant operands"),
    "an ellipsis in the weight": ('Einsum<equation="ij,j...k">(x,w)', 2, {"w": (3, 4)}, "none that"),
    "an ellipsis of as many letters": ('Einsum<equation="ij,j...->ij">(x,w)', 2, {"w": (3, 4, 1, 1)}, "none that"),
    "one label twice": ('Einsum<equation="ij,jj->i">(x,w)', 1, {"w": (3, 3)}, "none that"),
    "more labels than dimensions": ('Einsum<equation="ij,jkl->ik">(x,w)', 2, {"w": (3, 4)}, "none that"),
    "fewer terms than operands": ('Einsum<equation="ij->i">(x,w)', 1, {"w": (3, 4)}, "none that"),
    "a vector that no term is of": ('Einsum<equation="ij->i">(x,w)', 1, {"w": (3,)}, "none that"),
    "another rank than the result has": ('Einsum<equation="ij,jk->ik">(x,w)', 3, {"w": (3, 4)}, "does not fit"),
    "less than an ellipsis leaves": ('Einsum<equation="...ij,jk->...ik">(x,w)', 1, {"w": (3, 4)}, "does not fit"),
    "a result that repeats itself": ('Einsum<equation="ij,jk->ikk">(x,w)', 3, {"w": (3, 4)}, "does not fit"),
    "a node that is no home": ("Relu(x)", 2, {}, "no home that the certificate knows"),
}


@pytest.mark.parametrize("kind", UNCERTAIN)
def test_what_it_does_not_know_is_not_followed(kind: str) -> None:
    text, rank, shapes, words = UNCERTAIN[kind]
    with pytest.raises(UncertainError, match=words):
        map_of(text, rank, **shapes)


def test_a_constant_that_enlarges_its_value_is_refused() -> None:
    with pytest.raises(DeviationError, match=r"a constant of the shape \[1, 1, 3\] at Mul#0 enlarges its value"):
        map_of("Mul(x,w)", 2, w=(1, 1, 3))


# Operands that are aligned, by the text of each version.


def node_of(opset: int, **attributes: int) -> Node:
    _, node = opened("Add(x,w)", (2, 3), {"w": counted((3,))}, opset)
    for name, value in attributes.items():
        node.proto.attribute.append(helper.make_attribute(name, value))
    return node


@pytest.mark.parametrize("opset", [7, 8, 17])
def test_from_opset_7_on_operands_are_aligned_at_the_last_dimension(opset: int) -> None:
    assert aligned(node_of(opset), 0, (3,), 4) == (1, 1, 1, 3)
    assert aligned(node_of(opset), 1, (), 2) == (1, 1)
    assert aligned(node_of(opset), 1, (2, 3), 2) == (2, 3)


def test_before_opset_7_the_second_operand_stands_where_its_axis_says() -> None:
    old = node_of(6, broadcast=1)
    assert aligned(old, 1, (3,), 4) == (1, 1, 1, 3)
    assert aligned(node_of(6, broadcast=1, axis=1), 1, (3,), 4) == (1, 3, 1, 1)
    assert aligned(node_of(6, broadcast=1, axis=0), 1, (2, 3), 4) == (2, 3, 1, 1)
    assert aligned(node_of(6, broadcast=1, axis=2), 1, (2, 3), 4) == (1, 1, 2, 3)
    assert aligned(node_of(6), 0, (2, 3), 2) == (2, 3)
    # Without broadcasting the axis says nothing.
    assert aligned(node_of(6, axis=1), 1, (2, 3), 2) == (2, 3)
    assert aligned(node_of(6, axis=1, broadcast=0), 1, (2, 3), 2) == (2, 3)


def test_before_opset_7_nothing_else_broadcasts() -> None:
    for node, index in ((node_of(6), 1), (node_of(6, broadcast=0), 1), (node_of(6, broadcast=1), 0)):
        with pytest.raises(DeviationError, match=r"a constant of the shape \[3\] at Add#0 does not broadcast"):
            aligned(node, index, (3,), 2)
    for axis in (-1, 2, 5):
        with pytest.raises(UncertainError, match="the axis of Add#0 does not fit a value of 2 dimensions"):
            aligned(node_of(6, broadcast=1, axis=axis), 1, (3,), 2)
