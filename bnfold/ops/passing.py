"""Operators that let an affine PASS: one function each, affine after the node -> affines before it, or an obstacle.

An affine has the rank of the value it acts on, so a layout operator is the same numpy call on both. What arrives
on the other side is exact or refused: whether a home can use it (its own axis alone may vary) is the home's
question, not asked here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bnfold.affine import Affine, Dim
from bnfold.nodes import Node, Value
from bnfold.ops.facts import Facts
from bnfold.ops.linear import Linear, linear_of
from bnfold.ops.reasons import BLOCKED, LAYOUT, TRAINING_MODE, Obstacle
from bnfold.ops.table import register


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """An affine on its way: it must now act on input `index` of the node it passed."""

    index: int
    affine: Affine


Backward = Callable[[Facts, Node, Affine], tuple[Passage, ...] | Obstacle]
PASSING: dict[str, Backward] = {}

FIRST_OPSET_WITH_AXES_INPUT = 13
FIRST_OPSET_WITH_DROPOUT_MODE = 12
FIRST_OPSET_OF_PURE_DROPOUT = 7


@register("passing", PASSING, "Identity")
def identity(facts: Facts, node: Node, affine: Affine) -> tuple[Passage, ...] | Obstacle:
    """everything"""
    del facts, node
    return (Passage(0, affine),)


@register("passing", PASSING, "Dropout")
def dropout(facts: Facts, node: Node, affine: Affine) -> tuple[Passage, ...] | Obstacle:
    """everything, at inference"""
    opset = node.scope.opset
    if opset < FIRST_OPSET_OF_PURE_DROPOUT and not node.int_attribute("is_test", 0):
        return Obstacle(TRAINING_MODE, "a Dropout with is_test=0", node)
    mode = node.input(2) if opset >= FIRST_OPSET_WITH_DROPOUT_MODE else None
    if mode is not None and facts.integers(mode) != (0,):
        return Obstacle(TRAINING_MODE, "a Dropout that may be in training mode", node)
    return (Passage(0, affine),)


@register("passing", PASSING, "Transpose")
def transpose(facts: Facts, node: Node, affine: Affine) -> tuple[Passage, ...] | Obstacle:
    """everything, its axes permuted"""
    del facts
    perm = node.ints_attribute("perm") or tuple(reversed(range(affine.rank)))
    if sorted(perm) != list(range(affine.rank)):
        return Obstacle(LAYOUT, f"a permutation {list(perm)} of a value with {affine.rank} dimensions", node)
    return (Passage(0, affine.transposed(np.argsort(perm).tolist())),)


@register("passing", PASSING, "Squeeze")
def squeeze(facts: Facts, node: Node, affine: Affine) -> tuple[Passage, ...] | Obstacle:
    """everything, with the squeezed axes back"""
    axes = _axes(facts, node)
    source = _input_shape(facts, node)
    if axes is None and source is not None and all(isinstance(d, int) for d in source):
        axes = tuple(i for i, d in enumerate(source) if d == 1)
    if axes is None:
        return Obstacle(LAYOUT, "it is not known which axes are squeezed", node)
    rank = affine.rank + len(axes)
    normal = _normalised(axes, rank)
    if normal is None:
        return Obstacle(LAYOUT, f"axes {list(axes)} of a value with {rank} dimensions", node)
    return (Passage(0, affine.unsqueezed(normal)),)


@register("passing", PASSING, "Unsqueeze")
def unsqueeze(facts: Facts, node: Node, affine: Affine) -> tuple[Passage, ...] | Obstacle:
    """everything, without the new axes"""
    axes = _axes(facts, node)
    normal = None if axes is None else _normalised(axes, affine.rank)
    if normal is None or any(affine.shape[axis] != 1 for axis in normal):
        return Obstacle(LAYOUT, "it is not known which axes are new", node)
    return (Passage(0, affine.squeezed(normal)),)


@register("passing", PASSING, "Reshape", "Flatten")
def reshape(facts: Facts, node: Node, affine: Affine) -> tuple[Passage, ...] | Obstacle:
    """everything that is still a constant per channel on the other side, as far as the sizes are known"""
    source = _input_shape(facts, node)
    if source is None:
        return Obstacle(LAYOUT, f"the shape before {node.op} is not known", node)
    source = tuple(f"dimension {i}" if d is None else d for i, d in enumerate(source))
    target = _target(facts, node, source)
    if target is None or len(target) != affine.rank:
        return Obstacle(LAYOUT, f"the shape after {node.op} is not known", node)
    before = affine.reshaped(target, source)
    if before is None:
        return Obstacle(LAYOUT, f"from {_written(source)} to {_written(target)}", node)
    return (Passage(0, before),)


def backward(facts: Facts, node: Node, affine: Affine) -> tuple[Passage, ...] | Obstacle:
    """The affines that must act on a node's inputs in place of one that acts on its output 0."""
    function = PASSING.get(node.op)
    if function is None:
        return Obstacle(BLOCKED, f"{node.op} lets no per-channel affine pass", node)
    if node.refers_to_attributes:
        return Obstacle(LAYOUT, "an attribute is a parameter of the function that holds it", node)
    return function(facts, node, affine)


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
    node = facts.graph.producer(value)
    if node is not None and node.output(0) is value:
        linear = linear_of(facts, node)
        if isinstance(linear, Linear) and linear.axis == axis:
            return linear.channels
    shape = facts.shape(value)
    size = None if shape is None or axis >= len(shape) else shape[axis]
    return size if isinstance(size, int) else None


def _stated_rank(facts: Facts, node: Node) -> int | None:
    """The rank of a node's output as far as its own constants and attributes tell."""
    linear = linear_of(facts, node)
    if linear is not None:
        return linear.rank if isinstance(linear, Linear) else None
    if node.op == "Transpose":
        perm = node.ints_attribute("perm")
        return None if perm is None else len(perm)
    if node.op == "Flatten":
        return 2
    operand = node.input(1)
    if node.op != "Reshape" or operand is None:
        return None
    sizes = facts.integers(operand)
    return None if sizes is None else len(sizes)


def _input_shape(facts: Facts, node: Node) -> tuple[Dim, ...] | None:
    value = node.input(0)
    return None if value is None else facts.shape(value)


def _target(facts: Facts, node: Node, source: tuple[Dim, ...]) -> tuple[Dim, ...] | None:
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
    sizes = None if operand is None else facts.integers(operand)
    if sizes is None:
        return None
    return tuple(
        source[i] if size == 0 and copies and i < len(source) else None if size < 0 else size
        for i, size in enumerate(sizes)
    )


def _axes(facts: Facts, node: Node) -> tuple[int, ...] | None:
    if node.scope.opset < FIRST_OPSET_WITH_AXES_INPUT:
        return node.ints_attribute("axes")
    operand = node.input(1)
    return None if operand is None else facts.integers(operand)


def _normalised(axes: tuple[int, ...], rank: int) -> tuple[int, ...] | None:
    normal = tuple(axis + rank if axis < 0 else axis for axis in axes)
    return normal if all(0 <= axis < rank for axis in normal) and len(set(normal)) == len(normal) else None


def _written(shape: tuple[Dim, ...]) -> str:
    return "(" + ", ".join("?" if d is None or str(d).startswith("dimension ") else str(d) for d in shape) + ")"
