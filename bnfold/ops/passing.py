"""Operators that let an affine PASS: one function each, affine after the node -> affines before it, or an obstacle.

An affine has the rank of the value it acts on, so a layout operator is the same numpy call on both. What arrives
on the other side is exact or refused: whether a home can use it (its own axis alone may vary) is the home's
question, not asked here. An operator with a constant of its own may keep a part: an Add the shift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from bnfold.affine import Affine, Dim
from bnfold.nodes import Node, Value
from bnfold.ops.absorb import Linear
from bnfold.ops.facts import Facts
from bnfold.ops.linear import ways_of
from bnfold.ops.reasons import LAYOUT, NO_HOME, TRAINING_MODE, Obstacle
from bnfold.ops.table import register


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """An affine on its way: it must now act on input `index` of the node it passed.

    `takes_shift` is False where the shift, if there is one, does not go this way.
    """

    index: int
    affine: Affine
    takes_shift: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """How a node was passed: what now acts on its inputs, all of which have to find a home.

    With `keeps`, its own constant takes over the whole affine as one on its output, so that the passages carry on only
    what the constant cannot undo. With `may_stay`, it could take over the whole if the passages lead nowhere; `instead`
    is another way to go then. `own` is what keeps the node itself from taking it over: that is told in the end.
    """

    passages: tuple[Passage, ...]
    keeps: bool = False
    may_stay: bool = False
    instead: Passed | None = None
    own: Obstacle | None = None


Backward = Callable[[Facts, Node, Affine], Passed | Obstacle | None]
PASSING: dict[str, Backward] = {}
FURTHER: dict[str, Callable[[Facts, Node, Affine, int], Passed | Obstacle]] = {}
"""Operators of which any output may be passed, and how."""

FIRST_OPSET_WITH_AXES_INPUT = 13
FIRST_OPSET_WITH_DROPOUT_MODE = 12
FIRST_OPSET_OF_PURE_DROPOUT = 7


@register("passing", PASSING, "Identity")
def identity(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything"""
    del facts, node
    return alone(Passage(0, affine))


@register("passing", PASSING, "Dropout")
def dropout(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, at inference

    Not: training_mode, or is_test=0 before opset 7 (unless --assume-inference).
    """
    opset = node.scope.opset
    told = facts.assume_inference or node.int_attribute("is_test", 0)
    if opset < FIRST_OPSET_OF_PURE_DROPOUT and not told:
        return Obstacle(TRAINING_MODE, "a Dropout with is_test=0", node)
    mode = node.input(2) if opset >= FIRST_OPSET_WITH_DROPOUT_MODE else None
    if mode is not None and facts.integers(mode) != (0,):
        return Obstacle(TRAINING_MODE, "a Dropout that may be in training mode", node)
    return alone(Passage(0, affine))


@register("passing", PASSING, "Transpose")
def transpose(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, its axes permuted"""
    del facts
    perm = node.ints_attribute("perm") or tuple(reversed(range(affine.rank)))
    if sorted(perm) != list(range(affine.rank)):
        return Obstacle(LAYOUT, f"a permutation {list(perm)} of a value with {affine.rank} dimensions", node)
    return alone(Passage(0, affine.transposed(np.argsort(perm).tolist())))


@register("passing", PASSING, "Squeeze")
def squeeze(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, with the squeezed axes back

    Not: axes that are not known.
    """
    axes = squeezed_axes(facts, node)
    if axes is None:
        return Obstacle(LAYOUT, "it is not known which axes are squeezed", node)
    rank = affine.rank + len(axes)
    normal = normalised(axes, rank)
    if normal is None:
        return Obstacle(LAYOUT, f"axes {list(axes)} of a value with {rank} dimensions", node)
    return alone(Passage(0, affine.unsqueezed(normal)))


@register("passing", PASSING, "Unsqueeze")
def unsqueeze(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, without the new axes

    Not: axes that are not known.
    """
    axes = axes_of(facts, node)
    normal = None if axes is None else normalised(axes, affine.rank)
    if normal is None or any(affine.shape[axis] != 1 for axis in normal):
        return Obstacle(LAYOUT, "it is not known which axes are new", node)
    return alone(Passage(0, affine.squeezed(normal)))


@register("passing", PASSING, "Reshape", "Flatten")
def reshape(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything that is still a constant per channel on the other side, as far as the sizes are known

    Not: channels that mix with a dimension of unknown size, or that would no longer be alike along another axis.
    """
    source = input_shape(facts, node)
    if source is None:
        return Obstacle(LAYOUT, f"the shape before {node.op} is not known", node)
    source = tuple(f"dimension {i}" if d is None else d for i, d in enumerate(source))
    target = target_shape(facts, node, source)
    if target is None or len(target) != affine.rank:
        return Obstacle(LAYOUT, f"the shape after {node.op} is not known", node)
    before = affine.reshaped(target, source)
    if before is None:
        return Obstacle(LAYOUT, f"from {_written(source)} to {_written(target)}", node)
    return alone(Passage(0, before))


@register("passing", PASSING, "Neg")
def negation(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, the shift negated"""
    del facts, node
    return alone(Passage(0, Affine(affine.scale, -affine.shift)))


def alone(passage: Passage) -> Passed:
    """One way, and no other."""
    return Passed((passage,))


def backward(facts: Facts, node: Node, affine: Affine, output: int = 0) -> Passed | Obstacle | None:
    """The affines that must act on a node's inputs in place of one that acts on an output.

    None for an operator that lets nothing pass.
    """
    function = PASSING.get(node.op)
    if function is None:
        return None
    if node.refers_to_attributes:
        return Obstacle(LAYOUT, "an attribute is a parameter of the function that holds it", node)
    if node.op in FURTHER:
        return FURTHER[node.op](facts, node, affine, output)
    if output:
        return Obstacle(NO_HOME, f"it is a further output of {node.op}", node)
    return function(facts, node, affine)


def may_pass(node: Node) -> bool:
    """Whether a node is of an operator that lets some affine pass."""
    return node.op in PASSING


RANK_KEPT = frozenset({"Identity", "Dropout"})
"""Operators whose output 0 has the rank of input 0."""


def known_rank(facts: Facts, value: Value) -> int | None:
    """The rank of a value: what the weight or the operand that makes it says, or what shape inference knows."""
    node = facts.graph.producer(value)
    while (
        node is not None and node.op in RANK_KEPT and node.output(0) is value and (before := node.input(0)) is not None
    ):
        value = before
        node = facts.graph.producer(value)
    if node is not None and node.output(0) is value and not node.refers_to_attributes:
        rank = _stated_rank(facts, node)
        if rank is not None:
            return rank
    shape = facts.shape(value)
    return None if shape is None else len(shape)


def known_size(facts: Facts, value: Value, axis: int) -> int | None:
    """The size of one dimension of a value: what the weight that makes it says, or what shape inference knows."""
    shape: tuple[Dim, ...] | None = None
    for linear in _linears(facts, facts.graph.producer(value), value):
        if linear.rank is None:
            shape = shape or facts.shape(value)
        rank = linear.rank if linear.rank is not None or shape is None else len(shape)
        size = None if rank is None or rank < linear.least_rank else linear.size_at(axis, rank)
        if size is not None:
            return size
    shape = shape or facts.shape(value)
    known = None if shape is None or axis >= len(shape) else shape[axis]
    return known if isinstance(known, int) else None


def _linears(facts: Facts, node: Node | None, value: Value) -> Iterator[Linear]:
    """The ways in which the node that makes a value absorbs, as far as they tell its size."""
    ways = None if node is None or node.output(0) is not value else ways_of(facts, node)
    if isinstance(ways, tuple):
        yield from (way for way in ways if isinstance(way, Linear))


def _stated_rank(facts: Facts, node: Node) -> int | None:
    """The rank of a node's output as far as its own constants and attributes tell."""
    ways = ways_of(facts, node)
    ranks = {way.rank for way in ways if isinstance(way, Linear)} if isinstance(ways, tuple) else set()
    if ranks - {None}:
        return ranks.pop()
    if node.op == "Transpose":
        perm = node.ints_attribute("perm")
        return None if perm is None else len(perm)
    if node.op == "Flatten":
        return 2
    operand = node.input(1)
    if node.op != "Reshape" or operand is None:
        return None
    sizes = facts.elements(operand)
    return None if sizes is None else len(sizes)


def input_shape(facts: Facts, node: Node) -> tuple[Dim, ...] | None:
    """The dimensions of input 0, as far as known."""
    value = node.input(0)
    return None if value is None else facts.shape(value)


def target_shape(facts: Facts, node: Node, source: tuple[Dim, ...]) -> tuple[Dim, ...] | None:
    """The shape after a reshape: what inference knows, completed by what the shape operand copies and states."""
    output = node.output(0)
    inferred = None if output is None else facts.shape(output)
    stated = _stated(facts, node.input(1), source, copies=not node.int_attribute("allowzero", 0))
    if stated is None:
        return inferred
    if inferred is None or len(inferred) != len(stated):
        return stated
    return tuple(known if ours is None else ours for ours, known in zip(stated, inferred, strict=True))


def _stated(facts: Facts, operand: Value | None, source: tuple[Dim, ...], *, copies: bool) -> tuple[Dim, ...] | None:
    sizes = None if operand is None else facts.elements(operand)
    if sizes is None:
        return None
    return tuple(
        source[i] if size == 0 and copies and i < len(source) else None if isinstance(size, int) and size < 0 else size
        for i, size in enumerate(sizes)
    )


def axes_of(facts: Facts, node: Node) -> tuple[int, ...] | None:
    """The axes that an operator names: an attribute, or from opset 13 on its input 1."""
    if node.scope.opset < FIRST_OPSET_WITH_AXES_INPUT:
        return node.ints_attribute("axes")
    operand = node.input(1)
    return None if operand is None else facts.integers(operand)


def squeezed_axes(facts: Facts, node: Node) -> tuple[int, ...] | None:
    """The axes that a Squeeze drops: those that it names, else all of size 1; None where they are not known."""
    if node.input(1) is not None or node.ints_attribute("axes") is not None:
        return axes_of(facts, node)
    source = input_shape(facts, node)
    if source is None or not all(isinstance(d, int) for d in source):
        return None
    return tuple(i for i, d in enumerate(source) if d == 1)


def normalised(axes: tuple[int, ...], rank: int) -> tuple[int, ...] | None:
    """Axes counted from the front; None where they do not fit a value of that rank."""
    normal = tuple(axis + rank if axis < 0 else axis for axis in axes)
    return normal if all(0 <= axis < rank for axis in normal) and len(set(normal)) == len(normal) else None


def _written(shape: tuple[Dim, ...]) -> str:
    return "(" + ", ".join("?" if d is None or str(d).startswith("dimension ") else str(d) for d in shape) + ")"
