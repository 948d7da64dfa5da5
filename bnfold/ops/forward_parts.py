"""Operators that take parts of a value, repeat it or mix it let an affine PASS forward: what is taken bears it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine, Float64
from bnfold.nodes import Node
from bnfold.ops.collecting import axis_of, is_new_axis, keeps_axis, part_taken
from bnfold.ops.facts import Facts
from bnfold.ops.forward import AHEAD, ALL_OUTPUTS, ahead
from bnfold.ops.indexing import cuts_of, parts_of
from bnfold.ops.joining import aligned
from bnfold.ops.passing import known_rank, known_size
from bnfold.ops.reasons import AXIS, BLOCKED, LAYOUT, Obstacle
from bnfold.ops.repeating import blocks_of, first_of, interleaves, repeats_of
from bnfold.ops.table import register

__all__ = ["AHEAD"]


def _changed(affine: Affine, change: Callable[[Float64], Float64]) -> Affine:
    return Affine(change(affine.scale), change(affine.shift))


def _taken(affine: Affine, axis: int, places: NDArray[np.int64]) -> Affine:
    """These places along an axis, in this order; what does not differ there stays as it is."""
    return _changed(affine, lambda array: array if array.shape[axis] == 1 else array.take(places, axis))


@ahead("Slice")
def _sliced(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything, of what is left

    Not: cuts that are not known, along an axis where the affine differs.
    """
    value, cuts = node.input(0), cuts_of(facts, node)
    if index or value is None or cuts is None:
        return Obstacle(LAYOUT, "where it cuts is not known", node)
    for given, cut in cuts.items():
        axis = given % affine.rank
        size = affine.shape[axis]
        if size == 1:
            continue
        if cut is None:
            return Obstacle(LAYOUT, f"where it cuts axis {axis} is not known", node)
        places = np.arange(size)[cut]
        if known_size(facts, value, axis) != size or not places.size:
            return Obstacle(LAYOUT, f"the size of axis {axis} before {node.op} is not known", node)
        affine = _taken(affine, axis, places)
    return affine


@ahead("Gather")
def _gathered(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything, of what is taken

    Not: indices that are not known, along an axis where the affine differs.
    """
    value, operand = node.input(0), node.input(1)
    indices = None if operand is None else facts.shape(operand)
    if index or value is None or operand is None or indices is None:
        return Obstacle(LAYOUT, f"the shapes before {node.op} are not known", node)
    axis = node.int_attribute("axis", 0) % affine.rank
    size, ones = affine.shape[axis], [1] * len(indices)
    if size == 1:
        return _changed(affine, lambda array: array.reshape(*array.shape[:axis], *ones, *array.shape[axis + 1 :]))
    found = facts.indices(operand)
    if found is None or known_size(facts, value, axis) != size or not found.size:
        return Obstacle(LAYOUT, "which places it takes is not known", node)
    places = found % size
    scale, shift = (np.broadcast_to(a, affine.shape).take(places, axis) for a in (affine.scale, affine.shift))
    return Affine(scale, shift)


@register("forward", ALL_OUTPUTS, "Split")
def _split(facts: Facts, node: Node, index: int, affine: Affine) -> tuple[Affine, ...] | Obstacle:
    """everything, each part its own

    Not: parts that are not known, where the affine differs along the cuts.
    """
    axis = node.int_attribute("axis", 0) % affine.rank
    size = affine.shape[axis]
    if index:
        return Obstacle(BLOCKED, f"input {index} of {node.op}", node)
    if size == 1:
        return (affine,) * len(node.outputs)
    sizes = parts_of(facts, node, axis)
    if sizes is None or sum(sizes) != size or len(sizes) != len(node.outputs) or 0 in sizes:
        return Obstacle(LAYOUT, "the parts are not known", node)
    firsts = [sum(sizes[:k]) for k in range(len(sizes))]
    return tuple(
        _taken(affine, axis, np.arange(first, first + each)) for first, each in zip(firsts, sizes, strict=True)
    )


@ahead("Expand")
def _expanded(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything, with the new dimensions

    Not: a value that is enlarged where the affine differs.
    """
    value, output = node.input(0), node.output(0)
    rank = None if output is None else known_rank(facts, output)
    if index or value is None or rank is None or rank < affine.rank:
        return Obstacle(LAYOUT, f"the rank after {node.op} is not known", node)
    after = affine.unsqueezed(range(rank - affine.rank))
    if aligned(facts, value, after) is None:
        return Obstacle(LAYOUT, f"the value before {node.op} may be enlarged where it differs", node)
    return after


@ahead("Tile")
def _tiled(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything, repeated as the value is

    Not: repeats that are not known, along an axis where the affine differs.
    """
    value, repeats = node.input(0), repeats_of(facts, node, affine.rank)
    for axis, size in enumerate(affine.shape):
        if size == 1:
            continue
        known = None if value is None else known_size(facts, value, axis)
        times = None if repeats is None else repeats[axis]
        if index or not isinstance(times, int) or known != size or times < 1:
            return Obstacle(LAYOUT, f"how often {node.op} repeats along axis {axis} is not known", node)
        affine = _taken(affine, axis, np.tile(np.arange(size), times))
    return affine


@ahead("DepthToSpace")
def _to_space(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything that is alike for the channels that become one

    Not: channels that become one and bear different affines; sizes that are not known.
    """
    del facts, index
    blocks = blocks_of(node, affine)
    if isinstance(blocks, Obstacle):
        return blocks
    lie_together = interleaves(node)
    form = (-1, blocks) if lie_together else (blocks, -1)
    after = first_of(affine, 1, form, over=int(lie_together))
    return after or Obstacle(AXIS, "the channels that become one bear different affines", node)


@ahead("SpaceToDepth")
def _to_depth(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything, once for each place of a block

    Not: sizes that are not known.
    """
    del facts, index
    blocks = blocks_of(node, affine)
    return blocks if isinstance(blocks, Obstacle) else _taken(affine, 1, np.tile(np.arange(affine.shape[1]), blocks))


@ahead("SplitToSequence")
def _to_sequence(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything that is alike along the cuts; everything, where one part alone is read, at a constant place

    Not: an affine that differs along the axis of the cuts, if more is read, or the parts or the place are not known.
    """
    axis = axis_of(node, affine.rank)
    if not index and axis is not None and affine.shape[axis] != 1 and keeps_axis(node):
        taken = part_taken(facts, node, axis)
        if taken is not None and taken[1] == affine.shape[axis]:
            return _taken(affine, axis, taken[0])
    if index or axis is None or affine.shape[axis] != 1:
        return Obstacle(LAYOUT, f"{node.op} cuts along an axis where the affine differs", node)
    return affine if keeps_axis(node) else affine.squeezed((axis,))


@ahead("SequenceAt")
def _from_sequence(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything"""
    del facts
    return Obstacle(BLOCKED, f"input {index} of {node.op}", node) if index else affine


@ahead("ConcatFromSequence")
def _joined_sequence(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything that is alike along the axis on which they are joined

    Not: an affine that differs along that axis.
    """
    del facts, index
    axis = axis_of(node, affine.rank + is_new_axis(node))
    if axis is None or (not is_new_axis(node) and affine.shape[axis] != 1):
        return Obstacle(LAYOUT, f"{node.op} joins along an axis where the affine differs", node)
    return affine.unsqueezed((axis,)) if is_new_axis(node) else affine
