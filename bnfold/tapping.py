"""Sideways: an affine of x that is added to a convolution of the same x is one more tap of it.

    conv(x) + (a*x + s)        W[c, c, center] += a[c]        b[c] += s[c]

The convolution's outputs have to lie as its data do (stride 1, and a padding that keeps the size), so that one tap sees
the data of the output's own place. Between the convolution and the sum may stand affines that have settled in it and
further sums, each read by one node alone. The affine goes, and so does the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnfold.affine import Affine
from bnfold.moves import Arrival, Move
from bnfold.nodes import Node, Value
from bnfold.ops.affine import AffineOp, affine_of
from bnfold.ops.facts import Facts
from bnfold.ops.joining import is_sum, sign_of
from bnfold.ops.reasons import Obstacle
from bnfold.ops.taking import has_tap, home_with
from bnfold.searching import Backward, Decided, fed_to, not_free


@dataclass(frozen=True, slots=True)
class _Found:
    """The convolution, the nodes between it and the sum, and the sign with which it stands in that."""

    home: Node
    path: tuple[Node, ...]
    sign: float


def would_be_tapped(facts: Facts, decided: Decided, affine: AffineOp, home: Node) -> bool:
    """Whether an affine would settle in one that stays, and that stands beside a convolution of the same data.

    Once the first had settled in it, the other would become a tap, but only in another fold.
    """
    other = affine_of(facts, home)
    end = _end_of_row(facts, decided, affine.node) if isinstance(other, AffineOp) else None
    return isinstance(other, AffineOp) and end is not None and Sideways(facts, decided, other, end[0]).is_beside(end[1])


def _end_of_row(facts: Facts, decided: Decided, node: Node) -> tuple[Node, Value] | None:
    walked: list[Node] = []
    end: tuple[Node, Value] | None = None
    while node.id not in decided.rows:
        walked.append(node)
        value = node.output(0)
        readers = [] if value is None else [entry.node for entry in facts.graph.readers(value)]
        if value is None or len(readers) != 1 or not_free(facts.graph, value, readers[0]) is not None:
            break
        if not isinstance(affine_of(facts, readers[0]), AffineOp):
            end = readers[0], value
            break
        node = readers[0]
    else:
        end = decided.rows[node.id]
    decided.rows.update((each.id, end) for each in walked)
    return end


@dataclass(slots=True)
class Sideways:
    """One search from an affine, beside the sum that alone reads it."""

    facts: Facts
    decided: Decided
    affine: AffineOp
    joint: Node

    def search(self) -> Move | None:
        """The move, once it is made; None where there is no such convolution, or its numbers do not allow that."""
        graph, output = self.facts.graph, self.affine.node.output(0)
        meant = Backward(self.facts, self.decided, self.affine).meant()
        index = self._place(output)
        if output is None or index is None or isinstance(meant, Obstacle) or self.affine.node.id in self.decided.homes:
            return None
        if not_free(graph, output, self.joint) is not None:
            return None
        other = self.joint.inputs[1 - index]
        found = None if other is None else self._convolution(other, self.joint, sign_of(self.joint, 1 - index))
        if found is None or other is None:
            return None
        sign = sign_of(self.joint, index) * found.sign
        return self._made(found, Affine(meant.scale * sign, meant.shift * sign), index, other)

    def is_beside(self, output: Value | None) -> bool:
        """Whether a value is added to what a convolution of the affine's data makes, with affines and sums between.

        Nothing behind the affine need have been decided yet: this says where a later fold would look.
        """
        index = self._place(output)
        other = None if index is None else self.joint.inputs[1 - index]
        pending, seen = [other] if other is not None else [], set[int]()
        while pending:
            node = self.facts.graph.producer(pending.pop())
            if node is None or node.id in seen:
                continue
            seen.add(node.id)
            affine = affine_of(self.facts, node)
            if isinstance(affine, AffineOp):
                pending.append(fed_to(affine))
            elif is_sum(node):
                pending += [value for value in node.inputs if value is not None]
            elif has_tap(self.facts, node):
                data = node.input(0)
                if data is not None and self._root(data) is self._root(fed_to(self.affine)):
                    return True
        return False

    def _place(self, output: Value | None) -> int | None:
        """At which input of the sum the affine stands; the other one has to be added, not subtracted."""
        if not is_sum(self.joint) or len(self.joint.inputs) != 2 or self.joint.inputs.count(output) != 1:
            return None
        index = self.joint.inputs.index(output)
        return index if sign_of(self.joint, 1 - index) > 0 else None

    def _root(self, value: Value) -> Value:
        producer = self.facts.graph.producer(value)
        return value if producer is None or producer.id not in self.decided.gone else self.decided.gone[producer.id][1]

    def _convolution(self, value: Value, reader: Node, sign: float) -> _Found | None:
        """A convolution of the same data, by way of sums and of what has gone."""
        if not_free(self.facts.graph, value, reader) is not None:
            return None
        node = self.facts.graph.producer(value)
        if node is None or node.id in self.decided.kept or node.output(0) is not value:
            return None
        if node.id in self.decided.gone:
            before, fed = self.decided.gone[node.id]
            found = self._convolution(fed, before, sign)
            return found and _Found(found.home, (node, *found.path), found.sign)
        if is_sum(node):
            for index, operand in enumerate(node.inputs):
                found = None if operand is None else self._convolution(operand, node, sign * sign_of(node, index))
                if found is not None:
                    return _Found(found.home, (node, *found.path), found.sign)
            return None
        data = node.input(0)
        if data is None or node.id in self.decided.ahead or self._root(data) is not self._root(fed_to(self.affine)):
            return None
        return _Found(node, (), sign)

    def _made(self, found: _Found, tap: Affine, index: int, other: Value) -> Move | None:
        total = self.decided.taken(found.home).and_tap(tap)
        if isinstance(home_with(self.facts, found.home, total), Obstacle | None) or total.after is None:
            return None
        decided, graph = self.decided, self.facts.graph
        decided.homes[found.home.id] = total.after
        decided.taps[found.home.id] = np.asarray(total.tap)
        before = graph.producer(other)
        first = None if before is None else decided.gone.get(before.id)
        decided.gone[self.joint.id] = first or (self.joint, other)
        arrival = Arrival(found.home.site, tap, is_tap=True)
        path = tuple(node.site for node in found.path)
        return Move(self.affine.node.site, (arrival,), path, self.affine.data, self.joint.site, 1 - index)
