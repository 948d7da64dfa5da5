"""Operators of several values that let an affine PASS: sums, products, choices, and values side by side.

    y = sum of x_i        a*y + s = a*x_0 + s + sum of a*x_i        the scale goes to all, the shift to one
    y = x_0 * x_1         a*y = (a*x_0) * x_1                       the scale goes to one
    y = x_0 beside x_1    each part of the affine goes to its own   all, or none
    y = one of x_i        the affine goes to all (of a largest one, where no scale is negative)

An operand that broadcasts over an axis along which the affine differs cannot bear it.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from bnfold.affine import Affine, compressed
from bnfold.nodes import Node, Value
from bnfold.ops.elementwise import FIRST_OPSET_WITH_BROADCASTING, Elementwise, elementwise_of
from bnfold.ops.facts import Facts
from bnfold.ops.linear import home_for, ways_of
from bnfold.ops.passing import PASSING, Passage, Passed, known_rank, known_size
from bnfold.ops.reasons import AXIS, BLOCKED, LAYER, LAYOUT, NEGATIVE, OLD_OPSET, SHIFT, Obstacle
from bnfold.ops.table import register


@register("passing", PASSING, "Add", "Sub")
def constant_term(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """of a constant: a scale, while the shift stays in the constant (of any shape); of values: a scale to all of them,
    and the shift to the first

    Not: a constant that enlarges the value, or is the bias of a MatMul with a constant that does not take the scale;
    values of which one takes no per-channel scale; before opset 7 two values.
    """
    found = elementwise_of(facts, node)
    if isinstance(found, Obstacle):
        return summed(facts, node, affine) if found.reason is BLOCKED else found
    if np.all(affine.scale == 1):
        return Passed((), keeps=True)
    scale = Affine(affine.scale, np.zeros_like(affine.scale))
    enlarged = _enlarged(facts, found, scale) or _of_a_layer(facts, found, scale)
    return enlarged or Passed((Passage(found.data, scale, takes_shift=False),), keeps=True)


@register("passing", PASSING, "Mul", "Div")
def constant_factor(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """by a constant: a scale, and a shift divided by the constant where that is nowhere zero; by a value: a scale

    Not: a constant that enlarges the value; a shift where two values are multiplied, or a scale of the divisor.
    """
    found = elementwise_of(facts, node)
    if isinstance(found, Obstacle):
        return multiplied(facts, node, affine) if found.reason is BLOCKED else found
    slope = found.slope
    if affine.has_shift and not (np.all(slope) and np.all(np.isfinite(slope))):
        return Obstacle(SHIFT, "its constant is zero somewhere, and lets no shift pass", node)
    if slope.ndim > affine.rank:
        return Obstacle(LAYOUT, f"its constant has {slope.ndim} dimensions", node)
    if not affine.has_shift:
        before = affine
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            shift = affine.shift / slope.reshape((1,) * (affine.rank - slope.ndim) + slope.shape)
        before = Affine(affine.scale, compressed(shift))
    enlarged = _enlarged(facts, found, before)
    return enlarged or Passed((Passage(found.data, before),), may_stay=True)


def _of_a_layer(facts: Facts, found: Elementwise, before: Affine) -> Obstacle | None:
    """Refuse to make the bias of a product one for each row: a product that takes a shift over gets one for all."""
    value = found.node.inputs[found.data]
    layer = None if value is None else facts.graph.producer(value)
    if layer is None or layer.op != "MatMul":
        return None
    home = home_for(facts, layer, before) if isinstance(ways_of(facts, layer), tuple) else None
    return home if isinstance(home, Obstacle) else None


def _enlarged(facts: Facts, found: Elementwise, before: Affine) -> Obstacle | None:
    """Refuse where the constant may give the value more dimensions or larger ones: there is nothing to pass to then."""
    value = found.node.inputs[found.data]
    values = found.values
    if value is None or (values.ndim == before.rank and known_rank(facts, value) != before.rank):
        return Obstacle(LAYOUT, f"the rank of the value before {found.node.op} is not known", found.node)
    own = (1,) * (before.rank - values.ndim) + values.shape
    for axis, (size, theirs) in enumerate(zip(before.shape, own, strict=True)):
        if size > 1 and theirs > 1 and known_size(facts, value, axis) != size:
            return Obstacle(LAYOUT, f"dimension {axis} of the value before {found.node.op} is not known", found.node)
    return None


def is_sum(node: Node) -> bool:
    """Whether it adds its values up, one perhaps with the other sign."""
    return node.op in {"Add", "Sub", "Sum"}


def sign_of(node: Node, index: int) -> float:
    """The sign with which a sum takes one of its values."""
    return -1.0 if node.op == "Sub" and index == 1 else 1.0


def aligned(facts: Facts, value: Value, affine: Affine) -> Affine | None:
    """An affine of a result, as one of an operand that broadcasts against it; None where it differs along a broadcast.

    The operand has to be as large as the result wherever the affine differs.
    """
    rank = known_rank(facts, value)
    if rank is None or rank > affine.rank:
        return None
    missing = affine.rank - rank
    if any(size != 1 for size in affine.shape[:missing]):
        return None
    for axis, size in enumerate(affine.shape[missing:]):
        if size != 1 and known_size(facts, value, axis) != size:
            return None
    return affine.squeezed(range(missing)) if missing else affine


def summed(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """All values take the scale, and the first one the shift; only that one where the scale is one."""
    if node.scope.opset < FIRST_OPSET_WITH_BROADCASTING:
        return Obstacle(OLD_OPSET, f"{node.op} of two values, before opset {FIRST_OPSET_WITH_BROADCASTING}", node)
    scaled = Affine(affine.scale, np.zeros_like(affine.scale))
    passages: list[Passage] = []
    for index, value in enumerate(node.inputs):
        if value is None:
            return Obstacle(LAYER, f"an input of {node.op} is missing", node)
        if index and np.all(affine.scale == 1):
            break
        before = aligned(facts, value, scaled if index else affine)
        if before is None:
            return Obstacle(AXIS, f"{value.name!r} is smaller than the sum, and takes no per-channel affine", node)
        passages.append(Passage(index, before, takes_shift=index == 0))
    return Passed(tuple(passages))


def multiplied(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """The scale goes to one of the values: the first from which a home is found."""
    first = node.input(0)
    if node.op == "Div" and first is not None and facts.is_constant(first):
        return Obstacle(BLOCKED, "a constant divided by the value is no affine of it", node)
    if affine.has_shift:
        return Obstacle(SHIFT, f"{node.op} of two values lets no shift pass", node)
    if first is None:
        return Obstacle(LAYER, f"an input of {node.op} is missing", node)
    if node.scope.opset < FIRST_OPSET_WITH_BROADCASTING:
        return Obstacle(OLD_OPSET, f"{node.op} of two values, before opset {FIRST_OPSET_WITH_BROADCASTING}", node)
    ways: Passed | None = None
    for index, value in reversed([*enumerate(node.inputs if node.op == "Mul" else (first,))]):
        before = None if value is None or facts.is_constant(value) else aligned(facts, value, affine)
        if before is not None:
            ways = Passed((Passage(index, before),), instead=ways)
    return ways or Obstacle(AXIS, f"no operand of {node.op} is as large as the product along the channels", node)


@register("passing", PASSING, "Sum")
def total(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """a scale to all values, and the shift to the first

    Not: values of which one takes no per-channel scale.
    """
    return summed(facts, node, affine)


@register("passing", PASSING, "Where", "Max", "Min")
def choice(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, to all values (Max, Min: a scale that is nowhere negative)

    Not: values of which one is smaller than the result along the channels.
    """
    if node.op != "Where" and np.any(affine.scale < 0):
        return Obstacle(NEGATIVE, f"{node.op} lets no negative scale pass", node)
    passages: list[Passage] = []
    for index, value in enumerate(node.inputs):
        if node.op == "Where" and not index:
            continue
        before = None if value is None else aligned(facts, value, affine)
        if before is None:
            return Obstacle(AXIS, f"a value of {node.op} is smaller than the result along the channels", node)
        passages.append(Passage(index, before))
    return Passed(tuple(passages))


@register("passing", PASSING, "Concat")
def concat(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything: each value takes its part of what differs along the axis

    Not: an axis or sizes that are not known.
    """
    return side_by_side(facts, node, affine, node.int_attribute("axis", 1) % affine.rank)


def side_by_side(facts: Facts, node: Node, affine: Affine, axis: int) -> Passed | Obstacle:
    """To each value of a node its part of the affine of all of them, one behind the other along an axis."""
    sizes = [None if value is None else known_size(facts, value, axis) for value in node.inputs]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return Obstacle(LAYOUT, f"the sizes of what {node.op} joins are not known", node)
    if affine.shape[axis] not in {1, sum(known)}:
        detail = f"{node.op} joins {sum(known)} along axis {axis}, and the affine has {affine.shape[axis]}"
        return Obstacle(LAYOUT, detail, node)
    firsts = accumulate(known, initial=0)
    parts = [_part(affine, axis, first, size) for first, size in zip(firsts, known, strict=False)]
    return Passed(tuple(Passage(index, part) for index, part in enumerate(parts)))


def _part(affine: Affine, axis: int, first: int, size: int) -> Affine:
    """The part of an affine from `first` on along an axis, if it differs there."""
    scale, shift = (
        array if array.shape[axis] == 1 else array.take(range(first, first + size), axis)
        for array in (affine.scale, affine.shift)
    )
    return Affine(scale, shift)
