"""Pieces of a model as models of their own: some nodes, fed at their bounds, giving the values that were asked for.

Invariant: a piece computes what the whole does, node by node. No weight is copied: an initializer names the bytes of
the model file (or of its external data) as its external data. Parts of one piece share initializers and bounds, and
keep the rest apart by a prefix; a part whose nodes hold graphs keeps its names, for bodies refer to them, and stands
alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto, SparseTensorProto, TensorProto, TypeProto, ValueInfoProto, helper

from bnfold.equality.messages import tensors
from bnfold.equality.prepare import Copy, name_optional_outputs
from bnfold.graph import Graph
from bnfold.model import ModelFile
from bnfold.model.tensors import external_entries
from bnfold.nodes import Node, Value, nested_graphs

_FIRST_IR = 4
"""From here on an initializer need not be an input."""

_MOST_HELD = 1 << 24
"""Bytes of a model, without its initializers, that are worth to be sent with each request."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A model that pieces are cut from, and where its file lies on disk."""

    graph: Graph
    path: Path

    @property
    def file(self) -> ModelFile:
        """The model."""
        return self.graph.model

    @property
    def held_at(self) -> Path:
        """The file whose bytes pieces name: onnxruntime reads none through a link that leads out of its folder."""
        # External data are looked for beside the link.
        return self.path.absolute() if self.file.has_external_data else self.path.resolve()


def holds_graphs(nodes: Iterable[Node]) -> bool:
    """Whether any of these nodes has a body."""
    return any(any(True for _ in nested_graphs(node.proto)) for node in nodes)


def light(source: Source) -> Copy | None:
    """The whole model, its initializers left where they lie: onnxruntime maps those, where it would read a file twice.

    None where that is not so simple: initializers of nested graphs, sparse ones, or much data in attributes.
    """
    proto = source.file.proto
    if proto.graph.sparse_initializer or holds_graphs(source.graph.nodes_of(source.graph.scopes[0])):
        return None
    spans = (source.file.span(tensor) for one in (*proto.graph.node, *proto.functions) for tensor in tensors(one))
    if proto.ByteSize() + sum(span.length for span in spans if span is not None) > _MOST_HELD:
        return None
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    model.ClearField("training_info")
    name = source.held_at.name
    for tensor in model.graph.initializer:
        _locate(tensor, name)
    piece = Piece(source)
    for message in (*model.graph.node, *model.functions):
        piece.fill(message)
    name_optional_outputs(model)
    return Copy(bytes(model.SerializeToString()), source.held_at.parent)


def _locate(tensor: TensorProto, name: str) -> None:
    """Let a tensor whose data lie in the model's own file, of that name, say so."""
    if tensor.data_location == TensorProto.EXTERNAL and not external_entries(tensor).get("location"):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name


@dataclass(slots=True, eq=False)
class Piece:
    """A model under construction; `bounds` leads from each input's name to the type of its elements."""

    source: Source
    bounds: dict[str, int] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    sparse: dict[str, SparseTensorProto] = field(default_factory=dict)
    held_in: str = field(init=False)

    def __post_init__(self) -> None:
        self.held_in = self.source.held_at.name

    def part(self, nodes: Iterable[Node], fed: Mapping[int, str], prefix: str) -> Part:
        """Add nodes, fed at the values `fed` (by id: the name of the piece's input); names of theirs get the prefix."""
        part = Part(self, fed, prefix)
        for node in nodes:
            self.nodes.append(part.copied(node))
        return part

    def feed(self, name: str, element_type: int) -> None:
        """Declare an input."""
        self.bounds[name] = element_type

    def add(self, op: str, inputs: list[str], output: str, **attributes: int | TensorProto) -> str:
        """Add a node of one output."""
        node = helper.make_node(op, inputs, [output])
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return output

    def prune(self) -> None:
        """Leave out what no output needs; for nodes without bodies."""
        wanted, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.output):
                kept.append(node)
                wanted.update(node.input)
        self.nodes = kept[::-1]
        self.bounds = {name: kind for name, kind in self.bounds.items() if name in wanted}
        self.initializers = {name: held for name, held in self.initializers.items() if name in wanted}

    def to_bytes(self) -> bytes:
        """The model; its external data are to be looked for in the folder of the source's file."""
        proto = self.source.file.proto
        graph = GraphProto(name="piece")
        graph.input.extend(_port(name, kind) for name, kind in self.bounds.items())
        graph.output.extend(ValueInfoProto(name=name) for name in dict.fromkeys(self.outputs))
        graph.initializer.extend(self.initializers.values())
        graph.sparse_initializer.extend(self.sparse.values())
        graph.node.extend(self.nodes)
        model = onnx.ModelProto(ir_version=max(proto.ir_version, _FIRST_IR), graph=graph)
        model.opset_import.extend(proto.opset_import)
        for function in proto.functions:
            model.functions.add().CopyFrom(function)
            self.fill(model.functions[-1])
        name_optional_outputs(model)
        return bytes(model.SerializeToString())

    def fill(self, message: NodeProto | onnx.FunctionProto) -> None:
        """Give the tensors in attributes, bodies included, the payloads that the skeleton leaves out."""
        for tensor in tensors(message):
            span = self.source.file.span(tensor)
            if span is not None and span.file is None:
                payload = bytes(self.source.file.storage.view(span))
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
                tensor.raw_data = payload

    def hold(self, value: Value) -> None:
        """Take an initializer in, where it is not yet."""
        found = self.source.graph.initializer(value)
        if self.source.graph.is_sparse(value):
            held = self.source.file.proto.graph.sparse_initializer
            self.sparse[value.name] = next(tensor for tensor in held if tensor.values.name == value.name)
        if found is None or value.name in self.initializers:
            return
        tensor = TensorProto()
        tensor.CopyFrom(found.tensor)
        tensor.name = value.name
        _locate(tensor, self.held_in)
        self.initializers[value.name] = tensor


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some nodes of a piece, and what their values are called there."""

    piece: Piece
    fed: Mapping[int, str]
    prefix: str

    def name(self, value: Value) -> str:
        """What a value of the model is called in this part."""
        if value.id in self.fed:
            return self.fed[value.id]
        if self.piece.source.graph.producer(value) is None:
            self.piece.hold(value)
            return value.name
        return self.prefix + value.name

    def copied(self, node: Node) -> NodeProto:
        """A copy of a node with the names of this part."""
        copy = NodeProto()
        copy.CopyFrom(node.proto)
        copy.name = ""
        self.piece.fill(copy)
        del copy.input[:], copy.output[:]
        copy.input.extend("" if v is None else self.name(v) for v in node.inputs)
        # What is a target of this part and bounds another is made here all the same, under its own name.
        copy.output.extend("" if v is None else self.made(v) for v in node.outputs)
        return copy

    def made(self, value: Value) -> str:
        """What a value that a node of this part puts out is called, whatever else is fed."""
        return self.prefix + value.name

    def captured(self, values: Iterable[Value]) -> None:
        """Take in the initializers that bodies capture."""
        for value in values:
            self.name(value)


def _port(name: str, element_type: int) -> ValueInfoProto:
    return ValueInfoProto(name=name, type=TypeProto(tensor_type=TypeProto.Tensor(elem_type=element_type)))
