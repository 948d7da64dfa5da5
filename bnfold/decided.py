"""What has been decided so far, and what that means for the next search: values of the planner, changed by it alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from bnfold.affine import Affine, Float64
from bnfold.graph import Graph
from bnfold.moves import Arrival, Move, Onward
from bnfold.nodes import Node, Value
from bnfold.ops.affine import AffineOp
from bnfold.ops.facts import reads_metadata_alone
from bnfold.ops.reasons import GRAPH_OUTPUT, OTHER_READERS, OUTER_SCOPE, Obstacle
from bnfold.ops.taking import NOTHING, Taken


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a home takes over, whether a shift comes with it, whether it gets an Add for that, and by which input.

    Without `data_input` it is an affine of the home's output.
    """

    node: Node
    affine: Affine
    takes_shift: bool
    adds: bool
    data_input: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A search that succeeded: the homes, what each takes over in all, and the nodes on the way."""

    arrivals: tuple[Arrived, ...]
    totals: tuple[tuple[Node, Affine], ...]
    path: tuple[Node, ...]
    skips: tuple[tuple[Node, Node, Affine], ...] = ()
    """The sums that take the data of a home as they are, the home, and the tap that it gets for that."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """A search forward that succeeded: the homes, all that each takes over now, and the nodes on the way."""

    arrivals: tuple[Arrived, ...]
    totals: tuple[tuple[Node, Taken], ...]
    path: tuple[Node, ...]


@dataclass(slots=True)
class Decided:
    """What the moves made so far mean for the next search.

    `gone` leads from a node that has moved past all that moved before it: to the first of them and what that was fed.
    `idle` are affines that stay because a node before them would do nothing then; by that node, and each by its own.
    """

    gone: dict[int, tuple[Node, Value]] = field(default_factory=dict)
    homes: dict[int, Affine] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    """The nodes that --skip names, or --only does not: nothing changes there."""
    staying: set[int] = field(default_factory=set)
    """The affines that are to stay, whatever a search would find."""
    idle: dict[int, list[AffineOp]] = field(default_factory=dict)
    ahead: dict[int, Taken] = field(default_factory=dict)
    """What homes take over of their data; they may have taken over something of their output as well (`homes`)."""
    fed: dict[int, Value] = field(default_factory=dict)
    """What stands for the output of a node that has gone: an affine's data, or what a sum is merged into."""
    ended: set[int] = field(default_factory=set)
    """The affines that went into a sum's other branch, where nothing stands for their output."""
    taps: dict[int, Float64] = field(default_factory=dict)
    """By what homes multiply their data besides, and add that to their output."""
    lost: dict[int, frozenset[int]] = field(default_factory=dict)
    """The inputs that sums have lost to what another of their values has taken over."""

    def root(self, graph: Graph, value: Value) -> Value:
        """What stands for a value once what has moved is gone."""
        producer = graph.producer(value)
        while producer is not None and producer.id in self.gone:
            value = self.gone[producer.id][1]
            producer = graph.producer(value)
        return value

    def settle(self, graph: Graph, affine: AffineOp, route: Route) -> Move:
        """Make the move of a route that was found."""
        self._goes(graph, affine)
        self.homes.update((home.id, total) for home, total in route.totals)
        for each in route.arrivals:
            if each.node.id in self.taps:
                self.taps[each.node.id] = self.taps[each.node.id] * each.affine.scale.reshape(-1)
        arrivals = [Arrival(each.node.site, each.affine, each.takes_shift) for each in route.arrivals]
        for _, home, tap in route.skips:
            whole = self.taken(home).and_tap(tap)
            self.taps[home.id] = np.asarray(whole.tap)
            arrivals.append(Arrival(home.site, tap, is_tap=True))
        skips = tuple((joint.site, home.site) for joint, home, _ in route.skips)
        path = tuple(passed.site for passed in route.path)
        return Move(affine.node.site, tuple(arrivals), path, affine.data, skips=skips)

    def taken(self, node: Node) -> Taken:
        """All that a node has taken over so far."""
        ahead = self.ahead.get(node.id, NOTHING)
        return Taken(self.homes.get(node.id), ahead.before, ahead.data_input, self.taps.get(node.id))

    def settle_ahead(self, graph: Graph, affine: AffineOp, route: Ahead) -> Move:
        """Make the move of a route forward."""
        self._goes(graph, affine)
        self.ahead.update((home.id, total) for home, total in route.totals)
        self.taps.update((home.id, total.tap) for home, total in route.totals if total.tap is not None)
        self.homes.update((home.id, total.after) for home, total in route.totals if total.after is not None)
        arrivals = tuple(Arrival(a.node.site, a.affine, a.takes_shift, a.data_input) for a in route.arrivals)
        return Move(affine.node.site, arrivals, tuple(passed.site for passed in route.path), affine.data)

    def settle_both(self, graph: Graph, affine: AffineOp, route: Route, ahead: Ahead) -> Move:
        """Make the move of a scale that goes back and a shift that goes forward."""
        move, further = self.settle(graph, affine, route), self.settle_ahead(graph, affine, ahead)
        return replace(move, onward=Onward(further.arrivals, further.path))

    def _goes(self, graph: Graph, affine: AffineOp) -> None:
        value = fed_to(affine)
        before = graph.producer(value)
        # What went forward may have been read by others too: then nothing goes back through it.
        passable = before is not None and not_free(graph, value, affine.node) is None
        first = self.gone.get(before.id) if before is not None and passable else None
        self.gone[affine.node.id] = first or (affine.node, value)
        self.fed[affine.node.id] = value

    def loses(self, graph: Graph, joint: Node, index: int) -> None:
        """A sum loses a value; it goes itself where one is left."""
        self.lost[joint.id] = self.lost.get(joint.id, frozenset()) | {index}
        left = self.left(joint).inputs
        if len(left) != 1 or left[0] is None:
            return
        before = graph.producer(left[0])
        passable = before is not None and not_free(graph, left[0], joint) is None
        first = self.gone.get(before.id) if before is not None and passable else None
        self.gone[joint.id] = first or (joint, left[0])
        self.fed[joint.id] = left[0]

    def left(self, node: Node) -> Node:
        """A node with the inputs that are left of it."""
        lost = self.lost.get(node.id)
        return replace(node, inputs=_but(node.inputs, lost)) if lost else node

    def left_of(self, node: Node) -> tuple[int, ...]:
        """Which inputs of a node are left."""
        return _but(tuple(range(len(node.inputs))), self.lost.get(node.id, frozenset()))

    def stays_idle(self, affine: AffineOp, home: Node) -> None:
        """With this affine, the home would do nothing."""
        group = self.idle.setdefault(home.id, [])
        if not any(each.node is affine.node for each in group):
            group.append(affine)
        self.idle[affine.node.id] = group

    def mark(self) -> Decided:
        """What it is now, to come back to."""
        return replace(self, gone=dict(self.gone), homes=dict(self.homes), fed=dict(self.fed), taps=dict(self.taps))

    def restore(self, mark: Decided) -> None:
        """Take back the moves that were made since."""
        self.gone, self.homes, self.fed, self.taps = mark.gone, mark.homes, mark.fed, mark.taps


_Item = TypeVar("_Item")


def _but(items: tuple[_Item, ...], places: Collection[int]) -> tuple[_Item, ...]:
    return tuple(item for place, item in enumerate(items) if place not in places)


def fed_to(affine: AffineOp) -> Value:
    """What an affine acts on."""
    value = affine.node.inputs[affine.data]
    if value is None:
        raise ValueError(f"{affine.node.site} has no input, and is no affine")
    return value


def not_free(graph: Graph, value: Value, reader: Node) -> Obstacle | None:
    """What else depends on the content of a value that is about to change."""
    if value.scope is not reader.scope:
        return Obstacle(OUTER_SCOPE, f"{value.name!r} belongs to an outer graph", graph.producer(value))
    if graph.is_graph_output(value):
        return Obstacle(GRAPH_OUTPUT, f"{value.name!r} is an output of the graph", graph.producer(value))
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
        if entry.node.id == reader.id and not seen:
            seen = True
            continue
        yield entry.node
