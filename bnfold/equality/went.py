"""What has gone by the claims that were read so far: each is read in the graph that those before it have left.

A node that went stands in nobody's way: what it put out is what it was fed. Of a branch that ended in another one (an
affine that became a tap, a convolution that was merged), nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from bnfold.equality.claim import DeviationError, Link, Tree, reads_form_alone
from bnfold.graph import Graph
from bnfold.nodes import Node, Site, Value


@dataclass(eq=False)
class Went:
    """A graph, and what of it has gone (by node id), each with what it was fed.

    `ended` are the nodes of which nothing stands for the output; `lost` are the inputs that sums have lost, by the
    node's id.
    """

    graph: Graph
    gone: dict[int, Link] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    lost: dict[int, frozenset[int]] = field(default_factory=dict)
    _roots: dict[int, Value] = field(default_factory=dict)

    @cached_property
    def order(self) -> dict[int, int]:
        """The place of each node, producers first."""
        return {node.id: place for place, node in enumerate(self.graph.producers_first())}

    def node(self, site: Site) -> Node:
        """The node at a site that a claim names."""
        try:
            return self.graph.at(site)
        except KeyError as error:
            raise DeviationError(f"a claim names {site}, which the original has not") from error

    def before(self, value: Value) -> Link | None:
        """What went and put out this value."""
        producer = self.graph.producer(value)
        return None if producer is None else self.gone.get(producer.id)

    def root(self, value: Value) -> Value:
        """What stands for a value: what the first of those that went right before it was fed."""
        row: list[int] = []
        before = self.before(value)
        while before is not None:
            row.append(before.node.id)
            value = self._roots.get(before.node.id, before.source)
            before = self.before(value)
        self._roots.update(dict.fromkeys(row, value))  # so that a long row is gone along once
        return value

    def note(self, tree: Tree) -> None:
        """The nodes of a tree go."""
        if tree.merged is not None:
            self.gone[tree.merged.node.id] = tree.merged
        if tree.beside is not None:
            joint = tree.beside.joint
            self.lost[joint.node.id] = self.lost.get(joint.node.id, frozenset()) | {joint.data}
            makers = (self.graph.producer(value) for value in tree.beside.branch)
            self.ended.update(node.id for node in makers if node is not None)

    def left(self, node: Node) -> Iterator[Link]:
        """What a node reads, but for what it has lost."""
        lost = self.lost.get(node.id, frozenset())
        yield from (Link(node, i) for i, value in enumerate(node.inputs) if value is not None and i not in lost)

    def seen_by_one(self, value: Value) -> Link:
        """The only node that reads a value, even if it looked at no more than its shape."""
        readers = self.graph.readers(value)
        if len(readers) != 1 or self.graph.is_graph_output(value) or readers[0].node.scope is not value.scope:
            raise DeviationError(f"{value.name!r} changes, and something else reads it")
        return Link(readers[0].node, readers[0].index)

    def lost_by(self, nodes: Iterable[int]) -> dict[int, frozenset[int]]:
        """The inputs that some nodes have lost, by their ids."""
        return {id_: self.lost[id_] for id_ in nodes if id_ in self.lost}

    def read_by_one(self, value: Value, reader: Node | None) -> None:
        """Raise `DeviationError` where something else reads a value that changes, or goes."""
        readers = [each.node for each in self.graph.readers(value) if not reads_form_alone(each)]
        alone = len(readers) == 1 and readers[0].scope is value.scope and reader in {None, readers[0]}
        if self.graph.is_graph_output(value) or not alone:
            raise DeviationError(f"{value.name!r} changes, and something else reads it")
