"""The same graph in another guise (other names, another order), and what two guises of one graph have in common.

A model's form is a hash that knows no names and no order: each value is what makes it, down to constants and inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, numpy_helper

Names = Mapping[str, str]
DEPTH = "\0depth"
"""Under this the names that are known say how deep a graph is nested."""


def disguised(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """A copy with every value and node renamed, and nodes, initializers and functions in another order."""
    rng, copy = np.random.default_rng([seed, 77]), onnx.ModelProto()
    copy.CopyFrom(model)
    names = _new_names(rng, {name for graph in _graphs(copy.graph) for name in _defined(graph)})
    for graph in _graphs(copy.graph):
        _rename_graph(graph, names)
        _shuffle(rng, graph)
    functions = list(copy.functions)
    for body in functions:
        _rename_nodes(body, _new_names(rng, {*body.input, *(name for node in body.node for name in node.output)}))
    del copy.functions[:]
    copy.functions.extend(functions[int(i)] for i in rng.permutation(len(functions)))
    return copy


def _new_names(rng: np.random.Generator, old: set[str]) -> dict[str, str]:
    """Other names for all, among them such as a fold makes."""
    numbers = rng.permutation(len(old))
    ends = rng.choice(["", "", "_folded", "_bias", "weight"], len(old))
    return {name: f"v{number}{end}" for name, number, end in zip(sorted(old), numbers, ends, strict=True)} | {"": ""}


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _defined(graph: GraphProto) -> Iterator[str]:
    yield from (entry.name for entry in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (name for name in node.output if name)


def _rename_graph(graph: GraphProto, names: Names) -> None:
    for entry in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        entry.name = names[entry.name]
    _rename_nodes(graph, names)


def _rename_nodes(graph: GraphProto | FunctionProto, names: Names) -> None:
    for number, node in enumerate(graph.node):
        node.name = f"node {len(graph.node) - number}"
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    if isinstance(graph, FunctionProto):
        graph.input[:] = [names[name] for name in graph.input]
        graph.output[:] = [names[name] for name in graph.output]


def _shuffle(rng: np.random.Generator, graph: GraphProto) -> None:
    """Another order in which each node stands behind those that it reads, in nested graphs too."""
    left, order = list(graph.node), []
    missing = {name for node in left for name in node.output}
    while left:
        ready = [node for node in left if missing.isdisjoint(_read(node))]
        node = ready[int(rng.integers(len(ready)))]
        left.remove(node)
        missing -= set(node.output)
        order.append(node)
    kept = [NodeProto.FromString(node.SerializeToString()) for node in order]
    tensors = [TensorProto.FromString(tensor.SerializeToString()) for tensor in graph.initializer]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensors[int(i)] for i in rng.permutation(len(tensors)))


def _read(node: NodeProto) -> set[str]:
    inside = {
        name for attribute in node.attribute if attribute.type == AttributeProto.GRAPH
        for graph in _graphs(attribute.g) for inner in graph.node for name in inner.input
    }  # fmt: skip
    outputs = {e.name for a in node.attribute if a.type == AttributeProto.GRAPH for e in a.g.output}
    return {*node.input, *inside, *outputs}


def form_of(model: onnx.ModelProto) -> str:
    """The hash of what a model computes, as it is written."""
    called = {(body.domain, body.name): _body(body) for body in model.functions}
    return _graph(model.graph, {}, called)


def _body(body: FunctionProto) -> str:
    known = {name: _hash("given", str(number)) for number, name in enumerate(body.input)}
    made = _nodes(body.node, known, {})
    return _hash("function", *sorted(made), *(known[name] for name in body.output))


def _graph(graph: GraphProto, outer: Mapping[str, str], called: Mapping[tuple[str, str], str]) -> str:
    depth = str(int(outer.get(DEPTH, "0")) + 1)
    known = {**outer, "": "", DEPTH: depth}
    held = {tensor.name for tensor in graph.initializer}
    given = [entry.name for entry in graph.input if entry.name not in held]
    known |= {name: _hash("input", depth, str(number)) for number, name in enumerate(given)}
    known |= {tensor.name: _tensor(tensor) for tensor in graph.initializer}
    made = _nodes(graph.node, known, called)
    constants = sorted(_tensor(tensor) for tensor in graph.initializer)
    return _hash("graph", *sorted(made), "|", *constants, "|", *(known[entry.name] for entry in graph.output))


def _nodes(nodes, known: dict[str, str], called) -> list[str]:  # type: ignore[no-untyped-def]  # protobuf's own
    made = []
    for node in nodes:
        attributes = sorted(_attribute(attribute, known, called) for attribute in node.attribute)
        function = called.get((node.domain, node.op_type), "")
        reads = [known[name] if name else "" for name in node.input]
        made.append(_hash(node.domain, node.op_type, function, *attributes, "|", *reads))
        known |= {name: _hash(made[-1], str(place)) for place, name in enumerate(node.output)}
    return made


def _attribute(attribute: AttributeProto, known, called) -> str:  # type: ignore[no-untyped-def]  # as above
    if attribute.type == AttributeProto.GRAPH:
        return _hash(attribute.name, _graph(attribute.g, known, called))
    if attribute.type == AttributeProto.TENSOR:
        return _hash(attribute.name, _tensor(attribute.t))
    return _hash(attribute.name, attribute.SerializeToString(deterministic=True).hex())


def _tensor(tensor: TensorProto) -> str:
    array = numpy_helper.to_array(tensor)
    return _hash(str(tensor.data_type), str(list(tensor.dims)), array.tobytes().hex())


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
