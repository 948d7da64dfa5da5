"""Operators with numbers of their own beside a value, which an affine passes if these bear it as well.

    a*clip(x, lo, hi) + s = clip(a*x + s, a*lo + s, a*hi + s)        where a > 0, and both are the same everywhere
    a*pad(x, v) + s = pad(a*x + s, a*v + s)        where both are the same everywhere

So each is a home on the way: it takes over the affine, and the affine goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import helper

from bnfold.affine import Affine
from bnfold.nodes import Node
from bnfold.ops.facts import Array, Constant, Facts
from bnfold.ops.home import Furnishing, NewConstant
from bnfold.ops.linear import LINEAR, Ways
from bnfold.ops.passing import PASSING, Passage, Passed
from bnfold.ops.reasons import BLOCKED, LAYOUT, NEGATIVE, NOT_CONSTANT, NOT_FINITE, OVERFLOW, TYPE, Obstacle
from bnfold.ops.rounding import FLOAT_TYPES, rounded
from bnfold.ops.table import register

FIRST_OPSET_WITH_BOUNDS_AS_INPUTS = 11


@dataclass(frozen=True, slots=True, eq=False)
class Bounded:
    """A node of which some inputs, each a single number, stand beside its data (a Home).

    `numbers` has, for each of them, its place, a constant beside which the new one will lie, and what it is now.
    """

    node: Node
    numbers: tuple[tuple[int, Constant, Array], ...]

    def obstacle_to(self, after: Affine) -> Obstacle | None:
        """An affine that is not the same everywhere, or a number."""
        one = uniform(after)
        if one is None:
            return Obstacle(LAYOUT, f"{self.node.op} has one number for all channels", self.node)
        for _, _, now in self.numbers:
            new = _borne(one, now)
            if np.isnan(new) or np.isnan(now):
                return Obstacle(NOT_FINITE, f"a number of {self.node.op} would be NaN", self.node)
            if np.isinf(new) and np.isfinite(now):
                return Obstacle(OVERFLOW, f"a number of {self.node.op} would not be finite", self.node)
        return None

    def furnishing(self, after: Affine) -> Furnishing:
        """Each number as the affine makes it; one that was left out (and is zero) only if it is none any more."""
        one = uniform(after) or Affine.identity(0)
        made = [(index, beside, _borne(one, now)) for index, beside, now in self.numbers]
        return Furnishing(
            tuple(
                NewConstant.now(index, beside, f"{beside.value.name}_folded", new, replaces=self._has(index))
                for index, beside, new in made
                if np.any(new != self._now(index))
            )
        )

    def needs_add(self, after: Affine) -> bool:
        """Never."""
        del after
        return False

    def is_idle(self, after: Affine) -> bool:
        """Never."""
        del after
        return False

    def _now(self, index: int) -> Array:
        return next(now for place, _, now in self.numbers if place == index)

    def _has(self, index: int) -> bool:
        return self.node.input(index) is not None


def uniform(affine: Affine) -> Affine | None:
    """The affine as one of the same rank that is alike everywhere; None where it differs."""
    scale, shift = affine.scale.reshape(-1), affine.shift.reshape(-1)
    if not scale.size or not shift.size or np.any(scale != scale[0]) or np.any(shift != shift[0]):
        return None
    ones = (1,) * affine.rank
    return Affine(scale[:1].reshape(ones), shift[:1].reshape(ones))


def inverse(affine: Affine) -> Affine | None:
    """The affine that undoes this one; None where there is none."""
    if not np.all(affine.scale):
        return None
    return Affine(1 / affine.scale, -affine.shift / affine.scale)


def has_numbers(node: Node) -> bool:
    """Whether a node has numbers beside its data: once they bear an affine, they have to bear all that follow."""
    return node.op in {"Clip", "Pad"}


@np.errstate(over="ignore", invalid="ignore")
def _borne(one: Affine, now: Array) -> Array:
    exact = one.scale.reshape(()) * now.astype(np.float64) + one.shift.reshape(())
    return rounded(np.asarray(exact), now.dtype)


@register("linear", LINEAR, "Clip")
def clip_bounds(facts: Facts, node: Node) -> Ways:
    """its bounds, of an affine that is the same everywhere and passes on to its data

    Not: bounds that are attributes (before opset 11), computed, or would not be finite.
    """
    return _numbers(facts, node, (1, 2))


@register("linear", LINEAR, "Pad")
def pad_value(facts: Facts, node: Node) -> Ways:
    """what it pads with, of an affine that is the same everywhere and passes on to its data

    Not: an attribute (before opset 11), a value that is computed, or would not be finite.
    """
    return _numbers(facts, node, (2,))


def _numbers(facts: Facts, node: Node, places: tuple[int, ...]) -> Ways:
    if node.scope.opset < FIRST_OPSET_WITH_BOUNDS_AS_INPUTS or node.refers_to_attributes:
        return Obstacle(NOT_CONSTANT, f"the numbers of {node.op} are attributes", node)
    found: list[tuple[int, Constant, Array]] = []
    for index in places:
        value = node.input(index)
        constant = None if value is None else facts.constant(value)
        if isinstance(constant, Obstacle):
            return Obstacle(constant.reason, constant.detail, node)
        if constant is not None and (constant.dtype not in FLOAT_TYPES or constant.array().size != 1):
            return Obstacle(TYPE, f"a number of {node.op} is of a type or shape that is not folded", node)
        if constant is not None:
            found.append((index, constant, constant.array()))
    if node.op == "Pad" and not found:
        missing = _zero(facts, node)
        return missing if isinstance(missing, Obstacle) else (Bounded(node, (missing,)),)
    return (Bounded(node, tuple(found)),)


def _zero(facts: Facts, node: Node) -> tuple[int, Constant, Array] | Obstacle:
    """What a Pad without a value pads with; one that it gets will lie beside how much it pads."""
    value, pads = node.input(0), node.input(1)
    kind = None if value is None else facts.shapes.element_type(value)
    beside = None if pads is None else facts.constant(pads)
    if kind is None or helper.tensor_dtype_to_np_dtype(kind) not in FLOAT_TYPES or not isinstance(beside, Constant):
        return Obstacle(TYPE, f"what {node.op} pads is of a type that is not known, or not folded", node)
    return 2, beside, np.zeros((), helper.tensor_dtype_to_np_dtype(kind))


@register("passing", PASSING, "Clip")
def clip(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """a scale above zero and a shift that are the same everywhere, its bounds changed (from opset 11 on)

    Not: an affine that differs between channels, a scale that is negative or zero.
    """
    del facts
    one = uniform(affine)
    if one is None:
        return Obstacle(BLOCKED, f"{node.op} bounds all channels by the same numbers", node)
    if one.scale.reshape(()) <= 0:
        return Obstacle(NEGATIVE, f"{node.op} lets no scale pass that is not above zero", node)
    return Passed((Passage(0, one),), keeps=True)
