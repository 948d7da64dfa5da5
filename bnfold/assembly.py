"""What a rewriting consists of, put together as one edit per scope: names, furnished homes, and what goes.

The values here are decided in apply.py; this module only says them in the words of `model/`: which node reads and puts
out which names, which tensors come where the old ones lay, which nodes come before and behind a home.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, NodeProto, ValueInfoProto, helper

from bnfold.graph import Graph
from bnfold.model import Address, GraphEdit, NewTensor, NodeEdit
from bnfold.nodes import Initializer, Node, Scope
from bnfold.ops.elementwise import addition
from bnfold.ops.facts import constant_node
from bnfold.ops.home import NewConstant, NewNode


@dataclass(slots=True)
class Fresh:
    """Gives out names that nothing in the model bears yet."""

    taken: set[str]
    counts: Counter[str] = field(default_factory=Counter)

    def __call__(self, name: str) -> str:
        """The name itself, or the first of its kin that is free."""
        candidate = name
        while candidate in self.taken:
            self.counts[name] += 1
            candidate = f"{name}_{self.counts[name]}"
        self.taken.add(candidate)
        return candidate


@dataclass(frozen=True, slots=True)
class Names:
    """New names by value id, and the values whose own name ends because they became one with a later value."""

    renamed: dict[int, str]
    merged: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class NamedConstant:
    """A new constant and the name it bears."""

    name: str
    new: NewConstant


@dataclass(frozen=True, slots=True, eq=False)
class CopiedNode:
    """A node to be copied in front of a home, the name of its output, and its own constants."""

    name: str
    new: NewNode
    constants: tuple[NamedConstant, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FurnishedHome:
    """A home, what it needs, and the names of all that; `added` is the constant of the Add behind it."""

    node: Node
    constants: tuple[NamedConstant, ...]
    copied: tuple[CopiedNode, ...]
    attributes: tuple[AttributeProto, ...]
    dropped: frozenset[str]
    added: NamedConstant | None
    rank: int

    def all_constants(self) -> Iterator[NamedConstant]:
        """Those of the home and of the nodes copied for it; that of its Add stands in the place of none."""
        yield from self.constants
        for copied in self.copied:
            yield from copied.constants


@dataclass(frozen=True, slots=True)
class Removed:
    """What goes: node ids, initializers by value id, and the values that nothing produces any more.

    `inputs` are those that nodes lose which stay, by their ids.
    """

    nodes: set[int]
    initializers: dict[int, Initializer]
    values: set[int]
    inputs: dict[int, frozenset[int]]


@dataclass(slots=True)
class _Pending:
    """What is to change in one scope, while it is being collected."""

    nodes: dict[int, NodeEdit | None] = field(default_factory=dict)
    inserted: dict[int, list[NodeProto]] = field(default_factory=lambda: defaultdict(list))
    tensors: list[tuple[Initializer | None, NewTensor]] = field(default_factory=list)
    dropped: list[Initializer] = field(default_factory=list)
    names: dict[str, str | None] = field(default_factory=dict)


class Assembly:
    """Puts names, homes and removals together as one edit per scope."""

    def __init__(self, graph: Graph, names: Names, homes: list[FurnishedHome], removed: Removed, fresh: Fresh) -> None:
        self.graph = graph
        self.fresh = fresh
        # onnxruntime refuses a graph in which two nodes bear one name, unless that is empty.
        self.fresh_for_nodes = Fresh({node.proto.name for node in graph.nodes})
        self.removed = removed
        self.inputs: dict[int, list[str]] = {}
        self.outputs: dict[int, list[str]] = {}
        self.attributes: dict[int, tuple[AttributeProto, ...]] = {}
        self.dropped_attributes: dict[int, frozenset[str]] = {}
        self.pending: dict[Scope, _Pending] = defaultdict(_Pending)
        self._rename(names)
        for home in homes:
            self._furnish(home)
        self._remove()

    def edits(self) -> dict[Address, GraphEdit]:
        """The edits of all scopes."""
        for id_ in (self.inputs.keys() | self.outputs.keys()) - self.removed.nodes:
            node = self.graph.nodes[id_]
            self.pending[node.scope].nodes[node.index] = self._node_edit(id_)
        return {scope.address: self._graph_edit(scope, pending) for scope, pending in self.pending.items()}

    def _rename(self, names: Names) -> None:
        """Write the new names at producers and readers, and remember what becomes of the old ones' value_info."""
        for id_, name in names.renamed.items():
            value = self.graph.values[id_]
            producer = self.graph.producer(value)
            if producer is not None:
                _list(self.outputs, producer.id, producer.proto.output)[producer.outputs.index(value)] = name
            for reader in self.graph.readers(value):
                _list(self.inputs, reader.node.id, reader.node.proto.input)[reader.index] = name
            self.pending[value.scope].names[value.name] = None if id_ in names.merged else name

    def _furnish(self, home: FurnishedHome) -> None:
        """Let a home read its new constants, and put its further nodes before and behind it."""
        inputs = _list(self.inputs, home.node.id, home.node.proto.input)
        self.attributes[home.node.id] = home.attributes
        self.dropped_attributes[home.node.id] = home.dropped
        for named in home.constants:
            _read(inputs, named.new.index, named.name)
            self._place(home.node, named)
        for copied in home.copied:
            _read(inputs, copied.new.index, copied.name)
            for named in copied.constants:
                self._place(home.node, named)
            self.pending[home.node.scope].inserted[home.node.index].append(self._copy(copied))
        if home.added is not None:
            self._place(home.node, home.added)
            self._add_behind(home, home.added)

    def _place(self, home: Node, named: NamedConstant) -> None:
        """Put a new constant where the old one lay: among the initializers, or in a function as a node."""
        anchor = self.graph.initializer(named.new.beside.value)
        scope = self._holder(home, anchor)
        if scope.kind == "function":
            node = constant_node(named.name, named.new.content())
            self.pending[scope].inserted[home.index].append(node)
        else:
            self.pending[scope].tensors.append((anchor, _tensor(named)))

    def _add_behind(self, home: FurnishedHome, shift: NamedConstant) -> None:
        """Let an Add put out what the home put out, and give the home's own output a name of its own."""
        node = home.node
        outputs = _list(self.outputs, node.id, node.proto.output)
        name, outputs[0] = outputs[0], self.fresh(f"{node.proto.output[0]}_folded")
        axis = home.rank - len(shift.new.header.dims)
        added = addition(node.scope.opset, value=outputs[0], constant=shift.name, output=name, axis=axis)
        if node.proto.name:
            added.name = self.fresh_for_nodes(f"{node.proto.name}_bias")
        self.pending[node.scope].inserted[node.index + 1].append(added)

    def _copy(self, copied: CopiedNode) -> NodeProto:
        """A copy of a node with another name, another output and constants of its own."""
        copy = NodeProto()
        copy.CopyFrom(copied.new.like.proto)
        inputs = list(copy.input)
        for named in copied.constants:
            _read(inputs, named.new.index, named.name)
        del copy.input[:], copy.output[:], copy.attribute[:]
        copy.input.extend(inputs)
        copy.output.append(copied.name)
        replaced = {attribute.name for attribute in copied.new.attributes}
        copy.attribute.extend(a for a in copied.new.like.proto.attribute if a.name not in replaced)
        copy.attribute.extend(copied.new.attributes)
        if copy.name:
            copy.name = self.fresh_for_nodes(f"{copy.name}_folded")
        return copy

    def _holder(self, home: Node, anchor: Initializer | None) -> Scope:
        """The scope of a new constant: where the old one lies, else the home's own; below IR 4 the main graph's."""
        if anchor is not None:
            return anchor.scope
        in_main = self.graph.needs_initializer_inputs and home.scope.address.function is None
        return self.graph.scopes[0] if in_main else home.scope

    def _remove(self) -> None:
        for id_, lost in self.removed.inputs.items():
            names = _list(self.inputs, id_, self.graph.nodes[id_].proto.input)
            names[:] = [name for place, name in enumerate(names) if place not in lost]
        for id_ in self.removed.nodes:
            node = self.graph.nodes[id_]
            self.pending[node.scope].nodes[node.index] = None
        for id_ in self.removed.values:
            value = self.graph.values[id_]
            self.pending[value.scope].names[value.name] = None
        for initializer in self.removed.initializers.values():
            self.pending[initializer.scope].dropped.append(initializer)

    def _node_edit(self, id_: int) -> NodeEdit:
        inputs, outputs = self.inputs.get(id_), self.outputs.get(id_)
        return NodeEdit(
            inputs=None if inputs is None else tuple(inputs),
            outputs=None if outputs is None else tuple(outputs),
            attributes=self.attributes.get(id_, ()),
            dropped_attributes=self.dropped_attributes.get(id_, frozenset()),
        )

    def _graph_edit(self, scope: Scope, pending: _Pending) -> GraphEdit:
        replaced: dict[int, list[NewTensor]] = {entry.index: [] for entry in pending.dropped}
        added: list[NewTensor] = []
        for anchor, tensor in pending.tensors:
            replaced.get(-1 if anchor is None else anchor.index, added).append(tensor)
        listed = self.graph.needs_initializer_inputs and scope.parent is None
        return GraphEdit(
            nodes=dict(sorted(pending.nodes.items())),
            inserted={index: tuple(nodes) for index, nodes in pending.inserted.items()},
            initializers={index: tuple(tensors) for index, tensors in replaced.items()},
            added_initializers=tuple(added),
            inputs={entry.input_index: None for entry in pending.dropped if entry.input_index is not None},
            added_inputs=tuple(_inputs(tensor for _, tensor in pending.tensors)) if listed else (),
            value_info=_value_info(scope, pending.names),
        )


def _list(table: dict[int, list[str]], id_: int, names: Iterable[str]) -> list[str]:
    """The names of a node's inputs (or outputs) as they stand so far."""
    if id_ not in table:
        table[id_] = list(names)
    return table[id_]


def _value_info(scope: Scope, names: dict[str, str | None]) -> dict[int, ValueInfoProto | None]:
    """What becomes of the scope's value_info: dropped with its value, or under the value's new name."""
    entries: dict[int, ValueInfoProto | None] = {}
    for index, info in enumerate(scope.proto.value_info):
        if info.name in names:
            name = names[info.name]
            entries[index] = None if name is None else _named(info, name)
    return entries


def _named(info: ValueInfoProto, name: str) -> ValueInfoProto:
    renamed = ValueInfoProto()
    renamed.CopyFrom(info)
    renamed.name = name
    return renamed


def _inputs(tensors: Iterable[NewTensor]) -> Iterator[ValueInfoProto]:
    """Below IR 4 each initializer of the main graph is also an input of it."""
    for tensor in tensors:
        header = tensor.header
        yield helper.make_tensor_value_info(header.name, header.data_type, list(header.dims))


def _read(inputs: list[str], index: int, name: str) -> None:
    inputs += [""] * (index + 1 - len(inputs))
    inputs[index] = name


def _tensor(named: NamedConstant) -> NewTensor:
    """A weight is computed when it is written, and not held; a small one is held."""
    header = onnx.TensorProto()
    header.CopyFrom(named.new.header)
    header.name = named.name
    parts = named.new.parts
    return NewTensor.in_parts(header, (lambda: (named.new.content(),)) if parts is None else parts)
