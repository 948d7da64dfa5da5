"""One search forward: from an affine's output to all that read it, each of which has to take it over or let it pass.

What reads the affine's output reads its input instead, once it is gone; so every reader has to bear the affine itself:
a layer on its data (ops/linear.py), or an operator that lets it pass (ops/forward.py), and then its readers in turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bnfold.adding import costs_an_add, is_shift_alone, one_add
from bnfold.affine import Affine
from bnfold.decided import Ahead, Arrived, Decided
from bnfold.nodes import Node, Reader, Value
from bnfold.ops.affine import AffineOp, affine_of
from bnfold.ops.bounding import has_numbers
from bnfold.ops.facts import Facts, reads_metadata_alone
from bnfold.ops.forward import forward, joins, kept, together
from bnfold.ops.linear import ways_before
from bnfold.ops.passing import known_size
from bnfold.ops.reasons import AXIS, BLOCKED, GRAPH_OUTPUT, LIMIT, NO_GAIN, NO_HOME, OUTER_SCOPE, SEVERAL, Obstacle
from bnfold.ops.standing import lets_none_pass, was_kept
from bnfold.ops.taking import Taken, home_with

MOST_READERS = 64
"""How many values a search looks at: one that many layers read is no parameter of theirs."""


@dataclass(slots=True)
class Forward:
    """One search from an affine's output towards its readers."""

    facts: Facts
    decided: Decided
    affine: AffineOp
    arrivals: list[Arrived] = field(default_factory=list)
    totals: dict[int, tuple[Node, Taken]] = field(default_factory=dict)
    path: list[Node] = field(default_factory=list)
    waiting: dict[int, dict[int, Affine]] = field(default_factory=dict)
    """What has come to nodes of several values, by the node's id and the input's index: more may come."""
    seen: set[int] = field(default_factory=set)
    """The nodes that were looked at: as long as nothing of them changes, so does nothing of what was found."""
    own: Obstacle | None = None
    """What kept the first layer that was passed from taking it over itself: that is told in the end."""

    def search(self, affine: Affine) -> Ahead | Obstacle:
        """The homes that were found for it, or what stands in the way."""
        start = self.affine.node.output(0)
        if start is None:
            return Obstacle(NO_HOME, "its output is missing", self.affine.node)
        pending: list[tuple[Value, Affine]] = [(start, affine)]
        looked = 0
        while pending:
            value, arriving = pending.pop()
            looked += 1
            if looked > MOST_READERS:
                return Obstacle(LIMIT, f"more than {MOST_READERS} values read it in turn", self.affine.node)
            found = self.beyond(value, arriving)
            if not isinstance(found, Obstacle) and not pending and not found and self.waiting:
                found = self.behind_joint()
            if isinstance(found, Obstacle):
                return self.own or found
            pending.extend(found)
        if not self.arrivals:
            return Obstacle(NO_HOME, f"nothing that is left reads {start.name!r}")
        return one_add(self.arrivals) or Ahead(tuple(self.arrivals), tuple(self.totals.values()), tuple(self.path))

    def beyond(self, value: Value, affine: Affine) -> list[tuple[Value, Affine]] | Obstacle:
        """What an affine of a value becomes behind each of its readers; those that take it over are noted."""
        if self.facts.graph.is_graph_output(value):
            return Obstacle(GRAPH_OUTPUT, f"{value.name!r} is an output of the graph")
        readers = [reader for reader in self.facts.graph.readers(value) if not reads_metadata_alone(reader)]
        onward: list[tuple[Value, Affine]] = []
        for reader in readers:
            found = self.reader(value, reader, affine)
            if isinstance(found, Obstacle):
                return found
            onward.extend(found)
        return onward

    def behind_joint(self) -> list[tuple[Value, Affine]] | Obstacle:
        """What is behind the first node that waited: nothing more can come to it."""
        node = self.facts.graph.nodes[min(self.waiting, key=self.facts.place.__getitem__)]
        arrived = self.waiting.pop(node.id)
        left = {index: arrived[i] for index, i in enumerate(self.decided.left_of(node)) if i in arrived}
        return self.passed(node, together(self.facts, self.decided.left(node), left))

    def reader(self, value: Value, reader: Reader, affine: Affine) -> list[tuple[Value, Affine]] | Obstacle:
        """What one reader does with an affine of what it reads."""
        node = reader.node
        self.seen.add(node.id)
        if node.id in self.decided.ended:
            return []
        barred = self.barred(value, node)
        if barred is not None:
            return barred
        if node.id in self.decided.gone:
            return self.past_gone(node, value, affine)
        settled = self.settle(node, reader.index, affine)
        return [] if settled is None else self.through(node, reader.index, affine, settled)

    def barred(self, value: Value, node: Node) -> Obstacle | None:
        """What keeps a node from being asked, whatever it is."""
        if node.scope is not value.scope:
            return Obstacle(OUTER_SCOPE, f"{value.name!r} is read in a nested graph", node)
        if sum(operand is value for operand in node.inputs) > 1 and not joins(node):
            return Obstacle(SEVERAL, f"{node.op} reads {value.name!r} twice", node)
        return was_kept(node, "behind") if node.id in self.decided.kept else None

    def through(
        self, node: Node, index: int, affine: Affine, settled: Obstacle
    ) -> list[tuple[Value, Affine]] | Obstacle:
        """What becomes of an affine behind a node in which it did not settle (`settled` says why not)."""
        past = self.past_affine(node, index, affine)
        if past is not None:
            return self.passed(node, (past,))
        if joins(node) and node.output(0) is not None:
            self.waiting.setdefault(node.id, {})[index] = affine
            return []
        passed = forward(self.facts, node, index, affine)
        if passed is None or node.output(0) is None:
            return settled
        if isinstance(passed, Obstacle):
            return passed
        if not has_numbers(node) and self.decided.taken(node).has_shift:
            return settled  # it acts between the weight of a layer and this
        if self.own is None and not has_numbers(node) and ways_before(self.facts, node, after=False) is not None:
            self.own = settled
        return self.keep(node, affine) or self.passed(node, passed)

    def passed(self, node: Node, each: tuple[Affine, ...] | Obstacle) -> list[tuple[Value, Affine]] | Obstacle:
        """The values behind a node, with what they bear."""
        if isinstance(each, Obstacle):
            return each
        if node in self.path:
            return Obstacle(SEVERAL, f"{node.op} is come to by two ways", node)
        self.path.append(node)
        return [(value, one) for value, one in zip(node.outputs, each, strict=True) if value is not None]

    def past_gone(self, node: Node, value: Value, affine: Affine) -> list[tuple[Value, Affine]] | Obstacle:
        """A node that has gone puts out one of the values that it read, as it is."""
        output = node.output(0)
        if output is None or self.decided.fed[node.id] is not value:
            return Obstacle(SEVERAL, f"{node.op} reads it beside something else", node)
        self.path.append(node)
        return [(output, affine)]

    def keep(self, node: Node, affine: Affine) -> Obstacle | None:
        """Let a node that is passed bear the affine in its own numbers: what they are before it is undone there."""
        undone = kept(self.facts, node, affine, has_taken=node.id in self.decided.homes)
        if undone is None or isinstance(undone, Obstacle):
            return undone
        total = self.decided.taken(node).and_then(undone, None)
        found = home_with(self.facts, node, total)
        if found is None or isinstance(found, Obstacle):
            return found or Obstacle(BLOCKED, f"{node.op} lets no per-channel affine pass", node)
        self.arrivals.append(Arrived(node, undone, takes_shift=True, adds=False))
        self.totals[node.id] = node, total
        return None

    def past_affine(self, node: Node, index: int, affine: Affine) -> Affine | None:
        """Behind another affine (b, t) of what it reads, (a, s) is (a, b*s + (1 - a)*t)."""
        found = affine_of(self.facts, node)
        if not isinstance(found, AffineOp) or found.data != index or node.id in self.decided.homes:
            return None
        other = found.at_rank(affine.rank)
        if other is None or (found.axis is None and not self.keeps_size(node, index, found, affine.rank)):
            return None
        return Affine(affine.scale, other.scale * affine.shift + (1 - affine.scale) * other.shift)

    def keeps_size(self, node: Node, index: int, other: AffineOp, rank: int) -> bool:
        """Whether a constant surely enlarges nothing of its value, of which `rank` is the number of dimensions."""
        value, missing = node.inputs[index], rank - len(other.written)
        if value is None or missing < 0:
            return False
        sizes = enumerate(other.written, start=missing)
        return all(size in {1, known_size(self.facts, value, axis)} for axis, size in sizes)

    def settle(self, node: Node, index: int, affine: Affine) -> Obstacle | None:
        """Let a layer take over an affine of its data, if its operator and its numbers allow that."""
        earlier = self.totals[node.id][1] if node.id in self.totals else self.decided.taken(node)
        if earlier.before is not None and earlier.data_input != index:
            return Obstacle(SEVERAL, f"{node.op} has taken over an affine of another input", node)
        if earlier.before is not None and earlier.before.rank != affine.rank:
            return Obstacle(SEVERAL, f"{node.op} has taken over an affine of data of another rank", node)
        if not earlier.fits_taps(affine):
            return Obstacle(AXIS, f"the affine has the shape {affine.shape}, and a tap sees each channel", node)
        total = earlier.and_then(affine, index)  # it acts before all that was taken over of the data until now
        found = home_with(self.facts, node, total)
        if found is None:
            return lets_none_pass(node)
        if isinstance(found, Obstacle):
            return found
        home, after = found
        adds = home.needs_add(after) and costs_an_add(self.facts, self.decided, self.affine, node, earlier)
        if adds and is_shift_alone(self.affine):
            return Obstacle(NO_GAIN, f"{node.op} has no bias, so that its shift would become another Add", node)
        self.arrivals.append(Arrived(node, affine, takes_shift=True, adds=adds, data_input=index))
        self.totals[node.id] = node, total
        return None
