"""In which order values have to be measured, where measuring one changes those that depend on it.

A marked node is on a level above all marked nodes that it depends on. What a body computes, the node that holds it puts
out; what is fed to that node, the body's inputs hold. A mark in the body of a Loop or Scan comes back to itself by way
of the next iteration, and so does one in a function that is fed its own output: those have no level.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

from bnfold.graph import Graph
from bnfold.nodes import Node, Scope, Value
from bnfold.observing.marks import marks_in
from bnfold.ops.layers import runs_again


class DependsOnItself(Exception):
    """Marks that would have to be measured before themselves; `keys` are theirs."""

    def __init__(self, keys: Iterable[int]) -> None:
        self.keys = frozenset(keys)
        super().__init__(f"{len(self.keys)} value(s) depend on themselves")


def levels(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """The keys of all marks, those first on which no other mark has an influence. Raises `DependsOnItself`."""
    again = {key for key, node in marks_in(graph) if _iterates(graph, node.scope)}
    if again:
        raise DependsOnItself(again)
    sorter = TopologicalSorter(_Dependence(graph).needed())
    try:
        sorter.prepare()
    except CycleError as error:
        raise DependsOnItself(error.args[1]) from error
    order: list[tuple[int, ...]] = []
    while sorter.is_active():
        ready = sorter.get_ready()
        order.append(tuple(sorted(ready)))
        sorter.done(*ready)
    return tuple(order)


class _Dependence:
    """Which nodes a node depends on at once, bodies included."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._named = {(value.scope, value.name): value for value in graph.values}
        self._bodies: dict[int, list[Scope]] = {}
        for scope in graph.scopes:
            holder = _holder(graph, scope)
            if holder is not None:
                self._bodies.setdefault(holder.id, []).append(scope)

    def needed(self) -> dict[int, set[int]]:
        """For each key the keys of the nearest marks before it, whatever lies between."""
        reads = {node.id: tuple(self._before(node)) for node in self._graph.nodes}
        marks = {node.id: key for key, node in marks_in(self._graph)}
        needed: dict[int, set[int]] = {key: set() for key in marks.values()}
        nearest: dict[int, frozenset[int]] = {}
        for id_ in TopologicalSorter(reads).static_order():
            found = frozenset[int]().union(*(nearest[before] for before in reads[id_]))
            if id_ in marks:
                needed[marks[id_]] |= found
                found = frozenset({marks[id_]})
            nearest[id_] = found
        return needed

    def _before(self, node: Node) -> Iterator[int]:
        for value in node.inputs:
            yield from self._making(value)
        for body in self._bodies.get(node.id, ()):
            for port in body.proto.output:
                yield from self._making(self._called(body, port if isinstance(port, str) else port.name))

    def _making(self, value: Value | None) -> Iterator[int]:
        if value is None:
            return
        producer = self._graph.producer(value)
        holder = _holder(self._graph, value.scope)
        if producer is not None:
            yield producer.id
        elif holder is not None and self._graph.initializer(value) is None:  # an input of a body
            for operand in holder.inputs:
                yield from self._making(operand)

    def _called(self, scope: Scope, name: str) -> Value | None:
        """The value that a name means in a scope."""
        outer: Scope | None = scope
        while outer is not None:
            if (outer, name) in self._named:
                return self._named[outer, name]
            outer = outer.parent
        return None


def _holder(graph: Graph, scope: Scope) -> Node | None:
    """The node of which a scope is a body."""
    if scope.parent is None:
        return None
    return graph.nodes_of(scope.parent)[scope.address.nested[-1][0]]


def _iterates(graph: Graph, scope: Scope) -> bool:
    """Whether a scope is, or lies in, a body that runs again and again."""
    inner: Scope | None = scope
    while inner is not None:
        holder = _holder(graph, inner)
        if holder is not None and runs_again(holder):
            return True
        inner = inner.parent
    return False
