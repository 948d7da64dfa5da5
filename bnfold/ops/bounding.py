"""Operators with numbers of their own beside a value, which an affine passes if these bear it as well.

    a*clip(x, lo, hi) + s = clip(a*x + s, a*lo + s, a*hi + s)        where a > 0, and both are the same everywhere
    a*pad(x, v) + s = pad(a*x + s, a*v + s)        where both are the same everywhere

So each is a home on the way: it takes over the affine, and the affine goes on. The numbers are inputs, or attributes
before opset 11: then they are float32, whatever the data are, and act in the type of the data. So each is rounded to
the narrower of the two types: in a narrower one an attribute has to be a number of it, and beside a wider one none may
be rounded at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, helper

from bnfold.affine import Affine, Float64
from bnfold.nodes import Node, Value
from bnfold.ops.facts import Array, Constant, Facts
from bnfold.ops.home import Furnishing, NewConstant
from bnfold.ops.linear import LINEAR, Ways
from bnfold.ops.passing import PASSING, Passage, Passed
from bnfold.ops.reasons import BLOCKED, LAYOUT, NEGATIVE, NOT_CONSTANT, NOT_FINITE, OVERFLOW, PRECISION, TYPE, Obstacle
from bnfold.ops.rounding import FLOAT_TYPES, LARGEST, rounded
from bnfold.ops.table import register

FIRST_OPSET_WITH_BOUNDS_AS_INPUTS = 11
FIRST_OPSET_OF_CLIP = 6
FIRST_OPSET_OF_PAD = 2
"""From which on the attributes are those of the last version that had some."""

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
ATTRIBUTES_ACT_IN = (np.dtype(np.float16), SINGLE, DOUBLE)
NO_BOUND = {"min": -LARGEST[SINGLE], "max": LARGEST[SINGLE]}
"""What a Clip without the attribute has; of float16 and float32 it bounds no finite number."""


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    """A number beside a node's data: the input or the attribute that holds it, and what it is now.

    It is rounded to the type of `now`; with `is_exact` only where nothing is lost. A new input lies beside `beside`.
    """

    place: int | str
    now: Array
    beside: Constant | None = None
    is_exact: bool = False

    @np.errstate(over="ignore", invalid="ignore")
    def exactly(self, one: Affine) -> Float64:
        """What an affine that is alike everywhere makes of it, in float64."""
        return np.asarray(one.scale.reshape(()) * self.now.astype(np.float64) + one.shift.reshape(()))

    def borne(self, one: Affine) -> Array:
        """The same in the type in which it is written."""
        return rounded(self.exactly(one), self.now.dtype)

    def obstacle_to(self, one: Affine, node: Node) -> Obstacle | None:
        """What it may not become."""
        new = self.borne(one)
        if np.isnan(new) or np.isnan(self.now):
            return Obstacle(NOT_FINITE, f"a number of {node.op} would be NaN", node)
        if np.isinf(new) and np.isfinite(self.now):
            return Obstacle(OVERFLOW, f"a number of {node.op} would not be finite", node)
        if self.is_exact and np.any(new.astype(np.float64) != self.exactly(one)):
            return Obstacle(PRECISION, f"{self.place} of {node.op} is a float32, and would be rounded", node)
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Bounded:
    """A node of which some inputs or attributes, each a single number, stand beside its data (a Home)."""

    node: Node
    numbers: tuple[Number, ...]

    def obstacle_to(self, after: Affine) -> Obstacle | None:
        """An affine that is not the same everywhere, or a number."""
        one = uniform(after)
        if one is None:
            return Obstacle(LAYOUT, f"{self.node.op} has one number for all channels", self.node)
        obstacles = (number.obstacle_to(one, self.node) for number in self.numbers)
        return next((obstacle for obstacle in obstacles if obstacle is not None), None)

    def furnishing(self, after: Affine) -> Furnishing:
        """Each number as the affine makes it; one that was left out (and is zero) only if it is none any more."""
        one = uniform(after) or Affine.identity(0)
        made = [(number, new) for number in self.numbers if np.any((new := number.borne(one)) != number.now)]
        return Furnishing(
            tuple(
                NewConstant.now(number.place, beside, f"{beside.value.name}_folded", new, replaces=self._has(number))
                for number, new in made
                if isinstance(number.place, int) and (beside := number.beside) is not None
            ),
            attributes=tuple(
                _attribute(self.node, number.place, float(new.reshape(())))
                for number, new in made
                if isinstance(number.place, str)
            ),
        )

    def needs_add(self, after: Affine) -> bool:
        """Never."""
        del after
        return False

    def is_idle(self, after: Affine) -> bool:
        """Never."""
        del after
        return False

    def _has(self, number: Number) -> bool:
        return isinstance(number.place, int) and self.node.input(number.place) is not None


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


@register("linear", LINEAR, "Clip")
def clip_bounds(facts: Facts, node: Node) -> Ways:
    """its bounds, of an affine that is the same everywhere and passes on to its data; attributes too (opset 6 to 10)

    Not: bounds that are computed, or would not be finite; of attributes, those that would be rounded more than the type
    of the data allows, and where one is missing beside data of float64.
    """
    if node.scope.opset < FIRST_OPSET_WITH_BOUNDS_AS_INPUTS:
        return _attributes(facts, node, NO_BOUND, FIRST_OPSET_OF_CLIP)
    return _inputs(facts, node, (1, 2))


@register("linear", LINEAR, "Pad")
def pad_value(facts: Facts, node: Node) -> Ways:
    """what it pads with, of an affine that is the same everywhere and passes on to its data; an attribute too (opset 2
    to 10)

    Not: a value that is computed, or would not be finite; an attribute that would be rounded more than the type of the
    data allows.
    """
    if node.scope.opset < FIRST_OPSET_WITH_BOUNDS_AS_INPUTS:
        return _attributes(facts, node, {"value": 0.0}, FIRST_OPSET_OF_PAD)
    return _inputs(facts, node, (2,))


def _inputs(facts: Facts, node: Node, places: tuple[int, ...]) -> Ways:
    if node.refers_to_attributes:
        return Obstacle(NOT_CONSTANT, "an attribute is a parameter of the function that holds it", node)
    found: list[Number] = []
    for index in places:
        value = node.input(index)
        constant = None if value is None else facts.constant(value)
        if isinstance(constant, Obstacle):
            return Obstacle(constant.reason, constant.detail, node)
        if constant is not None and (constant.dtype not in FLOAT_TYPES or constant.array().size != 1):
            return Obstacle(TYPE, f"a number of {node.op} is of a type or shape that is not folded", node)
        if constant is not None:
            found.append(Number(index, constant.array(), constant))
    if node.op == "Pad" and not found:
        missing = _zero(facts, node)
        return missing if isinstance(missing, Obstacle) else (Bounded(node, (missing,)),)
    return (Bounded(node, tuple(found)),)


def _zero(facts: Facts, node: Node) -> Number | Obstacle:
    """What a Pad without a value pads with; one that it gets will lie beside how much it pads."""
    kind, pads = _type_of_data(facts, node), node.input(1)
    beside = None if pads is None else facts.constant(pads)
    if kind not in FLOAT_TYPES or not isinstance(beside, Constant):
        return Obstacle(TYPE, f"what {node.op} pads is of a type that is not known, or not folded", node)
    return Number(2, np.zeros((), kind), beside)


def _attributes(facts: Facts, node: Node, defaults: Mapping[str, float], since: int) -> Ways:
    """Numbers that are attributes: those that the node has, and for a Pad the zero that it has not."""
    kind = _type_of_data(facts, node)
    if node.refers_to_attributes:
        return Obstacle(NOT_CONSTANT, "an attribute is a parameter of the function that holds it", node)
    if node.scope.opset < since:
        return Obstacle(NOT_CONSTANT, f"the attributes of a {node.op} of before opset {since} are not rewritten", node)
    if kind not in ATTRIBUTES_ACT_IN:
        return Obstacle(TYPE, f"the data of {node.op} are of a type that is not known, or not folded", node)
    numbers: list[Number] = []
    for name, default in defaults.items():
        found = next((each for each in node.proto.attribute if each.name == name), None)
        if found is not None and found.type != AttributeProto.FLOAT:
            return Obstacle(TYPE, f"{name} of {node.op} is no float", node)
        value = default if found is None else found.f
        if name in NO_BOUND and value == default:
            if kind != DOUBLE:
                continue
            return Obstacle(TYPE, f"whether {node.op} without {name} bounds float64 is not said", node)
        now = rounded(np.asarray(value, np.float64), SINGLE if kind == DOUBLE else kind)
        if now.astype(np.float64) != value and not np.isnan(value):
            return Obstacle(TYPE, f"{name} of {node.op} is {value:g}, which is no number of {kind}", node)
        numbers.append(Number(name, now, is_exact=kind == DOUBLE))
    return (Bounded(node, tuple(numbers)),)


def _type_of_data(facts: Facts, node: Node) -> np.dtype[np.generic] | None:
    value = node.input(0)
    kind = None if value is None else facts.shapes.element_type(value)
    return None if kind is None else helper.tensor_dtype_to_np_dtype(kind)


def _attribute(node: Node, name: str, new: float) -> AttributeProto:
    """An attribute with another number; what else it says stays."""
    attribute = AttributeProto(name=name, type=AttributeProto.FLOAT)
    for old in (each for each in node.proto.attribute if each.name == name):
        attribute.CopyFrom(old)
    attribute.f = new
    return attribute


@register("passing", PASSING, "Clip")
def clip(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """a scale above zero and a shift that are the same everywhere, its bounds changed; everything where it has none

    Not: where it has bounds, an affine that differs between channels, or a scale that is negative or zero.
    """
    if _bounds_nothing(facts, node):
        return Passed((Passage(0, affine),))
    one = uniform(affine)
    if one is None:
        return Obstacle(BLOCKED, f"{node.op} bounds all channels by the same numbers", node)
    if one.scale.reshape(()) <= 0:
        return Obstacle(NEGATIVE, f"{node.op} lets no scale pass that is not above zero", node)
    return Passed((Passage(0, one),), keeps=True)


def _bounds_nothing(facts: Facts, node: Node) -> bool:
    """Whether a Clip has no bound, or infinite ones: then it gives back what it is given."""
    if node.scope.opset >= FIRST_OPSET_WITH_BOUNDS_AS_INPUTS:
        return all(_is_endless(facts, node.input(index), end) for index, end in ((1, -np.inf), (2, np.inf)))
    kind = _type_of_data(facts, node)
    if node.scope.opset < FIRST_OPSET_OF_CLIP or kind not in ATTRIBUTES_ACT_IN or kind == DOUBLE:
        return False
    return all(node.float_attribute(name, none) in {none, np.copysign(np.inf, none)} for name, none in NO_BOUND.items())


def _is_endless(facts: Facts, value: Value | None, end: float) -> bool:
    """Whether a bound is missing, or infinite on its own side."""
    found = None if value is None else facts.constant(value)
    if found is None:
        return True
    if not isinstance(found, Constant) or found.dtype not in FLOAT_TYPES:
        return False
    number = found.array()
    return number.size == 1 and float(number.reshape(())) == end
