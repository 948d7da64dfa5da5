"""The main graph of a model as what needs what: nodes, producers first, with all that each reads and which values vary.

A node reads its inputs and whatever its bodies capture from around it. A value varies if it depends on an input of the
graph; all others are constants, however they are computed. Nested graphs and functions are opaque here: each is a part
of the node that holds or calls it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter

from bnfold.graph import Graph
from bnfold.nodes import Node, Value


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """The main graph, by ids: what each node needs, which values vary, who reads a value (bodies included).

    `position` is the place of a node in `nodes`.
    """

    graph: Graph
    nodes: tuple[Node, ...]
    needs: Mapping[int, tuple[Value, ...]]
    varying: frozenset[int]
    readers: Mapping[int, tuple[Node, ...]]
    names: Mapping[str, Value]
    position: Mapping[int, int]

    @classmethod
    def of(cls, graph: Graph) -> Outline:
        """Outline a graph in one pass over its nodes."""
        main = graph.scopes[0]
        nodes = graph.nodes_of(main)
        needs = _needs(graph, nodes)
        order = _sorted(graph, nodes, needs)
        varying = {v.id for v in graph.values if v.scope is main and _is_fed(graph, v)}
        readers: dict[int, list[Node]] = defaultdict(list)
        for node in order:
            for value in needs[node.id]:
                readers[value.id].append(node)
            if any(value.id in varying for value in needs[node.id]) or _is_drawn(node):
                varying.update(value.id for value in node.outputs if value is not None)
        names = {value.name: value for value in graph.values if value.scope is main}
        position = {node.id: place for place, node in enumerate(order)}
        read_by = {id_: tuple(found) for id_, found in readers.items()}
        return cls(graph, order, needs, frozenset(varying), read_by, names, position)

    def behind(self, targets: Iterable[Value], stops: Container[int]) -> tuple[tuple[Node, ...], tuple[Value, ...]]:
        """The nodes that make the targets out of stops, graph inputs and constants, in order, and the former two.

        `stops` are ids of values; a target is no stop on the way to itself.
        """
        pending = [node for node in map(self.graph.producer, targets) if node is not None]
        found: dict[int, Node] = {}
        bounds: dict[int, Value] = {v.id: v for v in targets if self.graph.producer(v) is None}
        while pending:
            node = pending.pop()
            if node.id in found:
                continue
            found[node.id] = node
            for value in self.needs[node.id]:
                producer = self.graph.producer(value)
                if value.id in self.varying and (value.id in stops or producer is None):
                    bounds[value.id] = value
                elif producer is not None:
                    pending.append(producer)
        nodes = sorted(found.values(), key=lambda node: self.position[node.id])
        return tuple(nodes), tuple(bounds.values())

    def varying_needs(self, node: Node) -> tuple[Value, ...]:
        """What a node reads that depends on an input."""
        return tuple(value for value in self.needs[node.id] if value.id in self.varying)


def _needs(graph: Graph, nodes: Iterable[Node]) -> dict[int, tuple[Value, ...]]:
    captured: dict[int, dict[int, Value]] = defaultdict(dict)
    for value in (v for v in graph.values if v.scope is graph.scopes[0]):
        for reader in graph.readers(value):
            scope = reader.node.scope
            if scope.address.function is None and scope.address.nested:
                captured[scope.address.nested[0][0]][value.id] = value
    needs = {}
    for node in nodes:
        read = {value.id: value for value in node.inputs if value is not None}
        needs[node.id] = tuple({**read, **captured.get(node.index, {})}.values())
    return needs


def _sorted(graph: Graph, nodes: tuple[Node, ...], needs: Mapping[int, tuple[Value, ...]]) -> tuple[Node, ...]:
    """The file's own order, unless a node reads what a later one writes."""
    seen: set[int] = set()
    for node in nodes:
        producers = [graph.producer(value) for value in needs[node.id]]
        if any(p is not None and p.id not in seen for p in producers):
            break
        seen.add(node.id)
    else:
        return nodes
    by_id = {node.id: node for node in nodes}
    sorter = TopologicalSorter({n.id: [p.id for p in map(graph.producer, needs[n.id]) if p is not None] for n in nodes})
    return tuple(by_id[id_] for id_ in sorter.static_order())


def _is_fed(graph: Graph, value: Value) -> bool:
    """Whether a caller has to feed a value; a default that nobody replaces is a constant."""
    return graph.is_graph_input(value) and graph.initializer(value) is None


def _is_drawn(node: Node) -> bool:
    """Whether a node without inputs gives something else each time it runs."""
    return node.op.startswith("Random")
