"""Operators that take a part of a value: what was cut away may bear anything, so it bears (1, 0).

The value before has to be read by this operator alone; then no one sees what was cut away. Where an index stands twice,
both places must bear the same.
"""

from __future__ import annotations

import numpy as np

from bnfold.affine import Affine, Dim
from bnfold.nodes import Node
from bnfold.ops.facts import Facts
from bnfold.ops.passing import FURTHER, PASSING, Passage, Passed, alone, input_shape, known_size
from bnfold.ops.reasons import AXIS, LAYOUT, Obstacle
from bnfold.ops.table import register

FIRST_OPSET_WITH_CUTS_AS_INPUTS = 10


@register("passing", PASSING, "Slice")
def slice_(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, with (1, 0) for what is cut away

    Not: cuts that are not known, along an axis where the affine differs.
    """
    cuts = cuts_of(facts, node)
    if cuts is None:
        return Obstacle(LAYOUT, "where it cuts is not known", node)
    for axis, cut in cuts.items():
        place = axis % affine.rank
        if affine.shape[place] == 1:
            continue
        if cut is None:
            return Obstacle(LAYOUT, f"where it cuts axis {place} is not known", node)
        value = node.input(0)
        size = None if value is None else known_size(facts, value, place)
        if size is None or len(range(*cut.indices(size))) != affine.shape[place]:
            return Obstacle(LAYOUT, f"the size of axis {place} before {node.op} is not known", node)
        affine = spread(affine, place, np.arange(size)[cut], size)
    return alone(Passage(0, affine))


@register("passing", PASSING, "Gather")
def gather(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, with (1, 0) for what is not taken

    Not: indices that are not known, or that give one place two different affines.
    """
    value, operand = node.input(0), node.input(1)
    if value is None or operand is None:
        return Obstacle(LAYOUT, f"an input of {node.op} is missing", node)
    shape, indices = facts.shape(value), facts.shape(operand)
    if shape is None or indices is None or affine.rank != len(shape) - 1 + len(indices):
        return Obstacle(LAYOUT, f"the shapes before {node.op} are not known", node)
    axis = node.int_attribute("axis", 0) % len(shape)
    taken = affine.shape[axis : axis + len(indices)]
    rest = (*affine.shape[:axis], *affine.shape[axis + len(indices) :])
    if all(size == 1 for size in taken):
        scale, shift = (
            a.reshape((*a.shape[:axis], 1, *a.shape[axis + len(indices) :])) for a in (affine.scale, affine.shift)
        )
        return alone(Passage(0, Affine(scale, shift)))
    found, size = facts.indices(operand), shape[axis]
    if found is None or not isinstance(size, int) or not size or len(indices) != 1 or any(s != 1 for s in rest):
        return Obstacle(LAYOUT, "which places it takes is not known", node)
    places = found % size
    before = spread(affine, axis, places, size)
    if not np.array_equal(before.scale.take(places, axis), np.broadcast_to(affine.scale, affine.shape)) or not (
        np.array_equal(before.shift.take(places, axis), np.broadcast_to(affine.shift, affine.shape))
    ):
        return Obstacle(AXIS, "a channel that it takes twice would have to bear two affines", node)
    return alone(Passage(0, before))


@register("passing", PASSING, "Split")
def split(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything of one part, with (1, 0) for the others

    Not: parts that are not known.
    """
    return split_at(facts, node, affine, 0)


def split_at(facts: Facts, node: Node, affine: Affine, output: int) -> Passed | Obstacle:
    """The same for any output."""
    axis = node.int_attribute("axis", 0) % affine.rank
    if affine.shape[axis] == 1 and known_size_of_output(facts, node, output, axis) != 1:
        # It is alike for all of this part, and (1, 0) for the others: its size has to be known all the same.
        size = known_size_of_output(facts, node, output, axis)
        if size is None:
            return Obstacle(LAYOUT, "the parts are not known", node)
        scale, shift = (np.repeat(array, size, axis) for array in (affine.scale, affine.shift))
        affine = Affine(scale, shift)
    sizes = parts_of(facts, node, axis)
    if sizes is None or sizes[output] != affine.shape[axis]:
        return Obstacle(LAYOUT, "the parts are not known", node)
    first = sum(sizes[:output])
    places = np.arange(first, first + sizes[output])
    return alone(Passage(0, spread(affine, axis, places, sum(sizes))))


FURTHER["Split"] = split_at


def known_size_of_output(facts: Facts, node: Node, output: int, axis: int) -> int | None:
    """The size of one dimension of an output."""
    value = node.output(output)
    return None if value is None else known_size(facts, value, axis)


def parts_of(facts: Facts, node: Node, axis: int) -> tuple[int, ...] | None:
    """The sizes of the parts of a Split along its axis; None where they are not known."""
    operand = node.input(1)
    stated = node.ints_attribute("split") if operand is None else facts.integers(operand)
    if stated is not None:
        return stated
    shape = input_shape(facts, node)
    size = None if shape is None or axis >= len(shape) else shape[axis]
    if not isinstance(size, int):
        return None
    count = node.int_attribute("num_outputs", len(node.outputs))
    each = -(-size // count)
    return tuple(max(0, min(each, size - each * k)) for k in range(count))


def cuts_of(facts: Facts, node: Node) -> dict[int, slice | None] | None:
    """What a Slice takes, by axis, None along one where it is not known; None where not even the axes are."""
    starts: tuple[Dim, ...] | None
    ends: tuple[Dim, ...] | None
    starts, ends, axes = (node.ints_attribute(name) for name in ("starts", "ends", "axes"))
    steps = None
    if node.scope.opset >= FIRST_OPSET_WITH_CUTS_AS_INPUTS:
        starts, ends = (None if v is None else facts.elements(v) for v in map(node.input, (1, 2)))
        axes, steps = (None if v is None else facts.integers(v) for v in map(node.input, (3, 4)))
        if any(node.input(i) is not None and known is None for i, known in ((3, axes), (4, steps))):
            return None
    if starts is None or ends is None:
        return None
    axes = tuple(range(len(starts))) if axes is None else axes
    if not len(starts) == len(ends) == len(axes) or (steps is not None and (len(steps) != len(axes) or 0 in steps)):
        return None
    steps = (1,) * len(axes) if steps is None else steps
    return {axis: _cut(*cut) for axis, cut in zip(axes, zip(starts, ends, steps, strict=True), strict=True)}


def _cut(start: Dim, end: Dim, step: int) -> slice | None:
    """One cut as Python's, None where it is not known."""
    if not isinstance(start, int) or not isinstance(end, int):
        return None
    return slice(start, None if step < 0 and end < -(1 << 31) else end, step)


def spread(affine: Affine, axis: int, places: np.ndarray, size: int) -> Affine:
    """The affine of a value of which these places bear this one, and all others (1, 0)."""
    parts = []
    for array, rest in ((affine.scale, 1.0), (affine.shift, 0.0)):
        shape = list(array.shape)
        shape[axis] = len(places)
        own = np.broadcast_to(array, shape)
        shape[axis] = size
        whole = np.full(shape, rest)
        index: list[slice | np.ndarray] = [slice(None)] * len(shape)
        index[axis] = places
        whole[tuple(index)] = own
        parts.append(whole)
    return Affine(*parts)
