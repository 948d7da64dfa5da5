"""What becomes of one affine: back to what makes its value, else forward to all that reads it, else in two halves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from bnfold.adding import is_shift_alone
from bnfold.affine import Affine
from bnfold.decided import Decided, Route, fed_to
from bnfold.fitting import meant as meant_by
from bnfold.forwarding import Forward
from bnfold.moves import Move, Refusal
from bnfold.nodes import Node
from bnfold.ops.affine import AffineOp
from bnfold.ops.bounding import has_numbers
from bnfold.ops.facts import Facts
from bnfold.ops.joining import is_sum
from bnfold.ops.reasons import GRAPH_OUTPUT, NO_GAIN, NO_HOME, Obstacle
from bnfold.searching import Backward

Verdicts = dict[int, Move | Refusal]
"""By the id of an affine's node; moves in the order in which they were made."""


@dataclass(slots=True)
class Choice:
    """One affine, what was decided so far, and the nodes that were looked at for it (by id).

    As long as nothing of these changes, neither does what becomes of it.
    """

    facts: Facts
    decided: Decided
    affine: AffineOp
    seen: set[int] = field(default_factory=set)

    def handed_on(self) -> Verdicts:
        """What becomes of one that is a home itself: it goes right before it with all that it has. Empty: it stays."""
        whole = _with_taken(self.decided, self.affine)
        meant = None if whole is None else meant_by(self.facts, self.decided, whole)
        if whole is None or not isinstance(meant, Affine):
            return {}
        route = Backward(self.facts, self.decided, whole, seen=self.seen).search(meant)
        if not isinstance(route, Route) or route.path or route.skips or len(route.arrivals) > 1:
            return {}
        return {whole.node.id: self.decided.settle(self.facts.graph, whole, route)}

    def made(self) -> Verdicts:
        """What becomes of it, and of those that stayed until now because they cancelled with their home."""
        affine, decided, graph = self.affine, self.decided, self.facts.graph
        search = Backward(self.facts, decided, affine, seen=self.seen)
        meant = meant_by(self.facts, decided, affine)
        if isinstance(meant, Obstacle):
            return {affine.node.id: refused(affine.node, meant)}
        route = search.search(meant)
        met = [each.node for each in route.arrivals] if isinstance(route, Route) else [search.cancelled]
        for group in [decided.idle[node.id] for node in met if node is not None and node.id in decided.idle]:
            together = self._together((*(each for each in group if each.node is not affine.node), affine))
            if together:
                group.clear()
                return together
        if isinstance(route, Route):
            return {affine.node.id: decided.settle(graph, affine, route)}
        if search.cancelled is not None:
            decided.stays_idle(affine, search.cancelled)
            return {affine.node.id: refused(affine.node, route)}
        if route.reason is NO_GAIN and is_shift_alone(affine) and route.node is graph.producer(fed_to(affine)):
            # It is the bias of a layer that has no other: so does a fold write one, and the next fold leaves it there.
            return {affine.node.id: refused(affine.node, route)}
        ahead = Forward(self.facts, decided, affine, seen=self.seen).search(meant)
        if not isinstance(ahead, Obstacle):
            return {affine.node.id: decided.settle_ahead(graph, affine, ahead)}
        parted = self._parted(meant)
        if parted is not None:
            return {affine.node.id: parted}
        # Where nothing stands before it, what stands behind it says more.
        told = ahead if route.reason is NO_HOME and ahead.reason not in {NO_HOME, GRAPH_OUTPUT} else route
        return {affine.node.id: refused(affine.node, told)}

    def _parted(self, meant: Affine) -> Move | None:
        """Its scale goes back and its shift forward, where neither way is open to both."""
        facts, decided, affine = self.facts, self.decided, self.affine
        none = np.zeros_like(meant.shift)
        if not meant.has_shift or np.all(meant.scale == 1):
            return None
        back = Backward(facts, decided, affine, seen=self.seen).search(Affine(meant.scale, none))
        if not isinstance(back, Route):
            return None
        shift = Affine(np.ones_like(meant.scale), meant.shift)
        ahead = Forward(facts, decided, affine, seen=self.seen).search(shift)
        if isinstance(ahead, Obstacle) or any(has_numbers(each.node) for each in (*back.arrivals, *ahead.arrivals)):
            return None  # in whose numbers both halves would meet
        return decided.settle_both(facts.graph, affine, back, ahead)

    def _together(self, affines: tuple[AffineOp, ...]) -> Verdicts:
        """The moves of affines all but the last of which stay only for want of it; empty where that is not enough.

        Of `x - 1`, `+ 1`, `+ 2` the second stays, for with it the first would do nothing; but with the third it would.
        The next fold would see one constant, and move it: folding twice has to be folding once.
        """
        facts, decided = self.facts, self.decided
        if len(affines) == 1:
            return {}
        mark = decided.mark()
        moves: Verdicts = {}
        unsettled: set[int] = set()
        for affine in affines:
            search = Backward(facts, decided, affine, may_idle=affine is not affines[-1], seen=self.seen)
            meant = meant_by(facts, decided, affine)
            route = meant if isinstance(meant, Obstacle) else search.search(meant)
            if not isinstance(route, Route):
                decided.restore(mark)
                return {}
            moves[affine.node.id] = decided.settle(facts.graph, affine, route)
            homes = {home.id for home, _ in route.totals}
            unsettled = unsettled | homes if affine is not affines[-1] else unsettled - homes
        if unsettled:
            decided.restore(mark)
            return {}
        return moves


def _with_taken(decided: Decided, affine: AffineOp) -> AffineOp | None:
    """A constant Add with what it has taken over, of which the scale went on; None for what is none."""
    taken = decided.homes[affine.node.id]
    own = affine.at_rank(taken.rank)
    if own is None or affine.axis is not None or np.any(own.scale != 1) or not is_sum(affine.node):
        return None
    shift = taken.scale * own.shift + taken.shift
    return replace(affine, scale=np.ones_like(shift), shift=shift, written=shift.shape)


def refused(node: Node, obstacle: Obstacle) -> Refusal:
    """The refusal of an affine for an obstacle."""
    blamed = None if obstacle.node is None or obstacle.node is node else obstacle.node.site
    return Refusal(node.site, obstacle.reason, obstacle.detail, blamed)
