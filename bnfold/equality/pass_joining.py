"""Operators that choose from a value, or join several, written from ONNX's text: what goes along with one of them."""

from __future__ import annotations

import numpy as np

from bnfold.affine import Dim
from bnfold.equality.claim import DeviationError, Link, UncertainError
from bnfold.equality.constants import Constants, int_of, ints_of
from bnfold.equality.layout import Labels
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
    if carried.shape[axis] == 1:
        return carried  # every part has it from the same cell
    operand = node.input(1)
    parts = ints_of(node, "split") if operand is None else constants.integers(operand)
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
    cuts = _cuts(constants, node)
    for given, (start, end, step) in cuts.items():
        axis = given % carried.ndim
        if carried.shape[axis] == 1 and (start is None or end is None or not _is_one(constants, link.source, axis)):
            continue
        if start is None or end is None:
            raise UncertainError(f"where {node.site} cuts axis {axis} is not known")
        last = None if step < 0 and end < -(1 << 31) else end
        carried = carried.take(range(*slice(start, last, step).indices(carried.shape[axis])), axis)
    return carried


def _cuts(constants: Constants, node: Node) -> dict[int, tuple[int | None, int | None, int]]:
    """Where a Slice begins and ends along each of its axes, None where that is not known, and its steps."""
    starts: tuple[Dim, ...] | None
    ends: tuple[Dim, ...] | None
    starts, ends, axes = (ints_of(node, name) for name in ("starts", "ends", "axes"))
    steps = None
    if node.scope.opset >= 10:
        starts, ends = (None if v is None else constants.elements(v) for v in map(node.input, (1, 2)))
        axes, steps = (None if v is None else constants.integers(v) for v in map(node.input, (3, 4)))
    if starts is None or ends is None:
        raise UncertainError(f"where {node.site} cuts is not known")
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(axes) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise UncertainError(f"where {node.site} cuts is not known")
    known = ([each if isinstance(each, int) else None for each in row] for row in (starts, ends))
    return dict(zip(axes, zip(*known, steps, strict=True), strict=True))


def _is_one(constants: Constants, value: Value, axis: int) -> bool:
    sizes = constants.sizes(value)
    return sizes is not None and axis < len(sizes) and sizes[axis] == 1


def gathered(constants: Constants, link: Link, carried: Carried, unknown: int) -> tuple[Carried, ...]:
    """Gather: entries along an axis, by constant indices; by others, any entry may be anywhere along it."""
    del unknown
    first_alone(link)
    node = link.node
    axis = int_of(node, "axis", 0) % carried.ndim
    operand = node.input(1)
    if operand is None:
        raise DeviationError(f"{node.site} has no indices")
    sizes = constants.sizes(operand)
    indices = None
    if carried.shape[axis] != 1 or _is_one(constants, link.source, axis):
        indices = _indices(constants, operand, sizes)
    if indices is None:
        if sizes is None:
            raise UncertainError(f"the rank of the indices of {node.site} is not known")
        parts = anywhere_along(link, carried, [axis])
        return tuple(p.reshape((*p.shape[:axis], *[1] * len(sizes), *p.shape[axis + 1 :])) for p in parts)
    return (carried.take(indices % carried.shape[axis], axis),)


def _indices(constants: Constants, operand: Value, sizes: tuple[int | None, ...] | None) -> Labels | None:
    """The indices of a Gather, where they are known."""
    if constants.shape(operand) is not None:
        return np.asarray(constants.array(operand), np.int64)
    try:
        found = constants.integers(operand)
    except UncertainError:
        return None
    shape = [size for size in sizes or () if size is not None]
    return None if sizes is None or len(shape) < len(sizes) else np.array(found, np.int64).reshape(shape)


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
