"""Affines that are written by hand: Mul, Add, Sub and Div by a constant, and Neg.

With a constant c that is the same along all axes of the value but one (by what it holds and how it broadcasts, never
by a length that happens to fit), each is an affine, and is planned like a BatchNormalization:

    x + c: (1, c)     x - c: (1, -c)     c - x: (-1, c)     x * c: (c, 0)     x / c: (1/c, 0)     -x: (-1, 0)

One that stays, with a constant of any shape, is on the way of what comes after it. Writing it y = p*x + q, an affine
(a, s) behind it becomes

    p = +-1:  q' = a*q + s, and only (a, 0) travels on          q = 0:  (a, s/p) travels on, c stays

or, where nothing before it takes that, p' = a*p if there is no shift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import NodeProto, TensorProto, helper

from bnfold.affine import Affine, Float64, compressed
from bnfold.nodes import Node
from bnfold.ops.affine import AFFINE, AffineOp
from bnfold.ops.facts import Constant, Facts
from bnfold.ops.home import Furnishing, NewConstant
from bnfold.ops.linear import LINEAR, Ways
from bnfold.ops.reasons import (
    AXIS,
    BLOCKED,
    LAYOUT,
    NOT_FINITE,
    OVERFLOW,
    OVERRIDABLE,
    PRECISION,
    SHIFT,
    SPARSE,
    TYPE,
    Obstacle,
)
from bnfold.ops.rounding import FLOAT_TYPES, rounded
from bnfold.ops.table import register

FIRST_OPSET_WITH_BROADCASTING = 7
INTEGERS = frozenset({TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64})
LARGEST_CONSTANT = 1 << 22
"""Elements of a constant that is looked at; a larger one is no parameter of any channel."""


@dataclass(frozen=True, slots=True, eq=False)
class Elementwise:
    """A Mul, Add, Sub or Div of a value and a constant (a Home): y = p*x + q with p or q made of the constant.

    `values` is the constant in float64, aligned so that it broadcasts against the value.
    """

    node: Node
    data: int
    constant: Constant
    values: Float64 = field(repr=False)

    @property
    def is_additive(self) -> bool:
        """Whether the constant is added to the value (or the value subtracted from it)."""
        return self.node.op in {"Add", "Sub"}

    @property
    def is_old(self) -> bool:
        """Whether it broadcasts by the rules of before opset 7."""
        return self.node.scope.opset < FIRST_OPSET_WITH_BROADCASTING

    @property
    def slope(self) -> Float64:
        """What the value is multiplied by."""
        if self.is_additive:
            return np.array(-1.0 if self.node.op == "Sub" and self.data == 1 else 1.0)
        with np.errstate(divide="ignore"):
            return np.asarray(1 / self.values) if self.node.op == "Div" else self.values

    @property
    def offset(self) -> Float64:
        """What is added then."""
        if not self.is_additive:
            return np.array(0.0)
        return np.negative(self.values) if self.node.op == "Sub" and self.data == 0 else self.values

    def obstacle_to(self, after: Affine) -> Obstacle | None:
        """A shift that a factor cannot take, a factor of zero in a divisor, or a number."""
        if self.values.ndim > after.rank:
            return Obstacle(AXIS, f"a constant with {self.values.ndim} dimensions", self.node)
        if not self.is_additive and after.has_shift:
            return Obstacle(SHIFT, f"{self.node.op} by a constant takes no shift", self.node)
        exact = self.absorbed(after)
        if self.is_old and exact.shape != self.values.shape:
            return Obstacle(AXIS, "before opset 7 its constant cannot vary along further axes", self.node)
        new = rounded(exact, self.constant.dtype)
        if not np.all(np.isfinite(new)):
            reason = OVERFLOW if np.all(np.isfinite(self.values)) else NOT_FINITE
            return Obstacle(reason, f"its constant would not be finite in {self.constant.dtype.name}", self.node)
        if not self.is_additive and np.any((exact != 0) & (new == 0)):
            return Obstacle(PRECISION, f"its constant would become zero in {self.constant.dtype.name}", self.node)
        return None

    def needs_add(self, after: Affine) -> bool:
        """Never: what takes a shift is an Add."""
        del after
        return False

    def is_idle(self, after: Affine) -> bool:
        """Whether it would add zero or multiply by one."""
        new = rounded(self.absorbed(after), self.constant.dtype)
        return bool(np.all(new == (0 if self.is_additive else 1)))

    def furnishing(self, after: Affine) -> Furnishing:
        """The constant that makes p*(a*x) + q' of p*x + q, or a*p of p."""
        new = rounded(self.absorbed(after), self.constant.dtype)
        if self.is_old:
            new = new.reshape(self.constant.dims)
        name = f"{self.constant.value.name}_folded"
        return Furnishing((NewConstant.now(1 - self.data, self.constant, name, new, replaces=True),))

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def absorbed(self, after: Affine) -> Float64:
        """The new constant, exactly, with no more dimensions than it needs."""
        if self.node.op == "Div":
            exact = self.values / after.scale
        elif self.node.op == "Mul":
            exact = after.scale * self.values
        else:
            sign = -1.0 if self.node.op == "Sub" and self.data == 0 else 1.0
            exact = after.scale * self.values + sign * after.shift
        while exact.ndim > self.values.ndim and exact.shape[0] == 1:
            exact = exact[0]
        return np.asarray(exact)

    def alone(self) -> AffineOp | None:
        """This node as an affine by itself; None where the constant varies along several axes."""
        scale, shift = (compressed(array) for array in (self.slope, self.offset))
        varying = [size for size in np.broadcast_shapes(scale.shape, shift.shape) if size != 1]
        if len(varying) > 1:
            return None
        return AffineOp(self.node, scale, shift, axis=None, data=self.data, written=self.values.shape)


def addition(opset: int, *, value: str, constant: str, output: str, axis: int) -> NodeProto:
    """An Add of a constant whose first dimension is `axis` of the value, and which has all those behind it."""
    node = helper.make_node("Add", [value, constant], [output])
    if opset < FIRST_OPSET_WITH_BROADCASTING:
        node.attribute.extend([helper.make_attribute("broadcast", 1), helper.make_attribute("axis", axis)])
    return node


def elementwise(facts: Facts, node: Node) -> Elementwise | Obstacle:
    """The constant and the value of a Mul, Add, Sub or Div, or what keeps it from having one of each."""
    first, second = node.input(0), node.input(1)
    stands_in = _replaceable(facts, node)
    if stands_in is not None:
        return stands_in
    if first is None or second is None or facts.is_constant(first) == facts.is_constant(second):
        return Obstacle(BLOCKED, f"{node.op} of two values lets no per-channel affine pass", node)
    place = 0 if facts.is_constant(first) else 1
    if node.op == "Div" and place == 0:
        return Obstacle(BLOCKED, "a constant divided by the value is no affine of it", node)
    constant = facts.constant(first if place == 0 else second)
    if not isinstance(constant, Constant):
        return replace(constant, node=node)
    if constant.dtype not in FLOAT_TYPES:
        return Obstacle(TYPE, "its constant is of no type that is folded", node)
    if 0 in constant.dims or math.prod(constant.dims) > LARGEST_CONSTANT:
        return Obstacle(BLOCKED, f"a constant of shape {constant.dims} is no parameter of a channel", node)
    values = _aligned(facts, node, 1 - place, constant)
    return values if isinstance(values, Obstacle) else Elementwise(node, 1 - place, constant, values)


def _replaceable(facts: Facts, node: Node) -> Obstacle | None:
    """An operand that would be the constant, if it were one."""
    for value in (value for value in node.inputs if value is not None):
        if facts.graph.is_overridable(value):
            return Obstacle(OVERRIDABLE, f"{value.name!r} is an initializer and a graph input", node)
        if facts.graph.is_sparse(value):
            return Obstacle(SPARSE, f"{value.name!r} is a sparse initializer", node)
    return None


def elementwise_of(facts: Facts, node: Node) -> Elementwise | Obstacle:
    """The same, asked as often as one likes."""
    return facts.once(node, elementwise)


def _aligned(facts: Facts, node: Node, data: int, constant: Constant) -> Float64 | Obstacle:
    """The constant in float64; before opset 7 an attribute may say which axis of the value its first one is."""
    values = constant.array().astype(np.float64)
    axis = node.int_attribute("axis", -1)
    if node.scope.opset >= FIRST_OPSET_WITH_BROADCASTING or axis < 0 or not values.ndim:
        return values
    value = node.inputs[data]
    shape = None if value is None else facts.shape(value)
    if shape is None or axis + values.ndim > len(shape):
        return Obstacle(LAYOUT, f"the rank of the value of {node.op} is not known", node)
    return values.reshape(*values.shape, *[1] * (len(shape) - axis - values.ndim))


@register("affine", AFFINE, "Add", "Sub", "Mul", "Div")
def written_by_hand(facts: Facts, node: Node) -> AffineOp | Obstacle | None:
    """of a value and a constant on either side (Div: the divisor) that varies along one axis or none

    Not: a constant that enlarges the value or gives it further dimensions, or that gives no finite scale and shift.
    """
    found = elementwise_of(facts, node)
    if isinstance(found, Obstacle):
        return None
    alone = found.alone()
    if alone is None or (np.all(np.isfinite(alone.scale)) and np.all(np.isfinite(alone.shift))):
        return alone
    return Obstacle(NOT_FINITE, "its constant gives no finite scale and shift", node)


@register("affine", AFFINE, "Neg")
def negation(facts: Facts, node: Node) -> AffineOp | None:
    """of a value"""
    value = node.input(0)
    if value is None or facts.is_constant(value) or facts.shapes.element_type(value) in INTEGERS:
        return None
    return AffineOp(node, np.array(-1.0), np.array(0.0), axis=None)


@register("linear", LINEAR, "Mul", "Div")
def factor(facts: Facts, node: Node) -> Ways:
    """a constant of any shape, where nothing before it takes the affine: a scale alone

    Not: a shift; a divisor where the scale is zero; an operand that is no constant.
    """
    found = elementwise_of(facts, node)
    return found if isinstance(found, Obstacle) else (found,)


@register("linear", LINEAR, "Add", "Sub")
def term(facts: Facts, node: Node) -> Ways:
    """a constant of any shape: the shift, while the scale travels on

    Not: an operand that is no constant, or a constant that enlarges the value.
    """
    found = elementwise_of(facts, node)
    return found if isinstance(found, Obstacle) else (found,)
