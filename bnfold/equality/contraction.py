"""Einsum as a LinearMap, written from ONNX's text: a product of all operands, summed over what the result lacks.

    y[result] = sum over all other labels of the product of operand[term]

It is linear in each operand alone. A label that the weight alone has is an axis of the result, where that has it; one
that it shares with a value is an axis of that value's channels, whether it is summed over or kept.
"""

from __future__ import annotations

import numpy as np

from bnfold.equality.claim import UncertainError
from bnfold.equality.constants import Constants, product, text_of
from bnfold.equality.layout import Labels
from bnfold.equality.linear import DataSide, LinearMap, Shape, dims
from bnfold.nodes import Node

_DOTS = "..."


def einsum(constants: Constants, node: Node, rank: int | None, weight: int | None = None) -> LinearMap:
    """`weight` says which operand is meant, where several are constant."""
    index, shape = _constant_operand(constants, node, weight)
    terms, result = _equation(node)
    term = terms[index] if len(terms) == len(node.inputs) else ""
    rank = len(result) if rank is None and _DOTS not in result else rank
    # The dots of an ellipsis are one letter more than once.
    if rank is None or len(term) != len(shape) or len(set(term)) < len(term):
        raise UncertainError(f"the equation of {node.site} is none that the certificate can follow")
    axes = _axes_of_labels(node, result, rank)
    elsewhere = set("".join(terms[:index] + terms[index + 1 :]))
    sizes = {label: size for label, size in zip(term, shape, strict=True) if label in axes and label not in elsewhere}
    grid = [1] * rank
    for label, size in sizes.items():
        grid[axes[label]] = size
    cells = _counted(term, sorted(sizes, key=axes.__getitem__), sizes)
    data = (_data(i, theirs, (term, shape, cells), (terms, result)) for i, theirs in enumerate(terms) if i != index)
    return LinearMap(tuple(grid), cells, index, data=tuple(side for side in data if side is not None))


def _data(
    index: int, theirs: str, weight: tuple[str, Shape, Labels], equation: tuple[list[str], str]
) -> DataSide | None:
    """Another operand as data of the weight: along all labels that both have, once each."""
    (term, shape, cells), (terms, result) = weight, equation
    letters = [label for label in theirs if label != "."]
    common = [label for label in letters if label in term]
    if not common or any(letters.count(label) > 1 for label in common):
        return None
    sizes = {label: shape[term.index(label)] for label in common}
    front = theirs.partition(_DOTS)[0] if _DOTS in theirs else theirs
    back = theirs.partition(_DOTS)[2]
    axes = [front.index(x) if x in front else back.index(x) - len(back) for x in common]
    # A shift adds the sum of the weights, if nothing else is multiplied by it and nothing is summed that they lack.
    lone = len(terms) == 2 and len(set(letters)) == len(letters) and (_DOTS in theirs) == (_DOTS in result)
    summed = all(label not in result and sizes[label] > 1 for label in common)
    rest = all(label in result for label in letters if label not in common)
    own = np.prod(cells.shape) == product(shape[i] for i, label in enumerate(term) if label in result)
    return DataSide(
        index,
        tuple(axes),
        _counted(term, common, sizes),
        tuple(sizes[label] for label in common),
        sees_all=bool(lone and summed and rest and own),
        rank=None if _DOTS in theirs else len(letters),
    )


def _counted(term: str, order: list[str], sizes: dict[str, int]) -> Labels:
    """Numbers that count labels in this order, the last one fastest, as they lie in an operand of this term."""
    numbers = np.arange(product(sizes.values())).reshape([sizes[label] for label in order])
    numbers = numbers.transpose([order.index(label) for label in term if label in sizes])
    return numbers.reshape([sizes.get(label, 1) for label in term])


def _constant_operand(constants: Constants, node: Node, weight: int | None) -> tuple[int, Shape]:
    shapes = [dims(constants, node, index) for index in range(len(node.inputs))]
    found = [(index, shape) for index, shape in enumerate(shapes) if shape is not None]
    if len(found) > 1 and weight is not None:
        found = [each for each in found if each[0] == weight]
    if len(found) != 1:
        raise UncertainError(f"{node.site} has {len(found)} constant operands, of which one would be the weight")
    return found[0]


def _equation(node: Node) -> tuple[list[str], str]:
    """The terms of an Einsum's equation and its result; without `->` the labels that occur once, sorted."""
    left, arrow, right = text_of(node, "equation").replace(" ", "").partition("->")
    terms = left.split(",")
    if arrow:
        return terms, right
    labels = left.replace(",", "").replace(".", "")
    implied = "".join(sorted(label for label in set(labels) if labels.count(label) == 1))
    return terms, (_DOTS if _DOTS in left else "") + implied


def _axes_of_labels(node: Node, result: str, rank: int) -> dict[str, int]:
    """Where each label of an Einsum's result stands; an ellipsis is as long as the rank makes it."""
    first, ellipsis, last = result.partition(_DOTS)
    count = len(first) + len(last)
    if len(set(first + last)) < count or count > rank or (not ellipsis and count != rank):
        raise UncertainError(f"the equation of {node.site} does not fit a value of {rank} dimensions")
    return {label: axis for axis, label in enumerate(first)} | {
        label: rank - len(last) + axis for axis, label in enumerate(last)
    }
