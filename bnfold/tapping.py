"""Sideways: an affine of x that is added to a convolution of the same x is one more tap of it.

    conv(x) + (a*x + s)        W[c, c, center] += a[c]        b[c] += s[c]

The convolution's outputs have to lie as its data do (stride 1, and a padding that keeps the size), so that one tap sees
the data of the output's own place. Between the convolution and the sum may stand affines that have settled in it and
further sums, each read by one node alone. The affine goes, with all that has settled in it, and so does the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnfold.affine import Affine
from bnfold.beside import Found, convolution_beside
from bnfold.decided import Decided, fed_to
from bnfold.fitting import meant as meant_by
from bnfold.moves import Arrival, Move
from bnfold.nodes import Node, Value
from bnfold.ops.affine import AffineOp
from bnfold.ops.facts import Facts
from bnfold.ops.joining import is_sum, sign_of
from bnfold.ops.reasons import Obstacle
from bnfold.ops.taking import home_with

LONGEST_ROW = 8
"""How many affines in a row may go sideways together."""


def sideways(facts: Facts, decided: Decided, row: Sequence[AffineOp], joint: Node) -> list[Move]:
    """The moves of the last affines of a row that a sum reads, if they become a tap together; else none.

    `row` has the nearest one first; each but that is read by the one before it alone. All settle in the one that acts
    on the data, which goes with them; where one had settled in another of them, this takes the place of that.
    """
    meant = [meant_by(facts, decided, affine) for affine in row]
    for place, first in enumerate(row):
        whole, moves = meant[place], list[Move]()
        for affine, own in zip(reversed(row[:place]), reversed(meant[:place]), strict=True):
            if isinstance(whole, Obstacle) or isinstance(own, Obstacle) or whole.rank != own.rank:
                break
            whole = own @ whole
            moves.append(Move(affine.node.site, (Arrival(first.node.site, own),), (), affine.data))
        if isinstance(whole, Obstacle) or len(moves) < place:
            continue
        found = Sideways(facts, decided, first, joint, row[:place]).search(whole)
        if found is not None:
            return [*moves, found]
    return []


@dataclass(slots=True)
class Sideways:
    """One search from an affine, beside the sum that reads it, or what the affines between make of it, alone."""

    facts: Facts
    decided: Decided
    affine: AffineOp
    joint: Node
    between: Sequence[AffineOp] = ()

    def search(self, whole: Affine) -> Move | None:
        """The move, once it is made; None where there is no such convolution, or its numbers do not allow that.

        `whole` is what all affines of the row make of the data together.
        """
        index = self._place()
        if index is None:
            return None
        other = self.joint.inputs[1 - index]
        data = self.decided.root(self.facts.graph, fed_to(self.affine))
        found = convolution_beside(self.facts, self.decided, self.joint, 1 - index, data)
        if found is None or other is None:
            return None
        sign = sign_of(self.joint, index) * found.sign
        return self._made(found, Affine(whole.scale * sign, whole.shift * sign), index, other)

    def _place(self) -> int | None:
        """At which input of the sum the affine stands, alone; the other one has to be added, not subtracted."""
        output = (self.between[0] if self.between else self.affine).node.output(0)
        if not is_sum(self.joint) or len(self.joint.inputs) != 2 or self.joint.inputs.count(output) != 1:
            return None
        index = self.joint.inputs.index(output)
        return index if sign_of(self.joint, 1 - index) > 0 else None

    def _made(self, found: Found, tap: Affine, index: int, other: Value) -> Move | None:
        total = self.decided.taken(found.home).and_tap(tap)
        if isinstance(home_with(self.facts, found.home, total), Obstacle | None) or total.after is None:
            return None
        decided, graph = self.decided, self.facts.graph
        decided.homes[found.home.id] = total.after
        decided.taps[found.home.id] = np.asarray(total.tap)
        decided.joins(graph, self.joint, other)
        decided.ended.update(each.node.id for each in (self.affine, *self.between))
        arrival = Arrival(found.home.site, tap, is_tap=True)
        path = tuple(node.site for node in found.path)
        return Move(self.affine.node.site, (arrival,), path, self.affine.data, self.joint.site, 1 - index)
