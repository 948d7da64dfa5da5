"""What keeps a linear operator from taking an affine over: its axes, and numbers that its type does not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bnfold.affine import Affine
from bnfold.ops.exact import factors_of, products
from bnfold.ops.facts import Constant, max_size
from bnfold.ops.quantized import Dequantized
from bnfold.ops.reasons import AXIS, BLOCKED, NOT_FINITE, OVERFLOW, PADDING, PRECISION, QUANTIZED, Obstacle
from bnfold.ops.rounding import LARGEST, imprecise, rounded
from bnfold.ops.windows import size_unknown

if TYPE_CHECKING:
    from bnfold.ops.absorb import Linear


def axis_obstacle(linear: Linear, after: Affine) -> Obstacle | None:
    """Whether an affine of the output varies only as the outputs lie in it, and has as many numbers."""
    axes = linear.axes_at(after.rank)
    right_rank = after.rank >= linear.least_rank if linear.rank is None else after.rank == linear.rank
    if not axes and right_rank and max(after.shape, default=1) > 1:
        return Obstacle(AXIS, "no constant operand alone owns a label of the output", linear.node)
    if not right_rank or not all(0 <= axis < after.rank for axis in axes) or not after.varies_only_along(axes):
        along = ", ".join(map(str, axes))
        counted = f"axis {along} of {after.rank if linear.rank is None else linear.rank}"
        detail = f"the affine has the shape {after.shape}, the outputs lie along {counted}"
        return Obstacle(AXIS, detail, linear.node)
    for axis, size in zip(axes, linear.sizes, strict=True):
        if after.shape[axis] not in {1, size}:
            detail = f"{after.shape[axis]} channels are to settle in {size} outputs"
            return Obstacle(AXIS, detail, linear.node)
    return None


def fed_obstacle(linear: Linear, before: Affine, index: int) -> Obstacle | None:
    """What keeps an operator from taking over an affine of its data, numbers apart."""
    fed, node = linear.fed, linear.node
    if isinstance(linear.weight, Dequantized):
        return Obstacle(QUANTIZED, "the weight is stored as integers, which take nothing from before", node)
    if fed is None or fed.data_input != index:
        return Obstacle(BLOCKED, f"{node.op} takes over no affine of its input {index}", node)
    axes = fed.axes_at(before.rank)
    stated = linear.rank if fed.rank is None else fed.rank
    wrong_rank = before.rank < fed.least_rank if stated is None else before.rank != stated
    if wrong_rank or not all(0 <= axis < before.rank for axis in axes) or not before.varies_only_along(axes):
        along = ", ".join(map(str, axes))
        detail = f"the affine has the shape {before.shape}, the channels lie on axis {along}"
        return Obstacle(AXIS, detail, node)
    for axis, size in zip(axes, linear.input_sizes, strict=True):
        if before.shape[axis] not in {1, size}:
            return Obstacle(AXIS, f"{before.shape[axis]} channels are to settle in {size} inputs", node)
    if before.has_shift and not fed.sees_all:
        if fed.why or linear.rank is None:
            return Obstacle(AXIS, fed.why or "a shift would be another one for each matrix of the constant", node)
        if fed.may_see_all:
            return size_unknown(node)
        how = "strides, or keeps what hangs over" if node.op == "ConvTranspose" else "pads"
        detail = f"not every output of {node.op} sees every tap (it {how}), as a shift before it would need"
        return Obstacle(PADDING, detail, node)
    if before.has_shift and isinstance(linear.bias, Dequantized):
        return Obstacle(QUANTIZED, "the bias is stored as integers, which take no shift", node)
    return None


def weight_obstacle(linear: Linear, after: Affine) -> Obstacle | None:
    """The first output channel whose weights are lost in rounding: not finite, or imprecise in a 16-bit type."""
    weight = linear.weight
    if isinstance(weight, Dequantized):
        return _scale_obstacle(linear, weight, linear.weight_axis, after)
    if _surely_fits(linear, weight, after):
        return None
    for group, outputs, exact in products(linear, weight, after):
        new = rounded(exact, weight.dtype)
        each = tuple(range(1, exact.ndim))
        if np.all(np.isfinite(new)):
            bad = imprecise(exact, new) if weight.dtype.itemsize == 2 else np.zeros(1, np.bool_)
            reason, how = PRECISION, "too small for"
        else:
            bad = ~np.all(np.isfinite(new), axis=each)
            finite = bool(np.all(np.isfinite(linear.view(weight.array())[group, outputs])))
            reason, how = (OVERFLOW, "too large for") if finite else (NOT_FINITE, "not finite in")
        if np.any(bad):
            row = int(np.argmax(bad))
            channel = group * (linear.channels // linear.groups) + outputs.start + row
            size = float(np.max(np.abs(exact[row])))
            kind = weight.dtype.name
            detail = f"the weights of output channel {channel}, up to {size:.3g} in size, would be {how} {kind}"
            return Obstacle(reason, detail, linear.node)
    return None


def _surely_fits(linear: Linear, weight: Constant, after: Affine) -> bool:
    """Whether even the largest weight times the largest factor is finite: products and rounding keep the order.

    That decides for the wide types; in a narrow one weights may also vanish.
    """
    if weight.dtype.itemsize == 2 or linear.does_more:
        return False
    most = weight.largest() * max_size(after.scale)
    return most <= float(LARGEST[weight.dtype]) or bool(np.isfinite(rounded(np.asarray(most), weight.dtype)))


def _scale_obstacle(linear: Linear, operand: Dequantized, axis: int | None, after: Affine) -> Obstacle | None:
    """What keeps a quantised operand from being scaled per output, along `axis` of it."""
    scale, _ = linear.outputs_of(after)
    if axis is None and np.any(scale != scale[0]):
        return Obstacle(QUANTIZED, "its groups share one scale per output", linear.node)
    return operand.obstacle_to(*factors_of(linear, axis, after), linear.node)


def bias_obstacle(linear: Linear, after: Affine) -> Obstacle | None:
    """A bias that its type does not hold, or that is stored as integers and would be shifted."""
    if isinstance(linear.bias, Dequantized):
        if after.has_shift:
            return Obstacle(QUANTIZED, "the bias is stored as integers, which take no shift", linear.node)
        return _scale_obstacle(linear, linear.bias, 0, after)
    exact, dtype = linear.bias_behind(after), linear.weight.dtype
    if exact is None or max_size(exact) <= LARGEST[dtype] or np.all(np.isfinite(rounded(exact, dtype))):
        return None
    if linear.bias is not None and not np.all(np.isfinite(linear.bias.array())):
        return Obstacle(NOT_FINITE, "the bias holds NaN or infinity", linear.node)
    size = float(np.max(np.abs(exact)))
    return Obstacle(OVERFLOW, f"the bias, up to {size:.3g} in size, would be too large for {dtype.name}", linear.node)
