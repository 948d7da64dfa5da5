"""Operators in which a shift of their data VANISHES, because they subtract what is common to all that they look at.

    Softmax(x + s) = Softmax(x)        where s is the same along the axis of the Softmax
    (x + s - mean(x + s)) / ... = (x - mean(x)) / ...        where s is the same along the axes of the mean

Each is a home for such a shift, and nothing of it is rewritten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnfold.affine import Affine
from bnfold.nodes import Node
from bnfold.ops.facts import Facts
from bnfold.ops.home import Furnishing
from bnfold.ops.linear import LINEAR, Ways
from bnfold.ops.reasons import BLOCKED, LAYOUT, Obstacle
from bnfold.ops.table import register

FIRST_OPSET_OF_ONE_AXIS = 13


@dataclass(frozen=True, slots=True, eq=False)
class Indifferent:
    """A node to which a shift of its data means nothing, if that is alike along an axis (a Home).

    With `on` it has to be so along all axes from that one on.
    """

    node: Node
    axis: int
    on: bool

    def fed_by(self, before: Affine, data_input: int) -> Indifferent | Obstacle:
        """Itself, if this affine of its data means nothing to it."""
        if data_input or np.any(before.scale != 1):
            return Obstacle(BLOCKED, f"{self.node.op} lets no scale of its data pass", self.node)
        if not -before.rank <= self.axis < before.rank:
            return Obstacle(LAYOUT, f"the axis of {self.node.op} does not fit its data", self.node)
        first = self.axis % before.rank
        looked_at = before.shape[first:] if self.on else before.shape[first : first + 1]
        if any(size != 1 for size in looked_at):
            return Obstacle(LAYOUT, f"{self.node.op} acts along an axis where the affine differs", self.node)
        return self

    def output_rank(self, before: Affine) -> int:
        """It puts out as many dimensions as it reads."""
        return before.rank

    def obstacle_to(self, after: Affine) -> Obstacle | None:
        """It takes over nothing of its output."""
        if np.all(after.scale == 1) and not after.has_shift:
            return None
        return Obstacle(BLOCKED, f"{self.node.op} lets no per-channel affine pass", self.node)

    def furnishing(self, after: Affine) -> Furnishing:
        """Nothing."""
        del after
        return Furnishing(())

    def needs_add(self, after: Affine) -> bool:
        """Never."""
        del after
        return False

    def is_idle(self, after: Affine) -> bool:
        """Never."""
        del after
        return False


@register("feeding", LINEAR, "Softmax", "LogSoftmax")
def softmax(facts: Facts, node: Node) -> Ways:
    """a shift of its data that is alike along its axis (before opset 13, from its axis on): it vanishes

    Not: a scale, or an affine of its output.
    """
    del facts
    if node.scope.opset >= FIRST_OPSET_OF_ONE_AXIS:
        return (Indifferent(node, node.int_attribute("axis", -1), on=False),)
    return (Indifferent(node, node.int_attribute("axis", 1), on=True),)


@register("feeding", LINEAR, "InstanceNormalization")
def instance_normalization(facts: Facts, node: Node) -> Ways:
    """a shift of its data that is alike for all positions: it vanishes

    Not: a scale, or an affine of its output.
    """
    del facts
    return (Indifferent(node, 2, on=True),)
