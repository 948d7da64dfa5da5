"""What the constants of a linear operator become, exactly: in float64 and not rounded yet (absorb.py has the formulas).

A weight is computed in pieces, so that it is never held in float64 as a whole. The outputs, and the channels of the
data, may lie along several axes (an Einsum's labels): they are counted as one, the last axis fastest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bnfold.affine import Affine, Float64
from bnfold.ops.facts import Array, Constant
from bnfold.ops.quantized import Dequantized

if TYPE_CHECKING:
    from bnfold.ops.absorb import Linear

BLOCK = 1 << 18
"""Elements computed at a time: 2 MB in float64."""


def factors_of(linear: Linear, axis: int | None, after: Affine) -> tuple[Float64, int]:
    """One factor per index of an operand's axis; one in all where the outputs are no axis of it."""
    scale, _ = linear.outputs_of(after)
    return (scale[:1], 0) if axis is None else (scale, axis)


def products(linear: Linear, weight: Constant, after: Affine) -> Iterator[tuple[int, slice, Float64]]:
    """(group, slice of its outputs, a*W exactly there), in pieces of about BLOCK elements."""
    rows = _Rows.of(linear, weight, after)
    for group, piece in rows.source.pieces():
        with np.errstate(over="ignore", invalid="ignore"):
            yield group, piece, rows.at(group, piece)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The rows of a weight's view as they are in the model: `shape` is (groups, outputs, in, taps...).

    `in_order`: whether they lie in the file one behind the other; then only those that are asked for are read, and else
    all of them are held.
    """

    weight: Constant
    shape: tuple[int, ...]
    in_order: bool
    _whole: Array | None

    @classmethod
    def of(cls, linear: Linear, weight: Constant) -> Source:
        """Of a linear operator's weight."""
        plain = np.empty(weight.dims, np.bool_)  # nothing is written to it, so that it takes no memory
        seen = linear.view(plain)
        in_order = linear.back is None and seen.flags.c_contiguous and np.may_share_memory(seen, plain)
        return cls(weight, seen.shape, in_order, None if in_order else linear.view(weight.array()))

    def pieces(self) -> Iterator[tuple[int, slice]]:
        """Each group's outputs, cut so that a piece has about BLOCK elements; in the order of the file if they are."""
        groups, outputs, *rest = self.shape
        step = max(1, BLOCK // max(1, math.prod(rest)))
        for group in range(groups):
            yield from ((group, slice(first, first + step)) for first in range(0, outputs, step))

    def at(self, group: int, piece: slice) -> Array:
        """Some outputs of a group."""
        if self._whole is not None:
            return self._whole[group, piece]
        _, outputs, *rest = self.shape
        first, end, _ = piece.indices(outputs)
        row = math.prod(rest)
        return self.weight.stretch((group * outputs + first) * row, (end - first) * row).reshape(end - first, *rest)


def sizes_of_rows(linear: Linear, after: Affine) -> Float64:
    """For each output, the root of the sum of the squares of its weights, with all that they have taken over."""
    if isinstance(linear.weight, Dequantized):
        raise TypeError(f"the weight of {linear.node.site} is stored as integers")
    rows = (
        np.sum(exact**2, axis=tuple(range(1, exact.ndim))) for _, _, exact in products(linear, linear.weight, after)
    )
    return np.asarray(np.sqrt(np.concatenate(list(rows))))


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The rows of a new weight, exactly: those of its own, and those of what is merged into it."""

    linear: Linear
    source: Source
    factors: Float64
    of_inputs: Float64 | None
    branches: tuple[_Rows, ...]

    @classmethod
    def of(cls, linear: Linear, weight: Constant, after: Affine) -> _Rows:
        source = Source.of(linear, weight)
        groups, outputs, *rest = source.shape
        scale, _ = linear.outputs_of(after)
        fed = of_inputs(linear, len(source.shape))
        branches = (
            cls.of(branch.linear, branch.linear.weight, branch.after)
            for branch in linear.branches
            if isinstance(branch.linear.weight, Constant)
        )
        factors = scale.reshape(groups, outputs, *[1] * len(rest))
        return cls(linear, source, factors, None if fed is None else fed[0], tuple(branches))

    def at(self, group: int, piece: slice) -> Float64:
        """Some outputs of a group."""
        linear, outputs = self.linear, self.source.shape[1]
        exact = np.multiply(self.source.at(group, piece), self.factors[group, piece], dtype=np.float64)
        if self.of_inputs is not None:
            exact *= self.of_inputs[group]
        if linear.tap is not None and linear.center is not None:
            own = np.arange(outputs)[piece]
            taps = linear.tap.reshape(self.source.shape[0], outputs)
            exact[np.arange(len(own)), own, linear.center] += taps[group, piece]
        for branch, rows in zip(linear.branches, self.branches, strict=True):
            exact[:, :, branch.places] += branch.sign * rows.at(group, piece)
        return exact


def of_inputs(linear: Linear, rank: int) -> tuple[Float64, Float64] | None:
    """The scale and shift of the data, by group, as they multiply the weight's view without its first axis."""
    if linear.before is None or linear.fed is None:
        return None
    shape = [1] * rank
    shape[0], shape[linear.fed.view_axis] = linear.groups, linear.inputs // linear.groups
    scale, shift = linear.before.along(linear.fed.axes_at(linear.before.rank), linear.input_sizes)
    return np.asarray(scale.reshape(shape)), np.asarray(shift.reshape(shape))


def of_shift(linear: Linear) -> Float64 | None:
    """What a shift of the data adds to each output: the sum of its weights times the shift."""
    weight = linear.weight
    if not linear.has_shift_before or isinstance(weight, Dequantized):
        return None
    source = Source.of(linear, weight)
    parts = of_inputs(linear, len(source.shape))
    if parts is None:
        return None
    added = np.empty((linear.groups, linear.channels // linear.groups))
    with np.errstate(over="ignore", invalid="ignore"):
        for group, piece in source.pieces():
            for output, row in enumerate(source.at(group, piece), start=piece.start):
                added[group, output] = np.sum(row.astype(np.float64) * parts[1][group][0])
    return added.reshape(-1) * (1.0 if linear.fed is None else linear.fed.factor)


@np.errstate(over="ignore", invalid="ignore")
def exact_bias(linear: Linear, after: Affine) -> Float64 | None:
    """a*b + s in float64 and in the shape that the operator wants, with all branches; None for nothing at all."""
    own = _own_bias(linear, after)
    for branch in linear.branches:
        other = exact_bias(branch.linear, branch.after)
        if other is not None:
            own = branch.sign * other if own is None else own + branch.sign * other
    return own


def _own_bias(linear: Linear, after: Affine) -> Float64 | None:
    if isinstance(linear.bias, Dequantized):
        return None
    added = of_shift(linear)
    if linear.placed is not None:
        return _placed(linear, added)
    scale, shift = linear.outputs_of(after)
    if added is not None:
        shift = scale * added + shift
    axes = linear.axes_at(after.rank)
    if linear.bias is None:
        if not np.count_nonzero(shift):
            return None
        return shift if linear.bias_is_vector or axes == (after.rank - 1,) else shift[:, np.newaxis]
    original = linear.bias.array().astype(np.float64) * linear.bias_factor
    if linear.bias_is_vector:
        return _shifted(original * scale, shift)
    shape = [1] * after.rank
    shape[axes[0]] = linear.channels
    exact = _shifted(original * after.scale, after.shift if added is None else shift.reshape(shape))
    return exact[0] if original.ndim < exact.ndim and exact.shape[0] == 1 else exact


def _placed(linear: Linear, added: Float64 | None) -> Float64 | None:
    """A bias of which the outputs are a part; as it was, which is None, where nothing is added."""
    if added is None or linear.placed is None or not np.any(added):
        return None
    whole = linear.placed(added)
    if linear.bias is None or isinstance(linear.bias, Dequantized):
        return whole
    return _shifted(linear.bias.array().astype(np.float64), whole)


def shift_behind(linear: Linear, exact: Float64, after: Affine) -> Float64:
    """The constant of an Add behind an operator, which broadcasts along the axes of its outputs.

    An axis of several along which nothing varies stays 1.
    """
    axes = linear.axes_at(after.rank)
    shape = [1] * (after.rank - min(axes, default=after.rank))
    for axis, size in zip(axes, linear.sizes, strict=True):
        shape[axis - after.rank] = size
    whole = exact.reshape(shape)
    if len(axes) > 1 and not linear.has_shift_before:
        for axis in axes:
            whole = whole if after.shape[axis] > 1 else whole.take([0], axis - after.rank)
    return np.asarray(whole)


def _shifted(product: Float64, shift: Float64) -> Float64:
    """Their sum; where there is no shift, the product with its own sign, also that of a negative zero."""
    return np.asarray(np.where(shift == 0, product, product + shift))
