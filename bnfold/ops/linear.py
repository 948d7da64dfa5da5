"""Operators that ABSORB an affine: one function each, node -> Linear, a view of its weight and bias.

With the weight seen as (group, out, in, taps) and the bias as something that broadcasts against the output, the
absorbing arithmetic is the same for all of them. An affine (a, s) after  y = W x + b  gives

    W'[g, o, i, t] = a[g, o] * W[g, o, i, t]          b' = a * b + s

in float64, rounded once into the weight's own type. It is exact in real arithmetic for any padding, stride and
dilation, because what is added for padding (zero) stays zero under W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine, Float64
from bnfold.nodes import Node
from bnfold.ops.facts import Array, Constant, Facts
from bnfold.ops.reasons import (
    AXIS,
    BIAS,
    BLOCKED,
    NOT_CONSTANT,
    NOT_FINITE,
    OVERFLOW,
    PRECISION,
    TYPE,
    Obstacle,
)
from bnfold.ops.table import register

FOLDED_TYPES = tuple(np.dtype(t) for t in (np.float16, np.float32, np.float64))
BLOCK = 1 << 18
"""Elements computed at a time: 2 MB in float64."""

MOST_ROUNDING = 4.0
"""Units of rounding, as a root mean square over a channel, beyond which a narrow type has lost the weight."""


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A node whose output is linear in a constant weight.

    `view` gives an array of the weight's dims as (group, out, in, taps), without copying. The group*out outputs lie
    along `axis` of an output of `rank` dimensions; `channels` counts them, in `groups`. `bias` is None where there is
    none; it acts multiplied by `bias_factor`, and a rewritten node drops `dropped` (Gemm's beta) because its bias has
    taken that in.
    """

    node: Node
    weight: Constant
    weight_input: int
    view: Callable[[Array], Array] = field(repr=False)
    rank: int
    axis: int
    bias: Constant | None
    bias_input: int = 2
    bias_factor: float = 1.0
    bias_is_vector: bool = True
    dropped: frozenset[str] = frozenset()
    channels: int = field(init=False)
    groups: int = field(init=False)

    def __post_init__(self) -> None:
        """Read the number of outputs off the weight's dims."""
        shape = self.view(np.broadcast_to(np.zeros((), np.float32), self.weight.dims)).shape
        object.__setattr__(self, "groups", shape[0])
        object.__setattr__(self, "channels", shape[0] * shape[1])


LINEAR: dict[str, Callable[[Facts, Node], Linear | Obstacle]] = {}


@register("linear", LINEAR, "Conv")
def conv(facts: Facts, node: Node) -> Linear | Obstacle:
    """constant weight; 1, 2, 3 or more dimensions, any group, pads, dilation, stride, auto_pad; bias or none"""
    group = node.int_attribute("group", 1)

    def view(weight: Array) -> Array:
        outputs, inputs, *kernel = weight.shape
        return weight.reshape(group, outputs // group, inputs, _product(kernel))

    return _convolution(facts, node, view, out_axis=0, group=group)


@register("linear", LINEAR, "ConvTranspose")
def conv_transpose(facts: Facts, node: Node) -> Linear | Obstacle:
    """constant weight; any group, pads, dilation, stride, output padding; bias or none"""
    group = node.int_attribute("group", 1)

    def view(weight: Array) -> Array:
        inputs, outputs, *kernel = weight.shape
        return weight.reshape(group, inputs // group, outputs, _product(kernel)).swapaxes(1, 2)

    return _convolution(facts, node, view, out_axis=0, group=group)


@register("linear", LINEAR, "Gemm")
def gemm(facts: Facts, node: Node) -> Linear | Obstacle:
    """constant B (or constant A, whose rows then own the first axis); any alpha, beta, transA, transB, C or none"""
    factors = node.float_attribute("alpha", 1.0), node.float_attribute("beta", 1.0)
    if not np.all(np.isfinite(factors)):
        return Obstacle(NOT_FINITE, f"alpha is {factors[0]}, beta is {factors[1]}", node)
    operands = [_weight(facts, node, index, rank=2) for index in (0, 1)]
    right = not isinstance(operands[1], Obstacle)
    weight = operands[1] if right else operands[0]
    if isinstance(weight, Obstacle):
        return operands[1] if isinstance(operands[1], Obstacle) else weight
    bias = _bias(facts, node)
    if isinstance(bias, Obstacle):
        return bias
    outputs_first = bool(node.int_attribute("transB", 0)) if right else not node.int_attribute("transA", 0)

    def view(array: Array) -> Array:
        rows = array if outputs_first else array.T
        return rows[np.newaxis, :, :, np.newaxis]

    linear = Linear(
        node,
        weight,
        weight_input=1 if right else 0,
        view=view,
        rank=2,
        axis=1 if right else 0,
        bias=bias,
        bias_factor=factors[1],
        bias_is_vector=False,
        dropped=frozenset({"beta"}),
    )
    return _with_fitting_bias(linear)


def linear_of(facts: Facts, node: Node) -> Linear | Obstacle | None:
    """How a node absorbs an affine, or what keeps it from doing so; None for an operator that never does."""
    if node.op not in LINEAR:
        return None
    return facts.once(node, LINEAR[node.op])


def obstacle_to(linear: Linear, after: Affine) -> Obstacle | None:
    """What keeps a home from taking over an affine of its output: the axes, or a number."""
    if after.rank != linear.rank or not after.varies_only_along(linear.axis):
        detail = f"the affine has the shape {after.shape}, the outputs lie along axis {linear.axis} of {linear.rank}"
        return Obstacle(AXIS, detail, linear.node)
    if max(after.shape) not in {1, linear.channels}:
        detail = f"{max(after.shape)} channels are to settle in {linear.channels} outputs"
        return Obstacle(AXIS, detail, linear.node)
    return _weight_obstacle(linear, after) or _bias_obstacle(linear, after)


def absorbed_weight(linear: Linear, after: Affine) -> Array:
    """W' = a*W in the weight's own type and shape, rounded once; requires that no obstacle_to stands."""
    folded = np.empty(linear.weight.dims, linear.weight.array().dtype)
    target = linear.view(folded)
    for group, outputs, exact in _products(linear, after):
        target[group, outputs] = exact
    return folded


def absorbed_bias(linear: Linear, after: Affine) -> Array | None:
    """b' = a*b + s in the weight's type; None where there was no bias and no shift is to be added."""
    exact = _exact_bias(linear, after)
    return None if exact is None else exact.astype(linear.weight.dtype)


def _products(linear: Linear, after: Affine) -> Iterator[tuple[int, slice, Float64]]:
    """(group, slice of its outputs, a*W exactly there), in pieces of about BLOCK elements."""
    source = linear.view(linear.weight.array())
    groups, outputs, inputs, taps = source.shape
    scale, _ = after.along(linear.axis, groups * outputs)
    factors = scale.reshape(groups, outputs, 1, 1)
    step = max(1, BLOCK // (inputs * taps))
    for group in range(groups):
        for first in range(0, outputs, step):
            piece = slice(first, first + step)
            with np.errstate(over="ignore", invalid="ignore"):
                exact = np.multiply(source[group, piece], factors[group, piece], dtype=np.float64)
            yield group, piece, exact


@np.errstate(over="ignore", invalid="ignore")
def _exact_bias(linear: Linear, after: Affine) -> Float64 | None:
    """a*b + s in float64 and in the shape that the operator wants."""
    scale, shift = after.along(linear.axis, linear.channels)
    if linear.bias is None:
        if not after.has_shift:
            return None
        return shift if linear.bias_is_vector or linear.axis == linear.rank - 1 else shift[:, np.newaxis]
    original = linear.bias.array().astype(np.float64) * linear.bias_factor
    if linear.bias_is_vector:
        return np.asarray(original * scale + shift)
    exact = np.asarray(original * after.scale + after.shift)
    return exact[0] if original.ndim < exact.ndim and exact.shape[0] == 1 else exact


def _weight_obstacle(linear: Linear, after: Affine) -> Obstacle | None:
    """The first output channel whose weights are lost in rounding: not finite, or imprecise in a 16-bit type."""
    dtype = linear.weight.dtype
    for group, outputs, exact in _products(linear, after):
        rounded = _rounded(exact, dtype)
        if np.all(np.isfinite(rounded)):
            bad = _imprecise(exact, rounded) if dtype.itemsize == 2 else np.zeros(1, np.bool_)
            reason, how = PRECISION, "too small for"
        else:
            bad = ~np.all(np.isfinite(rounded), axis=(1, 2))
            finite = bool(np.all(np.isfinite(linear.view(linear.weight.array())[group, outputs])))
            reason, how = (OVERFLOW, "too large for") if finite else (NOT_FINITE, "not finite in")
        if np.any(bad):
            row = int(np.argmax(bad))
            channel = group * (linear.channels // linear.groups) + outputs.start + row
            size = float(np.max(np.abs(exact[row])))
            detail = f"the weights of output channel {channel}, up to {size:.3g} in size, would be {how} {dtype.name}"
            return Obstacle(reason, detail, linear.node)
    return None


def _bias_obstacle(linear: Linear, after: Affine) -> Obstacle | None:
    exact = _exact_bias(linear, after)
    if exact is None or np.all(np.isfinite(_rounded(exact, linear.weight.dtype))):
        return None
    if linear.bias is not None and not np.all(np.isfinite(linear.bias.array())):
        return Obstacle(NOT_FINITE, "the bias holds NaN or infinity", linear.node)
    size = float(np.max(np.abs(exact)))
    detail = f"the bias, up to {size:.3g} in size, would be too large for {linear.weight.dtype.name}"
    return Obstacle(OVERFLOW, detail, linear.node)


def _rounded(exact: Float64, dtype: np.dtype[np.generic]) -> NDArray[np.floating]:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(exact.astype(dtype), dtype=dtype)


def _imprecise(exact: Float64, rounded: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Per output: a nonzero product became zero, or the rounding is beyond MOST_ROUNDING units."""
    unit = float(np.finfo(rounded.dtype).eps) / 2
    axes = tuple(range(1, exact.ndim))
    error = np.sqrt(np.mean((rounded - exact) ** 2, axis=axes))
    size = np.sqrt(np.mean(exact**2, axis=axes))
    vanished = np.any((exact != 0) & (rounded == 0), axis=axes)
    return np.asarray(vanished | (error > MOST_ROUNDING * unit * size))


def _convolution(
    facts: Facts, node: Node, view: Callable[[Array], Array], *, out_axis: int, group: int
) -> Linear | Obstacle:
    weight = _weight(facts, node, 1, rank=None)
    if isinstance(weight, Obstacle):
        return weight
    if group < 1 or weight.dims[out_axis] % group:
        return Obstacle(BLOCKED, f"group {group} does not divide the weight's {weight.dims}", node)
    bias = _bias(facts, node)
    if isinstance(bias, Obstacle):
        return bias
    return _with_fitting_bias(Linear(node, weight, 1, view, rank=len(weight.dims), axis=1, bias=bias))


def _weight(facts: Facts, node: Node, index: int, *, rank: int | None) -> Constant | Obstacle:
    """The constant weight of a node, of a type that can be folded."""
    value = node.input(index)
    if value is None or node.refers_to_attributes:
        return Obstacle(NOT_CONSTANT, f"input {index} is missing, or an attribute is a function's parameter", node)
    found = facts.constant(value)
    if isinstance(found, Obstacle):
        return Obstacle(found.reason, f"weight: {found.detail}", node)
    if len(found.dims) != rank and (rank is not None or len(found.dims) < 3):
        return Obstacle(BLOCKED, f"the weight has {len(found.dims)} dimensions", node)
    if 0 in found.dims:
        return Obstacle(BLOCKED, "the weight is empty", node)
    if found.dtype not in FOLDED_TYPES:
        return Obstacle(TYPE, f"the weight {value.name!r} is of no type that is folded", node)
    return found


def _bias(facts: Facts, node: Node) -> Constant | Obstacle | None:
    value = node.input(2)
    if value is None:
        return None
    found = facts.constant(value)
    if isinstance(found, Obstacle):
        return Obstacle(found.reason, f"bias: {found.detail}", node)
    if found.dtype not in FOLDED_TYPES:
        return Obstacle(TYPE, f"the bias {value.name!r} is of no type that is folded", node)
    return found


def _with_fitting_bias(linear: Linear) -> Linear | Obstacle:
    """Refuse a bias that the operator itself would not accept."""
    if linear.bias is None:
        return linear
    dims, channels = linear.bias.dims, linear.channels
    if linear.bias_is_vector:
        fits = dims == (channels,)
    else:
        along = dims[linear.axis - linear.rank] if len(dims) >= linear.rank - linear.axis else 1
        fits = len(dims) <= linear.rank and along in {1, channels} and 0 not in dims
    if not fits:
        return Obstacle(BIAS, f"a bias of shape {dims} for {channels} outputs", linear.node)
    return linear


def _product(dims: list[int]) -> int:
    return int(np.prod(dims, dtype=np.int64))
