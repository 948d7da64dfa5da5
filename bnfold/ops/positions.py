"""Operators that act on positions, or on every element, and treat all channels alike: pooling, padding, rectifiers.

A mean of a*x + s is a*mean(x) + s; a sum of n of them has n*s; the largest of them is that of the largest x where a is
not negative; max(a*x, 0) is a*max(x, 0) where a is not negative. What is padded with zeros stays zero under a scale.
An affine that differs along the axes on which the operator acts does not pass.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from bnfold.affine import Affine, Dim
from bnfold.nodes import Node
from bnfold.ops.bounding import uniform
from bnfold.ops.facts import Constant, Facts
from bnfold.ops.passing import PASSING, Passage, Passed, alone, input_shape, known_size, normalised
from bnfold.ops.reasons import BLOCKED, LAYOUT, NEGATIVE, PADDING, ROUNDED, SEVERAL, SHIFT, Obstacle
from bnfold.ops.table import register
from bnfold.ops.windows import counted_padding

FIRST_OPSET_WITH_PADS_AS_INPUT = 11
FIRST_OPSET_WITH_A_REGION_TO_RESIZE = 11
FIRST_OPSET_WITH_REDUCED_AXES_AS_INPUT = 18
FIRST_OPSET_WITH_SUMMED_AXES_AS_INPUT = 13
CROPPING = "tf_crop_and_resize"
_WIDER: dict[int, frozenset[int]] = {
    TensorProto.FLOAT16: frozenset({TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE}),
    TensorProto.BFLOAT16: frozenset({TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE}),
    TensorProto.FLOAT: frozenset({TensorProto.FLOAT, TensorProto.DOUBLE}),
    TensorProto.DOUBLE: frozenset({TensorProto.DOUBLE}),
}


@register("passing", PASSING, "Relu", "LeakyRelu", "PRelu", "Abs")
def rectifier(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """a scale that is nowhere negative

    Not: a shift, a negative scale.
    """
    del facts
    return _without_shift(node, affine) or _not_negative(node, affine) or alone(Passage(0, affine))


@register("passing", PASSING, "Cast")
def cast(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, to a type that holds all values of the one before

    Not: to a narrower type, or from one that is not known.
    """
    value = node.input(0)
    before = None if value is None else facts.shapes.element_type(value)
    if before is None or before not in _WIDER:
        return Obstacle(BLOCKED, "a Cast of no float, or of a type that is not known", node)
    if node.int_attribute("to", 0) not in _WIDER[before]:
        return Obstacle(ROUNDED, "a Cast that rounds", node)
    return alone(Passage(0, affine))


@register("passing", PASSING, "AveragePool", "GlobalAveragePool")
def mean_pool(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything; a scale alone where the zeros of a padding are counted

    Not: a shift with count_include_pad and a padding, or a window that hangs over.
    """
    counted = counted_padding(facts, node) if affine.has_shift else None
    if counted is not None:
        return counted
    return _over(node, affine, range(2, affine.rank)) or alone(Passage(0, affine))


@register("passing", PASSING, "MaxPool", "GlobalMaxPool")
def max_pool(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """a scale that is nowhere negative, and any shift

    Not: a negative scale; a MaxPool whose indices are read.
    """
    del facts
    if any(value is not None for value in node.outputs[1:]):
        return Obstacle(SEVERAL, f"{node.op} puts out indices too", node)
    over = _over(node, affine, range(2, affine.rank))
    return _not_negative(node, affine) or over or alone(Passage(0, affine))


@register("passing", PASSING, "LpPool", "GlobalLpPool")
def norm_pool(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """a scale that is nowhere negative

    Not: a shift, a negative scale.
    """
    del facts
    over = _over(node, affine, range(2, affine.rank))
    return _without_shift(node, affine) or _not_negative(node, affine) or over or alone(Passage(0, affine))


@register("passing", PASSING, "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")
def reduction(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """over other axes than the channels: everything (a sum's shift divided by the number of elements); for the largest
    and smallest a scale that is nowhere negative; for norms such a scale alone

    Not: axes that are not known, or along which the affine differs; a shift of a sum over an unknown number.
    """
    if node.op in {"ReduceL1", "ReduceL2"} and affine.has_shift:
        return _without_shift(node, affine) or alone(Passage(0, affine))
    if node.op not in {"ReduceMean", "ReduceSum"} and np.any(affine.scale < 0):
        return Obstacle(NEGATIVE, f"{node.op} lets no negative scale pass", node)
    shape = input_shape(facts, node)
    axes = reduced_axes(facts, node, shape)
    if shape is None or axes is None:
        return Obstacle(LAYOUT, f"it is not known over which axes {node.op} goes", node)
    kept = bool(node.int_attribute("keepdims", 1))
    if affine.rank != (len(shape) if kept else len(shape) - len(axes)):
        return Obstacle(LAYOUT, f"the shape before {node.op} is not known", node)
    before = affine if kept else affine.unsqueezed(axes)
    if node.op == "ReduceSum" and affine.has_shift:
        sizes = [shape[axis] for axis in axes]
        if not all(isinstance(size, int) for size in sizes):
            return Obstacle(LAYOUT, "a shift over a sum of an unknown number of elements", node)
        count = math.prod(size for size in sizes if isinstance(size, int))
        if not count:
            return Obstacle(SHIFT, "a sum of nothing, which has no shift before it", node)
        before = Affine(before.scale, before.shift / count)
    return _over(node, before, axes) or alone(Passage(0, before))


@register("passing", PASSING, "Pad")
def pad(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything where the value itself is repeated, reflected or cut; a scale alone where zeros are added; what is the
    same everywhere, the constant changed

    Not: another constant than zero, or a shift, where it differs between channels; a padding that is not known, or
    along an axis where the affine differs.
    """
    sizes = _pads(facts, node)
    if sizes is None:
        return Obstacle(LAYOUT, "how much is padded is not known", node)
    fills = node.string_attribute("mode", "constant") == "constant" and any(_may_grow(size) for size in sizes)
    changes = fills and (_pad_value(facts, node) != 0 or affine.has_shift)
    one = uniform(affine) if changes else None
    if changes and one is None:
        what = "another number than zero, or one that is not known" if _pad_value(facts, node) != 0 else "zeros"
        return Obstacle(PADDING, f"it pads with {what}, which the affine would change", node)
    operand = node.input(3)
    axes = tuple(range(affine.rank)) if operand is None else facts.integers(operand)
    normal = None if axes is None else normalised(axes, affine.rank)
    if normal is None or len(sizes) != 2 * len(normal):
        return Obstacle(LAYOUT, "which axes are padded is not known", node)
    grown = [axis for i, axis in enumerate(normal) if sizes[i] != 0 or sizes[i + len(normal)] != 0]
    if one is not None:
        return Passed((Passage(0, one),), keeps=True)
    return _over(node, affine, grown) or alone(Passage(0, affine))


@register("passing", PASSING, "Resize", "Upsample")
def resize(facts: Facts, node: Node, affine: Affine) -> Passed | Obstacle:
    """everything, along axes that keep their size; a scale alone where zeros stand outside of a crop

    Not: an axis that may be resized or cut and along which the affine differs; with tf_crop_and_resize a shift, or
    another number outside.
    """
    crops = node.string_attribute("coordinate_transformation_mode", "") == CROPPING
    if crops and (affine.has_shift or node.float_attribute("extrapolation_value", 0.0) != 0):
        return Obstacle(PADDING, "outside of the data, a crop has a number that would not bear the affine", node)
    for axis in (axis for axis, size in enumerate(affine.shape) if size != 1):
        if not _keeps_axis(facts, node, axis, affine.rank):
            return Obstacle(LAYOUT, f"axis {axis} may be resized", node)
    return alone(Passage(0, affine))


def _keeps_axis(facts: Facts, node: Node, axis: int, rank: int) -> bool:
    """Whether each element comes from its own place along an axis: a size that stays by rounding is none."""
    axes = normalised(node.ints_attribute("axes") or tuple(range(rank)), rank)
    if axes is None or axis not in axes:
        return axes is not None
    if node.string_attribute("coordinate_transformation_mode", "") == "tf_half_pixel_for_nn":
        if node.string_attribute("mode", "nearest") != "nearest":
            return False
        if node.string_attribute("nearest_mode", "round_prefer_floor") not in {"round_prefer_floor", "floor"}:
            return False
    if node.string_attribute("coordinate_transformation_mode", "") == CROPPING:
        region = None if (operand := node.input(1)) is None else facts.constant(operand)
        if not isinstance(region, Constant) or region.dims != (2 * len(axes),):
            return False
        place, ends = axes.index(axis), region.array().astype(np.float64)
        if ends[place] != 0 or ends[place + len(axes)] != 1:
            return False
    scales = _scales(facts, node)
    if scales is None:
        return _keeps_size(facts, node, axis)
    return len(scales) == len(axes) and scales[axes.index(axis)] == 1


def _scales(facts: Facts, node: Node) -> tuple[float | None, ...] | None:
    """The factors by which a value is resized, () if none is known; None where sizes are given instead."""
    if node.op == "Upsample" and node.input(1) is None:
        old = tuple(node.float_attribute(name, 0) for name in ("height_scale", "width_scale"))
        return node.floats_attribute("scales") or (1, 1, *old)
    operand = node.input(2 if node.op == "Resize" and node.scope.opset >= FIRST_OPSET_WITH_A_REGION_TO_RESIZE else 1)
    found = None if operand is None else facts.constant(operand)
    if operand is None or (isinstance(found, Constant) and found.dims == (0,)):
        return None if node.string_attribute("keep_aspect_ratio_policy", "stretch") == "stretch" else ()
    return facts.numbers(operand) or ()


def _keeps_size(facts: Facts, node: Node, axis: int) -> bool:
    """Whether an axis is as large behind a node as before it."""
    value, output = node.input(0), node.output(0)
    sizes = [None if v is None else known_size(facts, v, axis) for v in (value, output)]
    return sizes[0] is not None and sizes[0] == sizes[1]


def _may_grow(size: Dim) -> bool:
    return not isinstance(size, int) or size > 0


def _pads(facts: Facts, node: Node) -> tuple[Dim, ...] | None:
    """By how much each axis grows at its beginning and its end; a symbol, or None, where it may."""
    if node.scope.opset < FIRST_OPSET_WITH_PADS_AS_INPUT:
        return node.ints_attribute("pads") or node.ints_attribute("paddings")
    operand = node.input(1)
    return None if operand is None else facts.elements(operand)


def _pad_value(facts: Facts, node: Node) -> float | None:
    if node.scope.opset < FIRST_OPSET_WITH_PADS_AS_INPUT:
        return node.float_attribute("value", 0.0)
    operand = node.input(2)
    if operand is None:
        return 0.0
    found = facts.constant(operand)
    if not isinstance(found, Constant) or found.array().size != 1:
        return None
    return float(found.array().astype(np.float64).reshape(()))


def reduced_axes(facts: Facts, node: Node, shape: tuple[object, ...] | None) -> tuple[int, ...] | None:
    """The axes over which a reduction goes; None where they are not known."""
    summing = node.op == "ReduceSum"
    since = FIRST_OPSET_WITH_SUMMED_AXES_AS_INPUT if summing else FIRST_OPSET_WITH_REDUCED_AXES_AS_INPUT
    axes = node.ints_attribute("axes")
    if node.scope.opset >= since:
        operand = node.input(1)
        axes = () if operand is None else facts.integers(operand)
        if axes == () and node.int_attribute("noop_with_empty_axes", 0):
            return None
        if axes is None:
            return None
    if shape is None:
        return None
    return normalised(axes, len(shape)) if axes else tuple(range(len(shape)))


def _over(node: Node, affine: Affine, axes: range | tuple[int, ...] | list[int]) -> Obstacle | None:
    """An affine that differs along an axis on which the operator acts."""
    differing = [axis for axis in axes if affine.shape[axis] != 1]
    return Obstacle(LAYOUT, f"{node.op} acts along axis {differing[0]}, where it differs", node) if differing else None


def _without_shift(node: Node, affine: Affine) -> Obstacle | None:
    return Obstacle(SHIFT, f"{node.op} lets no shift pass", node) if affine.has_shift else None


def _not_negative(node: Node, affine: Affine) -> Obstacle | None:
    return Obstacle(NEGATIVE, f"{node.op} lets no negative scale pass", node) if np.any(affine.scale < 0) else None
