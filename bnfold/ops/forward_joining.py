"""Operators of several values let an affine PASS forward: what those that bear it do to the result, together.

    x_0*a + s_0 + x_1*a + s_1 = a*(x_0 + x_1) + (s_0 + s_1)        a sum: all bear one scale, or none bears any
    max(a*x_0 + s, a*x_1 + s) = a*max(x_0, x_1) + s                a choice: all bear the same
    (a*x_0) * (b*x_1) = a*b*(x_0*x_1)                              a product: scales alone
    each its own, (1, 0) for the others                            values side by side

Each function is given the affines of all inputs that bear one, by their index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bnfold.affine import Affine, compressed
from bnfold.nodes import Node
from bnfold.ops.elementwise import FIRST_OPSET_WITH_BROADCASTING
from bnfold.ops.facts import Facts
from bnfold.ops.joining import aligned, sign_of
from bnfold.ops.passing import known_rank, known_size
from bnfold.ops.reasons import BLOCKED, CONSTANT_STAYS, LAYER, LAYOUT, NEGATIVE, OLD_OPSET, SHIFT, Obstacle
from bnfold.ops.table import register

Arriving = Mapping[int, Affine]
TOGETHER: dict[str, Callable[[Facts, Node, Arriving], Affine | Obstacle]] = {}


@register("forward", TOGETHER, "Concat")
def beside(facts: Facts, node: Node, arriving: Arriving) -> Affine | Obstacle:
    """everything: the values that bear none bear (1, 0)

    Not: sizes that are not known; what two of them bear differently along another axis.
    """
    rank = next(iter(arriving.values())).rank
    axis = node.int_attribute("axis", 1) % rank
    sizes = [None if value is None else known_size(facts, value, axis) for value in node.inputs]
    known = [size for size in sizes if size is not None]
    fits = all(affine.rank == rank and affine.shape[axis] in {1, sizes[i]} for i, affine in arriving.items())
    if len(known) < len(sizes) or not fits:
        return Obstacle(LAYOUT, f"the sizes of what {node.op} joins are not known", node)
    parts = [_along(arriving.get(index, Affine.identity(rank)), axis, size) for index, size in enumerate(known)]
    whole = [1 if i == axis else max(part.shape[i] for part in parts) for i in range(rank)]
    joined = []
    for arrays in ([part.scale for part in parts], [part.shift for part in parts]):
        forms = [[array.shape[axis] if i == axis else size for i, size in enumerate(whole)] for array in arrays]
        pieces = [np.broadcast_to(array, form) for array, form in zip(arrays, forms, strict=True)]
        joined.append(compressed(np.concatenate(pieces, axis)))
    return Affine(*joined)


def _along(affine: Affine, axis: int, size: int) -> Affine:
    """The same written out along an axis."""
    form = [[size if i == axis else n for i, n in enumerate(part.shape)] for part in (affine.scale, affine.shift)]
    return Affine(np.broadcast_to(affine.scale, form[0]), np.broadcast_to(affine.shift, form[1]))


@register("forward", TOGETHER, "Mul", "Div")
def multiplied(facts: Facts, node: Node, arriving: Arriving) -> Affine | Obstacle:
    """a scale, whatever it is multiplied by; of a Div, that of the dividend

    Not: a shift; what divides; a value that is enlarged where the affine differs.
    """
    if node.op == "Div" and 1 in arriving:
        return Obstacle(BLOCKED, "what divides lets no per-channel affine pass", node)
    if any(affine.has_shift for affine in arriving.values()):
        return Obstacle(SHIFT, f"{node.op} lets no shift pass", node)
    each = _aligned(facts, node, arriving)
    if isinstance(each, Obstacle):
        return each
    whole, *others = each.values()
    for other in others:
        whole = Affine(whole.scale * other.scale, whole.shift)
    return whole


@register("forward", TOGETHER, "Add", "Sub", "Sum")
def added(facts: Facts, node: Node, arriving: Arriving) -> Affine | Obstacle:
    """of values: a scale that all of them bear alike; a shift of any of them, where none bears a scale, or all do; its
    sign turns where the value is taken away

    Not: a scale of some of them, or of one that is enlarged where the affine differs; a scale beside a constant that is
    not alike for all positions.
    """
    scaled = any(np.any(affine.scale != 1) for affine in arriving.values())
    others = [value for index, value in enumerate(node.inputs) if index not in arriving and value is not None]
    if scaled and others and all(facts.is_constant(value) for value in others):
        return Obstacle(CONSTANT_STAYS, f"what {node.op} adds is constant, and would be divided by the scale", node)
    if scaled and len(arriving) < len(node.inputs):
        return Obstacle(BLOCKED, f"{node.op} of several values lets no scale of one of them pass", node)
    each = _aligned(facts, node, arriving) if scaled else _at_joined_rank(facts, node, arriving)
    if isinstance(each, Obstacle):
        return each
    first = next(iter(each.values()))
    if any(not np.array_equal(affine.scale, first.scale) for affine in each.values()):
        return Obstacle(BLOCKED, f"the values that {node.op} adds bear different scales", node)
    shift = sum((affine.shift * sign_of(node, index) for index, affine in each.items()), np.zeros((1,) * first.rank))
    return Affine(first.scale, np.asarray(shift))


@register("forward", TOGETHER, "Max", "Min", "Where")
def chosen(facts: Facts, node: Node, arriving: Arriving) -> Affine | Obstacle:
    """what all values bear alike (Max, Min: a scale that is nowhere negative)

    Not: what some of them bear, or one that is enlarged where the affine differs; a condition.
    """
    bearing = [index for index in range(len(node.inputs)) if node.op != "Where" or index]
    if sorted(arriving) != bearing:
        return Obstacle(BLOCKED, f"not every value that {node.op} chooses from bears the same", node)
    each = _aligned(facts, node, arriving)
    if isinstance(each, Obstacle):
        return each
    first, *others = each.values()
    if any(other != first for other in others):
        return Obstacle(BLOCKED, f"the values that {node.op} chooses from bear different affines", node)
    if node.op != "Where" and np.any(first.scale < 0):
        return Obstacle(NEGATIVE, f"{node.op} lets no negative scale pass", node)
    return first


def _aligned(facts: Facts, node: Node, arriving: Arriving) -> dict[int, Affine] | Obstacle:
    """The affines as ones of the result; no value may be enlarged where its own differs."""
    each = _at_joined_rank(facts, node, arriving)
    if isinstance(each, Obstacle):
        return each
    for index, affine in each.items():
        value = node.inputs[index]
        if value is None or aligned(facts, value, affine) is None:
            return Obstacle(LAYOUT, f"the value before {node.op} may be enlarged where it differs", node)
    return each


def _at_joined_rank(facts: Facts, node: Node, arriving: Arriving) -> dict[int, Affine] | Obstacle:
    """The affines with as many dimensions as what an operator makes of values that broadcast against each other."""
    if node.scope.opset < FIRST_OPSET_WITH_BROADCASTING:
        return Obstacle(OLD_OPSET, f"{node.op} of two values, before opset {FIRST_OPSET_WITH_BROADCASTING}", node)
    if any(operand is None for operand in node.inputs):
        return Obstacle(LAYER, f"an input of {node.op} is missing", node)
    ranks = [known_rank(facts, operand) for operand in node.inputs if operand is not None]
    known = [rank for rank in ranks if rank is not None]
    if not known or len(known) < len(node.inputs):
        return Obstacle(LAYOUT, f"the ranks before {node.op} are not known", node)
    return {index: affine.unsqueezed(range(max(known) - affine.rank)) for index, affine in arriving.items()}
