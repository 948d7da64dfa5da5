"""Operators on sequences: an affine of a sequence is one that every value in it bears.

So what takes one value out of a sequence lets an affine pass to all of them (nobody else sees the others), and what
makes a sequence of a value, or a value of a sequence, lets pass what is alike along the axis of the cuts.
"""

from __future__ import annotations

from bnfold.affine import Affine
from bnfold.nodes import Node
from bnfold.ops.facts import Facts
from bnfold.ops.joining import aligned
from bnfold.ops.passing import PASSING, Passage, Passed, alone, normalised
from bnfold.ops.reasons import AXIS, LAYOUT, Obstacle
from bnfold.ops.table import register


@register("passing", PASSING, "SequenceAt")
def sequence_at(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, to all values of the sequence"""
    del facts, node
    return alone(Passage(0, affine))


@register("passing", PASSING, "SequenceConstruct")
def sequence_of_values(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, to all values

    Not: values of which one is smaller, or of another rank.
    """
    passages: list[Passage] = []
    for index, value in enumerate(node.inputs):
        before = None if value is None else aligned(facts, value, affine)
        if before is None or before.rank != affine.rank:
            return Obstacle(AXIS, f"a value of {node.op} is smaller where the affine differs", node)
        passages.append(Passage(index, before))
    return Passed(tuple(passages))


@register("passing", PASSING, "SplitToSequence")
def sequence_of_parts(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything that is alike along the axis of the cuts

    Not: an affine that differs along that axis.
    """
    del facts
    kept = keeps_axis(node)
    axis = axis_of(node, affine.rank if kept else affine.rank + 1)
    if axis is None or (kept and affine.shape[axis] != 1):
        return Obstacle(LAYOUT, f"{node.op} cuts along an axis where the affine differs", node)
    return alone(Passage(0, affine if kept else affine.unsqueezed((axis,))))


@register("passing", PASSING, "ConcatFromSequence")
def joined_sequence(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything that is alike along the axis of the joints

    Not: an affine that differs along that axis.
    """
    del facts
    axis = axis_of(node, affine.rank)
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
