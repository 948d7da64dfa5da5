"""Layers and what follows them, as people speak of them: where a layer's channels are, and what an activation is.

Nothing here is needed to fold: it says where a BatchNormalization belongs that is asked for "after" a layer.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnfold.affine import Dim
from bnfold.nodes import Node, Reader, Value, nested_graphs
from bnfold.ops.affine import is_batch_norm
from bnfold.ops.facts import Facts, reads_metadata_alone

ACTIVATIONS = frozenset(
    {
        "Celu", "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu",
        "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu",
    }
)  # fmt: skip
"""Operators that act on each element alone, with constants at most."""

GATES = frozenset({"HardSigmoid", "Sigmoid"})
"""Activations that, multiplied by their own input, are another one: x * Sigmoid(x) is what exporters make of Swish."""

CHANNELS_LAST = frozenset({"MatMul"})
"""Layers whose output channels are on the last axis, whatever the rank."""

SAME_LAYER = frozenset({"Cast", "Dropout", "Identity", "Transpose"})
"""Operators behind which a BatchNormalization is still the one of the layer before."""

ITERATING = frozenset({"Loop", "Scan", "SequenceMap"})
"""Operators that run their body again and again."""


def runs_again(node: Node) -> bool:
    """Whether a node runs its body more than once."""
    return node.op in ITERATING


def channel_axis(node: Node | None, rank: int) -> int:
    """The axis of a layer's output channels: 1, but the last one of a MatMul."""
    return rank - 1 if node is not None and node.op in CHANNELS_LAST else 1


def activation_after(facts: Facts, value: Value) -> Value | None:
    """What an activation makes of a value, or of it and its bias, that nothing else reads; None where none follows."""
    readers = facts.graph.readers(value)
    if facts.graph.is_graph_output(value) or not readers or any(r.node.scope is not value.scope for r in readers):
        return None
    if len(readers) == 1:
        (reader,) = readers
        if reader.index == 0 and reader.node.op in ACTIVATIONS:
            return reader.node.output(0)
        biased = reader.node.output(0) if _is_bias(facts, reader) else None
        return None if biased is None else activation_after(facts, biased)
    gates = [reader.node for reader in readers if reader.node.op in GATES]
    products = [reader.node for reader in readers if reader.node.op == "Mul"]
    if len(readers) != 2 or len(gates) != 1 or len(products) != 1:
        return None
    gate = gates[0].output(0)
    return products[0].output(0) if gate is not None and {*products[0].inputs} == {value, gate} else None


def batch_norm_after(facts: Facts, value: Value) -> Node | None:
    """The BatchNormalization of the layer that makes a value: straight behind it, or behind its bias, a Cast, ..."""
    pending = [value]
    while pending:
        for reader in facts.graph.readers(pending.pop()):
            if is_batch_norm(reader.node.op) and reader.index == 0:
                return reader.node
            pending += _same_layer(facts, reader)
    return None


def _same_layer(facts: Facts, reader: Reader) -> Iterator[Value]:
    node, output = reader.node, reader.node.output(0)
    if output is not None and (_is_bias(facts, reader) or (node.op in SAME_LAYER and reader.index == 0)):
        yield output


def _is_bias(facts: Facts, reader: Reader) -> bool:
    """Whether a reader adds a constant."""
    others = [v for i, v in enumerate(reader.node.inputs) if v is not None and i != reader.index]
    return reader.node.op == "Add" and len(others) == 1 and facts.is_constant(others[0])


def batch_norm_before(facts: Facts, value: Value) -> Node | None:
    """The BatchNormalization of which a value is the output, or what Transposes, Casts, ... alone make of that."""
    node = facts.graph.producer(value)
    while node is not None and node.op in SAME_LAYER and node.inputs and node.inputs[0] is not None:
        node = facts.graph.producer(node.inputs[0])
    return node if node is not None and is_batch_norm(node.op) else None


def depending_on_data(facts: Facts) -> frozenset[int]:
    """The ids of the values that depend on what an input of the model holds, and not on its shape alone."""
    graph = facts.graph
    found = {v.id for v in graph.values if graph.is_graph_input(v) and graph.initializer(v) is None}
    for node in facts.order:
        reads = (
            value is not None and value.id in found and not reads_metadata_alone(Reader(node, i))
            for i, value in enumerate(node.inputs)
        )
        if any(reads) or any(nested_graphs(node.proto)):
            found.update(value.id for value in node.outputs if value is not None)
    return frozenset(found)


def channels_of(shape: tuple[Dim, ...] | None, axis: int) -> int | None:
    """How many channels a value of that shape has; None where that is not known."""
    size = None if shape is None or axis >= len(shape) else shape[axis]
    return size if isinstance(size, int) and size > 0 else None
