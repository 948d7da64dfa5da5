"""Noise on what a site is fed, where its channels have too few elements to be judged as a whole.

A copy is what the original has there, with noise as large as it varies. Copies lie behind each other along the first
axis, which most operators take for a batch. Where a Conv is fed maps of a size that neither model fixes, they lie side
by side in larger maps instead: onnxruntime computes those ten times as fast as many small ones, and every tap of the
kernel meets something else than padding. So they do in maps of a known size where all places are alike to the Conv.

Shares, whose rows sum to one, are other shares then: what mixes rows by them need not be the same for any numbers.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfold.equality.measure import is_float
from bnfold.nodes import Node, Value
from bnfold.shapes import Shapes

Array = NDArray[np.generic]

_FIRST_OF_MAP = 2
_ON_MAPS_OF_ANY_SIZE = frozenset(
    {"Conv", "BatchNormalization", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Mul", "Add", "Sub", "Identity"}
)


@dataclass(frozen=True, slots=True)
class Layout:
    """How many copies there are, and where: along the first axis, or in larger maps, with so many places per output."""

    copies: int
    stride: int = 0

    @property
    def is_map(self) -> bool:
        """Whether copies lie side by side in one map."""
        return self.stride > 0

    @property
    def is_stacked(self) -> bool:
        """Whether there are copies, and they lie along the first axis."""
        return self.copies > 1 and not self.is_map

    def times(self, rank: int) -> tuple[int, ...]:
        """How often a value lies behind itself along each axis."""
        if not self.is_map:
            return (self.copies, *[1] * (rank - 1))[:rank]
        axes = rank - _FIRST_OF_MAP
        across = 1 << ((self.copies - 1).bit_length() // 2 if axes > 1 else 0)
        sides = [1] * max(0, axes - 2) + [across] * (axes > 1) + [-(-self.copies // across)]
        return (*[1] * _FIRST_OF_MAP, *(side * self.stride for side in sides))


def stride_of_maps(nodes: Iterable[Node], bounds: Iterable[tuple[Shapes, Value]]) -> int:
    """How many places of a map make one of the output; 0 where nodes are not known to run on maps of any size.

    `bounds` are what the nodes are fed, each with the shapes of its model: their maps must have no size that is known,
    unless all places are alike to the nodes.
    """
    convs = [node for node in nodes if node.op == "Conv"]
    if not convs or any(node.op not in _ON_MAPS_OF_ANY_SIZE for node in nodes):
        return 0
    if all(map(_is_pointwise, convs)):
        return 1
    for shapes, value in bounds:
        dims = shapes.shape(value)
        if dims is None or any(isinstance(dim, int) for dim in dims[_FIRST_OF_MAP:]):
            return 0
    strides = [node.ints_attribute("strides") or () for node in convs]
    return math.prod(max(one, default=1) for one in strides)


def _is_pointwise(conv: Node) -> bool:
    kernel, pads, strides = (conv.ints_attribute(name) for name in ("kernel_shape", "pads", "strides"))
    return kernel is not None and {*kernel, *(strides or ())} == {1} and not any(pads or ())


def noisy_values(
    values: Mapping[int, Array], wanted: Iterable[int], taken: Container[int], random: np.random.Generator, at: Layout
) -> dict[int, Array]:
    """Values with noise, by id; of those that were `taken` for what they are, none where a channel is zero throughout.

    Zero times anything is zero: what agrees there may be scaled by anything, which other numbers would show.
    """
    noisy = {id_: with_noise(values[id_], random, at) for id_ in wanted}
    for id_ in (id_ for id_ in noisy if id_ in taken and values[id_].ndim > 1):
        others = tuple(axis for axis in range(values[id_].ndim) if axis != 1)
        noisy[id_][:, ~np.any(values[id_], axis=others)] = 0
    return noisy


def with_noise(value: Array, random: np.random.Generator, layout: Layout) -> Array:
    """Floats with noise as large as they vary, laid out so; everything else as it is."""
    if not is_float(value) or value.dtype.kind == "c":
        return value
    usual = value[np.isfinite(value)].astype(np.float64)
    spread = float(usual.std()) if usual.size else 0.0
    scale = spread or float(np.abs(usual).max(initial=0.0)) or 1.0
    stacked = np.tile(value, layout.times(value.ndim)) if value.ndim else value
    noisy = _noisy(stacked, scale, random)
    if not _are_shares(value):
        return noisy
    sizes = np.abs(noisy.astype(np.float64)) + np.finfo(np.float32).tiny
    return np.asarray((sizes / sizes.sum(axis=-1, keepdims=True)).astype(value.dtype))


def _noisy(stacked: Array, scale: float, random: np.random.Generator) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        if stacked.dtype != np.float32:
            # In float32 the last bits of float64 would be the same in all copies, and so would their rounding.
            wide = stacked.astype(np.float64) + scale * random.standard_normal(stacked.shape)
            return np.asarray(wide.astype(stacked.dtype))
        noise = np.asarray(random.standard_normal(stacked.shape, dtype=np.float32))
        noise *= np.float32(scale)
        return np.add(noise, stacked, out=noise)


def _are_shares(value: Array) -> bool:
    """Whether the numbers along the last axis are nowhere negative and sum to one, as far as they are rounded.

    A single one is a share if it is one: of a single row, say.
    """
    if not value.ndim or not value.size:
        return False
    wide = value.astype(np.float64)
    rounding = 64 * float(np.spacing(value.dtype.type(1)))
    return bool(np.all(wide >= 0) and np.all(np.abs(wide.sum(axis=-1) - 1) <= rounding))
