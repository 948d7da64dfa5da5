"""Operators that let an affine PASS forward: the affine of an input -> those of the outputs, in place of it.

    f(a*x + s) = a'*f(x) + s'

What is read besides is left as it is (operators of several values: ops/forward_joining.py). The rules are those of the
way back, the other way round: layout is the same numpy call on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from bnfold.affine import Affine, Dim
from bnfold.nodes import Node
from bnfold.ops.bounding import has_numbers, inverse, uniform
from bnfold.ops.facts import Facts
from bnfold.ops.forward_joining import TOGETHER, Arriving
from bnfold.ops.passing import (
    Passed,
    axes_of,
    backward,
    input_shape,
    normalised,
    squeezed_axes,
    target_shape,
)
from bnfold.ops.positions import reduced_axes
from bnfold.ops.reasons import BLOCKED, LAYOUT, NEGATIVE, PADDING, SEVERAL, SHIFT, Obstacle
from bnfold.ops.table import register
from bnfold.ops.windows import counted_padding

Ahead = Callable[[Facts, Node, int, Affine], Affine | Obstacle | None]
Function = TypeVar("Function", bound=Ahead)
AHEAD: dict[str, Ahead] = {}
ALL_OUTPUTS: dict[str, Callable[[Facts, Node, int, Affine], tuple[Affine, ...] | Obstacle]] = {}
"""Operators of several outputs, all of which bear something."""


def forward(facts: Facts, node: Node, index: int, affine: Affine) -> tuple[Affine, ...] | Obstacle | None:
    """The affine of each output that an affine of input `index` becomes; None for an operator that lets none pass."""
    if node.refers_to_attributes:
        return None
    if node.op in TOGETHER:
        return together(facts, node, {index: affine})
    if node.op in ALL_OUTPUTS:
        return ALL_OUTPUTS[node.op](facts, node, index, affine)
    function = AHEAD.get(node.op)
    if function is None:
        return None
    if any(value is not None for value in node.outputs[1:]):
        return Obstacle(SEVERAL, f"{node.op} has several outputs", node)
    found = function(facts, node, index, affine)
    return found if found is None or isinstance(found, Obstacle) else (found,)


def joins(node: Node) -> bool:
    """Whether it is of several values, each of which may bear something."""
    return node.op in TOGETHER and not node.refers_to_attributes


def together(facts: Facts, node: Node, arriving: Arriving) -> tuple[Affine, ...] | Obstacle:
    """The affine of the output, where the inputs of a node that joins bear these, by their index."""
    found = TOGETHER[node.op](facts, node, arriving)
    return found if isinstance(found, Obstacle) else (found,)


def ahead(*ops: str) -> Callable[[Function], Function]:
    """A decorator that puts a function into the table under each of `ops`."""

    def decorate(function: Function) -> Function:
        register("forward", AHEAD, *ops)(function)
        return function

    return decorate


@ahead("Identity", "Dropout", "Cast", "Pad", "Resize", "Upsample", "Clip")
def _same(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything that goes back unchanged (Clip, Pad: one and the same for all channels; a Dropout: at inference)

    Not: a Dropout in training mode; one of which the mask is read; what does not go back.
    """
    back = backward(facts, node, affine)
    if isinstance(back, Obstacle):
        return back
    before = None if back is None or len(back.passages) != 1 else back.passages[0].affine
    if index or before is None or (before != affine and before != uniform(affine)):
        return Obstacle(BLOCKED, f"input {index} of {node.op}", node)
    return before


def kept(facts: Facts, node: Node, affine: Affine, *, has_taken: bool) -> Affine | Obstacle | None:
    """What a node that an affine passes forward takes over as one of its output: None, or its inverse.

    `has_taken`: whether it has taken over something before, so that its numbers are others than those in the file.
    """
    back = backward(facts, node, affine) if has_numbers(node) else None
    if not isinstance(back, Passed) or not (back.keeps or has_taken):
        return None
    if node.op == "Pad" and affine.has_shift:
        # A layer behind it would subtract there what it adds everywhere: exact, but not in floating point.
        return Obstacle(PADDING, "a shift would have to be undone in what it pads, and would cancel there", node)
    return inverse(affine) or Obstacle(BLOCKED, f"{node.op} lets no scale of zero pass", node)


@ahead("Transpose")
def _transposed(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything, its axes permuted"""
    del facts, index
    perm = node.ints_attribute("perm") or tuple(reversed(range(affine.rank)))
    if sorted(perm) != list(range(affine.rank)):
        return Obstacle(LAYOUT, f"a permutation {list(perm)} of a value with {affine.rank} dimensions", node)
    return affine.transposed(perm)


@ahead("Squeeze")
def _squeezed(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything, without the squeezed axes

    Not: axes that are not known.
    """
    axes = squeezed_axes(facts, node)
    normal = None if axes is None else normalised(axes, affine.rank)
    if index or normal is None or any(affine.shape[axis] != 1 for axis in normal):
        return Obstacle(LAYOUT, "it is not known which axes are squeezed", node)
    return affine.squeezed(normal)


@ahead("Unsqueeze")
def _unsqueezed(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything, with the new axes

    Not: axes that are not known.
    """
    axes = axes_of(facts, node)
    normal = None if axes is None else normalised(axes, affine.rank + len(axes))
    if index or normal is None:
        return Obstacle(LAYOUT, "it is not known which axes are new", node)
    return affine.unsqueezed(normal)


@ahead("Reshape", "Flatten")
def _reshaped(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything that is still a constant per channel on the other side, as far as the sizes are known

    Not: channels that mix with a dimension of unknown size.
    """
    source = input_shape(facts, node)
    if index or source is None or len(source) != affine.rank:
        return Obstacle(LAYOUT, f"the shape before {node.op} is not known", node)
    source = tuple(f"dimension {i}" if d is None else d for i, d in enumerate(source))
    target = target_shape(facts, node, source)
    after = None if target is None else affine.reshaped(source, target)
    return after or Obstacle(LAYOUT, f"the shape after {node.op} is not known, or mixes the channels", node)


@ahead("Relu", "LeakyRelu", "PRelu")
def _rectified(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """a scale that is nowhere negative

    Not: a shift, a negative scale; a PRelu's slope.
    """
    del facts
    if index:
        return Obstacle(BLOCKED, f"input {index} of {node.op}", node)
    if affine.has_shift:
        return Obstacle(SHIFT, f"{node.op} lets no shift pass", node)
    if np.any(affine.scale < 0):
        return Obstacle(NEGATIVE, f"{node.op} lets no negative scale pass", node)
    return affine


@ahead("Abs")
def _in_size(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """a scale, of which its size is left

    Not: a shift.
    """
    del facts
    if index:
        return Obstacle(BLOCKED, f"input {index} of {node.op}", node)
    if affine.has_shift:
        return Obstacle(SHIFT, f"{node.op} lets no shift pass", node)
    return Affine(np.abs(affine.scale), affine.shift)


@ahead("LpPool", "GlobalLpPool")
def _pooled_in_size(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """a scale, of which its size is left

    Not: a shift; an affine that differs between positions.
    """
    if any(size != 1 for size in affine.shape[2:]):
        return Obstacle(LAYOUT, f"{node.op} acts along an axis where it differs", node)
    return _in_size(facts, node, index, affine)


@ahead("AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool")
def _pooled(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """everything (MaxPool: a scale that is nowhere negative); a scale alone where the zeros of a padding are counted

    Not: a negative scale before a MaxPool; a shift with count_include_pad and a padding; indices that are put out.
    """
    if index or any(size != 1 for size in affine.shape[2:]):
        return Obstacle(LAYOUT, f"{node.op} acts along an axis where it differs", node)
    counted = counted_padding(facts, node) if affine.has_shift else None
    if counted is not None:
        return counted
    if "Max" in node.op and np.any(affine.scale < 0):
        return Obstacle(NEGATIVE, f"{node.op} lets no negative scale pass", node)
    return affine


@ahead("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2")
def _reduced(facts: Facts, node: Node, index: int, affine: Affine) -> Affine | Obstacle:
    """over other axes than the channels: everything; for the largest and smallest a scale that is nowhere negative, for
    norms a scale, of which its size is left

    Not: axes that are not known, or along which the affine differs; a shift before a norm.
    """
    shape = input_shape(facts, node)
    axes = reduced_axes(facts, node, shape)
    if index or shape is None or axes is None or len(shape) != affine.rank:
        return Obstacle(LAYOUT, f"it is not known over which axes {node.op} goes", node)
    if any(affine.shape[axis] != 1 for axis in axes):
        return Obstacle(LAYOUT, f"{node.op} acts along an axis where it differs", node)
    after = _of_axes(facts, node, affine, [shape[axis] for axis in axes])
    if isinstance(after, Obstacle):
        return after
    return after if node.int_attribute("keepdims", 1) else after.squeezed(axes)


def _of_axes(facts: Facts, node: Node, affine: Affine, sizes: list[Dim]) -> Affine | Obstacle:
    """What an affine becomes behind a reduction of axes of these sizes, along which it is alike."""
    if node.op in {"ReduceL1", "ReduceL2"}:
        return _in_size(facts, node, 0, affine)
    if node.op in {"ReduceMax", "ReduceMin"} and np.any(affine.scale < 0):
        return Obstacle(NEGATIVE, f"{node.op} lets no negative scale pass", node)
    if node.op != "ReduceSum" or not affine.has_shift:
        return affine
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) < len(sizes):
        return Obstacle(LAYOUT, "a shift of a sum of an unknown number of elements", node)
    return Affine(affine.scale, affine.shift * math.prod(known))
