"""Parallel convolutions: the sum of two of the same data is one, when all affines have found their homes.

    (W1 x + b1) + (W2 x + b2) = (W1 + W2 where its taps lie) x + (b1 + b2)

Both may have taken over affines, or other convolutions; each new weight is computed from all that it is made of at
once, and rounded once. The one whose taps cover those of the other stays, and the sum loses the other: it goes where
one value is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations

from bnfold.affine import Affine
from bnfold.decided import Decided, not_free
from bnfold.moves import Merge
from bnfold.nodes import Node
from bnfold.ops.absorb import Branch, Linear
from bnfold.ops.branches import is_branch, places_in
from bnfold.ops.facts import Facts
from bnfold.ops.joining import is_sum, sign_of
from bnfold.ops.linear import ways_of
from bnfold.ops.taking import Taken, home_with


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A convolution with all that it has taken over, and the affine behind it."""

    linear: Linear
    after: Affine

    @classmethod
    def of(cls, facts: Facts, node: Node, taken: Taken) -> Finished | None:
        """None for what is no convolution that may be merged."""
        if taken.is_nothing:
            ways = ways_of(facts, node)
            way = ways[0] if isinstance(ways, tuple) and ways else None
            return cls(way, Affine.identity(len(way.weight.dims))) if isinstance(way, Linear) else None
        found = home_with(facts, node, taken)
        return cls(found[0], found[1]) if isinstance(found, tuple) and isinstance(found[0], Linear) else None

    def merged_with(self, other: Finished, sign: float) -> Finished | None:
        """With another one added to it; None where it does not fit, or the numbers do not."""
        places = places_in(self.linear, other.linear)
        if places is None:
            return None
        branch = Branch(other.linear, other.after, places, sign)
        linear = replace(self.linear, branches=(*self.linear.branches, branch))
        return None if linear.obstacle_to(self.after) is not None else replace(self, linear=linear)


_End = tuple[Node, Finished, tuple[Node, ...]]
"""The convolution that makes an operand of a sum, what it has become, and what has gone between."""


@dataclass(slots=True)
class Merging:
    """One pass over the sums of a graph, producers first."""

    facts: Facts
    decided: Decided
    finished: dict[int, Finished] = field(default_factory=dict)

    def merges(self) -> Iterator[Merge]:
        """Every merge, in the order in which they act."""
        for joint in self.facts.order:
            while is_sum(joint) and joint.id not in self.decided.gone:
                merge = self._merge(joint)
                if merge is None:
                    break
                yield merge

    def _end(self, joint: Node, index: int) -> _End | None:
        """The convolution that makes an operand of a sum, alone, and what has gone between."""
        value, reader, between = joint.inputs[index], joint, list[Node]()
        while value is not None and not_free(self.facts.graph, value, reader) is None:
            node = self.facts.graph.producer(value)
            if node is None or node.id in self.decided.kept or node.output(0) is not value:
                return None
            if node.id not in self.decided.gone:
                done = self.finished.get(node.id) or Finished.of(self.facts, node, self.decided.taken(node))
                found = done is not None and is_branch(done.linear)
                return (node, done, tuple(between)) if found and done is not None else None
            between.append(node)
            reader, value = node, self.decided.fed.get(node.id)
        return None

    def _merge(self, joint: Node) -> Merge | None:
        """The first two convolutions that a sum adds of which one may take the other over."""
        left = self.decided.left_of(joint)
        ends = {index: end for index in left if (end := self._end(joint, index)) is not None}
        for index, lost in permutations(ends, 2):
            is_open = sign_of(joint, index) > 0 and self._is_seen_by_one(joint, lost)
            done = self._merged(ends[index], ends[lost], sign_of(joint, lost)) if is_open else None
            if done is not None:
                home, _, path = ends[index]
                self.finished[home.id] = done
                self.decided.loses(self.facts.graph, joint, lost)
                sites = tuple(node.site for node in path)
                return Merge(ends[lost][0].site, home.site, joint.site, index, sites, lost)
        return None

    def _is_seen_by_one(self, joint: Node, index: int) -> bool:
        """Whether nobody else sees what is made for an operand of a sum, not even its shape: it will be no more."""
        value, graph = joint.inputs[index], self.facts.graph
        while value is not None and len(graph.readers(value)) == 1:
            node = graph.producer(value)
            if node is None or node.id not in self.decided.gone:
                return True
            value = self.decided.fed[node.id]
        return False

    def _merged(self, home: _End, other: _End, sign: float) -> Finished | None:
        """What a convolution becomes with another one of the same data."""
        root, graph = self.decided.root, self.facts.graph
        data = [end[0].inputs[0] for end in (home, other)]
        if home[0] is other[0] or len({root(graph, value).id for value in data if value is not None}) != 1:
            return None
        return home[1].merged_with(other[1], sign)


def finished_homes(facts: Facts, homes: Mapping[Node, Taken], merges: tuple[Merge, ...]) -> dict[int, Finished]:
    """What each convolution that others are merged into has become, by node id; those merged away included."""
    graph, finished = facts.graph, dict[int, Finished]()
    for merge in merges:
        home, other = graph.at(merge.home), graph.at(merge.site)
        for node in (home, other):
            if node.id not in finished:
                done = Finished.of(facts, node, homes.get(node, Taken()))
                if done is None:
                    raise ValueError(f"the plan merges {node.site}, which is no convolution")
                finished[node.id] = done
        merged = finished[home.id].merged_with(finished[other.id], sign_of(graph.at(merge.joint), merge.lost))
        if merged is None:
            raise ValueError(f"the plan merges {other.site} into {home.site}, where it does not fit")
        finished[home.id] = merged
    return finished
