"""Graph -> Plan: every affine ends as exactly one Move (the homes it goes to) or one Refusal (why it stays).

One pass in topological order, producers first. A search for a home carries an affine from value to value; at each
value it either settles (ops/linear.py), passes (ops/passing.py, possibly to several values: all of them must find
a home, or none is used; a constant on the way may keep the shift), or meets an obstacle, upon which it goes back to
the last node that could have taken over everything. What was decided earlier is seen by what comes later: a node that
has moved away is transparent, and a home composes what settles in it. Nothing is changed here; `Plan` is a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from bnfold.affine import Affine
from bnfold.graph import Graph
from bnfold.moves import Arrival, Move, Plan, Refusal
from bnfold.nodes import Node, Site, Value
from bnfold.ops.affine import AffineOp, affine_nodes, affine_of, is_batch_norm
from bnfold.ops.facts import Facts, reads_metadata_alone
from bnfold.ops.linear import home_for, ways_of
from bnfold.ops.passing import Passed, backward, known_rank, known_size, may_pass
from bnfold.ops.reasons import (
    BLOCKED,
    BROKEN_PARAMETERS,
    GRAPH_OUTPUT,
    LAYOUT,
    MISMATCH,
    NO_GAIN,
    NO_HOME,
    OTHER_READERS,
    OUTER_SCOPE,
    SKIPPED,
    Obstacle,
)
from bnfold.selecting import Selection

EVERYTHING = Selection()
BN_ONLY = "it is written by hand, and --bn-only was asked for"


@dataclass(frozen=True, slots=True)
class _Route:
    """A search that succeeded: the homes, what each takes over in all, and the nodes on the way."""

    arrivals: tuple[tuple[Node, Affine], ...]
    totals: tuple[tuple[Node, Affine], ...]
    path: tuple[Node, ...]


@dataclass(slots=True)
class _Decided:
    """What the moves made so far mean for the next search.

    `gone` leads from a node that has moved past all that moved before it: to the first of them and what that was fed.
    `idle` are affines that stay because a node before them would do nothing then; by that node, and each by its own.
    """

    gone: dict[int, tuple[Node, Value]] = field(default_factory=dict)
    homes: dict[int, Affine] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    idle: dict[int, list[AffineOp]] = field(default_factory=dict)

    def settle(self, graph: Graph, affine: AffineOp, route: _Route) -> Move:
        before = graph.producer(_fed(affine))
        first = None if before is None else self.gone.get(before.id)
        self.gone[affine.node.id] = first or (affine.node, _fed(affine))
        self.homes.update((home.id, total) for home, total in route.totals)
        arrivals = tuple(Arrival(home.site, after) for home, after in route.arrivals)
        return Move(affine.node.site, arrivals, tuple(passed.site for passed in route.path))

    def stays_idle(self, affine: AffineOp, home: Node) -> None:
        """With this affine, the home would do nothing."""
        group = self.idle.setdefault(home.id, [])
        group.append(affine)
        self.idle[affine.node.id] = group

    def restore(self, gone: dict[int, tuple[Node, Value]], homes: dict[int, Affine]) -> None:
        """What it was before some moves that are taken back."""
        self.gone, self.homes = gone, homes


def make_plan(
    graph: Graph,
    selection: Selection = EVERYTHING,
    *,
    bn_only: bool = False,
    assume_inference: bool = False,
    mismatched: frozenset[Site] = frozenset(),
) -> Plan:
    """Decide everything that fold will do to a model; time is linear in its nodes and weights.

    `bn_only` leaves affines that are written by hand; `assume_inference` takes BatchNormalizations older than opset 7
    for inference whatever their is_test says; `mismatched` are affines whose fold was found to differ, and which stay.
    Raises UsageError for a selection that names what is not there.
    """
    facts, decided = Facts(graph, assume_inference=assume_inference), _Decided()
    nodes = affine_nodes(facts)
    verdicts: dict[int, Move | Refusal] = {}
    left_out = dict(selection.left_out(nodes))
    decided.kept.update(selection.untouched(nodes))
    if bn_only:
        left_out |= {node.id: BN_ONLY for node in nodes if not is_batch_norm(node.op)}
    for node in nodes:
        if node.id in left_out:
            verdicts[node.id] = Refusal(node.site, SKIPPED, left_out[node.id])
            continue
        if node.site in mismatched:
            verdicts[node.id] = Refusal(node.site, MISMATCH, "folded, it was not the same function")
            continue
        affine = affine_of(facts, node)
        if isinstance(affine, AffineOp):
            verdicts.update(_decided(facts, decided, affine))
        elif affine is not None:
            verdicts[node.id] = _refusal(node, affine)
    found = [verdicts[node.id] for node in nodes]
    moves = tuple(entry for entry in found if isinstance(entry, Move))
    refusals = tuple(entry for entry in found if isinstance(entry, Refusal))
    return Plan(graph.model.sha256, moves, refusals, assume_inference)


def _decided(facts: Facts, decided: _Decided, affine: AffineOp) -> dict[int, Move | Refusal]:
    """What becomes of one affine, and of those that stayed until now because they cancelled with their home."""
    search = _Backward(facts, decided, affine)
    route = search.search()
    met = [home for home, _ in route.arrivals] if isinstance(route, _Route) else [search.cancelled]
    for group in [decided.idle[node.id] for node in met if node is not None and node.id in decided.idle]:
        together = _together(facts, decided, (*group, affine))
        if together:
            group.clear()
            return together
    if isinstance(route, _Route):
        return {affine.node.id: decided.settle(facts.graph, affine, route)}
    if search.cancelled is not None:
        decided.stays_idle(affine, search.cancelled)
    return {affine.node.id: _refusal(affine.node, route)}


def _refusal(node: Node, obstacle: Obstacle) -> Refusal:
    blamed = None if obstacle.node is None or obstacle.node is node else obstacle.node.site
    return Refusal(node.site, obstacle.reason, obstacle.detail, blamed)


def _together(facts: Facts, decided: _Decided, affines: tuple[AffineOp, ...]) -> dict[int, Move | Refusal]:
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
        route = _Backward(facts, decided, affine, may_idle=affine is not affines[-1]).search()
        if not isinstance(route, _Route):
            decided.restore(*before)
            return {}
        moves[affine.node.id] = decided.settle(facts.graph, affine, route)
        homes = {home.id for home, _ in route.totals}
        unsettled = unsettled | homes if affine is not affines[-1] else unsettled - homes
    if unsettled:
        decided.restore(*before)
        return {}
    return moves


def _fed(affine: AffineOp) -> Value:
    value = affine.node.inputs[affine.data]
    if value is None:
        raise ValueError(f"{affine.node.site} has no input, and is no affine")
    return value


@dataclass(frozen=True, slots=True)
class _Fallback:
    """A node that could take over all that a search carried when it passed there, and what was found until then."""

    node: Node
    affine: Affine
    pending: tuple[_Step, ...]
    arrivals: int
    path: int


_Step = tuple[Node, Value, Affine]
"""A node, the value that it reads, and the affine which that value must bear."""


@dataclass(slots=True)
class _Backward:
    """One search from an affine's input towards its producers."""

    facts: Facts
    decided: _Decided
    affine: AffineOp
    may_idle: bool = False
    """Whether it may leave a home that does nothing, for something else to settle there."""
    cancelled: Node | None = None
    """The home that would have done nothing."""
    arrivals: list[tuple[Node, Affine]] = field(default_factory=list)
    totals: list[tuple[Node, Affine]] = field(default_factory=list)
    path: list[Node] = field(default_factory=list)
    fallbacks: list[_Fallback] = field(default_factory=list)

    def search(self) -> _Route | Obstacle:
        start = _fed(self.affine)
        rank = known_rank(self.facts, self.through(start))
        if rank is None:
            return self.without_rank(start)
        wrong = self.wrong_length(start, rank)
        if wrong is not None:
            return wrong
        affine = self.affine.at_rank(rank)
        if affine is None:
            return Obstacle(LAYOUT, f"it gives its input of {rank} dimension(s) further ones", self.affine.node)
        pending: list[_Step] = [(self.affine.node, start, affine)]
        while pending:
            step = self.step(*pending.pop(), tuple(pending))
            if isinstance(step, Obstacle):
                retreat = self.retreat()
                if retreat is None:
                    return step
                step, pending = (), list(retreat)
            pending.extend(reversed(step))
        return _Route(tuple(self.arrivals), tuple(self.totals), tuple(self.path))

    def step(self, reader: Node, value: Value, affine: Affine, rest: tuple[_Step, ...]) -> tuple[_Step, ...] | Obstacle:
        """Bring an affine of `value` (read by `reader`) to the node that produces it."""
        obstacle = _not_free(self.facts.graph, value, reader)
        if obstacle is not None:
            return obstacle
        node = self.facts.graph.producer(value)
        if node is None:
            return Obstacle(NO_HOME, f"{value.name!r} is no node's output")
        if node.output(0) is not value:
            return Obstacle(NO_HOME, f"{value.name!r} is a further output of {node.op}", node)
        if node.id in self.decided.kept:
            return Obstacle(BLOCKED, f"the {node.op} before it was asked to stay as it is", node)
        if node.id in self.decided.gone:
            self.path.append(node)
            return ((*self.decided.gone[node.id], affine),)
        passed = backward(self.facts, node, affine)
        if passed is None:
            return self.settle(node, affine) or ()
        if isinstance(passed, Passed) and passed.may_stay:
            passed = self.past_a_home(node, affine) or passed
        if isinstance(passed, Obstacle):
            return passed
        return self.onward(node, affine, passed, rest)

    def past_a_home(self, node: Node, affine: Affine) -> Passed | Obstacle | None:
        """How a factor is passed that has grown: behind r*p*x, (a, s) is what (a, s/r) is behind p*x, times r."""
        earlier = self.decided.homes.get(node.id)
        if earlier is None or not affine.has_shift:
            return None
        if not np.all(earlier.scale):
            return Obstacle(BLOCKED, "its constant has become zero somewhere, and lets no shift pass", node)
        return backward(self.facts, node, Affine(affine.scale, affine.shift / earlier.scale))

    def onward(
        self, node: Node, affine: Affine, passed: Passed, rest: tuple[_Step, ...]
    ) -> tuple[_Step, ...] | Obstacle:
        """The steps to the inputs that passages lead to; where one is missing, an affine would be lost."""
        inputs = [node.input(passage.index) for passage in passed.passages]
        steps = [(node, x, passage.affine) for x, passage in zip(inputs, passed.passages, strict=True) if x is not None]
        if len(steps) < len(passed.passages):
            return Obstacle(NO_HOME, f"an input of {node.op} is missing", node)
        if passed.keeps:
            obstacle = self.settle(node, affine)
            if obstacle is not None:
                return obstacle
        elif passed.may_stay:
            self.fallbacks.append(_Fallback(node, affine, rest, len(self.arrivals), len(self.path)))
        if steps:
            self.path.append(node)
        return tuple(steps)

    def retreat(self) -> tuple[_Step, ...] | None:
        """Settle where that was possible last, and what then is still pending; None where it was nowhere."""
        while self.fallbacks:
            last = self.fallbacks.pop()
            del self.arrivals[last.arrivals :], self.totals[last.arrivals :], self.path[last.path :]
            if self.settle(last.node, last.affine) is None:
                return last.pending
        return None

    def settle(self, node: Node, affine: Affine) -> Obstacle | None:
        """Let a home take over an affine besides what it has already, if its operator and its numbers allow that."""
        earlier = self.decided.homes.get(node.id)
        # Of two ranks one is not the home's: that is for the home to say.
        total = affine if earlier is None or earlier.rank != affine.rank else affine @ earlier
        home = home_for(self.facts, node, total)
        if home is None:
            return Obstacle(BLOCKED, f"{node.op} lets no per-channel affine pass", node)
        if isinstance(home, Obstacle):
            return home
        if home.is_idle(total) and not self.may_idle:
            detail = "the two cancel: a node would be left that does nothing"
            self.cancelled = node
            return Obstacle(NO_GAIN, detail, node)
        had_add = earlier is not None and home.needs_add(earlier)
        if home.needs_add(total) and not had_add and self.is_shift_alone():
            return Obstacle(NO_GAIN, f"{node.op} has no bias, so that its shift would become another Add", node)
        self.arrivals.append((node, affine))
        self.totals.append((node, total))
        return None

    def is_shift_alone(self) -> bool:
        """Whether what moves is itself no more than an Add."""
        return self.affine.channels is None and bool(np.all(np.abs(self.affine.scale) == 1))

    def wrong_length(self, value: Value, rank: int) -> Obstacle | None:
        """Parameters for another number of channels than there are; one channel would broadcast unseen."""
        affine, node = self.affine, self.affine.node
        if affine.axis is None:
            return self.enlarging(value, rank)
        if rank < 2:
            return Obstacle(BROKEN_PARAMETERS, f"its input has {rank} dimension(s)", node)
        channels, known = affine.channels, known_size(self.facts, self.through(value), affine.axis)
        if known == channels or (known is None and channels != 1):
            return None
        if known is None:
            return Obstacle(LAYOUT, "it is not known how many channels the input has", node)
        detail = f"the parameters are for {channels} channel(s), the input has {known}"
        return Obstacle(BROKEN_PARAMETERS, detail, node)

    def enlarging(self, value: Value, rank: int) -> Obstacle | None:
        """A constant that may give its value larger dimensions: there is no affine before it that does so."""
        written = self.affine.written
        missing = max(0, rank - len(written))
        for axis, size in enumerate(written, start=missing):
            known = known_size(self.facts, self.through(value), axis)
            if size not in {1, known}:
                found = "a size that is not known" if known is None else str(known)
                detail = f"its constant has {size} elements along axis {axis}, its input {found}"
                return Obstacle(LAYOUT, detail, self.affine.node)
        return None

    def through(self, value: Value) -> Value:
        """The value before the nodes that have moved away: the same as this one, once they are gone."""
        node = self.facts.graph.producer(value)
        return value if node is None or node.id not in self.decided.gone else self.decided.gone[node.id][1]

    def without_rank(self, start: Value) -> Obstacle:
        """The obstacle of an input of unknown rank: the nearest one that a search would have met."""
        node = self.facts.graph.producer(start)
        if node is None:
            return Obstacle(NO_HOME, f"{start.name!r} is no node's output")
        ways = ways_of(self.facts, node)
        if isinstance(ways, Obstacle):
            return ways
        if ways is None and not may_pass(node):
            return Obstacle(BLOCKED, f"{node.op} lets no per-channel affine pass", node)
        return Obstacle(LAYOUT, f"the rank of {start.name!r} is not known", node)


def _not_free(graph: Graph, value: Value, reader: Node) -> Obstacle | None:
    """What else depends on the content of a value that is about to change."""
    if value.scope is not reader.scope:
        return Obstacle(OUTER_SCOPE, f"{value.name!r} belongs to an outer graph", graph.producer(value))
    if graph.is_graph_output(value):
        return Obstacle(GRAPH_OUTPUT, f"{value.name!r} is an output of the graph")
    others = list(_other_readers(graph, value, reader))
    nested = next((node for node in others if node.scope is not value.scope), None)
    if nested is not None:
        return Obstacle(OUTER_SCOPE, f"{value.name!r} is read in a nested graph", nested)
    if others:
        return Obstacle(OTHER_READERS, f"{value.name!r} has {len(others) + 1} readers", others[0])
    return None


def _other_readers(graph: Graph, value: Value, reader: Node) -> Iterator[Node]:
    """Nodes besides `reader` that read what a value holds; a reader that reads it twice counts as another."""
    seen = False
    for entry in graph.readers(value):
        if reads_metadata_alone(entry):
            continue
        if entry.node is reader and not seen:
            seen = True
            continue
        yield entry.node
