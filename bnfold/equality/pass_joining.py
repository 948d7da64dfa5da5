"""Operators that choose from a value, or join several, written from ONNX's text: what goes along with one of them."""

from __future__ import annotations

import numpy as np

from bnfold.equality.claim import DeviationError, Link, UncertainError
from bnfold.equality.constants import Constants, int_of, ints_of
from bnfold.equality.passing import Carried, anywhere_along, first_alone, none_of, whole_axis
from bnfold.nodes import Node, Value


def concat(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Concat: the inputs side by side along an axis."""
    del unknown
    node = link.node
    axis = int_of(node, "axis", 0 if node.scope.opset >= 4 else 1) % carried.ndim
    return side_by_side(constants, link, carried, axis)


def side_by_side(constants: Constants, link: Link, carried: Carried, axis: int) -> Carried:
    """What one input of a node holds, where all of them stand one behind the other along an axis."""
    node = link.node
    row = constants.side_by_side(node, carried.ndim, axis)
    if row.unknown - {link.data}:
        raise UncertainError(f"the sizes of what {node.site} joins are not known")
    own = whole_axis(constants, link.source, carried, axis, node)
    first = row.before[link.data]
    shape = list(own.shape)
    shape[axis] += row.total - (row.sizes[link.data] or 0)
    whole: Carried = np.full(shape, none_of(carried), carried.dtype)
    place = [slice(None)] * carried.ndim
    place[axis] = slice(first, first + own.shape[axis])
    whole[tuple(place)] = own
    return whole


def split(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Split: output k is the kth part along an axis."""
    del unknown
    first_alone(link)
    node = link.node
    axis = int_of(node, "axis", 0) % carried.ndim
    operand = node.input(1)
    parts = ints_of(node, "split") if operand is None else _integers(constants, operand)
    if not parts and carried.shape[axis] == 1 and constants.sizes(link.source) is None:
        raise UncertainError(f"the parts of {node.site} are not known")
    full = whole_axis(constants, link.source, carried, axis, node)
    if not parts:
        count = int_of(node, "num_outputs", len(node.outputs))
        size = -(-full.shape[axis] // count)
        parts = tuple(min(size, full.shape[axis] - size * k) for k in range(count))
    first = sum(parts[: link.output])
    part: Carried = full.take(range(first, first + parts[link.output]), axis)
    return part


def sliced(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Slice: starts, ends, axes and steps, as Python's slices but for their ends."""
    del unknown
    first_alone(link)
    node = link.node
    given = [ints_of(node, name) for name in ("starts", "ends", "axes")]
    if node.scope.opset >= 10:
        given = [_integers(constants, node.input(index)) for index in (1, 2, 3)]
    starts, ends, axes = given
    steps = _integers(constants, node.input(4)) if node.scope.opset >= 10 else None
    if starts is None or ends is None:
        raise UncertainError(f"where {node.site} cuts is not known")
    axes = tuple(range(len(starts))) if axes is None else axes
    if not len(starts) == len(ends) == len(axes) or (steps is not None and (len(steps) != len(axes) or 0 in steps)):
        raise UncertainError(f"where {node.site} cuts is not known")
    for i, axis in enumerate(axes):
        step = 1 if steps is None else steps[i]
        place = axis % carried.ndim
        if carried.shape[place] == 1 and not _is_one(constants, link.source, place):
            continue
        last = None if step < 0 and ends[i] < -(1 << 31) else ends[i]
        index = range(*slice(starts[i], last, step).indices(carried.shape[place]))
        carried = carried.take(index, place)
    return carried


def _is_one(constants: Constants, value: Value, axis: int) -> bool:
    sizes = constants.sizes(value)
    return sizes is not None and axis < len(sizes) and sizes[axis] == 1


def _integers(constants: Constants, value: Value | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(int(n) for n in constants.array(value).reshape(-1))


def gathered(constants: Constants, link: Link, carried: Carried, unknown: int) -> tuple[Carried, ...]:
    """Gather: entries along an axis, by constant indices; by others, any entry may be anywhere along it."""
    del unknown
    first_alone(link)
    node = link.node
    axis = int_of(node, "axis", 0) % carried.ndim
    operand = node.input(1)
    if operand is None:
        raise DeviationError(f"{node.site} has no indices")
    alike = carried.shape[axis] == 1 and not _is_one(constants, link.source, axis)
    if alike or constants.shape(operand) is None:
        sizes = constants.sizes(operand)
        if sizes is None:
            raise UncertainError(f"the rank of the indices of {node.site} is not known")
        parts = anywhere_along(link, carried, [axis])
        return tuple(p.reshape((*p.shape[:axis], *[1] * len(sizes), *p.shape[axis + 1 :])) for p in parts)
    indices = np.asarray(constants.array(operand), np.int64)
    return (carried.take(indices % carried.shape[axis], axis),)


# Operators of several values.


def joined(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Add, Mul, Max and their kin: operands broadcast as numpy's do (from opset 7 on)."""
    del unknown
    if link.node.scope.opset < 7 and link.node.op != "Sum":
        raise UncertainError(f"{link.node.site} broadcasts by old rules")
    ranks = []
    for value in (value for value in link.node.inputs if value is not None):
        sizes = constants.sizes(value)
        if sizes is None and value is not link.source:
            raise UncertainError(f"the ranks of what {link.node.site} joins are not known")
        ranks.append(carried.ndim if sizes is None else len(sizes))
    return carried.reshape((1,) * (max(ranks) - carried.ndim) + carried.shape)


def chosen(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Where: one of two values, element by element."""
    if link.data == 0:
        raise DeviationError(f"a claim passes the condition of {link.node.site}")
    return joined(constants, link, carried, unknown)


def divided(constants: Constants, link: Link, carried: Carried, unknown: int) -> Carried:
    """Div: the dividend is scaled as the quotient is."""
    if link.data != 0:
        raise DeviationError(f"a claim passes the divisor of {link.node.site}")
    return joined(constants, link, carried, unknown)


def bearing_inputs(node: Node) -> tuple[int, ...]:
    """The inputs of an operator of several values that can bear an affine."""
    given = [index for index, value in enumerate(node.inputs) if value is not None]
    return tuple(index for index in given if node.op != "Where" or index)
