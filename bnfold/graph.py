"""A frozen index over a model: who produces a value, who reads it, what is constant, and which graph sees what.

A value is identified by the scope that defines it and its name; a nested graph that reads an outer name reads the
outer scope's value, so the readers of a value include nested ones. Nothing here knows an operator, and nothing
here is ever saved: edits are made elsewhere, by position.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import GraphProto, NodeProto

from bnfold.model import FIRST_IR_WITH_FREE_INITIALIZERS, Address, ModelFile, overridable
from bnfold.nodes import (
    Initializer,
    Node,
    Reader,
    Scope,
    Site,
    Value,
    call_name,
    nested_graphs,
    operator_name,
)


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """The index. Build it with `Graph.of(model)`; every query is a table look-up.

    `frozen_inputs` are inputs of the main graph that count as if they were not there: initializers of the same name
    are constants then, and no defaults.
    """

    model: ModelFile
    scopes: tuple[Scope, ...]
    nodes: tuple[Node, ...]
    values: tuple[Value, ...]
    names: frozenset[str]
    frozen_inputs: frozenset[str]
    _producers: tuple[Node | None, ...] = field(repr=False)
    _readers: tuple[tuple[Reader, ...], ...] = field(repr=False)
    _initializers: Mapping[int, Initializer] = field(repr=False)
    _sparse: frozenset[int] = field(repr=False)
    _graph_inputs: frozenset[int] = field(repr=False)
    _graph_outputs: frozenset[int] = field(repr=False)
    _by_scope: Mapping[str, tuple[Node, ...]] = field(repr=False)

    @classmethod
    def of(cls, model: ModelFile, *, freeze_inputs: bool = False) -> Graph:
        """Index a model in one pass over its nodes, outer scopes before the ones nested in them.

        `freeze_inputs`: as the model will be once the inputs that have a default are gone.
        """
        builder = _Builder(model, overridable(model.proto) if freeze_inputs else frozenset())
        builder.run()
        return builder.frozen()

    @property
    def needs_initializer_inputs(self) -> bool:
        """Whether every initializer of the main graph must also be a graph input (IR below 4)."""
        return self.model.proto.ir_version < FIRST_IR_WITH_FREE_INITIALIZERS

    def producer(self, value: Value) -> Node | None:
        """The node that computes a value; None for inputs and initializers."""
        return self._producers[value.id]

    def readers(self, value: Value) -> tuple[Reader, ...]:
        """Every node input that reads a value, those of nested graphs included, in order."""
        return self._readers[value.id]

    def initializer(self, value: Value) -> Initializer | None:
        """The (dense) initializer behind a value."""
        return self._initializers.get(value.id)

    def is_sparse(self, value: Value) -> bool:
        """Whether a sparse initializer stands behind a value."""
        return value.id in self._sparse

    def is_overridable(self, value: Value) -> bool:
        """Whether an initializer is a default that a caller may replace: also a graph input, IR 4 or later."""
        found = self._initializers.get(value.id)
        return found is not None and found.input_index is not None and not self.needs_initializer_inputs

    def is_graph_input(self, value: Value) -> bool:
        """Whether a value is an input of its graph or function."""
        return value.id in self._graph_inputs

    def is_graph_output(self, value: Value) -> bool:
        """Whether a value is promised to somebody: an output of its graph or function, or used in training."""
        return value.id in self._graph_outputs

    def call(self, function: int) -> str:
        """What the `op` of a node is that calls one of the model's functions, given by its place in the file."""
        found = self.model.proto.functions[function]
        return call_name(found.domain, found.name)

    def nodes_of(self, scope: Scope) -> tuple[Node, ...]:
        """The nodes of one scope, in the file's order."""
        return self._by_scope[scope.path]

    def producers_first(self) -> tuple[Node, ...]:
        """All nodes, each after those it reads from: the file's own order where that is sorted, as it should be."""
        waiting = {node.id: self._producing(node) for node in self.nodes}
        ready = [node_id for node_id, count in waiting.items() if not count]
        heapq.heapify(ready)
        order: list[Node] = []
        while ready:
            node = self.nodes[heapq.heappop(ready)]
            order.append(node)
            for reader in (r for v in node.outputs if v is not None for r in self.readers(v)):
                waiting[reader.node.id] -= 1
                if not waiting[reader.node.id]:
                    heapq.heappush(ready, reader.node.id)
        return tuple(order)

    def _producing(self, node: Node) -> int:
        """How many inputs of a node are outputs of nodes."""
        return sum(value is not None and self.producer(value) is not None for value in node.inputs)

    def at(self, site: Site) -> Node:
        """The node at a site; raises KeyError where this graph has none."""
        nodes = self._by_scope.get(site.scope, ())
        found = nodes[site.index] if site.index < len(nodes) else None
        if found is None or (found.site is not site and found.site != site):
            raise KeyError(f"the model has no node {site}")
        return found


class _Builder:
    """The mutable half of Graph.of: tables that grow while scopes are visited."""

    def __init__(self, model: ModelFile, frozen_inputs: frozenset[str]) -> None:
        self.model = model
        self.frozen_inputs = frozen_inputs
        self.scopes: list[Scope] = []
        self.nodes: list[Node] = []
        self.values: list[Value] = []
        self.producers: list[Node | None] = []
        self.readers: list[list[Reader]] = []
        self.initializers: dict[int, Initializer] = {}
        self.sparse: set[int] = set()
        self.graph_inputs: set[int] = set()
        self.graph_outputs: set[int] = set()
        self.by_scope: dict[str, list[Node]] = {}
        self.visible: dict[int, dict[str, Value]] = {}
        self.functions = {call_name(f.domain, f.name) for f in model.proto.functions}

    def run(self) -> None:
        proto = self.model.proto
        opsets = _opsets(proto.opset_import)
        main = Scope("", Address(), "graph", proto.graph, None, opsets)
        self.visit(main)
        self.graph_outputs.update(
            self.lookup(main, name).id for name in _trained(proto) if name in self.visible[id(main)]
        )
        for index, function in enumerate(proto.functions):
            path = f"function {function.domain}.{function.name}" + (
                f":{function.overload}" if function.overload else ""
            )
            if path in self.by_scope:  # a domain and a name may hold dots of their own
                path += f"#{index}"
            address = Address(function=index)
            self.visit(Scope(path, address, "function", function, None, {**opsets, **_opsets(function.opset_import)}))

    def visit(self, scope: Scope) -> None:
        """Index a scope, then those nested in it; the nesting of a read model is at most 30 deep."""
        self.scopes.append(scope)
        self.visible[id(scope)] = {}
        self.by_scope[scope.path] = []
        self.declare_inputs(scope)
        for proto in scope.proto.node:  # before any is read: a file need not be sorted
            for name in proto.output:
                if name:
                    self.define(scope, name)
        for index, proto in enumerate(scope.proto.node):
            node = self.add_node(scope, index, proto)
            for nested in _nested_scopes(node):
                self.visit(nested)
        for output in scope.proto.output:
            name = output if isinstance(output, str) else output.name
            self.graph_outputs.add(self.lookup(scope, name).id)

    def declare_inputs(self, scope: Scope) -> None:
        places: dict[str, int] = {}
        frozen = self.frozen_inputs if scope.address == Address() else frozenset()
        for index, entry in enumerate(scope.proto.input):
            name = entry if isinstance(entry, str) else entry.name
            if name in frozen:
                continue
            places[name] = index
            self.graph_inputs.add(self.define(scope, name).id)
        if not isinstance(scope.proto, GraphProto):
            return
        visible = self.visible[id(scope)]
        for index, tensor in enumerate(scope.proto.initializer):
            name = tensor.name
            value = visible.get(name) or self.define(scope, name)
            self.initializers[value.id] = Initializer(tensor, scope, index, places.get(name))
        for sparse in scope.proto.sparse_initializer:
            self.sparse.add(self.define(scope, sparse.values.name).id)

    def add_node(self, scope: Scope, index: int, proto: NodeProto) -> Node:
        visible = self.visible[id(scope)]
        inputs = tuple([(visible.get(name) or self.lookup(scope, name)) if name else None for name in proto.input])
        outputs = tuple([visible[name] if name else None for name in proto.output])
        node = Node(len(self.nodes), scope, index, self.operator(proto), proto, inputs, outputs)
        self.nodes.append(node)
        self.by_scope[scope.path].append(node)
        for i, value in enumerate(inputs):
            if value is not None:
                self.readers[value.id].append(Reader(node, i))
        for value in outputs:
            if value is not None:
                self.producers[value.id] = node
        return node

    def operator(self, proto: NodeProto) -> str:
        call = call_name(proto.domain, proto.op_type) if self.functions else ""
        return call if call in self.functions else operator_name(proto.domain, proto.op_type)

    def define(self, scope: Scope, name: str) -> Value:
        value = Value(len(self.values), name, scope)
        self.values.append(value)
        self.producers.append(None)
        self.readers.append([])
        self.visible[id(scope)][name] = value
        return value

    def lookup(self, scope: Scope, name: str) -> Value:
        """The value a name means here. A name that nothing defines becomes a value that nothing produces."""
        outer: Scope | None = scope
        while outer is not None:
            found = self.visible[id(outer)].get(name)
            if found is not None:
                return found
            outer = outer.parent
        return self.define(scope, name)

    def frozen(self) -> Graph:
        names = {value.name for value in self.values}
        for scope in self.scopes:
            names.update(info.name for info in scope.proto.value_info)
        return Graph(
            model=self.model,
            scopes=tuple(self.scopes),
            nodes=tuple(self.nodes),
            values=tuple(self.values),
            names=frozenset(names),
            frozen_inputs=self.frozen_inputs,
            _producers=tuple(self.producers),
            _readers=tuple(tuple(readers) for readers in self.readers),
            _initializers=self.initializers,
            _sparse=frozenset(self.sparse),
            _graph_inputs=frozenset(self.graph_inputs),
            _graph_outputs=frozenset(self.graph_outputs),
            _by_scope={path: tuple(nodes) for path, nodes in self.by_scope.items()},
        )


def _nested_scopes(node: Node) -> Iterable[Scope]:
    outer = node.scope
    for position, k, attribute, graph in nested_graphs(node.proto):
        address = Address(outer.address.function, (*outer.address.nested, (node.index, position, k)))
        path = f"{node.site}.{attribute}" + (f"[{k}]" if k >= 0 else "")
        yield Scope(path, address, "graph", graph, outer, outer.opsets)


def _trained(model: onnx.ModelProto) -> Iterator[str]:
    """Names of the main graph that the model's training information refers to."""
    for info in model.training_info:
        for binding in (*info.initialization_binding, *info.update_binding):
            yield from (binding.key, binding.value)
        for node in (*info.initialization.node, *info.algorithm.node):
            yield from node.input


def _opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in imports}
