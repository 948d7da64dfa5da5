"""Sideways: an affine of x that is added to a convolution of the same x is one more tap of it.

    conv(x) + (a*x + s)        W[c, c, center] += a[c]        b[c] += s[c]

The convolution's outputs have to lie as its data do (stride 1, and a padding that keeps the size), so that one tap sees
the data of the output's own place. Between the convolution and the sum may stand affines that have settled in it and
further sums, each read by one node alone. The affine goes, with all that has settled in it, and the sum that read it
loses it: it goes too where one value is left.

    conv(x) + (f + (a*x + s))  the inner sum goes, and f is added to the convolution
    f + conv(x) + (a*x + s)    a Sum of three becomes one of two
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnfold.affine import Affine
from bnfold.beside import Found, Summand, convolutions_beside
from bnfold.decided import Decided, fed_to
from bnfold.fitting import meant as meant_by
from bnfold.moves import Arrival, Move
from bnfold.ops.affine import AffineOp
from bnfold.ops.facts import Facts
from bnfold.ops.joining import is_sum, sign_of
from bnfold.ops.reasons import LAYOUT, Obstacle
from bnfold.ops.taking import home_with

LONGEST_ROW = 8
"""How many affines in a row may go sideways together."""


@dataclass(frozen=True, slots=True)
class Row:
    """Affines in a row before a summand, the nearest first, each but that read by the one before it alone.

    `crossed` says that something may have come to them from behind a sum: that has gone between them and the top.
    """

    affines: tuple[AffineOp, ...]
    crossed: bool


def sideways(facts: Facts, decided: Decided, row: Row, summand: Summand) -> list[Move]:
    """The moves of the last affines of a row, if they become a tap together; else none.

    All settle in the one that acts on the data, which goes with them. What had settled in another takes this one
    instead; where something may have come from behind a sum, what has gone stays as it went.
    """
    affines = row.affines
    meant = [_left(facts, decided, affine) if row.crossed else meant_by(facts, decided, affine) for affine in affines]
    for place, first in enumerate(affines):
        whole, moves = meant[place], list[Move]()
        if row.crossed and not _may_hand_on(decided, first):
            continue
        for affine, own in zip(reversed(affines[:place]), reversed(meant[:place]), strict=True):
            if isinstance(whole, Obstacle) or isinstance(own, Obstacle) or whole.rank != own.rank:
                break
            whole = own @ whole
            if not (row.crossed and affine.node.id in decided.gone):
                moves.append(Move(affine.node.site, (Arrival(first.node.site, own),), (), affine.data))
        else:
            sought = Sideways(facts, decided, first, summand, affines[:place])
            found = sought.search(whole) if isinstance(whole, Affine) else None
            if found is not None:
                return [*moves, found]
    return []


def _left(facts: Facts, decided: Decided, affine: AffineOp) -> Affine | Obstacle:
    """What is left of an affine, with what it has taken over; of a sum with a constant the scale went on."""
    own, taken = meant_by(facts, decided, affine), decided.taken(affine.node)
    if isinstance(own, Obstacle):
        return own
    if affine.node.id in decided.gone:
        return Affine.identity(own.rank)
    if taken.is_nothing:
        return own
    if taken.after is None or taken.before is not None or taken.after.rank != own.rank:
        return Obstacle(LAYOUT, "it has taken over something else than an affine of its output", affine.node)
    whole = taken.after @ own
    return Affine(np.ones_like(whole.scale), whole.shift) if is_sum(affine.node) else whole


def _may_hand_on(decided: Decided, affine: AffineOp) -> bool:
    """Whether an affine is there to go, and has taken over nothing of which a part went on."""
    node = affine.node
    return node.id not in decided.gone and not (is_sum(node) and node.id in decided.homes)


@dataclass(slots=True)
class Sideways:
    """One search from an affine, beside the sum that reads it, or what the affines between make of it, alone."""

    facts: Facts
    decided: Decided
    affine: AffineOp
    summand: Summand
    between: Sequence[AffineOp] = ()

    def search(self, whole: Affine) -> Move | None:
        """The move, once it is made; None where there is no such convolution, or its numbers do not allow that.

        `whole` is what all affines of the row make of the data together.
        """
        top = self.summand.top
        if not self._may_lose():
            return None
        data = self.decided.root(self.facts.graph, fed_to(self.affine))
        for index in self.decided.left_of(top):
            others = () if index == self.summand.index else convolutions_beside(*self._known(), top, index, data)
            for found in others:
                sign = self.summand.sign * found.sign
                move = self._made(found, Affine(whole.scale * sign, whole.shift * sign), index)
                if move is not None:
                    return move
        return None

    def _known(self) -> tuple[Facts, Decided]:
        return self.facts, self.decided

    def _may_lose(self) -> bool:
        """Whether the sum may lose the affine: one value that is left alone is added, and not constant."""
        joint, lost = self.summand.joint, self.summand.lost
        left = [index for index in self.decided.left_of(joint) if index != lost]
        if len(left) != 1:
            return bool(left)
        value = joint.inputs[left[0]]
        return value is not None and sign_of(joint, left[0]) > 0 and not self.facts.is_constant(value)

    def _made(self, found: Found, tap: Affine, index: int) -> Move | None:
        total = self.decided.taken(found.home).and_tap(tap)
        if isinstance(home_with(self.facts, found.home, total), Obstacle | None) or total.after is None:
            return None
        decided, summand, graph = self.decided, self.summand, self.facts.graph
        decided.homes[found.home.id] = total.after
        decided.taps[found.home.id] = np.asarray(total.tap)
        decided.loses(graph, summand.joint, summand.lost)
        decided.ended.update(each.node.id for each in (self.affine, *self.between))
        return Move(
            self.affine.node.site,
            (Arrival(found.home.site, tap, is_tap=True),),
            tuple(node.site for node in found.path),
            self.affine.data,
            summand.joint.site,
            decided.left_of(summand.joint)[0] if summand.climb else index,
            lost=summand.lost,
            climb=tuple(node.site for node in summand.climb),
        )
