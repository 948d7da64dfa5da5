"""The absorbing arithmetic, written once for all operators that are linear in a constant weight.

With the weight seen as (group, out, in, taps...) and the bias as something that broadcasts against the output, an
affine (a, s) after  y = W x + b  gives

    W'[g, o, i, t] = a[g, o] * W[g, o, i, t]          b' = a * b + s

in float64, rounded once into the weight's own type. It is exact in real arithmetic for any padding, stride and
dilation, because what is added for padding (zero) stays zero under W. An operator without a bias of its own gets b'
as an Add behind it. An affine (c, r) of the data before it gives

    W'[g, o, i, t] = W[g, o, i, t] * c[g, i]               b' = b + sum over i, t of W[g, o, i, t] * r[g, i]

where a shift r is exact only if every output sees every tap: what is added for padding is not shifted. And t*x beside a
convolution of the same x, whose output lies as its data do, is one more tap: W'[g, o, o, center] += t[g, o]. A whole
convolution of the same x beside it is as many taps as it has, where each sees what one of these sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from onnx import TensorProto

from bnfold.affine import Affine, Float64
from bnfold.nodes import Node
from bnfold.ops.exact import exact_bias, products
from bnfold.ops.facts import Array, Constant, max_size
from bnfold.ops.home import Furnishing, NewConstant, NewNode
from bnfold.ops.quantized import Dequantized
from bnfold.ops.reasons import AXIS, BLOCKED, NOT_FINITE, OVERFLOW, PRECISION, QUANTIZED, Obstacle
from bnfold.ops.rounding import LARGEST, imprecise, rounded
from bnfold.ops.stretches import scaled, stretches

View = Callable[[Array], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Fed:
    """Where the data of a linear operator come in: which input, on which axis of it the channels lie, and in the view.

    `sees_all`: whether every output sees every tap of the weight, so that a shift of the data is one of the output.
    `factor`: what the product of weight and data is multiplied by (Gemm's alpha).
    """

    data_input: int
    axis: int
    view_axis: int
    sees_all: bool = True
    factor: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A node whose output is linear in a constant weight (a Home).

    `view` gives an array of the weight's dims as (group, out, in, taps...), without copying. The group*out outputs lie
    along `axis` of the output, counted from the end where negative; `rank` is None where the weight does not say it,
    and is then at least `least_rank`. `weight_axis` is the axis of the weight that the outputs are, where it is one.

    `bias` is None where there is none; `bias_input` is None where the operator has no place for one. It acts multiplied
    by `bias_factor`, and a rewritten node drops `dropped` (Gemm's beta) because its bias has taken that in.
    """

    node: Node
    weight: Constant | Dequantized
    weight_input: int
    view: View = field(repr=False)
    rank: int | None
    axis: int
    weight_axis: int | None
    bias: Constant | Dequantized | None = None
    bias_input: int | None = None
    bias_factor: float = 1.0
    bias_is_vector: bool = True
    dropped: frozenset[str] = frozenset()
    least_rank: int = 1
    fed: Fed | None = None
    before: Affine | None = None
    """What acts on the data first, as one of the data."""
    center: int | None = None
    """The tap by which each output sees the data of its own place, where there are as many outputs as data."""
    tap: Float64 | None = field(default=None, repr=False)
    """By what each channel of the data is multiplied and added to the output, besides all else."""
    branches: tuple[Branch, ...] = field(default=(), repr=False)
    """What is merged into it: other operators of the same data, added to its output."""
    channels: int = field(init=False)
    groups: int = field(init=False)
    _asked: list[tuple[Affine, Obstacle | None]] = field(default_factory=list, init=False, repr=False)
    """What was asked last, and the answer: planning asks of what is then applied."""

    def __post_init__(self) -> None:
        """Read the number of outputs off the weight's dims."""
        shape = self.view(np.empty(self.weight.dims, np.bool_)).shape  # nothing is read, and so no memory taken
        object.__setattr__(self, "groups", shape[0])
        object.__setattr__(self, "channels", shape[0] * shape[1])

    def axis_at(self, rank: int) -> int:
        """The axis of the outputs in an output of that rank."""
        return self.axis if self.axis >= 0 else self.axis + rank

    def fed_by(self, before: Affine, index: int) -> Linear | Obstacle:
        """The same operator where an affine acts on its data first; or what keeps it from taking that over."""
        fed = self.fed
        if fed is None or fed.data_input != index or isinstance(self.weight, Dequantized):
            return Obstacle(BLOCKED, f"{self.node.op} takes over no affine of its input {index}", self.node)
        axis = fed.axis if fed.axis >= 0 else fed.axis + before.rank
        wrong_rank = self.rank is not None and before.rank != self.rank
        if wrong_rank or not 0 <= axis < before.rank or not before.varies_only_along(axis):
            return Obstacle(
                AXIS, f"the affine has the shape {before.shape}, the channels lie on axis {axis}", self.node
            )
        if max(before.shape) not in {1, self.inputs}:
            detail = f"{max(before.shape)} channels are to settle in {self.inputs} inputs"
            return Obstacle(AXIS, detail, self.node)
        if before.has_shift and not fed.sees_all:
            return Obstacle(BLOCKED, f"{self.node.op} pads with zeros, which a shift before it would change", self.node)
        if before.has_shift and isinstance(self.bias, Dequantized):
            return Obstacle(QUANTIZED, "the bias is stored as integers, which take no shift", self.node)
        return replace(self, before=before)

    @property
    def inputs(self) -> int:
        """How many channels the data have."""
        if self.fed is None:
            return 0
        shape = self.view(np.empty(self.weight.dims, np.bool_)).shape  # nothing is read, and so no memory taken
        return int(shape[0] * shape[self.fed.view_axis])

    def output_rank(self, before: Affine) -> int:
        """The rank of the output, given an affine of the data."""
        return self.rank or max(before.rank, len(self.weight.dims))

    @property
    def does_more(self) -> bool:
        """Whether its weight becomes something else than itself times a factor for each output."""
        return self.before is not None or self.tap is not None or bool(self.branches)

    @property
    def has_shift_before(self) -> bool:
        """Whether a shift of the data becomes one of the output."""
        return self.before is not None and self.before.has_shift

    def obstacle_to(self, after: Affine) -> Obstacle | None:
        """The axes, then the numbers."""
        if not self._asked or self._asked[0][0] is not after:
            obstacle = _axis_obstacle(self, after) or _weight_obstacle(self, after) or _bias_obstacle(self, after)
            self._asked[:] = [(after, obstacle)]
        return self._asked[0][1]

    def needs_add(self, after: Affine) -> bool:
        """A shift, and no place for it; one of the data may come to nothing."""
        if self.bias_input is not None:
            return False
        return after.has_shift or (self.has_shift_before and exact_bias(self, after) is not None)

    def is_idle(self, after: Affine) -> bool:
        """Never: it does more than scale and shift, or is planned itself."""
        del after
        return False

    def furnishing(self, after: Affine) -> Furnishing:
        """The new weight, computed when it is written, and the new bias."""
        exact = exact_bias(self, after)
        weight, bias = _new_weight(self, after), _new_bias(self, after, exact)
        parts = [part for part in (weight, bias) if part is not None]
        return Furnishing(
            constants=tuple(part for part in parts if isinstance(part, NewConstant)),
            nodes=tuple(part for part in parts if isinstance(part, NewNode)),
            dropped=frozenset() if exact is None else self.dropped,
            added=_shift_behind(self, exact, after.rank) if self.needs_add(after) and exact is not None else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """An operator of the same data and an affine behind it, added to the output of another (`sign`).

    `places` are the taps of that other one by which it sees what this one sees by its own, in order.
    """

    linear: Linear
    after: Affine
    places: tuple[int, ...]
    sign: float


def absorbed_weight(linear: Linear, weight: Constant, after: Affine) -> Array:
    """W' = a*W in the weight's own type and shape, rounded once; requires that no obstacle stands."""
    folded = np.empty(weight.dims, weight.dtype)
    target = linear.view(folded)
    for group, outputs, exact in products(linear, weight, after):
        target[group, outputs] = rounded(exact, weight.dtype)
    return folded


def absorbed_parts(linear: Linear, weight: Constant, after: Affine) -> Iterator[Array]:
    """The same in the order of the file, about STRETCH elements at a time: each is read, scaled, rounded and given on.

    A weight that takes over something of its data as well, or whose outputs are no axis of it, comes in one part.
    """
    axis = linear.weight_axis
    if axis is None or linear.does_more:
        yield absorbed_weight(linear, weight, after)
        return
    scale, _ = after.along(linear.axis_at(after.rank), linear.channels)
    for start, shape, channels in stretches(weight.dims, axis):
        source = weight.stretch(start, math.prod(shape)).reshape(shape)
        yield scaled(source, scale[channels, np.newaxis], weight.dtype)


def absorbed_bias(linear: Linear, exact: Float64) -> Array:
    """b' = a*b + s in the weight's type."""
    return rounded(exact, linear.weight.dtype)


def _new_weight(linear: Linear, after: Affine) -> NewConstant | NewNode:
    weight = linear.weight
    if isinstance(weight, Dequantized):
        return weight.copy(linear.weight_input, *_factors(linear, linear.weight_axis, after))
    header = TensorProto(data_type=weight.data_type, dims=weight.dims)
    content = partial(absorbed_weight, linear, weight, after)
    parts = partial(absorbed_parts, linear, weight, after)
    name = f"{weight.value.name}_folded"
    return NewConstant(linear.weight_input, weight, name, header, content, replaces=True, parts=parts)


def _new_bias(linear: Linear, after: Affine, exact: Float64 | None) -> NewConstant | NewNode | None:
    if linear.bias_input is None:
        return None
    if isinstance(linear.bias, Dequantized):
        return linear.bias.copy(linear.bias_input, *_factors(linear, 0, after))
    if exact is None:
        return None
    array = absorbed_bias(linear, exact)
    if linear.bias is not None:
        return NewConstant.now(linear.bias_input, linear.bias, f"{linear.bias.value.name}_folded", array, replaces=True)
    return NewConstant.now(linear.bias_input, _anchor(linear), _bias_name(linear), array, replaces=False)


def _shift_behind(linear: Linear, exact: Float64, rank: int) -> NewConstant:
    """The constant of an Add, which must broadcast along the axis of the outputs."""
    shape = (-1, *[1] * (rank - 1 - linear.axis_at(rank)))
    array = absorbed_bias(linear, exact).reshape(shape)
    return NewConstant.now(1, _anchor(linear), _bias_name(linear), array, replaces=False)


def _anchor(linear: Linear) -> Constant:
    """The constant beside which a new bias comes to lie, and whose type it has."""
    return linear.weight.scale if isinstance(linear.weight, Dequantized) else linear.weight


def _bias_name(linear: Linear) -> str:
    name = linear.weight.value.name
    return f"{name.removesuffix('weight')}bias" if name.endswith("weight") else f"{name}_bias"


def _factors(linear: Linear, axis: int | None, after: Affine) -> tuple[Float64, int]:
    """One factor per index of an operand's axis; one in all where the outputs are no axis of it."""
    scale, _ = after.along(linear.axis_at(after.rank), linear.channels)
    return (scale[:1], 0) if axis is None else (scale, axis)


def _axis_obstacle(linear: Linear, after: Affine) -> Obstacle | None:
    axis = linear.axis_at(after.rank)
    right_rank = after.rank >= linear.least_rank if linear.rank is None else after.rank == linear.rank
    if not right_rank or not 0 <= axis < after.rank or not after.varies_only_along(axis):
        counted = f"axis {axis} of {after.rank}" if linear.rank is None else f"axis {axis} of {linear.rank}"
        detail = f"the affine has the shape {after.shape}, the outputs lie along {counted}"
        return Obstacle(AXIS, detail, linear.node)
    if max(after.shape) not in {1, linear.channels}:
        detail = f"{max(after.shape)} channels are to settle in {linear.channels} outputs"
        return Obstacle(AXIS, detail, linear.node)
    return None


def _weight_obstacle(linear: Linear, after: Affine) -> Obstacle | None:
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
    scale, _ = after.along(linear.axis_at(after.rank), linear.channels)
    if axis is None and np.any(scale != scale[0]):
        return Obstacle(QUANTIZED, "its groups share one scale per output", linear.node)
    return operand.obstacle_to(*_factors(linear, axis, after), linear.node)


def _bias_obstacle(linear: Linear, after: Affine) -> Obstacle | None:
    if isinstance(linear.bias, Dequantized):
        if after.has_shift:
            return Obstacle(QUANTIZED, "the bias is stored as integers, which take no shift", linear.node)
        return _scale_obstacle(linear, linear.bias, 0, after)
    exact, dtype = exact_bias(linear, after), linear.weight.dtype
    if exact is None or max_size(exact) <= LARGEST[dtype] or np.all(np.isfinite(rounded(exact, dtype))):
        return None
    if linear.bias is not None and not np.all(np.isfinite(linear.bias.array())):
        return Obstacle(NOT_FINITE, "the bias holds NaN or infinity", linear.node)
    size = float(np.max(np.abs(exact)))
    return Obstacle(OVERFLOW, f"the bias, up to {size:.3g} in size, would be too large for {dtype.name}", linear.node)
