"""Graph -> Plan: every affine ends as exactly one Move (the homes it goes to) or one Refusal (why it stays).

Each looks for homes among what makes its value first, and then among what reads it.
One pass in topological order, producers first. A search for a home carries an affine from value to value; at each
value it either settles (ops/linear.py), passes (ops/passing.py, possibly to several values: all of them must find
a home, or none is used; a constant on the way may keep the shift), or meets an obstacle, upon which it goes back to
the last node that could have taken over everything. What was decided earlier is seen by what comes later: a node that
has moved away is transparent, and a home composes what settles in it. Nothing is changed here; `Plan` is a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from bnfold.affine import Affine
from bnfold.decided import Decided, Route, fed_to, not_free
from bnfold.forwarding import Forward
from bnfold.graph import Graph
from bnfold.merging import Merging
from bnfold.moves import Move, Plan, Refusal
from bnfold.nodes import Node, Site, Value
from bnfold.ops.affine import AffineOp, affine_nodes, affine_of, is_batch_norm
from bnfold.ops.bounding import has_numbers
from bnfold.ops.facts import Facts
from bnfold.ops.joining import is_sum
from bnfold.ops.reasons import (
    GRAPH_OUTPUT,
    MISMATCH,
    NO_GAIN,
    NO_HOME,
    SKIPPED,
    Obstacle,
)
from bnfold.searching import Backward, is_shift_alone
from bnfold.selecting import Selection
from bnfold.tapping import LONGEST_ROW, sideways

EVERYTHING = Selection()
BN_ONLY = "it is written by hand, and --bn-only was asked for"


def make_plan(  # noqa: PLR0913  # each wish by its own name
    graph: Graph,
    selection: Selection = EVERYTHING,
    *,
    bn_only: bool = False,
    assume_inference: bool = False,
    merge_branches: bool = False,
    mismatched: frozenset[Site] = frozenset(),
    facts: Facts | None = None,
) -> Plan:
    """Decide everything that fold will do to a model; time is linear in its nodes and weights.

    `bn_only` leaves affines that are written by hand; `assume_inference` takes BatchNormalizations older than opset 7
    for inference whatever their is_test says; `merge_branches` makes one of parallel convolutions; `mismatched` are
    affines whose fold was found to differ, and which stay.
    `facts` are those of the graph, with the same `assume_inference`, if they are wanted for more than the plan.
    Raises UsageError for a selection that names what is not there.
    """
    facts, decided = facts or Facts(graph, assume_inference=assume_inference), Decided()
    nodes = affine_nodes(facts)
    verdicts: dict[int, Move | Refusal] = {}
    left_out = dict(selection.left_out(nodes))
    decided.kept.update(selection.untouched(nodes))
    if bn_only:
        left_out |= {node.id: BN_ONLY for node in nodes if not is_batch_norm(node.op)}
    meant = {node.id for node in nodes}
    for node in facts.order:
        if node.id not in meant:
            _beside(facts, decided, verdicts, node)
        elif node.id in left_out:
            verdicts[node.id] = Refusal(node.site, SKIPPED, left_out[node.id])
        elif node.site in mismatched:
            verdicts[node.id] = Refusal(node.site, MISMATCH, "folded, it was not the same function")
        else:
            verdicts.update(_verdict(facts, decided, node))
    found = list(verdicts.values())
    moves = tuple(entry for entry in found if isinstance(entry, Move))
    refusals = tuple(entry for entry in found if isinstance(entry, Refusal))
    merges = tuple(Merging(facts, decided).merges()) if merge_branches else ()
    return Plan(graph.model.sha256, moves, refusals, assume_inference, merges)


def _verdict(facts: Facts, decided: Decided, node: Node) -> dict[int, Move | Refusal]:
    """What becomes of a node that is an affine, or is meant as one."""
    affine = affine_of(facts, node)
    if isinstance(affine, AffineOp):
        return _decided(facts, decided, affine)
    return {} if affine is None else {node.id: _refusal(node, affine)}


def _beside(facts: Facts, decided: Decided, verdicts: dict[int, Move | Refusal], joint: Node) -> None:
    """Where one of two values that are added is an affine that stayed, it may be a tap of what makes the other one.

    It is decided here, when all that stands before the sum has been, and what stands behind it has not.
    """
    if not is_sum(joint):
        return
    for value in (value for value in joint.inputs if value is not None):
        row = list(islice(_row(facts, verdicts, value, joint), LONGEST_ROW))
        sites = {affine.node.site for affine in row}
        settled = (verdicts.get(affine.node.id) for affine in row)
        if any(isinstance(each, Move) and not each.goes_within(sites) for each in settled):
            continue
        moves = sideways(facts, decided, row, joint)
        for move in moves:
            verdicts.pop(facts.graph.at(move.site).id)  # moves stand in the order in which they act
            verdicts[facts.graph.at(move.site).id] = move
        if moves:
            return


def _row(facts: Facts, verdicts: dict[int, Move | Refusal], value: Value, reader: Node) -> Iterator[AffineOp]:
    """The affines in a row before a value, the nearest first, each read by the next one alone."""
    while not_free(facts.graph, value, reader) is None:
        node = facts.graph.producer(value)
        affine = None if node is None else affine_of(facts, node)
        if node is None or not isinstance(affine, AffineOp):
            return
        refused = verdicts.get(node.id)
        if isinstance(refused, Refusal) and refused.reason in {SKIPPED, MISMATCH}:
            return
        yield affine
        reader, value = node, fed_to(affine)


def _decided(facts: Facts, decided: Decided, affine: AffineOp) -> dict[int, Move | Refusal]:
    """What becomes of one affine, and of those that stayed until now because they cancelled with their home."""
    search = Backward(facts, decided, affine)
    meant = search.meant()
    if isinstance(meant, Obstacle):
        return {affine.node.id: _refusal(affine.node, meant)}
    route = search.search(meant)
    met = [each.node for each in route.arrivals] if isinstance(route, Route) else [search.cancelled]
    for group in [decided.idle[node.id] for node in met if node is not None and node.id in decided.idle]:
        together = _together(facts, decided, (*group, affine))
        if together:
            group.clear()
            return together
    if isinstance(route, Route):
        return {affine.node.id: decided.settle(facts.graph, affine, route)}
    if search.cancelled is not None:
        decided.stays_idle(affine, search.cancelled)
        return {affine.node.id: _refusal(affine.node, route)}
    if route.reason is NO_GAIN and is_shift_alone(affine) and route.node is facts.graph.producer(fed_to(affine)):
        # It is the bias of a layer that has no other: so does a fold write one, and the next fold leaves it there.
        return {affine.node.id: _refusal(affine.node, route)}
    ahead = Forward(facts, decided, affine).search(meant)
    if not isinstance(ahead, Obstacle):
        return {affine.node.id: decided.settle_ahead(facts.graph, affine, ahead)}
    parted = _parted(facts, decided, affine, meant)
    if parted is not None:
        return {affine.node.id: parted}
    # Where nothing stands before it, what stands behind it says more.
    told = ahead if route.reason is NO_HOME and ahead.reason not in {NO_HOME, GRAPH_OUTPUT} else route
    return {affine.node.id: _refusal(affine.node, told)}


def _parted(facts: Facts, decided: Decided, affine: AffineOp, meant: Affine) -> Move | None:
    """Its scale goes back and its shift forward, where neither way is open to both."""
    none = np.zeros_like(meant.shift)
    if not meant.has_shift or np.all(meant.scale == 1):
        return None
    back = Backward(facts, decided, affine).search(Affine(meant.scale, none))
    if not isinstance(back, Route):
        return None
    ahead = Forward(facts, decided, affine).search(Affine(np.ones_like(meant.scale), meant.shift))
    if isinstance(ahead, Obstacle) or any(has_numbers(each.node) for each in (*back.arrivals, *ahead.arrivals)):
        return None  # in whose numbers both halves would meet
    return decided.settle_both(facts.graph, affine, back, ahead)


def _refusal(node: Node, obstacle: Obstacle) -> Refusal:
    blamed = None if obstacle.node is None or obstacle.node is node else obstacle.node.site
    return Refusal(node.site, obstacle.reason, obstacle.detail, blamed)


def _together(facts: Facts, decided: Decided, affines: tuple[AffineOp, ...]) -> dict[int, Move | Refusal]:
    """The moves of affines all but the last of which stay only for want of it; empty where that is not enough.

    Of `x - 1`, `+ 1`, `+ 2` the second stays, for with it the first would do nothing; but with the third it would.
    The next fold would see one constant, and move it: folding twice has to be folding once.
    """
    if len(affines) == 1:
        return {}
    before = dict(decided.gone), dict(decided.homes)
    moves: dict[int, Move | Refusal] = {}
    unsettled: set[int] = set()
    for affine in affines:
        search = Backward(facts, decided, affine, may_idle=affine is not affines[-1])
        meant = search.meant()
        route = meant if isinstance(meant, Obstacle) else search.search(meant)
        if not isinstance(route, Route):
            decided.restore(*before)
            return {}
        moves[affine.node.id] = decided.settle(facts.graph, affine, route)
        homes = {home.id for home, _ in route.totals}
        unsettled = unsettled | homes if affine is not affines[-1] else unsettled - homes
    if unsettled:
        decided.restore(*before)
        return {}
    return moves
