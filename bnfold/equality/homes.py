"""A home in both models: its written constants against their references, each rounded once.

For a home with steps 1..n, in each cell of its grid,

    scale = a_n * ... * a_1        shift = a_n * (... a_2 * (a_1 * 0 + s_1) + s_2 ...) + s_n
    W'    = scale * W              b'    = scale * b + shift

What a home cannot take has to be nothing: a shift where there is no bias, a scale where there is no weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfold.equality.ahead import DataStep
from bnfold.equality.claim import DeviationError, Tree, UncertainError
from bnfold.equality.constants import Constants, Float64, product
from bnfold.equality.linear import LinearMap, Shape, aligned, own_places
from bnfold.equality.numbers import PartCheck, WrongNumberError, pieces, share, within
from bnfold.equality.quantized import Quantized, only_scales_differ
from bnfold.equality.reference import keeps_rank, linear_map, permuted_rank, stated_rank
from bnfold.equality.steps import Step
from bnfold.equality.structure import Pairing
from bnfold.nodes import Node, Site, Value


@dataclass(frozen=True, slots=True)
class HomeCheck:
    """One home: how many numbers were compared, and the worst deviation as a share of its bound (at most 1 passes).

    `parts` say the same of each of its constants, with what makes the bound.
    """

    home: Site
    numbers: int
    worst: float
    parts: tuple[PartCheck, ...]


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
        return self.constants.floats(self.constant(index or 0)).dtype

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
        if index is None or self.node.input(index) is None:
            return np.zeros([1] * rank, absent)
        array = self.constants.floats(self.constant(index))
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
class Factors:
    """What a weight is multiplied by: for each cell `scale`, and `of_data` as it broadcasts against the weight.

    `unread` marks cells that may hold anything; `tap` is added to the taps of the own place; `terms`: how many factors.
    """

    scale: Float64
    unread: NDArray[np.bool_]
    of_data: Float64 | None
    tap: Float64 | None
    terms: int


@dataclass(frozen=True, slots=True, eq=False)
class Home:
    """A home in both models, with the grid that the written constants offer."""

    before: Side
    after: Side
    scopes: Mapping[str, str]
    """From the path of an original scope to that of its counterpart."""

    @classmethod
    def of(cls, originals: Constants, node: Node, written: Constants, pairing: Pairing, trees: Sequence[Tree]) -> Home:
        """Raises UncertainError where one of the two is no home that the certificate knows."""
        there, added = pairing.nodes[node.id], pairing.added.get(node.id)
        rank = _rank(originals, node, trees)
        before, after = linear_map(originals, node, rank), linear_map(written, there, rank)
        if (before.weight_index, before.bias_index) != (after.weight_index, after.bias_index):
            raise UncertainError(f"which constant of {node.site} is its weight is not the same in both models")
        return cls(Side(originals, node, before), Side(written, there, after, added), pairing.scopes)

    @property
    def site(self) -> Site:
        """Where the home stands in the original."""
        return self.before.node.site

    @property
    def grid(self) -> Shape:
        """The cells that can be scaled by themselves: what a constant offers that may be written in another shape."""
        return (self.after if self.before.linear.elementwise else self.before).linear.grid

    def reads_what_it_read(self, rewired: frozenset[int]) -> None:
        """A home reads another name at the places of its constants alone."""
        others = rewired - {self.before.linear.weight_index, self.before.linear.bias_index}
        if others:
            raise DeviationError(f"{self.site} reads something else at input {min(others)}")

    def checked(self, steps: Sequence[Step], fed: DataStep | None = None) -> HomeCheck:
        """Both constants of a home against their references; `fed` is what its data bear."""
        self.grows_no_value(steps)
        parts = self.weight_part(steps, fed), self.bias_part(steps, fed)
        return HomeCheck(self.site, sum(part.numbers for part in parts), max(part.worst for part in parts), parts)

    def grows_no_value(self, steps: Sequence[Step]) -> None:
        """A constant of another shape than before neither enlarges nor shrinks what an elementwise home puts out."""
        output = self.before.node.output(0)
        if not self.before.linear.elementwise or output is None:
            return
        if self.after.written_rank() < self.before.written_rank():
            raise DeviationError(f"the new constant of {self.site} has fewer dimensions than the old one")
        sizes = self.before.constants.sizes(output) or (None,) * len(self.grid)
        if len(sizes) != len(self.grid):
            raise UncertainError(f"the rank of what {self.site} puts out is not what its producers make it")
        for axis, (old, new, size) in enumerate(zip(self.before.linear.grid, self.grid, sizes, strict=True)):
            known = size
            if size is None and axis == 1:
                known = next((step.channels for step in steps if step.channels is not None), None)
            if new in {old, known}:
                continue
            if known is None and old == 1:
                raise UncertainError(f"whether the new constant of {self.site} fits its value is not known")
            raise DeviationError(f"the new constant of {self.site} has the shape {list(self.grid)}")

    def weight_part(self, steps: Sequence[Step], fed: DataStep | None) -> PartCheck:
        """The weight against its reference."""
        before, after = self.before, self.after
        scale = _product([step for step in steps if not step.stops], self.grid)
        index, unread = before.linear.weight_index, _unread(steps, self.grid)
        if index is None:
            return self.nothing_to_scale(scale, unread, len(steps))
        stored, now = before.quantized(index), after.quantized(index)
        if before.linear.factor[0] != after.linear.factor[0] or (stored is None) != (now is None):
            raise WrongNumberError(self.site, f"the weight of {self.site} changed its factor, or how it is stored")
        if fed is not None and (stored is not None or before.linear.data is None):
            raise UncertainError(f"the weight of {self.site} is no dense one")
        tapped = _taps(steps)
        if tapped is not None and (fed is not None or stored is not None or before.linear.elementwise):
            raise UncertainError(f"{self.site} has a further tap, and something else that is not followed beside it")
        if stored is None or now is None:
            terms = len(steps) + (0 if fed is None else fed.terms)
            of_data = None if fed is None or before.linear.data is None else fed.scale[before.linear.data.channel]
            pair = before.weight(index), after.weight(index)
            return self.dense_part(*pair, Factors(scale, unread, of_data, tapped, terms))
        factors, unread = scale.reshape(-1)[before.linear.cell], unread.reshape(-1)[before.linear.cell]
        return self.scales_part(stored, now, factors, unread, "weight", terms=len(steps))

    def nothing_to_scale(self, scale: Float64, unread: NDArray[np.bool_], terms: int) -> PartCheck:
        """A home without a weight takes no scale: what is left of it is one."""
        now = np.ones(scale.shape)
        found = np.where(unread, 0, share(now, scale, np.abs(scale), terms=terms))
        worst = within(found, self.site, "scale", now, scale)
        return PartCheck.of("scale", now.dtype, terms=terms, numbers=0, worst=worst)

    def dense_part(self, original: NDArray[np.generic], now: NDArray[np.generic], factors: Factors) -> PartCheck:
        """Weights that stand there as they are."""
        linear = self.before.linear
        expected = np.broadcast_shapes(original.shape, self.grid) if linear.elementwise else original.shape
        if expected != now.shape or original.dtype != now.dtype:
            raise WrongNumberError(self.site, f"the weight of {self.site} changed its shape or type")
        scale, unread = factors.scale, factors.unread
        if linear.divides:
            scale = _inverse(self.site, np.where(unread, 1.0, scale))
        if not linear.elementwise:
            scale, unread = scale.reshape(-1)[linear.cell], unread.reshape(-1)[linear.cell]
        if factors.of_data is not None:
            scale = scale * factors.of_data
        original, scale = np.broadcast_to(original, expected), np.broadcast_to(scale, expected)
        unread = np.broadcast_to(unread, expected)
        if not expected:
            original, scale, unread, now = original.reshape(1), scale.reshape(1), unread.reshape(1), now.reshape(1)
        worst, terms = 0.0, factors.terms + linear.divides
        places = None if factors.tap is None else own_places(self.before.node, now.shape)
        for piece in pieces(now.shape):
            reference = scale[piece] * original[piece].astype(np.float64)
            magnitude = np.abs(reference)
            if places is not None and factors.tap is not None:
                here = slice(*piece.indices(len(factors.tap)))
                rows = (np.arange(here.stop - here.start), *(index[here] for index in places[1:]))
                reference[rows] += factors.tap[here]
                magnitude[rows] += np.abs(factors.tap[here])
            found = np.where(unread[piece], 0, share(now[piece], reference, magnitude, terms=terms))
            worst = max(worst, within(found, self.site, "weight", now[piece], reference))
        return PartCheck.of("weight", now.dtype, terms=terms, numbers=int(now.size), worst=worst)

    def scales_part(  # noqa: PLR0913, PLR0917  # what is compared, with what, and where
        self,
        before: Quantized,
        after: Quantized,
        factors: Float64,
        unread: NDArray[np.bool_],
        what: str,
        terms: int,
    ) -> PartCheck:
        """Scales of constants that are stored quantised: the original ones times `factors`."""
        scope = self.scopes.get(before.content.scope.path)
        if (before.content.name, scope) != (after.content.name, after.content.scope.path):
            raise DeviationError(f"the {what} of {self.site} is no longer what {before.content.name!r} holds")
        only_scales_differ(before, after)
        reference, now, unread = np.broadcast_arrays(before.scale.astype(np.float64) * factors, after.scale, unread)
        found = np.where(unread, 0, share(now, reference, np.abs(reference), terms=terms))
        worst = within(found, self.site, f"scale of the {what}", now, reference)
        numbers = int(after.scale.size)
        return PartCheck.of(f"scale of the {what}", now.dtype, terms=terms, numbers=numbers, worst=worst)

    def bias_part(self, steps: Sequence[Step], fed: DataStep | None) -> PartCheck:
        """The same for the bias; an absent one is zero."""
        before, after, index = self.before, self.after, self.before.linear.bias_index
        stored, now = before.quantized(index), after.quantized(index)
        if (stored is None) != (now is None):
            raise WrongNumberError(self.site, f"the bias of {self.site} changed how it is stored")
        kind, (ours, theirs) = before.kind(), (side.linear.factor[1] for side in (before, after))
        if stored is None or now is None:
            biases = _Term(before.bias(kind), ours), _Term(after.bias(kind), theirs)
            if biases[1].array.dtype not in {biases[0].array.dtype, kind}:  # where they differ, no model is valid
                raise WrongNumberError(self.site, f"the bias of {self.site} is of the type {biases[1].array.dtype}")
            return self.sums_part(*biases, steps, "bias", self.of_shift(fed))
        if fed is not None and np.any(fed.shift):
            raise WrongNumberError(self.site, f"the bias of {self.site} is stored as integers, and takes no shift")
        nothing = _Term(np.zeros([1] * len(self.grid), kind), 1.0)
        self.sums_part(nothing, nothing, steps, "shift of the quantised bias")
        factors, unread = _product(steps, self.grid) * _quotient(ours, theirs), _unread(steps, self.grid)
        if before.linear.vector_bias:
            factors, unread = factors.reshape(-1), unread.reshape(-1)
        return self.scales_part(stored, now, factors, unread, "bias", terms=len(steps) + 1)

    def of_shift(self, fed: DataStep | None) -> tuple[Float64, Float64, int]:
        """What a shift of the data adds to each cell of the grid, the sizes of its terms, and how many there are."""
        linear = self.before.linear
        if fed is None or linear.data is None or linear.weight_index is None or not np.any(fed.shift):
            return np.zeros(self.grid), np.zeros(self.grid), 0
        weight = self.before.weight(linear.weight_index)
        cells, sums = product(self.grid), []
        for part in (fed.shift, fed.magnitude):
            total = np.zeros(cells)
            for piece in pieces(weight.shape):
                values = weight[piece].astype(np.float64)
                channel = np.broadcast_to(linear.data.channel, weight.shape)[piece]
                cell = np.broadcast_to(linear.cell, weight.shape)[piece]
                terms = np.abs(values) * part[channel] if part is fed.magnitude else values * part[channel]
                total += np.bincount(cell.reshape(-1), terms.reshape(-1), minlength=cells)
            sums.append((total * linear.factor[0]).reshape(self.grid))
        return sums[0], np.abs(sums[1]), weight.size // max(1, cells)

    def sums_part(
        self,
        original: _Term,
        now: _Term,
        steps: Sequence[Step],
        what: str,
        added: tuple[Float64, Float64, int] | None = None,
    ) -> PartCheck:
        """A written bias against what the steps make of the original one, and of what a shift of the data adds."""
        widest = np.broadcast_shapes(original.array.shape, self.grid)
        fits = all(size in {1, wide} for size, wide in zip(now.array.shape, widest, strict=True))
        if not fits:
            form = f"{list(now.array.shape)} instead of {list(widest)}"
            raise WrongNumberError(self.site, f"the {what} of {self.site} has the shape {form}")
        reference = original.array.astype(np.float64) * original.factor
        magnitude = np.abs(reference)
        if added is not None:
            reference, magnitude = reference + added[0], magnitude + added[1]
        for step in steps:
            scale, shift, size = (part.reshape(self.grid) for part in (step.scale, step.shift, step.magnitude))
            reference, magnitude = reference * scale + shift, magnitude * np.abs(scale) + size
        unread = _unread(steps, self.grid)
        reference, written, magnitude, unread = np.broadcast_arrays(reference, now.array, magnitude, unread)
        terms = 1 + sum(step.terms for step in steps) + (0 if added is None else added[2])
        found = np.where(unread, 0, share(written, reference, magnitude, terms=terms, times=now.factor))
        worst = within(found, self.site, what, written, reference)
        return PartCheck.of(what, now.array.dtype, terms=terms, numbers=int(reference.size), worst=worst)


@dataclass(frozen=True, slots=True, eq=False)
class _Term:
    """A bias that broadcasts against the output, and what it acts multiplied by."""

    array: NDArray[np.generic]
    factor: float


def _quotient(ours: float, theirs: float) -> float:
    """What a written number has to make up for where what it acts multiplied by changed."""
    if ours == theirs:
        return 1.0
    return ours / theirs if theirs else np.inf


def _rank(constants: Constants, home: Node, trees: Sequence[Tree]) -> int | None:
    """How many dimensions a home puts out: what a permutation behind it demands, or else what was inferred.

    What a file notes of its shapes may contradict its nodes; a permutation that does not fit lets no model run.
    """
    aheads = [tree.ahead for tree in trees if tree.ahead is not None]
    fed = [link.source for ahead in aheads for link in ahead.homes if link.node is home]
    inferred = [constants.sizes(value) for value in fed]
    for chain in (chain for tree in trees for chain in tree.chains):
        for link in (link for node, links in chain.homes if node is home for link in (*links, chain.site)):
            rank = permuted_rank(link.node)
            if rank is not None:
                return rank
            inferred.append(constants.sizes(link.source))
            if not keeps_rank(link.node):
                break
    known = next((len(sizes) for sizes in inferred if sizes is not None), None)
    if known is not None:
        return known
    return next((rank for value in fed if (rank := stated_rank(constants, value)) is not None), None)


def _taps(steps: Sequence[Step]) -> Float64 | None:
    """What all taps make together, each scaled by what came later; None where there are none."""
    if all(step.tap is None for step in steps):
        return None
    total = np.zeros(steps[0].scale.size)
    for step in steps:
        total = total * step.scale.reshape(-1) + (0.0 if step.tap is None else step.tap)
    return np.asarray(total)


def _product(steps: Sequence[Step], grid: Shape) -> Float64:
    """What all scales make together, as something that broadcasts against the output."""
    scale = np.ones(grid)
    for step in steps:
        scale = scale * step.scale.reshape(grid)
    return scale


def _unread(steps: Sequence[Step], grid: Shape) -> NDArray[np.bool_]:
    """The cells that nobody reads, whatever they hold: what one step finds cut away is never read again."""
    unread = np.zeros(grid, np.bool_)
    for step in steps:
        unread |= step.unread.reshape(grid)
    return unread


def _inverse(site: Site, factors: Float64) -> Float64:
    if not np.all(factors):
        raise WrongNumberError(site, f"the weight of {site} divides, and would be divided by zero")
    return np.asarray(1.0 / factors)
