"""Operators on sequences: an affine of a sequence is one that every value in it bears.

So what takes one value out of a sequence lets an affine pass to all of them (nobody else sees the others), and what
makes a sequence of a value, or a value of a sequence, lets pass what is alike along the axis of the cuts.

A sequence that one node makes and one node reads is what both make of values together, and then an affine may differ
along that axis: values that are strung together again are a Concat, one part at a constant place is that of a Split.
An affine of such a sequence is one of what its only reader puts out.
"""

from __future__ import annotations

import numpy as np

from bnfold.affine import Affine
from bnfold.nodes import Node, Value
from bnfold.ops.facts import Constant, Facts
from bnfold.ops.indexing import spread
from bnfold.ops.joining import aligned, side_by_side
from bnfold.ops.passing import PASSING, Passage, Passed, alone, known_size, normalised
from bnfold.ops.reasons import AXIS, LAYOUT, Obstacle
from bnfold.ops.table import register


@register("passing", PASSING, "SequenceAt")
def sequence_at(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, to all values of the sequence"""
    del facts, node
    return alone(Passage(0, affine))


@register("passing", PASSING, "SequenceConstruct")
def sequence_of_values(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, to all values; each its part, where all are joined again along the axis on which they differ

    Not: values of which one is smaller, or of another rank.
    """
    axis = _joined_again(facts, node.output(0), affine.rank)
    if axis is not None and affine.shape[axis] != 1:
        return side_by_side(facts, node, affine, axis)
    passages: list[Passage] = []
    for index, value in enumerate(node.inputs):
        before = None if value is None else aligned(facts, value, affine)
        if before is None or before.rank != affine.rank:
            return Obstacle(AXIS, f"a value of {node.op} is smaller where the affine differs", node)
        passages.append(Passage(index, before))
    return Passed(tuple(passages))


@register("passing", PASSING, "SplitToSequence")
def sequence_of_parts(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything that is alike along the axis of the cuts; everything of one part, of which alone the place is read

    Not: an affine that differs along that axis, if more is read, or the parts or the place are not known.
    """
    kept = keeps_axis(node)
    axis = axis_of(node, affine.rank if kept else affine.rank + 1)
    if axis is not None and kept and affine.shape[axis] != 1:
        taken = part_taken(facts, node, axis)
        if taken is not None and len(taken[0]) == affine.shape[axis]:
            return alone(Passage(0, spread(affine, axis, *taken)))
    if axis is None or (kept and affine.shape[axis] != 1):
        return Obstacle(LAYOUT, f"{node.op} cuts along an axis where the affine differs", node)
    return alone(Passage(0, affine if kept else affine.unsqueezed((axis,))))


@register("passing", PASSING, "ConcatFromSequence")
def joined_sequence(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything that is alike along the axis of the joints; everything, where values were put in one by one

    Not: an affine that differs along that axis, of values that were cut, or that something else reads.
    """
    axis = axis_of(node, affine.rank)
    if axis is not None and _joined_again(facts, node.input(0), affine.rank) == axis:
        return alone(Passage(0, affine))
    if axis is None or affine.shape[axis] != 1:
        return Obstacle(LAYOUT, f"{node.op} joins along an axis where the affine differs", node)
    return alone(Passage(0, affine.squeezed((axis,)) if is_new_axis(node) else affine))


def keeps_axis(node: Node) -> bool:
    """Whether the parts of a SplitToSequence still have the axis along which it was cut."""
    return node.input(1) is not None or bool(node.int_attribute("keepdims", 1))


def is_new_axis(node: Node) -> bool:
    """Whether a ConcatFromSequence puts values beside each other along a new axis."""
    return bool(node.int_attribute("new_axis", 0))


def axis_of(node: Node, rank: int) -> int | None:
    """The axis of the cuts or joints, of a value of that rank; None where it does not fit."""
    normal = normalised((node.int_attribute("axis", 0),), rank)
    return None if normal is None else normal[0]


def part_taken(facts: Facts, node: Node, axis: int) -> tuple[np.ndarray, int] | None:
    """The places of the only part that is read of what a SplitToSequence cuts, and how many there are."""
    value, read = node.input(0), _only_reader(facts, node.output(0))
    place = read.input(1) if read is not None and read.op == "SequenceAt" else None
    at = None if place is None else facts.integers(place)
    size = None if value is None else known_size(facts, value, axis)
    sizes = None if size is None else _sizes_of_parts(facts, node, size)
    if at is None or len(at) != 1 or size is None or sizes is None or not -len(sizes) <= at[0] < len(sizes):
        return None
    first = sum(sizes[: at[0] % len(sizes)])
    return np.arange(first, first + sizes[at[0]]), size


def _only_reader(facts: Facts, sequence: Value | None) -> Node | None:
    """The node that reads a sequence, if there is one, and nobody else sees anything of it."""
    readers = [] if sequence is None else facts.graph.readers(sequence)
    if sequence is None or len(readers) != 1 or facts.graph.is_graph_output(sequence):
        return None
    return readers[0].node if readers[0].node.scope is sequence.scope else None


def _joined_again(facts: Facts, sequence: Value | None, rank: int) -> int | None:
    """The axis along which values of that rank are joined that were put into a sequence for that alone."""
    made, read = None if sequence is None else facts.graph.producer(sequence), _only_reader(facts, sequence)
    if made is None or read is None or made.op != "SequenceConstruct" or read.op != "ConcatFromSequence":
        return None
    return None if is_new_axis(read) else axis_of(read, rank)


def _sizes_of_parts(facts: Facts, node: Node, size: int) -> tuple[int, ...] | None:
    """The sizes of the parts of a SplitToSequence along its axis of that size; None where they are not known."""
    operand = node.input(1)
    found = None if operand is None else facts.constant(operand)
    stated = (1,) if operand is None else facts.integers(operand)
    if isinstance(found, Constant) and found.dims:
        return stated if stated is not None and sum(stated) == size and min(stated) > 0 else None
    if stated is None or len(stated) != 1 or stated[0] < 1:
        return None
    each = stated[0]
    return tuple(min(each, size - first) for first in range(0, size, each))
