"""Operators that repeat a value, or exchange channels for positions: what lands in one place must bear one affine.

    Expand, Tile      repeat a value along axes: behind, each repetition bears what the value bears
    DepthToSpace      channel (k, c) of b*b blocks goes to channel c (CRD: channel (c, k)), position k of a block
    SpaceToDepth      the way back: position k of a block of channel c goes to channel (k, c)

So what repeats takes an affine back only if that repeats in the same way, and what gathers takes one forward likewise.
"""

from __future__ import annotations

import numpy as np

from bnfold.affine import Affine, Dim, Float64
from bnfold.nodes import Node
from bnfold.ops.facts import Facts
from bnfold.ops.joining import aligned
from bnfold.ops.passing import PASSING, Passage, Passed, alone, known_size
from bnfold.ops.reasons import AXIS, BLOCKED, LAYOUT, Obstacle
from bnfold.ops.table import register

FIRST_OPSET_WITH_REPEATS = 6
BATCH_CHANNELS_ROWS_COLUMNS = 4


@register("passing", PASSING, "Expand")
def expand(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything that is alike along the axes that are new or grow

    Not: an affine that differs along an axis that grows, or may do so.
    """
    value = node.input(0)
    before = None if value is None else aligned(facts, value, affine)
    if before is None:
        return Obstacle(AXIS, f"the value before {node.op} may be smaller where the affine differs", node)
    return alone(Passage(0, before))


@register("passing", PASSING, "Tile")
def tile(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything that is the same for each repetition

    Not: repetitions that are not known, or that would have to bear different affines.
    """
    value = node.input(0)
    repeats = repeats_of(facts, node, affine.rank)
    for axis in (axis for axis, size in enumerate(affine.shape) if size != 1):
        size = None if value is None else known_size(facts, value, axis)
        times = None if repeats is None else repeats[axis]
        if not isinstance(times, int) or not size or size * times != affine.shape[axis]:
            return Obstacle(LAYOUT, f"how often {node.op} repeats along axis {axis} is not known", node)
        period = first_of(affine, axis, (-1, size))
        if period is None:
            return Obstacle(AXIS, "a channel that it repeats would have to bear several affines", node)
        affine = period
    return alone(Passage(0, affine))


@register("passing", PASSING, "DepthToSpace")
def depth_to_space(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything: each channel's affine to all channels that it is made of

    Not: an affine that differs between positions.
    """
    del facts
    blocks = blocks_of(node, affine)
    if isinstance(blocks, Obstacle):
        return blocks
    if affine.shape[1] == 1:
        return alone(Passage(0, affine))
    repeat = np.repeat if interleaves(node) else np.tile
    parts = (np.broadcast_to(array, affine.shape).reshape(-1) for array in (affine.scale, affine.shift))
    scale, shift = (repeat(part, blocks) for part in parts)
    return alone(Passage(0, Affine.per_channel(scale, shift, rank=4, axis=1)))


@register("passing", PASSING, "SpaceToDepth")
def space_to_depth(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything that is the same for all channels that are made of one

    Not: channels made of one that would have to bear different affines; an affine that differs between positions.
    """
    del facts
    blocks = blocks_of(node, affine)
    if isinstance(blocks, Obstacle):
        return blocks
    before = first_of(affine, 1, (blocks, -1))
    if before is None:
        return Obstacle(AXIS, "one channel before it would have to bear several affines", node)
    return alone(Passage(0, before))


def repeats_of(facts: Facts, node: Node, rank: int) -> tuple[Dim, ...] | None:
    """How often a Tile repeats along each axis, as far as that is known."""
    operand = node.input(1)
    if operand is None or node.scope.opset < FIRST_OPSET_WITH_REPEATS:
        return None
    repeats = facts.elements(operand)
    return repeats if repeats is not None and len(repeats) == rank else None


def blocks_of(node: Node, affine: Affine) -> int | Obstacle:
    """How many positions of a block go to channels of their own, for an affine that differs along channels alone."""
    size, mode = node.int_attribute("blocksize", 0), node.string_attribute("mode", "DCR")
    if affine.rank != BATCH_CHANNELS_ROWS_COLUMNS or size < 1 or mode not in {"DCR", "CRD"}:
        return Obstacle(BLOCKED, f"a {node.op} of a kind that is not known", node)
    if any(extent != 1 for axis, extent in enumerate(affine.shape) if axis != 1):
        return Obstacle(LAYOUT, f"{node.op} acts along axes where the affine differs", node)
    return size * size


def interleaves(node: Node) -> bool:
    """Whether the channels that a DepthToSpace makes one of stand next to each other (CRD)."""
    return node.string_attribute("mode", "DCR") == "CRD"


def first_of(affine: Affine, axis: int, form: tuple[int, int], over: int = 0) -> Affine | None:
    """The first of several equal parts of an axis, seen as two of this form; None where they differ.

    The parts lie along the first axis of the form, or along the second.
    """
    scale, shift = (_first(array, axis, form, axis + over) for array in (affine.scale, affine.shift))
    return None if scale is None or shift is None else Affine(scale, shift)


def _first(array: Float64, axis: int, form: tuple[int, int], over: int) -> Float64 | None:
    if array.shape[axis] == 1:
        return array
    if array.shape[axis] % max(form):
        return None
    seen = array.reshape(*array.shape[:axis], *form, *array.shape[axis + 1 :])
    first = seen.take([0], over)
    return first.squeeze(over) if np.array_equal(np.broadcast_to(first, seen.shape), seen) else None
