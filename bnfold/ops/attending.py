"""A product with rows that sum to one lets an affine PASS to what it mixes: MatMul(Softmax over the last axis, V).

    sum over j of P[i, j] * (a*V[j] + s) = a * (sum over j of P[i, j] * V[j]) + s        where the sum of P[i, j] is 1

The affine may differ along anything but the rows of V, which are mixed.
"""

from __future__ import annotations

from bnfold.affine import Affine
from bnfold.nodes import Node, Value
from bnfold.ops.facts import Facts
from bnfold.ops.joining import aligned
from bnfold.ops.linear import ways_of
from bnfold.ops.passing import Passage, Passed, alone, axes_of, dropout, input_shape, known_rank, target_shape
from bnfold.ops.reasons import AXIS, LAYOUT, Obstacle

MOST_BETWEEN = 64
"""Nodes between a Softmax and the product, beyond which none is looked for."""


def mixture(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle | None:
    """How a mixture is passed to what it mixes; None where rows do not surely sum to one."""
    value = node.input(1)
    if value is None or not is_mixture(facts, node):
        return None  # a constant on either side may be its home
    if affine.rank < 2 or affine.shape[-2] != 1:  # rows and columns
        return Obstacle(LAYOUT, f"{node.op} mixes the rows along which the affine differs", node)
    before = aligned(facts, value, affine)
    if before is None or before.rank < 2:
        return Obstacle(AXIS, f"{value.name!r} may be smaller than the product where the affine differs", node)
    return alone(Passage(1, before))


def is_mixture(facts: Facts, node: Node) -> bool:
    """Whether a MatMul of two values that are computed mixes the rows of the second by shares that sum to one."""
    shares = node.input(0)
    return shares is not None and not isinstance(ways_of(facts, node), tuple) and _sums_to_one(facts, shares)


def _sums_to_one(facts: Facts, value: Value) -> bool:
    """Whether every row along the last axis of a value surely sums to one."""
    for _ in range(MOST_BETWEEN):
        node = facts.graph.producer(value)
        if node is None or node.output(0) is not value or node.refers_to_attributes:
            return False
        if node.op == "Softmax":
            return _over_last_axis(facts, node, value)
        before = node.input(0)
        if before is None or not _keeps_rows(facts, node):
            return False
        value = before
    return False


def _over_last_axis(facts: Facts, node: Node, value: Value) -> bool:
    """Before opset 13 it goes over all axes from its own on, by default from the second."""
    axis = node.int_attribute("axis", -1 if node.scope.opset >= 13 else 1)
    rank = known_rank(facts, value)
    return axis == -1 or (rank is not None and axis == rank - 1)


def _keeps_rows(facts: Facts, node: Node) -> bool:
    """Whether the rows along the last axis behind a node are those before it, perhaps in another order."""
    if node.op in {"Identity", "Dropout"}:
        return node.op == "Identity" or isinstance(dropout(facts, node, Affine.identity(1)), Passed)
    if node.op == "Transpose":
        perm = node.ints_attribute("perm")
        return bool(perm) and perm is not None and perm[-1] == len(perm) - 1
    if node.op == "Unsqueeze":
        axes, output = axes_of(facts, node), node.output(0)
        rank = None if output is None else known_rank(facts, output)
        return axes is not None and rank is not None and not {-1, rank - 1} & set(axes)
    if node.op not in {"Reshape", "Flatten"}:
        return False
    source = input_shape(facts, node)
    target = None if source is None else target_shape(facts, node, source)
    last = (source or (None,))[-1], (target or (None,))[-1]
    return isinstance(last[0], int) and last[0] > 0 and last[0] == last[1]
