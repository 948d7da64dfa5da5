"""The same model written otherwise: other names, another order, constants as nodes. What it computes stays the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, helper

TRAPS = (
    "W_folded", "W_bias", "y_folded", "c_folded", "x_folded", "W_folded_1", "weight", "bias", "a/b:0", " ", "W", "y",
    "0", "BatchNormalization", "c_bias", "é",
)  # fmt: skip
"""Names such as a fold gives, or takes for something."""

LABELS = ("first", "first_bias", "first_folded", "W_folded", "0", "first_bias_1")
"""Names of nodes such as a fold gives."""

Variant = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, dict[str, str]]]


def graphs(graph: GraphProto | FunctionProto) -> Iterator[GraphProto | FunctionProto]:
    """A graph and all that are nested in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def as_is(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """No change, and no new names."""
    return proto, {}


def renamed(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Every value and node under another name; nodes under none, or one like a fold's own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    names = _rename(copy.graph, seed=1)
    for number, function in enumerate(copy.functions):
        _rename(function, seed=number + 2)
    return copy, names


def _rename(top: GraphProto | FunctionProto, seed: int) -> dict[str, str]:
    chance = random.Random(seed)
    found = dict.fromkeys(name for graph in graphs(top) for name in _names(graph) if name)
    fresh = [*TRAPS, *(f"v{i}" for i in range(len(found)))][: max(len(found), len(TRAPS))]
    chance.shuffle(fresh)
    names = dict(zip(found, fresh, strict=False))
    labels = [*LABELS, *(f"n{i}" for i in range(99))]  # onnxruntime takes no two nodes of one name, unless it is empty
    for graph in graphs(top):
        _apply(graph, names, chance, labels)
    return names


def _names(graph: GraphProto | FunctionProto) -> Iterator[str]:
    for node in graph.node:
        yield from (*node.input, *node.output)
    if isinstance(graph, FunctionProto):
        yield from (*graph.input, *graph.output)
        return
    yield from (entry.name for entry in (*graph.input, *graph.output, *graph.initializer, *graph.value_info))
    yield from (tensor.values.name for tensor in graph.sparse_initializer)


def _apply(
    graph: GraphProto | FunctionProto, names: Mapping[str, str], chance: random.Random, labels: list[str]
) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, "") for name in node.input]
        node.output[:] = [names.get(name, "") for name in node.output]
        node.name = labels.pop(0) if chance.random() < 0.7 else ""
    if isinstance(graph, FunctionProto):
        graph.input[:] = [names[name] for name in graph.input]
        graph.output[:] = [names[name] for name in graph.output]
        return
    for entry in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        entry.name = names[entry.name]
    for tensor in graph.sparse_initializer:
        tensor.values.name = names[tensor.values.name]


def reordered(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Nodes in another order that is sorted too, initializers in any."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    chance = random.Random(3)
    for top in (copy.graph, *copy.functions):
        for graph in graphs(top):
            _put(graph.node, _sorted(list(graph.node), chance.choice))
            if isinstance(graph, GraphProto):
                tensors = list(graph.initializer)
                chance.shuffle(tensors)
                _put(graph.initializer, tensors)
    return copy, {}


def as_nodes(proto: onnx.ModelProto, *, late: bool) -> onnx.ModelProto:
    """The main graph's constants as Constant nodes: all first, or each only when it is needed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    free = {entry.name for entry in graph.input} if proto.ir_version >= 4 else set()
    made = [helper.make_node("Constant", [], [name], value=held[name]) for name in held if name not in free]
    _put(graph.initializer, [held[name] for name in held if name in free])
    _put(graph.input, [entry for entry in graph.input if entry.name not in held or entry.name in free])
    nodes = [*graph.node, *made] if late else [*made, *graph.node]
    _put(graph.node, _sorted(nodes, lambda ready: next((n for n in ready if n.input), ready[0]) if late else ready[0]))
    return copy


def constants_first(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Constant nodes before all others."""
    return as_nodes(proto, late=False), {}


def constants_late(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Constant nodes only where nothing else can come."""
    return as_nodes(proto, late=True), {}


def both(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Another order, then other names."""
    return renamed(reordered(proto)[0])


def _put(field: object, values: list[object]) -> None:
    kept = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(kept)


def _sorted(nodes: list[NodeProto], choose: Callable[[list[NodeProto]], NodeProto]) -> list[NodeProto]:
    """A topological order; what comes next among those that may is chosen."""
    made = {name for node in nodes for name in node.output if name}
    waiting, done, order = list(nodes), set(), []
    while waiting:
        ready = [node for node in waiting if not (_read(node) & made) - done]
        node = choose(ready)
        waiting = [other for other in waiting if other is not node]
        done.update(node.output)
        order.append(node)
    return order


def _read(node: NodeProto) -> set[str]:
    """What a node reads, its nested graphs included."""
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            found |= set().union(*(_read(inner) for inner in attribute.g.node))
    return found


VARIANTS: dict[str, Variant] = {
    "as it is": as_is,
    "renamed": renamed,
    "reordered": reordered,
    "reordered and renamed": both,
    "constants as nodes, first": constants_first,
    "constants as nodes, late": constants_late,
}
