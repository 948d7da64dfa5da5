"""Graph -> Plan: every affine ends as exactly one Move (the homes it goes to) or one Refusal (why it stays).

One pass in topological order, producers first. A search for a home carries an affine from value to value; at each
value it either settles (ops/linear.py), passes (ops/passing.py, possibly to several values: all of them must find
a home, or none is used), or meets an obstacle. What was decided earlier is seen by what comes later: a node that
has moved away is transparent, and a home composes what settles in it. Nothing is changed here; `Plan` is a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from bnfold.affine import Affine
from bnfold.errors import UsageError
from bnfold.graph import Graph
from bnfold.nodes import Node, Site, Value
from bnfold.ops.affine import AFFINE, AffineOp, affine_nodes
from bnfold.ops.facts import Facts, reads_metadata_alone
from bnfold.ops.linear import Linear, linear_of, obstacle_to
from bnfold.ops.passing import PASSING, Passage, backward, known_rank, known_size
from bnfold.ops.reasons import (
    BLOCKED,
    BROKEN_PARAMETERS,
    GRAPH_OUTPUT,
    LAYOUT,
    NO_HOME,
    OTHER_READERS,
    OUTER_SCOPE,
    REASONS,
    SKIPPED,
    Obstacle,
    Reason,
)
from bnfold.selecting import Selection

EVERYTHING = Selection()
Json = str | int | float | list[Any] | dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Arrival:
    """One home of a move, and the affine of the home's output that it takes over."""

    home: Site
    after: Affine


@dataclass(frozen=True, slots=True)
class Move:
    """One affine that goes: where it stood, the homes it settles in, and the nodes it passed, nearest first."""

    site: Site
    arrivals: tuple[Arrival, ...]
    path: tuple[Site, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """One affine that stays: the reason, a sentence about this case, and the node to blame (if it is another)."""

    site: Site
    reason: Reason
    detail: str
    blamed: Site | None = None

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return self.reason.remedy


@dataclass(frozen=True, slots=True)
class Plan:
    """All that will be done to one model, and all that will not: `fingerprint` is the model file's SHA-256."""

    fingerprint: str
    moves: tuple[Move, ...]
    refusals: tuple[Refusal, ...]

    def accounts_for(self, graph: Graph) -> bool:
        """Whether every affine of the graph stands in exactly one move or refusal (the invariant of a plan)."""
        ours = sorted([move.site for move in self.moves] + [refusal.site for refusal in self.refusals])
        return ours == sorted(node.site for node in affine_nodes(graph))

    @property
    def left(self) -> int:
        """How many affines stay although nobody asked them to."""
        return sum(refusal.reason is not SKIPPED for refusal in self.refusals)

    def to_json(self) -> dict[str, Json]:
        """This plan as JSON values; `from_json` gives an equal plan back."""
        return {
            "fingerprint": self.fingerprint,
            "moves": [_move_to_json(move) for move in self.moves],
            "refusals": [_refusal_to_json(refusal) for refusal in self.refusals],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The plan that `to_json` wrote; raises UsageError for anything else."""
        try:
            moves = tuple(_move_from_json(entry) for entry in value["moves"])
            refusals = tuple(_refusal_from_json(entry) for entry in value["refusals"])
            return cls(str(value["fingerprint"]), moves, refusals)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"this is no plan: {error!r}") from error

    def homes(self) -> dict[Site, Affine]:
        """What each home takes over in all: the composition of its arrivals, in the order of the moves."""
        homes: dict[Site, Affine] = {}
        for move in self.moves:
            for arrival in move.arrivals:
                earlier = homes.get(arrival.home)
                homes[arrival.home] = arrival.after if earlier is None else arrival.after @ earlier
        return homes


@dataclass(frozen=True, slots=True)
class _Route:
    """A search that succeeded: the homes, what each takes over in all, and the nodes on the way."""

    arrivals: tuple[tuple[Node, Affine], ...]
    totals: tuple[tuple[Node, Affine], ...]
    path: tuple[Node, ...]


@dataclass(slots=True)
class _Decided:
    """What the moves made so far mean for the next search."""

    gone: set[int] = field(default_factory=set)
    homes: dict[int, Affine] = field(default_factory=dict)

    def settle(self, node: Node, route: _Route) -> Move:
        self.gone.add(node.id)
        self.homes.update((home.id, total) for home, total in route.totals)
        arrivals = tuple(Arrival(home.site, affine) for home, affine in route.arrivals)
        return Move(node.site, arrivals, tuple(passed.site for passed in route.path))


def make_plan(
    graph: Graph, selection: Selection = EVERYTHING, *, bn_only: bool = False, assume_inference: bool = False
) -> Plan:
    """Decide everything that fold will do to a model; time is linear in its nodes and weights.

    Raises UsageError for a selection that names what is not there.
    """
    del bn_only, assume_inference
    facts, decided = Facts(graph), _Decided()
    moves: list[Move] = []
    refusals: list[Refusal] = []
    nodes = affine_nodes(graph)
    left_out = selection.left_out(nodes)
    for node in nodes:
        if node.id in left_out:
            refusals.append(Refusal(node.site, SKIPPED, left_out[node.id]))
            continue
        route = _route(facts, decided, node)
        if isinstance(route, _Route):
            moves.append(decided.settle(node, route))
            continue
        blamed = None if route.node is None or route.node is node else route.node.site
        refusals.append(Refusal(node.site, route.reason, route.detail, blamed))
    return Plan(graph.model.sha256, tuple(moves), tuple(refusals))


def _route(facts: Facts, decided: _Decided, node: Node) -> _Route | Obstacle:
    """The first way that leads home. Today one is tried: backward."""
    found = AFFINE[node.op](facts, node)
    if isinstance(found, Obstacle):
        return found
    return _Backward(facts, decided, found).search()


@dataclass(slots=True)
class _Backward:
    """One search from an affine's input towards its producers."""

    facts: Facts
    decided: _Decided
    affine: AffineOp
    arrivals: list[tuple[Node, Affine]] = field(default_factory=list)
    totals: list[tuple[Node, Affine]] = field(default_factory=list)
    path: list[Node] = field(default_factory=list)

    def search(self) -> _Route | Obstacle:
        start = self.affine.node.input(0)
        if start is None:
            return Obstacle(BROKEN_PARAMETERS, "its input is missing", self.affine.node)
        rank = known_rank(self.facts, self.through(start))
        if rank is None:
            return self.without_rank(start)
        wrong = self.wrong_length(start, rank)
        if wrong is not None:
            return wrong
        pending: list[tuple[Node, Value, Affine]] = [(self.affine.node, start, self.affine.at_rank(rank))]
        while pending:
            reader, value, affine = pending.pop()
            step = self.step(reader, value, affine)
            if isinstance(step, Obstacle):
                return step
            pending.extend(reversed(step))
        return _Route(tuple(self.arrivals), tuple(self.totals), tuple(self.path))

    def step(self, reader: Node, value: Value, affine: Affine) -> tuple[tuple[Node, Value, Affine], ...] | Obstacle:
        """Bring an affine of `value` (read by `reader`) to the node that produces it."""
        obstacle = _not_free(self.facts.graph, value, reader)
        if obstacle is not None:
            return obstacle
        node = self.facts.graph.producer(value)
        if node is None:
            return Obstacle(NO_HOME, f"{value.name!r} is no node's output")
        if node.output(0) is not value:
            return Obstacle(NO_HOME, f"{value.name!r} is a further output of {node.op}", node)
        if node.id in self.decided.gone:
            self.path.append(node)
            return self.onward(node, (Passage(0, affine),))
        linear = linear_of(self.facts, node)
        if isinstance(linear, Obstacle):
            return linear
        if linear is not None:
            return self.settle(linear, affine) or ()
        passages = backward(self.facts, node, affine)
        if isinstance(passages, Obstacle):
            return passages
        self.path.append(node)
        return self.onward(node, passages)

    def onward(self, node: Node, passages: tuple[Passage, ...]) -> tuple[tuple[Node, Value, Affine], ...] | Obstacle:
        """The steps to the inputs that passages lead to; where one is missing, an affine would be lost."""
        inputs = [node.input(passage.index) for passage in passages]
        steps = [(node, x, passage.affine) for x, passage in zip(inputs, passages, strict=True) if x is not None]
        if len(steps) < len(passages) or not steps:
            return Obstacle(NO_HOME, f"an input of {node.op} is missing", node)
        return tuple(steps)

    def settle(self, linear: Linear, affine: Affine) -> Obstacle | None:
        """Let a home take over an affine besides what it has already, if its numbers allow that."""
        node = linear.node
        earlier = self.decided.homes.get(node.id)
        # Of two ranks one is not the home's: that is for obstacle_to to say.
        total = affine if earlier is None or earlier.rank != affine.rank else affine @ earlier
        number = obstacle_to(linear, total)
        if number is not None:
            return number
        self.arrivals.append((node, affine))
        self.totals.append((node, total))
        return None

    def wrong_length(self, value: Value, rank: int) -> Obstacle | None:
        """Parameters for another number of channels than there are; one channel would broadcast unseen."""
        if rank < 2:
            return Obstacle(BROKEN_PARAMETERS, f"its input has {rank} dimension(s)", self.affine.node)
        channels, known = self.affine.channels, known_size(self.facts, self.through(value), self.affine.axis)
        if known == channels or (known is None and channels > 1):
            return None
        if known is None:
            return Obstacle(LAYOUT, "it is not known how many channels the input has", self.affine.node)
        detail = f"the parameters are for {channels} channel(s), the input has {known}"
        return Obstacle(BROKEN_PARAMETERS, detail, self.affine.node)

    def through(self, value: Value) -> Value:
        """The value before the nodes that have moved away: the same as this one, once they are gone."""
        node = self.facts.graph.producer(value)
        while node is not None and node.id in self.decided.gone and (before := node.input(0)) is not None:
            value = before
            node = self.facts.graph.producer(value)
        return value

    def without_rank(self, start: Value) -> Obstacle:
        """The obstacle of an input of unknown rank: the nearest one that a search would have met."""
        node = self.facts.graph.producer(start)
        if node is None:
            return Obstacle(NO_HOME, f"{start.name!r} is no node's output")
        linear = linear_of(self.facts, node)
        if isinstance(linear, Obstacle):
            return linear
        if node.op not in PASSING:
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


def _site_to_json(site: Site) -> dict[str, Json]:
    return {"scope": site.scope, "index": site.index, "op": site.op, "name": site.name}


def _site_from_json(value: Mapping[str, Any]) -> Site:
    return Site(str(value["scope"]), int(value["index"]), str(value["op"]), str(value["name"]))


def _move_to_json(move: Move) -> dict[str, Json]:
    return {
        "site": _site_to_json(move.site),
        "homes": [{"home": _site_to_json(a.home), "after": _affine_to_json(a.after)} for a in move.arrivals],
        "path": [_site_to_json(site) for site in move.path],
    }


def _move_from_json(value: Mapping[str, Any]) -> Move:
    arrivals = (Arrival(_site_from_json(a["home"]), _affine_from_json(a["after"])) for a in value["homes"])
    return Move(_site_from_json(value["site"]), tuple(arrivals), tuple(_site_from_json(s) for s in value["path"]))


def _affine_to_json(affine: Affine) -> dict[str, Json]:
    return {
        name: {"shape": list(array.shape), "data": array.reshape(-1).tolist()}
        for name, array in (("scale", affine.scale), ("shift", affine.shift))
    }


def _affine_from_json(value: Mapping[str, Any]) -> Affine:
    scale, shift = (np.array(v["data"], np.float64).reshape(v["shape"]) for v in (value["scale"], value["shift"]))
    return Affine(scale, shift)


def _refusal_to_json(refusal: Refusal) -> dict[str, Json]:
    return {
        "site": _site_to_json(refusal.site),
        "code": refusal.reason.code,
        "detail": refusal.detail,
        "blamed": None if refusal.blamed is None else _site_to_json(refusal.blamed),
        "remedy": refusal.remedy,
    }


def _refusal_from_json(value: Mapping[str, Any]) -> Refusal:
    blamed = None if value["blamed"] is None else _site_from_json(value["blamed"])
    return Refusal(_site_from_json(value["site"]), REASONS[value["code"]], str(value["detail"]), blamed)
