"""The constants that a home should have: what its steps make of the original ones, in float64 and not rounded.

For a home with steps 1..n, in each cell of its grid,

    scale = a_n * ... * a_1        shift = a_n * (... a_2 * (a_1 * 0 + s_1) + s_2 ...) + s_n
    W'    = scale * W              b'    = scale * b + shift

and what other convolutions of the same data are that have been merged into it is added to both, tap by tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfold.equality.ahead import DataStep
from bnfold.equality.claim import DeviationError, UncertainError
from bnfold.equality.constants import Constants, Float64, product
from bnfold.equality.layout import Labels
from bnfold.equality.linear import LinearMap, Shape, aligned, own_places
from bnfold.equality.numbers import WrongNumberError, pieces
from bnfold.equality.quantized import Quantized
from bnfold.equality.steps import Step
from bnfold.nodes import Node, Site, Value


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """A home in one of the two models; `added` is the Add behind it that it was given for want of a bias."""

    constants: Constants
    node: Node
    linear: LinearMap
    added: Node | None = None

    def constant(self, index: int) -> Value:
        """A constant input."""
        value = self.node.input(index)
        if value is None:
            raise DeviationError(f"a constant of {self.node.site} is missing")
        return value

    def quantized(self, index: int | None) -> Quantized | None:
        """A constant input that is stored quantised; an elementwise operator's is not followed (constants.py)."""
        value = None if index is None or self.linear.elementwise else self.node.input(index)
        return None if value is None else Quantized.of(self.constants, value)

    def written_rank(self) -> int:
        """How many dimensions the constant of an elementwise operator is written with."""
        linear = self.linear
        value = self.node.input((linear.bias_index if linear.weight_index is None else linear.weight_index) or 0)
        return len((None if value is None else self.constants.shape(value)) or ())

    def kind(self) -> np.dtype[np.generic]:
        """The type in which the home computes."""
        index = self.linear.bias_index if self.linear.weight_index is None else self.linear.weight_index
        stored = self.quantized(index)
        if stored is not None:
            return stored.scale.dtype
        return self.constants.kind(self.constant(index or 0))

    def weight(self, index: int) -> NDArray[np.generic]:
        """The weight; of an elementwise operator with as many dimensions as the output."""
        array = self.constants.floats(self.constant(index))
        if not self.linear.elementwise:
            return array
        return array.reshape(aligned(self.node, index, array.shape, len(self.linear.grid)))

    def bias(self, absent: np.dtype[np.generic]) -> NDArray[np.generic]:
        """The bias as something that broadcasts against the output; zeros where there is none."""
        grid, rank, index = self.linear.grid, len(self.linear.grid), self.linear.bias_index
        if index is None and self.added is not None:
            array = self.constants.floats(_second(self.added))
            return array.reshape(aligned(self.added, 1, array.shape, rank))
        form = None if self.linear.bias_cell is None else self.linear.bias_cell.shape
        if index is None or self.node.input(index) is None:
            return np.zeros([1] * rank if form is None else form, absent)
        array = self.constants.floats(self.constant(index))
        if form is not None:
            return array
        if not self.linear.vector_bias:
            return array.reshape(aligned(self.node, index, array.shape, rank))
        if array.shape != (product(grid),):
            raise DeviationError(f"the bias of {self.node.site} has the shape {array.shape}")
        return array.reshape(grid)


def _second(node: Node) -> Value:
    value = node.input(1)
    if value is None:
        raise DeviationError(f"the constant of {node.site} is missing")
    return value


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """A bias that broadcasts against the output, and what it acts multiplied by."""

    array: NDArray[np.generic]
    factor: float


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """A convolution that is merged into another one, and the taps of that which see what its own see, by axis."""

    reference: Reference
    taps: tuple[Labels, ...]
    sign: float


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """All that happens to the constants of a home; `fed` is what its data bear."""

    side: Side
    grid: Shape
    steps: Sequence[Step]
    fed: DataStep | None = None
    branches: tuple[Branch, ...] = ()

    @property
    def scale(self) -> Float64:
        """What each cell is multiplied by."""
        return product_of([step for step in self.steps if not step.stops], self.grid)

    @property
    def bias_grid(self) -> Shape:
        """The cells of the bias, where it holds more than those of the grid."""
        cells = self.side.linear.bias_cell
        return self.grid if cells is None else cells.shape

    @property
    def unread(self) -> NDArray[np.bool_]:
        """The cells that may hold anything."""
        found = unread_by(self.steps, self.grid)
        for branch in self.branches:
            found &= branch.reference.unread
        return found

    def weight(self, original: NDArray[np.generic]) -> Rows:
        """The weight that should be, given the original one; raises UncertainError for what is not followed."""
        linear, fed, site = self.side.linear, self.fed, self.side.node.site
        expected = self.shape(original.shape)
        scale, unread = self.scale, self.unread
        if linear.divides:
            scale = _inverse(site, np.where(unread, 1.0, scale))
        if not linear.elementwise:
            scale, unread = scale.reshape(-1)[linear.cell], unread.reshape(-1)[linear.cell]
        data = None if fed is None else linear.data_at(fed.index)
        if fed is not None and data is not None:
            scale = scale * fed.scale[data.channel]
        tap = taps_of(self.steps)
        if tap is not None and linear.elementwise:
            raise UncertainError(f"{site} is no convolution, and has a further tap")
        whole = [np.broadcast_to(part, expected) for part in (original, scale, unread)]
        if not expected:
            whole = [part.reshape(1) for part in whole]
        branches = tuple((one.reference.plain_weight(), one.taps, one.sign) for one in self.branches)
        terms = len(self.steps) + (0 if fed is None else fed.terms) + linear.divides
        places = () if tap is None else own_places(self.side.node, expected)
        return Rows(whole[0], whole[1], whole[2], tap, places, terms, branches)

    def shape(self, original: Shape) -> Shape:
        """The shape of the weight that should be."""
        return np.broadcast_shapes(original, self.grid) if self.side.linear.elementwise else original

    def plain_weight(self) -> Rows:
        """The same of a home whose weight stands there as it is."""
        index = self.side.linear.weight_index
        if index is None or self.side.quantized(index) is not None:
            raise UncertainError(f"the weight of {self.side.node.site} is no dense one")
        return self.weight(self.side.weight(index))

    def bias(self, original: Term) -> tuple[Float64, Float64, int]:
        """The bias that should be, the sizes of its terms, and how many there are."""
        reference = original.array.astype(np.float64) * original.factor
        added, size, further = self.of_shift()
        terms = 1 + sum(step.terms for step in self.steps) + further
        reference, magnitude = reference + added, np.abs(reference) + size
        for step in self.steps:
            scale, shift, size = (part.reshape(self.grid) for part in (step.scale, step.shift, step.magnitude))
            reference, magnitude = reference * scale + shift, magnitude * np.abs(scale) + size
        for branch in self.branches:
            other = branch.reference
            kind = other.side.kind()
            found, size, further = other.bias(Term(other.side.bias(kind), other.side.linear.factor[1]))
            reference, magnitude, terms = reference + branch.sign * found, magnitude + size, terms + further
        return reference, magnitude, terms

    def of_shift(self) -> tuple[Float64, Float64, int]:
        """What a shift of the data adds to each cell of the grid, the sizes of its terms, and how many there are."""
        linear, fed = self.side.linear, self.fed
        data = None if fed is None else linear.data_at(fed.index)
        if fed is None or data is None or linear.weight_index is None or not np.any(fed.shift):
            return np.zeros(self.bias_grid), np.zeros(self.bias_grid), 0
        weight = self.side.weight(linear.weight_index)
        cells, sums = product(self.grid), []
        for part in (fed.shift, fed.magnitude):
            total = np.zeros(cells)
            for piece in pieces(weight.shape):
                values = weight[piece].astype(np.float64)
                channel = np.broadcast_to(data.channel, weight.shape)[piece]
                cell = np.broadcast_to(linear.cell, weight.shape)[piece]
                terms = np.abs(values) * part[channel] if part is fed.magnitude else values * part[channel]
                total += np.bincount(cell.reshape(-1), terms.reshape(-1), minlength=cells)
            total *= linear.factor[0]
            placed = total if linear.bias_cell is None else np.append(total, 0.0)[linear.bias_cell]
            sums.append(placed.reshape(self.bias_grid))
        return sums[0], np.abs(sums[1]), weight.size // max(1, cells)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A weight that should be, in pieces of its first axis: `original` times `scale`, taps and branches added.

    `unread` marks what may hold anything; `tap` is added at `places`; `terms` says how many factors there are.
    """

    original: NDArray[np.generic]
    scale: Float64
    unread: NDArray[np.bool_]
    tap: Float64 | None
    places: tuple[Labels, ...]
    own_terms: int
    branches: tuple[tuple[Rows, tuple[Labels, ...], float], ...]

    @property
    def terms(self) -> int:
        """How many factors and summands a number is made of."""
        return self.own_terms + sum(1 + rows.terms for rows, _, _ in self.branches)

    def at(self, piece: slice) -> tuple[Float64, Float64]:
        """The numbers of a piece, and the sizes of their terms."""
        reference = np.asarray(np.multiply(self.scale[piece], self.original[piece], dtype=np.float64))
        magnitude = np.abs(reference)
        if self.tap is not None:
            here = slice(*piece.indices(len(self.tap)))
            rows = (np.arange(here.stop - here.start), *(index[here] for index in self.places[1:]))
            reference[rows] += self.tap[here]
            magnitude[rows] += np.abs(self.tap[here])
        for other, taps, sign in self.branches:
            found, sizes = other.at(piece)
            seen = np.ix_(*(np.arange(size) for size in found.shape[:2]), *taps)
            reference[seen] += sign * found
            magnitude[seen] += sizes
        return reference, magnitude


def taps_of(steps: Sequence[Step]) -> Float64 | None:
    """What all taps make together, each scaled by what came later; None where there are none."""
    if all(step.tap is None for step in steps):
        return None
    total = np.zeros(steps[0].scale.size)
    for step in steps:
        total = total * step.scale.reshape(-1) + (0.0 if step.tap is None else step.tap)
    return np.asarray(total)


def product_of(steps: Sequence[Step], grid: Shape) -> Float64:
    """What all scales make together, as something that broadcasts against the output."""
    scale = np.ones(grid)
    for step in steps:
        scale = scale * step.scale.reshape(grid)
    return scale


def unread_by(steps: Sequence[Step], grid: Shape) -> NDArray[np.bool_]:
    """The cells that nobody reads, whatever they hold: what one step finds cut away is never read again."""
    unread = np.zeros(grid, np.bool_)
    for step in steps:
        unread |= step.unread.reshape(grid)
    return unread


def _inverse(site: Site, factors: Float64) -> Float64:
    if not np.all(factors):
        raise WrongNumberError(site, f"the weight of {site} divides, and would be divided by zero")
    return np.asarray(1.0 / factors)
