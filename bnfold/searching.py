"""One search for a home: from an affine's input towards the nodes that make it.

A search carries an affine from value to value. At each it either settles (ops/linear.py), passes (ops/passing.py,
perhaps to several values: all of them must find a home, or none is used; a constant on the way may keep the shift), or
meets an obstacle, upon which it goes back to the last node that could have taken over everything, or where there was
another way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from bnfold.affine import Affine, Float64
from bnfold.graph import Graph
from bnfold.moves import Arrival, Move
from bnfold.nodes import Node, Value
from bnfold.ops.affine import AffineOp
from bnfold.ops.facts import Facts, reads_metadata_alone
from bnfold.ops.linear import ways_of
from bnfold.ops.passing import Passed, backward, known_rank, known_size, may_pass
from bnfold.ops.reasons import (
    BROKEN_PARAMETERS,
    GRAPH_OUTPUT,
    LAYOUT,
    NO_GAIN,
    NO_HOME,
    OTHER_READERS,
    OUTER_SCOPE,
    SEVERAL,
    SHIFT,
    Obstacle,
)
from bnfold.ops.standing import lets_none_pass, was_kept
from bnfold.ops.taking import Taken, home_with


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
    idle: dict[int, list[AffineOp]] = field(default_factory=dict)
    ahead: dict[int, Taken] = field(default_factory=dict)
    """What homes take over of their data; they may have taken over something of their output as well (`homes`)."""
    taps: dict[int, Float64] = field(default_factory=dict)
    """By what homes multiply their data besides, and add that to their output."""
    rows: dict[int, tuple[Node, Value] | None] = field(default_factory=dict)
    """What alone reads the last of a row of affines that begins with a node, and that value."""

    def settle(self, graph: Graph, affine: AffineOp, route: Route) -> Move:
        """Make the move of a route that was found."""
        self._goes(graph, affine)
        self.homes.update((home.id, total) for home, total in route.totals)
        for each in route.arrivals:
            if each.node.id in self.taps:
                self.taps[each.node.id] = self.taps[each.node.id] * each.affine.scale.reshape(-1)
        arrivals = tuple(Arrival(each.node.site, each.affine, each.takes_shift) for each in route.arrivals)
        return Move(affine.node.site, arrivals, tuple(passed.site for passed in route.path), affine.data)

    def taken(self, node: Node) -> Taken:
        """All that a node has taken over so far."""
        ahead = self.ahead.get(node.id, Taken())
        return replace(ahead, after=self.homes.get(node.id), tap=self.taps.get(node.id))

    def settle_ahead(self, graph: Graph, affine: AffineOp, route: Ahead) -> Move:
        """Make the move of a route forward."""
        self._goes(graph, affine)
        self.ahead.update((home.id, total) for home, total in route.totals)
        arrivals = tuple(Arrival(a.node.site, a.affine, a.takes_shift, a.data_input) for a in route.arrivals)
        return Move(affine.node.site, arrivals, tuple(passed.site for passed in route.path), affine.data)

    def _goes(self, graph: Graph, affine: AffineOp) -> None:
        value = fed_to(affine)
        before = graph.producer(value)
        # What went forward may have been read by others too: then nothing goes back through it.
        passable = before is not None and not_free(graph, value, affine.node) is None
        first = self.gone.get(before.id) if before is not None and passable else None
        self.gone[affine.node.id] = first or (affine.node, value)

    def stays_idle(self, affine: AffineOp, home: Node) -> None:
        """With this affine, the home would do nothing."""
        group = self.idle.setdefault(home.id, [])
        group.append(affine)
        self.idle[affine.node.id] = group

    def restore(self, gone: dict[int, tuple[Node, Value]], homes: dict[int, Affine]) -> None:
        """What it was before some moves that are taken back."""
        self.gone, self.homes = gone, homes


def fed_to(affine: AffineOp) -> Value:
    """What an affine acts on."""
    value = affine.node.inputs[affine.data]
    if value is None:
        raise ValueError(f"{affine.node.site} has no input, and is no affine")
    return value


def has_add(facts: Facts, node: Node, taken: Taken) -> bool:
    """Whether what a node has taken over so far puts an Add behind it."""
    if taken.after is None and taken.before is None:
        return False
    found = home_with(facts, node, taken)
    return isinstance(found, tuple) and found[0].needs_add(found[1])


def one_add(arrivals: Iterable[Arrived]) -> Obstacle | None:
    """An affine that goes may be paid for with one Add, and with no more."""
    adding = [each.node for each in arrivals if each.adds]
    return (
        Obstacle(NO_GAIN, f"{len(adding)} layers without a bias would each get an Add", adding[0])
        if adding[1:]
        else None
    )


def is_shift_alone(affine: AffineOp) -> bool:
    """Whether what moves is itself no more than an Add."""
    return affine.channels is None and bool(np.all(np.abs(affine.scale) == 1))


@dataclass(frozen=True, slots=True)
class _Fallback:
    """A node that could take over all that a search carried when it passed there, and what was found until then.

    `instead` is another way on from there, if it is not to settle.
    """

    step: _Step
    pending: tuple[_Step, ...]
    arrivals: int
    path: int
    may_stay: bool
    instead: Passed | None


_Step = tuple[Node, Value, Affine, bool]
"""A node, the value that it reads, the affine which that value must bear, and whether a shift comes with it."""


@dataclass(slots=True)
class Backward:
    """One search from an affine's input towards its producers."""

    facts: Facts
    decided: Decided
    affine: AffineOp
    may_idle: bool = False
    """Whether it may leave a home that does nothing, for something else to settle there."""
    cancelled: Node | None = None
    """The home that would have done nothing."""
    arrivals: list[Arrived] = field(default_factory=list)
    totals: list[tuple[Node, Affine]] = field(default_factory=list)
    path: list[Node] = field(default_factory=list)
    fallbacks: list[_Fallback] = field(default_factory=list)

    def meant(self) -> Affine | Obstacle:
        """The affine as one of the values that it acts on, if its parameters fit them."""
        start = fed_to(self.affine)
        rank = known_rank(self.facts, self.through(start))
        if rank is None:
            return self.without_rank(start)
        wrong = self.wrong_length(start, rank)
        if wrong is not None:
            return wrong
        affine = self.affine.at_rank(rank)
        detail = f"it gives its input of {rank} dimension(s) further ones"
        return affine or Obstacle(LAYOUT, detail, self.affine.node)

    def search(self, affine: Affine) -> Route | Obstacle:
        """The homes that were found for it, or what stands in the way."""
        start = fed_to(self.affine)
        pending: list[_Step] = [(self.affine.node, start, affine, True)]
        while pending:
            step = self.step(pending.pop(), tuple(pending))
            if isinstance(step, Obstacle):
                retreat = self.retreat()
                if retreat is None:
                    return step
                step, pending = (), list(retreat)
            pending.extend(reversed(step))
        parted = self.parted()
        if parted is not None:
            return Obstacle(SEVERAL, f"another output of {parted.op} is read on the way too", parted)
        return one_add(self.arrivals) or Route(tuple(self.arrivals), tuple(self.totals), tuple(self.path))

    def parted(self) -> Node | None:
        """A node of several outputs, of which more than one is read on the way: which of them changes is not plain."""
        on_the_way = {self.affine.node.id, *(node.id for node in self.path)}
        readers = self.facts.graph.readers
        for node in self.path:
            outputs = [value for value in node.outputs if value is not None]
            if len(outputs) > 1 and sum(any(r.node.id in on_the_way for r in readers(value)) for value in outputs) > 1:
                return node
        return None

    def step(self, step: _Step, rest: tuple[_Step, ...]) -> tuple[_Step, ...] | Obstacle:
        """Bring an affine of a value, read by a node, to the node that produces it."""
        reader, value, affine, takes_shift = step
        obstacle = not_free(self.facts.graph, value, reader)
        if obstacle is not None:
            return obstacle
        node = self.facts.graph.producer(value)
        if node is None:
            return Obstacle(NO_HOME, f"{value.name!r} is no node's output")
        if node.id in self.decided.kept:
            return was_kept(node, "before")
        if node.id in self.decided.gone:
            self.path.append(node)
            return ((*self.decided.gone[node.id], affine, takes_shift),)
        output = node.outputs.index(value)
        if len(node.outputs) > 1 and any(node is passed for passed in self.path):
            return Obstacle(SEVERAL, f"two ways lead back to {node.op}", node)
        passed = backward(self.facts, node, affine, output)
        if passed is None and output:
            return Obstacle(NO_HOME, f"{value.name!r} is a further output of {node.op}", node)
        if passed is None:
            return self.settle(node, affine, takes_shift) or ()
        if isinstance(passed, Passed) and passed.may_stay:
            passed = self.past_a_home(node, affine) or passed
        if isinstance(passed, Obstacle):
            return passed
        return self.onward((node, value, affine, takes_shift), passed, rest)

    def past_a_home(self, node: Node, affine: Affine) -> Passed | Obstacle | None:
        """How a factor is passed that has grown: behind r*p*x, (a, s) is what (a, s/r) is behind p*x, times r."""
        earlier = self.decided.homes.get(node.id)
        if earlier is None or not affine.has_shift:
            return None
        if not np.all(earlier.scale):
            return Obstacle(SHIFT, "its constant has become zero somewhere, and lets no shift pass", node)
        return backward(self.facts, node, Affine(affine.scale, affine.shift / earlier.scale))

    def onward(self, step: _Step, passed: Passed, rest: tuple[_Step, ...]) -> tuple[_Step, ...] | Obstacle:
        """The steps to the inputs that passages lead to (`step` has the node); a missing one would lose an affine."""
        node, _, affine, takes_shift = step
        steps: list[_Step] = []
        for passage in passed.passages:
            operand = node.input(passage.index)
            if operand is None:
                return Obstacle(NO_HOME, f"an input of {node.op} is missing", node)
            steps.append((node, operand, passage.affine, takes_shift and passage.takes_shift))
        if passed.keeps:
            obstacle = self.settle(node, affine, takes_shift)
            if obstacle is not None:
                return obstacle
        elif passed.may_stay or passed.instead is not None:
            places = len(self.arrivals), len(self.path)
            self.fallbacks.append(_Fallback(step, rest, *places, passed.may_stay, passed.instead))
        if steps:
            self.path.append(node)
        return tuple(steps)

    def retreat(self) -> tuple[_Step, ...] | None:
        """Settle, or go another way, where that was possible last, and what then is still pending; None if nowhere."""
        while self.fallbacks:
            last = self.fallbacks.pop()
            node, _, affine, takes_shift = last.step
            del self.arrivals[last.arrivals :], self.totals[last.arrivals :], self.path[last.path :]
            if last.may_stay and self.settle(node, affine, takes_shift) is None:
                return last.pending
            if last.instead is not None:
                steps = self.onward(last.step, last.instead, last.pending)
                if not isinstance(steps, Obstacle):
                    return (*last.pending, *reversed(steps))
        return None

    def settle(self, node: Node, affine: Affine, takes_shift: bool) -> Obstacle | None:
        """Let a home take over an affine besides what it has already, if its operator and its numbers allow that."""
        earlier = self.decided.homes.get(node.id)
        # Of two ranks one is not the home's: that is for the home to say.
        total = affine if earlier is None or earlier.rank != affine.rank else affine @ earlier
        found = home_with(self.facts, node, self.decided.taken(node).and_then(affine, None))
        if found is None:
            return lets_none_pass(node)
        if isinstance(found, Obstacle):
            return found
        home, _ = found
        if home.is_idle(total) and not self.may_idle:
            detail = "the two cancel: a node would be left that does nothing"
            self.cancelled = node
            return Obstacle(NO_GAIN, detail, node)
        adds = home.needs_add(total) and not has_add(self.facts, node, self.decided.taken(node))
        if adds and is_shift_alone(self.affine):
            return Obstacle(NO_GAIN, f"{node.op} has no bias, so that its shift would become another Add", node)
        self.arrivals.append(Arrived(node, affine, takes_shift, adds))
        self.totals.append((node, total))
        return None

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
            return lets_none_pass(node)
        return Obstacle(LAYOUT, f"the rank of {start.name!r} is not known", node)


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
        if entry.node is reader and not seen:
            seen = True
            continue
        yield entry.node
