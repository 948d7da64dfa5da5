"""A home in both models: its written constants against their references (references.py), each rounded once.

What a home cannot take has to be nothing: a shift where there is no bias, a scale where there is no weight.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bnfold.equality.claim import DeviationError, Link, Tree, UncertainError
from bnfold.equality.constants import Constants, Float64
from bnfold.equality.linear import Shape
from bnfold.equality.numbers import COMPARED, PartCheck, WrongNumberError, pieces, share, within
from bnfold.equality.quantized import Quantized, only_scales_differ
from bnfold.equality.reference import keeps_rank, linear_map, permuted_rank, rank_behind
from bnfold.equality.references import Reference, Side, Term, product_of
from bnfold.equality.steps import Step
from bnfold.equality.structure import Pairing
from bnfold.nodes import Node, Site


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
class Home:
    """A home in both models, with the grid that the written constants offer."""

    before: Side
    after: Side
    scopes: Mapping[str, str]
    """From the path of an original scope to that of its counterpart."""

    @classmethod
    def of(cls, originals: Constants, node: Node, written: Constants, pairing: Pairing, behind: Behind) -> Home:
        """Raises UncertainError where one of the two is no home that the certificate knows."""
        there, added = pairing.nodes[node.id], pairing.added.get(node.id)
        rank = _rank(originals, node, behind)
        changed = pairing.rewired[node.id]
        weight = next(iter(changed)) if len(changed) == 1 else None
        before, after = linear_map(originals, node, rank, weight), linear_map(written, there, rank, weight)
        if (before.weight_index, before.bias_index) != (after.weight_index, after.bias_index):
            raise UncertainError(f"which constant of {node.site} is its weight is not the same in both models")
        if before.bias_cell is not None and node.id in behind.branches:
            raise DeviationError(f"nothing behind {node.site} can settle in its weights")
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
        others = rewired - {self.before.linear.weight_index, self.before.linear.bias_index, *self.before.linear.bounds}
        if others:
            raise DeviationError(f"{self.site} reads something else at input {min(others)}")

    def checked(self, reference: Reference) -> HomeCheck:
        """Both constants of a home against their references."""
        if self.before.linear.common is not None and not reference.steps:
            return HomeCheck(self.site, 0, 0.0, ())  # a shift is lost in it, and there are no numbers
        self.grows_no_value(reference.steps)
        parts = self.weight_part(reference), self.bias_part(reference)
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

    def weight_part(self, reference: Reference) -> PartCheck:
        """The weight against its reference."""
        before, after, fed, steps = self.before, self.after, reference.fed, reference.steps
        index = before.linear.weight_index
        if index is None:
            return self.nothing_to_scale(reference.scale, reference.unread, len(steps))
        stored, now = before.quantized(index), after.quantized(index)
        if before.linear.factor[0] != after.linear.factor[0] or (stored is None) != (now is None):
            raise WrongNumberError(self.site, f"the weight of {self.site} changed its factor, or how it is stored")
        if fed is not None and (stored is not None or before.linear.data_at(fed.index) is None):
            raise UncertainError(f"the weight of {self.site} is no dense one")
        if stored is None or now is None:
            return self.dense_part(reference, before.weight(index), after.weight(index))
        if reference.branches or any(step.tap is not None for step in steps):
            raise UncertainError(f"{self.site} has further taps, and a weight that is stored as integers")
        cell = before.linear.cell
        factors, unread = reference.scale.reshape(-1)[cell], reference.unread.reshape(-1)[cell]
        return self.scales_part(stored, now, factors, unread, "weight", terms=len(steps))

    def nothing_to_scale(self, scale: Float64, unread: NDArray[np.bool_], terms: int) -> PartCheck:
        """A home without a weight takes no scale: what is left of it is one."""
        now = np.ones(scale.shape)
        found = np.where(unread, 0, share(now, scale, np.abs(scale), terms=terms))
        worst = within(found, self.site, "scale", now, scale)
        return PartCheck.of("scale", now.dtype, terms=terms, numbers=0, worst=worst)

    def dense_part(self, reference: Reference, original: NDArray[np.generic], now: NDArray[np.generic]) -> PartCheck:
        """Weights that stand there as they are."""
        if now.shape != reference.shape(original.shape) or original.dtype != now.dtype:
            raise WrongNumberError(self.site, f"the weight of {self.site} changed its shape or type")
        rows, worst = reference.weight(original), 0.0
        now = now.reshape(rows.original.shape)
        for piece in pieces(now.shape, COMPARED):
            expected, magnitude = rows.at(piece)
            found = share(now[piece], expected, magnitude, terms=rows.terms)
            found[rows.unread[piece]] = 0
            worst = max(worst, within(found, self.site, "weight", now[piece], expected, piece.start))
        return PartCheck.of("weight", now.dtype, terms=rows.terms, numbers=int(now.size), worst=worst)

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

    def bias_part(self, reference: Reference) -> PartCheck:
        """The same for the bias; an absent one is zero."""
        before, after, index = self.before, self.after, self.before.linear.bias_index
        stored, now = before.quantized(index), after.quantized(index)
        if (stored is None) != (now is None):
            raise WrongNumberError(self.site, f"the bias of {self.site} changed how it is stored")
        kind, (ours, theirs) = before.kind(), (side.linear.factor[1] for side in (before, after))
        if stored is None or now is None:
            biases = Term(before.bias(kind), ours), Term(after.bias(kind), theirs)
            if biases[1].array.dtype not in {biases[0].array.dtype, kind}:  # where they differ, no model is valid
                raise WrongNumberError(self.site, f"the bias of {self.site} is of the type {biases[1].array.dtype}")
            return self.sums_part(*biases, reference, "bias")
        if (reference.fed is not None and np.any(reference.fed.shift)) or reference.branches:
            raise WrongNumberError(self.site, f"the bias of {self.site} is stored as integers, and takes no shift")
        nothing = Term(np.zeros([1] * len(self.grid), kind), 1.0)
        self.sums_part(nothing, nothing, replace(reference, fed=None), "shift of the quantised bias")
        steps = reference.steps
        factors, unread = product_of(steps, self.grid) * _quotient(ours, theirs), reference.unread
        if before.linear.vector_bias:
            factors, unread = factors.reshape(-1), unread.reshape(-1)
        return self.scales_part(stored, now, factors, unread, "bias", terms=len(steps) + 1)

    def sums_part(self, original: Term, now: Term, reference: Reference, what: str) -> PartCheck:
        """A written bias against what the steps make of the original one, and of what a shift of the data adds."""
        widest = np.broadcast_shapes(original.array.shape, reference.bias_grid)
        fits = all(size in {1, wide} for size, wide in zip(now.array.shape, widest, strict=True))
        if not fits:
            form = f"{list(now.array.shape)} instead of {list(widest)}"
            raise WrongNumberError(self.site, f"the {what} of {self.site} has the shape {form}")
        expected, magnitude, terms = reference.bias(original)
        unread = reference.unread if reference.bias_grid == self.grid else np.zeros(reference.bias_grid, np.bool_)
        expected, written, magnitude, unread = np.broadcast_arrays(expected, now.array, magnitude, unread)
        found = np.where(unread, 0, share(written, expected, magnitude, terms=terms, times=now.factor))
        worst = within(found, self.site, what, written, expected)
        return PartCheck.of(what, now.array.dtype, terms=terms, numbers=int(expected.size), worst=worst)


def _quotient(ours: float, theirs: float) -> float:
    """What a written number has to make up for where what it acts multiplied by changed."""
    if ours == theirs:
        return 1.0
    return ours / theirs if theirs else np.inf


@dataclass(frozen=True, slots=True, eq=False)
class Behind:
    """What stands behind each home (by node id): where its data bear something, and the links of each branch."""

    ahead: Mapping[int, list[Link]]
    branches: Mapping[int, list[tuple[Link, ...]]]

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> Behind:
        """In the order of the trees."""
        ahead: dict[int, list[Link]] = defaultdict(list)
        branches: dict[int, list[tuple[Link, ...]]] = defaultdict(list)
        for tree in trees:
            for link in () if tree.ahead is None else (*tree.ahead.homes, *tree.ahead.stops):
                ahead[link.node.id].append(link)
            for chain in tree.chains:
                for home, links in chain.homes:
                    branches[home.id].append((*links, chain.site))
        return cls(ahead, branches)


def _rank(constants: Constants, home: Node, behind: Behind) -> int | None:
    """How many dimensions a home puts out: what a permutation behind it demands, or else what was inferred.

    What a file notes of its shapes may contradict its nodes; a permutation that does not fit lets no model run.
    """
    ahead = next((rank_behind(constants, link) for link in behind.ahead.get(home.id, ())), None)
    inferred = []
    for links in behind.branches.get(home.id, ()):
        for link in links:
            rank = permuted_rank(link.node)
            if rank is not None:
                return rank
            inferred.append(constants.sizes(link.source))
            if not keeps_rank(link.node):
                break
    return next((len(sizes) for sizes in inferred if sizes is not None), ahead)
