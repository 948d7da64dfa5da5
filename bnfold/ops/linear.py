"""Operators that ABSORB an affine: one function each, node -> the ways in which it can.

Each says where its weight stands, a view of it as (group, out, in, taps...), and where its outputs lie; what then
happens to the weight is written once (ops/absorb.py). Where two operands are constant, or one owns several axes of
the output, there are several ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bnfold.affine import Affine
from bnfold.nodes import Node
from bnfold.ops.absorb import Fed, Linear, View
from bnfold.ops.affine import AffineOp, affine_of
from bnfold.ops.facts import Array, Constant, Facts
from bnfold.ops.home import Home
from bnfold.ops.quantized import Dequantized, dequantized
from bnfold.ops.reasons import BIAS, BLOCKED, LAYER, LAYOUT, NOT_CONSTANT, TYPE, Obstacle
from bnfold.ops.rounding import FLOAT_TYPES
from bnfold.ops.table import register
from bnfold.ops.windows import SAME, Padded, padded, pads_of

Ways = tuple[Home, ...] | Obstacle
LINEAR: dict[str, Callable[[Facts, Node], Ways]] = {}
GATED: dict[str, Callable[[Facts, Node], Ways]] = {}
"""Operators that absorb an affine of their data alone: what they put out lies behind activations."""


def ways_of(facts: Facts, node: Node) -> Ways | None:
    """How a node absorbs an affine, or what keeps it from doing so; None for an operator that never does."""
    return facts.once(node, LINEAR[node.op]) if node.op in LINEAR else None


def ways_before(facts: Facts, node: Node, *, after: bool) -> Ways | None:
    """How a node absorbs an affine of its data, and with `after` one of its output besides."""
    if node.op in GATED and not after:
        return facts.once(node, GATED[node.op])
    return ways_of(facts, node)


def home_for(facts: Facts, node: Node, after: Affine) -> Home | Obstacle | None:
    """The first way in which a node can absorb this affine, or what keeps it from doing so."""
    ways = ways_of(facts, node)
    if ways is None or isinstance(ways, Obstacle):
        return ways
    value = node.output(0)
    rank_is_stated = any(isinstance(way, Linear) and way.rank is not None for way in ways)
    shape = None if value is None or rank_is_stated else facts.shape(value)
    if shape is not None and len(shape) != after.rank:
        detail = f"its output has {len(shape)} dimension(s) by what it reads, {after.rank} by what reads it"
        return Obstacle(LAYOUT, detail, node)
    obstacles: list[Obstacle] = []
    for home in ways:
        obstacle = home.obstacle_to(after)
        if obstacle is None:
            return home
        obstacles.append(obstacle)
    return obstacles[0]


@register("linear", LINEAR, "Conv")
def conv(facts: Facts, node: Node) -> Ways:
    """constant weight; any rank, group, pads, dilation, stride, auto_pad; bias or none

    Not: a weight or bias that is computed, sparse or overridable; a bias that is not one value per output.

    Ahead: constant weight; a scale, and a shift where nothing is padded (of auto_pad SAME: a kernel of one, or one that
    fits into the stride where the size allows it). Not: a shift before a padding, or beside a bias of integers; a
    quantised weight; what is not one value per channel of the data.

    Beside: stride 1, a padding that keeps the size, written or SAME, as many outputs as channels: a scale is one more
    tap, a shift goes to the bias, and the sum goes. Not: a quantised weight; auto_pad SAME with dilations; where
    something else reads what lies between.
    """
    group = node.int_attribute("group", 1)

    def view(weight: Array) -> Array:
        outputs, inputs, *kernel = weight.shape
        return weight.reshape(group, outputs // group, inputs, math.prod(kernel))

    return _convolution(facts, node, view, weight_axis=0, padding=_conv_padding, center=_center)


def _conv_padding(facts: Facts, node: Node, dims: tuple[int, ...]) -> Padded:
    return padded(facts, node, dims[2:])


def _center(node: Node, dims: tuple[int, ...], group: int) -> int | None:
    """The place, in the flat kernel, of the tap that an output has for the data of its own place; None for no such."""
    outputs, inputs, *kernel = dims
    ones = [1] * len(kernel)
    pads, steps = pads_of(node, tuple(kernel)), node.ints_attribute("dilations") or ones
    if pads is None or any(n != 1 for n in node.ints_attribute("strides") or ()):
        return None
    if outputs != inputs * group or len(steps) != len(kernel):
        return None
    index = 0
    for size, step, first, last in zip(kernel, steps, pads, pads[len(kernel) :], strict=False):
        if step < 1 or first not in range(0, step * size, step) or first + last != step * (size - 1):
            return None
        index = index * size + first // step
    return index


@register("linear", LINEAR, "ConvTranspose")
def conv_transpose(facts: Facts, node: Node) -> Ways:
    """constant weight; any rank, group, pads, dilation, stride, output padding; bias or none

    Not: a weight or bias that is computed, sparse or overridable; a bias that is not one value per output; a
    quantised weight in groups, unless all channels take the same factor.

    Ahead: constant weight; a scale, and a shift where each output sees every tap: stride 1, and all that hangs over cut
    off. Not: a shift otherwise; a quantised weight; what is not one value per channel of the data.
    """
    group = node.int_attribute("group", 1)

    def view(weight: Array) -> Array:
        inputs, outputs, *kernel = weight.shape
        return weight.reshape(group, inputs // group, outputs, math.prod(kernel)).swapaxes(1, 2)

    weight_axis = 1 if group == 1 else None
    return _convolution(facts, node, view, weight_axis=weight_axis, padding=_overhang)


@register("linear", LINEAR, "BatchNormalization")
def normalization(facts: Facts, node: Node) -> Ways:
    """one at inference that stays itself: its scale and bias take over another's

    Not: one in training mode, or with parameters that are no constants; one that --skip names.
    """
    found = affine_of(facts, node)
    if not isinstance(found, AffineOp):
        return found or Obstacle(BLOCKED, "it is no affine", node)
    weight, bias = (operand_of(facts, node, index) for index in (1, 2))
    if weight is None or isinstance(weight, Obstacle):
        return weight or Obstacle(NOT_CONSTANT, "its scale is missing", node)
    if bias is None or isinstance(bias, Obstacle):
        return bias or Obstacle(NOT_CONSTANT, "its bias is missing", node)

    def view(array: Array) -> Array:
        return array[np.newaxis, :, np.newaxis]

    return (Linear(node, weight, 1, view, rank=None, axes=(1,), weight_axis=0, bias=bias, bias_input=2, least_rank=2),)


def _overhang(facts: Facts, node: Node, dims: tuple[int, ...]) -> Padded:
    """Whether some output of a ConvTranspose misses a tap: none does with stride 1 and all that hangs over cut off."""
    del facts
    kernel, automatic = dims[2:], node.string_attribute("auto_pad", "NOTSET")
    steps = node.ints_attribute("dilations") or (1,) * len(kernel)
    pads = node.ints_attribute("pads") or (0,) * 2 * len(kernel)
    stated = node.ints_attribute("kernel_shape")
    if (stated is not None and stated != kernel) or len(steps) != len(kernel) or len(pads) != 2 * len(kernel):
        return Padded.SOMEWHERE
    if any(stride != 1 for stride in node.ints_attribute("strides") or ()):
        return Padded.SOMEWHERE
    if any(node.ints_attribute("output_padding") or ()) or node.ints_attribute("output_shape") is not None:
        return Padded.SOMEWHERE
    if automatic != "NOTSET":  # with a kernel of one, nothing hangs over, and SAME keeps the size as it is
        alone = automatic in SAME | {"VALID"} and set(kernel) == {1} and not any(pads)
        return Padded.NOWHERE if alone else Padded.SOMEWHERE
    reach = [(size - 1) * step for size, step in zip(kernel, steps, strict=True)]
    covers = all(pad >= needed for pad, needed in zip(pads, [*reach, *reach], strict=True))
    return Padded.NOWHERE if covers else Padded.SOMEWHERE


Padding = Callable[[Facts, Node, tuple[int, ...]], Padded]
Center = Callable[[Node, tuple[int, ...], int], int | None]


def _convolution(  # noqa: PLR0913  # in what the two convolutions differ
    facts: Facts, node: Node, view: View, *, weight_axis: int | None, padding: Padding, center: Center | None = None
) -> Ways:
    group = node.int_attribute("group", 1)
    weight = weight_of(facts, node, 1, rank=None)
    if isinstance(weight, Obstacle):
        return weight
    if len(weight.dims) < 3:
        return Obstacle(LAYER, f"the weight has {len(weight.dims)} dimensions", node)
    if group < 1 or weight.dims[0] % group:
        return Obstacle(LAYER, f"group {group} does not divide the weight's {weight.dims}", node)
    bias = bias_of(facts, node)
    if isinstance(bias, Obstacle):
        return bias
    where = padding(facts, node, weight.dims)
    return with_fitting_bias(
        Linear(
            node,
            weight,
            1,
            view,
            len(weight.dims),
            axes=(1,),
            weight_axis=weight_axis,
            bias=bias,
            bias_input=2,
            fed=Fed(0, axes=(1,), view_axis=2, sees_all=where is Padded.NOWHERE, may_see_all=where is Padded.UNKNOWN),
            center=None if center is None else center(node, weight.dims, group),
        )
    )


def weight_of(facts: Facts, node: Node, index: int, *, rank: int | None) -> Constant | Dequantized | Obstacle:
    """The constant weight of a node, of a type that can be folded."""
    value = node.input(index)
    if value is None or node.refers_to_attributes:
        return Obstacle(NOT_CONSTANT, f"input {index} is missing, or an attribute is a function's parameter", node)
    found = operand_of(facts, node, index)
    if found is None or isinstance(found, Obstacle):
        return found or Obstacle(NOT_CONSTANT, f"input {index} is missing", node)
    if len(found.dims) != rank and rank is not None:
        return Obstacle(LAYER, f"the weight has {len(found.dims)} dimensions", node)
    if 0 in found.dims:
        return Obstacle(LAYER, "the weight is empty", node)
    return found


def bias_of(facts: Facts, node: Node, index: int = 2) -> Constant | Dequantized | Obstacle | None:
    """The constant bias of a node, if it has one."""
    return operand_of(facts, node, index, role="bias")


def operand_of(facts: Facts, node: Node, index: int, role: str = "weight") -> Constant | Dequantized | Obstacle | None:
    """A constant, or the dequantisation of integers, of a type that can be folded; None where there is none."""
    value = node.input(index)
    if value is None:
        return None
    found = dequantized(facts, value) or facts.constant(value)
    if isinstance(found, Obstacle):
        return replace(found, detail=f"{role}: {found.detail}", node=node)
    if found.dtype not in FLOAT_TYPES:
        return Obstacle(TYPE, f"the {role} {value.name!r} is of no type that is folded", node)
    return found


def with_fitting_bias(linear: Linear) -> Ways:
    """Refuse a bias that the operator itself would not accept."""
    if linear.bias is None or linear.rank is None:
        return (linear,)
    if linear.bias.dtype != linear.weight.dtype:
        return Obstacle(BIAS, f"a bias of {linear.bias.dtype.name} for {linear.weight.dtype.name}", linear.node)
    dims, channels = linear.bias.dims, linear.channels
    if linear.bias_is_vector:
        fits = dims == (channels,)
    else:
        (axis,) = linear.axes
        along = dims[axis - linear.rank] if len(dims) >= linear.rank - axis else 1
        fits = len(dims) <= linear.rank and along in {1, channels} and 0 not in dims
    if not fits:
        return Obstacle(BIAS, f"a bias of shape {dims} for {channels} outputs", linear.node)
    return (linear,)
