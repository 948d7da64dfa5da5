"""A per-channel affine map y = scale*x + shift, as two read-only float64 arrays that broadcast against the value.

Both arrays have the rank of the value they act on, each dimension 1 or full. So a layout operator acts on an
affine exactly as it acts on the value, and what an affine varies along can be read off its shape.

    (second @ first)(x) = second(first(x))      scale = second.scale*first.scale
                                                shift = second.scale*first.shift + second.shift
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]

Dim = int | str | None
"""A known size, a symbol (equal names mean equal sizes), or unknown."""

Group = tuple[tuple[int, ...], tuple[int, ...]]
"""Axes of the source, axes of the target, whose elements correspond among themselves."""

LARGEST_EXPANSION = 1 << 24
"""Elements an affine may grow to under a reshape; beyond it no home could be meant."""


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """scale and shift: float64, read-only, of one common rank; each dimension is 1 or the value's own."""

    scale: Float64
    shift: Float64

    def __post_init__(self) -> None:
        """Freeze both arrays; raises ValueError where their ranks differ or they do not broadcast."""
        scale, shift = _frozen(self.scale), _frozen(self.shift)
        if scale.ndim != shift.ndim:
            raise ValueError(f"scale has rank {scale.ndim}, shift has rank {shift.ndim}")
        if scale.shape != shift.shape:
            np.broadcast_shapes(scale.shape, shift.shape)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "shift", shift)

    @classmethod
    def per_channel(cls, scale: ArrayLike, shift: ArrayLike, *, rank: int, axis: int) -> Self:
        """From two vectors of length C, for a value of `rank` dimensions whose channels lie on `axis`."""
        dims = [1] * rank
        dims[axis] = -1
        return cls(np.asarray(scale, np.float64).reshape(dims), np.asarray(shift, np.float64).reshape(dims))

    @classmethod
    def identity(cls, rank: int) -> Self:
        """The one that changes nothing."""
        return cls(np.ones((1,) * rank), np.zeros((1,) * rank))

    @property
    def rank(self) -> int:
        """The rank of the values this acts on."""
        return self.scale.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """The common shape of scale and shift: what this varies along is not 1."""
        ours, theirs = self.scale.shape, self.shift.shape
        return ours if ours == theirs else np.broadcast_shapes(ours, theirs)

    @property
    def has_shift(self) -> bool:
        """Whether any shift is nonzero."""
        return bool(np.count_nonzero(self.shift))

    @np.errstate(over="ignore", invalid="ignore")
    def __matmul__(self, first: Affine) -> Affine:
        if self.rank != first.rank:
            raise ValueError(f"affines of ranks {self.rank} and {first.rank} do not act on the same value")
        return Affine(self.scale * first.scale, self.scale * first.shift + self.shift)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Affine):
            return NotImplemented
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.shift, other.shift)

    __hash__ = None  # type: ignore[assignment]  # arrays have no cheap hash, and none is needed

    def varies_only_along(self, axes: Sequence[int]) -> bool:
        """Whether every dimension but those of `axes` is 1."""
        return not [i for i, size in enumerate(self.shape) if size != 1 and i not in axes]

    def along(self, axes: Sequence[int], sizes: Sequence[int]) -> tuple[Float64, Float64]:
        """scale and shift as vectors along axes of these sizes, in their order, the last one fastest.

        Requires varies_only_along(axes), and axes that ascend.
        """
        if not self.varies_only_along(axes):
            raise ValueError(f"an affine of shape {self.shape} does not vary along {tuple(axes)} alone")
        if len(sizes) == 1 and self.scale.size == self.shift.size == sizes[0]:
            return self.scale.reshape(-1), self.shift.reshape(-1)
        parts = (part.reshape([part.shape[axis] for axis in axes]) for part in (self.scale, self.shift))
        scale, shift = (np.broadcast_to(part, tuple(sizes)).reshape(-1) for part in parts)
        return scale, shift

    def transposed(self, perm: Sequence[int]) -> Affine:
        """The affine of Transpose(x, perm), given the one of x."""
        return Affine(self.scale.transpose(perm), self.shift.transpose(perm))

    def squeezed(self, axes: Sequence[int]) -> Affine:
        """Without `axes`, along which nothing varies; raises ValueError where something does."""
        return Affine(self.scale.squeeze(tuple(axes)), self.shift.squeeze(tuple(axes)))

    def unsqueezed(self, axes: Sequence[int]) -> Affine:
        """With new dimensions of 1 at `axes` of the result."""
        return Affine(np.expand_dims(self.scale, tuple(axes)), np.expand_dims(self.shift, tuple(axes)))

    def reshaped(self, source: Sequence[Dim], target: Sequence[Dim]) -> Affine | None:
        """The affine of Reshape(x): x of shape `source`, the result of shape `target`.

        A dimension is an int, a symbol (a str, equal where the names are), or None. The result is None where the
        affine cannot be written on `target` from what is known: it varies along a dimension that mixes with one
        of unknown size, or it would no longer be constant along the dimensions it was constant along.
        """
        groups = regroup(source, target)
        shape = self.shape
        if groups is None or len(source) != self.rank or not _fits(shape, source):
            return None
        full: list[int] = []
        result: list[int] = []
        for ours, theirs in groups:
            if all(shape[i] == 1 for i in ours):
                full += [1] * len(ours)
                result += [1] * len(theirs)
            elif len(ours) == len(theirs) == 1:
                full.append(shape[ours[0]])
                result.append(shape[ours[0]])
            else:
                sizes, onto = _sizes(ours, source), _sizes(theirs, target)
                if sizes is None or onto is None:
                    return None
                full += sizes
                result += onto
        if int(np.prod(full, dtype=np.int64)) > LARGEST_EXPANSION:
            return None
        return Affine(_regrouped(self.scale, full, result), _regrouped(self.shift, full, result))


def _fits(shape: Sequence[int], dims: Sequence[Dim]) -> bool:
    """Whether an affine of this shape can act on a value of these dimensions."""
    return all(ours in {1, size} or not isinstance(size, int) for ours, size in zip(shape, dims, strict=True))


def _sizes(axes: Sequence[int], dims: Sequence[Dim]) -> list[int] | None:
    sizes = [size for axis in axes if isinstance(size := dims[axis], int)]
    return sizes if len(sizes) == len(axes) else None


def _regrouped(array: Float64, full: Sequence[int], result: Sequence[int]) -> Float64:
    return compressed(np.broadcast_to(array, full).reshape(result))


def compressed(array: Float64) -> Float64:
    """The same array with every dimension along which nothing varies cut to 1."""
    for axis, size in enumerate(array.shape):
        first = array.take([0], axis) if size else array
        if size > 1 and np.array_equal(np.broadcast_to(first, array.shape), array):
            array = first
    return array


def _frozen(array: ArrayLike) -> Float64:
    frozen = np.asarray(array).astype(np.float64, subok=False)
    frozen.flags.writeable = False
    return frozen


def regroup(source: Sequence[Dim], target: Sequence[Dim]) -> tuple[Group, ...] | None:
    """How a row-major reshape pairs the dimensions of its two sides, as far as their sizes are known.

    In row-major order the product of the trailing sizes decides where a dimension begins, so runs of dimensions
    belong together where the products to their right are equal; the same holds from the left. What lies between
    the two matched ends is one group, whose products are equal because the totals are.

    Returns the groups in order, from the first axis to the last; None where a size is 0 or the totals contradict.
    """
    if 0 in source or 0 in target:
        return None
    left, i, j = _matched(source, target)
    if i == len(source) and j == len(target):
        return tuple(left)
    right, m, n = _matched(source[i:][::-1], target[j:][::-1])
    middle = (tuple(range(i, len(source) - m)), tuple(range(j, len(target) - n)))
    if not _may_be_equal(middle, source, target):
        return None
    mirrored = [
        (
            tuple(len(source) - 1 - a for a in reversed(ours)),
            tuple(len(target) - 1 - b for b in reversed(theirs)),
        )
        for ours, theirs in reversed(right)
    ]
    return (*left, *([middle] if any(middle) else []), *mirrored)


def _matched(source: Sequence[Dim], target: Sequence[Dim]) -> tuple[list[Group], int, int]:
    """Groups matched from the first axis on, and how many axes of each side they cover."""
    groups: list[Group] = []
    i = j = 0
    while i < len(source) and j < len(target):
        if isinstance(source[i], str) and source[i] == target[j]:
            group: Group | None = ((i,), (j,))
        else:
            group = _equal_products(source, target, i, j)
        if group is None:
            break
        groups.append(group)
        i, j = group[0][-1] + 1, group[1][-1] + 1
    return groups, i, j


def _equal_products(source: Sequence[Dim], target: Sequence[Dim], i: int, j: int) -> Group | None:
    """The shortest runs from i and from j with equal products, all their sizes known."""
    ours, theirs = [i], [j]
    a, b = source[i], target[j]
    while isinstance(a, int) and isinstance(b, int) and a != b:
        axes, dims = (ours, source) if a < b else (theirs, target)
        following = axes[-1] + 1
        size = dims[following] if following < len(dims) else None
        if not isinstance(size, int):
            return None
        axes.append(following)
        a, b = (a * size, b) if axes is ours else (a, b * size)
    return (tuple(ours), tuple(theirs)) if isinstance(a, int) and a == b else None


def _may_be_equal(group: Group, source: Sequence[Dim], target: Sequence[Dim]) -> bool:
    """Whether what is left over on both sides can have equal products (ones may be left on one side alone)."""
    products = [1, 1]
    for side, (axes, dims) in enumerate(((group[0], source), (group[1], target))):
        for axis in axes:
            size = dims[axis]
            if not isinstance(size, int):
                return True
            products[side] *= size
    return products[0] == products[1]
