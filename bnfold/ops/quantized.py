"""Weights that are stored as integers: an affine settles in the scale of their dequantisation.

    W = (q - z) * scale        a*W = (q - z) * (a*scale)

so the integers stay, and nothing is ever computed as a float weight. A scale for the whole tensor becomes one per
output channel where `a` differs between channels (opset 13 and later; the zero point then is repeated). A negative
scale is a number like any other here. A scale of zero is too, but onnxruntime's optimiser quantises a float bias by
dividing by it (measured: wrong results), so that a dead channel stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import helper

from bnfold.affine import Float64
from bnfold.nodes import Node, Value
from bnfold.ops.facts import Constant, Facts
from bnfold.ops.home import NewConstant, NewNode
from bnfold.ops.reasons import NOT_CONSTANT, NOT_FINITE, OVERFLOW, PRECISION, QUANTIZED, TYPE, Obstacle
from bnfold.ops.rounding import FLOAT_TYPES, rounded
from bnfold.ops.table import TABLE

DEQUANTIZE = "DequantizeLinear"
SCALE, ZERO_POINT = 1, 2
FIRST_OPSET_WITH_AXIS = 13


@dataclass(frozen=True, slots=True, eq=False)
class Dequantized:
    """The output of a dequantisation whose scale is constant; `dims` are those of the tensor.

    `axis` is the one along which the scale varies, None for one scale in all; in blocks, the scale has every axis.
    """

    value: Value
    node: Node
    dims: tuple[int, ...]
    scale: Constant
    zero_point: Constant | None
    axis: int | None
    in_blocks: bool

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of the dequantised elements."""
        return self.scale.dtype

    def spread(self) -> Float64:
        """The scale as something that broadcasts against the tensor, blocks aside."""
        scale = self.scale.array().astype(np.float64)
        if self.in_blocks:
            return scale
        shape = [1] * len(self.dims)
        if self.axis is not None:
            shape[self.axis] = -1
        return scale.reshape(shape)

    def obstacle_to(self, factors: Float64, axis: int, home: Node) -> Obstacle | None:
        """What keeps the scale from being multiplied by one factor per index of `axis`."""
        if not _is_uniform(factors) and not self._owns(axis):
            return Obstacle(QUANTIZED, f"the scale of {self.value.name!r} cannot differ between the outputs", home)
        exact = self.scaled(factors, axis)
        new = rounded(exact, self.dtype)
        if not np.all(np.isfinite(new)):
            reason = OVERFLOW if np.all(np.isfinite(self.spread())) else NOT_FINITE
            return Obstacle(reason, f"a scale of {self.value.name!r} would not be finite", home)
        if np.any((exact != 0) & (new == 0)):
            return Obstacle(PRECISION, f"a scale of {self.value.name!r} would become zero in its type", home)
        if np.any(new == 0):
            return Obstacle(QUANTIZED, f"a scale of {self.value.name!r} would be zero", home)
        return None

    def _owns(self, axis: int) -> bool:
        """Whether there is, or can be, one scale per index of `axis`."""
        if self.in_blocks:
            return self.scale.dims[axis] == self.dims[axis]
        if self.axis is None:
            return self.node.scope.opset >= FIRST_OPSET_WITH_AXIS
        return self.axis == axis

    def scaled(self, factors: Float64, axis: int) -> Float64:
        """The new scale, exactly, as something that broadcasts against the tensor."""
        scale = self.spread()
        if _is_uniform(factors):
            return np.asarray(scale * factors[0])
        shape = [1] * len(self.dims)
        shape[axis] = -1
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(scale * factors.reshape(shape))

    def copy(self, index: int, factors: Float64, axis: int) -> NewNode:
        """The dequantisation with its scale multiplied, for input `index` of a home."""
        exact = self.scaled(factors, axis)
        per_axis = not self.in_blocks and self.axis is None and exact.size > 1
        new = rounded(exact if self.in_blocks else exact.reshape(-1), self.dtype)
        if not (self.in_blocks or per_axis):
            new = new.reshape(self.scale.dims)
        constants = [_constant(SCALE, self.scale, new)]
        if per_axis and self.zero_point is not None:
            repeated = np.repeat(self.zero_point.array().reshape(-1), exact.size)
            constants.append(_constant(ZERO_POINT, self.zero_point, repeated))
        attributes = (helper.make_attribute("axis", axis),) if per_axis else ()
        return NewNode(index, self.node, tuple(constants), attributes)


def dequantized(facts: Facts, value: Value) -> Dequantized | Obstacle | None:
    """as the weight of one of these: its scale takes the factors, the integers stay what they are

    Not: a factor of zero; a scale that varies along another axis than the outputs; one scale in all before opset 13,
    unless all factors are alike; integers for a bias, where there is a shift; anything between it and the layer.

    The dequantisation that makes a value, or what keeps its scale from taking anything over; None for no such.
    """
    node = facts.graph.producer(value)
    if node is None or node.op != DEQUANTIZE:
        return None
    source, scale_value, zero_value = node.input(0), node.input(SCALE), node.input(ZERO_POINT)
    if source is None or scale_value is None or node.refers_to_attributes:
        return Obstacle(NOT_CONSTANT, "it lacks an input, or an attribute is a function's parameter", node)
    scale = facts.constant(scale_value)
    if isinstance(scale, Obstacle):
        return Obstacle(scale.reason, f"scale: {scale.detail}", node)
    zero = None if zero_value is None else facts.constant(zero_value)
    if isinstance(zero, Obstacle):
        return Obstacle(zero.reason, f"zero point: {zero.detail}", node)
    dims = _dims(facts, source)
    if dims is None:
        return Obstacle(QUANTIZED, f"the shape of {source.name!r} is not known", node)
    if scale.dtype not in FLOAT_TYPES or node.int_attribute("output_dtype", 0) not in {0, scale.data_type}:
        return Obstacle(TYPE, "its scale is of no type that is folded", node)
    return _of_form(Dequantized(value, node, dims, scale, zero, *_form(node, dims, scale)))


def _form(node: Node, dims: tuple[int, ...], scale: Constant) -> tuple[int | None, bool]:
    """The axis of the scale, and whether it is in blocks."""
    in_blocks = bool(node.int_attribute("block_size", 0))
    axis = node.int_attribute("axis", 1)
    one = len(scale.dims) == 0 or (scale.dims == (1,) and not in_blocks)
    return None if one else axis + len(dims) if axis < 0 else axis, in_blocks


def _of_form(found: Dequantized) -> Dequantized | Obstacle:
    """Refuse a scale that does not fit the tensor."""
    dims, axis = found.dims, found.axis
    if found.in_blocks:
        fits = len(found.scale.dims) == len(dims)
    else:
        fits = axis is None or (axis < len(dims) and found.scale.dims == (dims[axis],))
    if fits and 0 not in dims:
        return found
    return Obstacle(QUANTIZED, f"a scale of shape {found.scale.dims} for a tensor of shape {dims}", found.node)


def _dims(facts: Facts, value: Value) -> tuple[int, ...] | None:
    shape = facts.shape(value)
    if shape is None:
        return None
    sizes = tuple(size for size in shape if isinstance(size, int))
    return sizes if len(sizes) == len(shape) else None


def _is_uniform(factors: Float64) -> bool:
    return bool(np.all(factors == factors[0]))


def _constant(index: int, old: Constant, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> NewConstant:
    return NewConstant.now(index, old, f"{old.value.name}_folded", array, replaces=True)


TABLE.add("linear", DEQUANTIZE, dequantized)
