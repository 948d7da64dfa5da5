"""Absorbing, written once for all operators that are linear in a constant weight (the numbers: ops/exact.py).

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
from bnfold.ops.exact import Source, exact_bias, factors_of, products, shift_behind
from bnfold.ops.facts import Array, Constant
from bnfold.ops.home import Furnishing, NewConstant, NewNode
from bnfold.ops.limits import axis_obstacle, bias_obstacle, fed_obstacle, weight_obstacle
from bnfold.ops.quantized import Dequantized
from bnfold.ops.reasons import Obstacle
from bnfold.ops.rounding import rounded
from bnfold.ops.stretches import scaled, stretches

View = Callable[[Array], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Fed:
    """Where the data of a linear operator come in: which input, on which axes of it the channels lie, and in the view.

    `sees_all`: whether every output sees every tap of the weight, so that a shift of the data is one of the output, and
    `why` not; `may_see_all`: that depends on a size that is not known. `factor`: what the product of weight and data is
    multiplied by (Gemm's alpha). `sizes` are those of the axes, where they are several; `rank` is that of the data
    where it is stated, and not the output's, `least_rank` the least that it may be; `grows` is by how much the output's
    is larger, where that is known.
    """

    data_input: int
    axes: tuple[int, ...]
    view_axis: int
    sees_all: bool = True
    may_see_all: bool = False
    factor: float = 1.0
    sizes: tuple[int, ...] | None = None
    rank: int | None = None
    least_rank: int = 1
    grows: int | None = None
    why: str = ""

    def axes_at(self, rank: int) -> tuple[int, ...]:
        """The axes of the channels in data of that rank."""
        return tuple(axis if axis >= 0 else axis + rank for axis in self.axes)


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A node whose output is linear in a constant weight (a Home).

    `view` gives an array of the weight's dims as (group, out, in, taps...), without copying, unless `back` leads from
    such an array to one of the weight's dims. The group*out outputs lie along `axes` of the output, counted from the
    end where negative, of these `sizes`; `rank` is None where the weight does not say it, and is then at least
    `least_rank`. `weight_axis` is the axis of the weight that the outputs are, where it is one.

    `bias` is None where there is none; `bias_input` is None where the operator has no place for one. It acts multiplied
    by `bias_factor`, and a rewritten node drops `dropped` (Gemm's beta) because its bias has taken that in. Where the
    outputs are a part of it only, `placed` makes a whole bias of what they get.
    """

    node: Node
    weight: Constant | Dequantized
    weight_input: int
    view: View = field(repr=False)
    rank: int | None
    axes: tuple[int, ...]
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
    sizes: tuple[int, ...] = ()
    placed: Callable[[Float64], Float64] | None = field(default=None, repr=False)
    back: View | None = field(default=None, repr=False)
    channels: int = field(init=False)
    groups: int = field(init=False)
    inputs: int = field(init=False)
    """How many channels the data have."""
    _from_front: bool = field(init=False, repr=False)
    """Whether all axes are counted from the front."""
    _asked: list[tuple[Affine, Obstacle | None]] = field(default_factory=list, init=False, repr=False)
    """What was asked last, and the answer: planning asks of what is then applied."""
    _biases: list[tuple[Affine, Float64 | None]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        """Read the numbers of outputs and inputs off the weight's dims."""
        dims = self.weight.dims
        shape = self.view(np.ndarray(dims, np.bool_, b"\0", 0, [0] * len(dims))).shape  # one byte, whatever the dims
        object.__setattr__(self, "groups", shape[0])
        object.__setattr__(self, "channels", shape[0] * shape[1])
        object.__setattr__(self, "inputs", 0 if self.fed is None else shape[0] * shape[self.fed.view_axis])
        object.__setattr__(self, "_from_front", min(self.axes, default=0) >= 0)
        if len(self.axes) == 1:
            object.__setattr__(self, "sizes", (self.channels,))

    def axes_at(self, rank: int) -> tuple[int, ...]:
        """The axes of the outputs in an output of that rank."""
        return self.axes if self._from_front else tuple(axis if axis >= 0 else axis + rank for axis in self.axes)

    def size_at(self, axis: int, rank: int) -> int | None:
        """How large an axis of the output is, where the weight says so."""
        return dict(zip(self.axes_at(rank), self.sizes, strict=True)).get(axis)

    def outputs_of(self, after: Affine) -> tuple[Float64, Float64]:
        """The scale and shift that an affine of the output means for each of the outputs."""
        return after.along(self.axes_at(after.rank), self.sizes)

    def fed_by(self, before: Affine, index: int) -> Linear | Obstacle:
        """The same operator where an affine acts on its data first; or what keeps it from taking that over."""
        return fed_obstacle(self, before, index) or replace(self, before=before)

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """How large the axes of the data are along which the channels lie."""
        stated = None if self.fed is None else self.fed.sizes
        return (self.inputs,) if stated is None else stated

    def output_rank(self, before: Affine) -> int:
        """The rank of the output, given an affine of the data."""
        if self.fed is not None and self.fed.grows is not None:
            return before.rank + self.fed.grows
        return max(before.rank, len(self.weight.dims)) if self.rank is None else self.rank

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
            obstacle = axis_obstacle(self, after) or weight_obstacle(self, after) or bias_obstacle(self, after)
            self._asked[:] = [(after, obstacle)]
        return self._asked[0][1]

    def bias_behind(self, after: Affine) -> Float64 | None:
        """The bias that it gets by an affine, exactly; None for nothing at all. Remembered, as obstacles are."""
        if not self._biases or self._biases[0][0] is not after:
            self._biases[:] = [(after, exact_bias(self, after))]
        return self._biases[0][1]

    def needs_add(self, after: Affine) -> bool:
        """A shift, and no place for it; one of the data may come to nothing."""
        if self.bias_input is not None:
            return False
        return after.has_shift or (self.has_shift_before and self.bias_behind(after) is not None)

    def is_idle(self, after: Affine) -> bool:
        """Never: it does more than scale and shift, or is planned itself."""
        del after
        return False

    def furnishing(self, after: Affine) -> Furnishing:
        """The new weight, computed when it is written, and the new bias."""
        exact = self.bias_behind(after)
        weight, bias = _new_weight(self, after), _new_bias(self, after, exact)
        parts = [part for part in (weight, bias) if part is not None]
        return Furnishing(
            constants=tuple(part for part in parts if isinstance(part, NewConstant)),
            nodes=tuple(part for part in parts if isinstance(part, NewNode)),
            dropped=frozenset() if exact is None else self.dropped,
            added=_shift_behind(self, exact, after) if self.needs_add(after) and exact is not None else None,
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
    if linear.back is not None:
        target = np.empty(target.shape, weight.dtype)
    for group, outputs, exact in products(linear, weight, after):
        target[group, outputs] = rounded(exact, weight.dtype)
    return folded if linear.back is None else linear.back(target)


def absorbed_parts(linear: Linear, weight: Constant, after: Affine) -> Iterator[Array]:
    """The same in the order of the file, about STRETCH elements at a time: each is read, scaled, rounded and given on.

    A weight that takes over something of its data as well comes row by row where its rows lie one behind the other, and
    else, like one whose outputs are no axis of it, in one part.
    """
    axis = linear.weight_axis
    if linear.does_more and Source.of(linear, weight).in_order:
        yield from (rounded(exact, weight.dtype) for _, _, exact in products(linear, weight, after))
        return
    if axis is None or linear.does_more:
        yield absorbed_weight(linear, weight, after)
        return
    scale, _ = linear.outputs_of(after)
    for start, shape, channels in stretches(weight.dims, axis):
        source = weight.stretch(start, math.prod(shape)).reshape(shape)
        yield scaled(source, scale[channels, np.newaxis], weight.dtype)


def absorbed_bias(linear: Linear, exact: Float64) -> Array:
    """b' = a*b + s in the weight's type."""
    return rounded(exact, linear.weight.dtype)


def _new_weight(linear: Linear, after: Affine) -> NewConstant | NewNode:
    weight = linear.weight
    if isinstance(weight, Dequantized):
        return weight.copy(linear.weight_input, *factors_of(linear, linear.weight_axis, after))
    header = TensorProto(data_type=weight.data_type, dims=weight.dims)
    content = partial(absorbed_weight, linear, weight, after)
    parts = partial(absorbed_parts, linear, weight, after)
    name = f"{weight.value.name}_folded"
    return NewConstant(linear.weight_input, weight, name, header, content, replaces=True, parts=parts)


def _new_bias(linear: Linear, after: Affine, exact: Float64 | None) -> NewConstant | NewNode | None:
    if linear.bias_input is None:
        return None
    if isinstance(linear.bias, Dequantized):
        return linear.bias.copy(linear.bias_input, *factors_of(linear, 0, after))
    if exact is None:
        return None
    array = absorbed_bias(linear, exact)
    if linear.bias is not None:
        return NewConstant.now(linear.bias_input, linear.bias, f"{linear.bias.value.name}_folded", array, replaces=True)
    return NewConstant.now(linear.bias_input, _anchor(linear), _bias_name(linear), array, replaces=False)


def _shift_behind(linear: Linear, exact: Float64, after: Affine) -> NewConstant:
    """The constant of an Add."""
    array = absorbed_bias(linear, shift_behind(linear, exact, after))
    return NewConstant.now(1, _anchor(linear), _bias_name(linear), array, replaces=False)


def _anchor(linear: Linear) -> Constant:
    """The constant beside which a new bias comes to lie, and whose type it has."""
    return linear.weight.scale if isinstance(linear.weight, Dequantized) else linear.weight


def _bias_name(linear: Linear) -> str:
    name = linear.weight.value.name
    return f"{name.removesuffix('weight')}bias" if name.endswith("weight") else f"{name}_bias"
