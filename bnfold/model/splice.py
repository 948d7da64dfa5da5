"""Edits to bytes: the input's bytes with the edited fields spliced in.

Invariant: a field that no edit names, in whatever message, is copied as it lies in the input; of the messages around
an edit only the length prefix changes. An edit of something that is not there is a ValueError, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
)

from bnfold.errors import CannotWrite
from bnfold.model.content import Content
from bnfold.model.edits import Address, Edits, GraphEdit, NewTensor, NodeEdit
from bnfold.model.rope import NOTHING, Blocks, Rope, joined, rope
from bnfold.model.walk import (
    ATTRIBUTE_G,
    ATTRIBUTE_GRAPHS,
    MODEL_FUNCTIONS,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_OUTPUT,
    TENSOR_RAW,
    surely,
    whole,
)
from bnfold.model.wire import (
    LENGTH,
    MOST_BYTES,
    Field,
    Patch,
    UnsureError,
    enclosed,
    fields,
    length_field,
    patched,
    text_field,
)

WriteTensor = Callable[[NewTensor, TensorProto | None], Rope]
Message = NodeProto | AttributeProto | ValueInfoProto


def spliced(data: Content, model: ModelProto, edits: Edits, write: WriteTensor) -> Rope:
    """The bytes of a model with the edits in them; `write` gives the content of a new tensor, told what it replaces.

    `model` is the skeleton of `data`. Raises ValueError for edits that name what is not there.
    """
    return surely(data, lambda sure: _Splice(sure, write).model(model, edits))


def inline(new: NewTensor, _replaced: TensorProto | None = None) -> Rope:
    """The content of a new tensor that holds its data itself."""
    header = new.header.SerializeToString(deterministic=True)
    data = length_field(TENSOR_RAW, Rope((Blocks(new.nbytes, new.blocks),), new.nbytes))
    return Rope((header, *data.pieces), len(header) + data.length)


def check_size(content: Rope) -> None:
    """Raise CannotWrite for a model that protobuf could not hold."""
    if content.length > MOST_BYTES:
        raise CannotWrite(f"the model would have {content.length} bytes, more than the 2 GiB that protobuf allows")


@dataclass(frozen=True, slots=True)
class _Tree:
    """The edits of one graph, and of the graphs inside: node index -> attribute index -> graph -> its tree."""

    edit: GraphEdit
    inside: Mapping[int, Mapping[int, Mapping[int, _Tree]]]


Steps = tuple[tuple[int, int, int], ...]


def _tree(edits: Iterable[tuple[Steps, GraphEdit]]) -> _Tree:
    own = GraphEdit()
    deeper: dict[int, dict[int, dict[int, list[tuple[Steps, GraphEdit]]]]] = {}
    for steps, edit in edits:
        if not steps:
            own = edit
            continue
        node, attribute, graph = steps[0]
        group = deeper.setdefault(node, {}).setdefault(attribute, {}).setdefault(graph, [])
        group.append((steps[1:], edit))
    inside = {
        node: {a: {g: _tree(found) for g, found in graphs.items()} for a, graphs in attributes.items()}
        for node, attributes in deeper.items()
    }
    return _Tree(own, inside)


def _trees(edits: Edits) -> dict[int | None, _Tree]:
    grouped: dict[int | None, list[tuple[Steps, GraphEdit]]] = {}
    for address, edit in edits.items():
        if not edit.is_empty:
            grouped.setdefault(address.function, []).append((address.nested, edit))
    return {function: _tree(found) for function, found in grouped.items()}


def changes_something(edits: Edits) -> bool:
    """Whether any edit changes anything."""
    return any(not edit.is_empty for edit in edits.values())


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The field numbers of a graph, or of a function, which has no initializers and no typed inputs, outputs."""

    node: int
    value_info: int
    initializer: int | None = None
    input: int | None = None
    output: int | None = None


_GRAPH = _Numbers(node=1, value_info=13, initializer=5, input=11, output=12)
_FUNCTION = _Numbers(node=7, value_info=12)


_UNCHANGED = NodeEdit()


class _Splice:
    def __init__(self, data: Content, write: WriteTensor) -> None:
        self.data = data
        self.write = write

    def model(self, proto: ModelProto, edits: Edits) -> Rope:
        trees = _trees(edits)
        all_of_it = whole(self.data)
        patches: list[Patch] = []
        functions = 0
        for field in _unmerged(self.data, all_of_it, MODEL_GRAPH):
            if field.number == MODEL_GRAPH:
                tree, target, numbers = trees.pop(None, None), proto.graph, _GRAPH
            elif field.number == MODEL_FUNCTIONS:
                tree, target, numbers = trees.pop(functions, None), proto.functions[functions], _FUNCTION
                functions += 1
            else:
                continue
            if tree is not None:
                patches.append(enclosed(self.data, field, self.graph(field, target, tree, numbers)))
        if trees:
            raise ValueError(f"there is no {Address(function=next(iter(trees)))}")
        return patched(self.data, 0, len(self.data), patches)

    def graph(self, field: Field, proto: GraphProto | FunctionProto, tree: _Tree, numbers: _Numbers) -> Rope:
        replaced = self.replacements(proto, tree.edit, numbers)
        counts = dict.fromkeys((numbers.node, *replaced), 0)
        patches: list[Patch] = []
        for part in _messages(self.data, field):
            if part.number not in counts:
                continue
            index = counts[part.number]
            counts[part.number] += 1
            if part.number == numbers.node:
                patches.extend(self.node(part, index, proto, tree))
            elif index in replaced[part.number]:
                patches.append(Patch(part.start, part.end, replaced[part.number][index]))
        _check_positions(tree, replaced, counts, numbers.node)
        patches.append(Patch(field.end, field.end, self.additions(tree.edit, numbers, counts[numbers.node])))
        return patched(self.data, field.body, field.end, patches)

    def replacements(
        self, proto: GraphProto | FunctionProto, edit: GraphEdit, numbers: _Numbers
    ) -> dict[int, Mapping[int, Rope]]:
        """Field number -> position -> the fields that stand there instead."""
        replaced: dict[int, Mapping[int, Rope]] = {}
        if edit.value_info:
            replaced[numbers.value_info] = _replacing(numbers.value_info, edit.value_info)
        if numbers.input is None or numbers.output is None or numbers.initializer is None:
            _check_function_edit(edit)
            return replaced
        if edit.inputs:
            replaced[numbers.input] = _replacing(numbers.input, edit.inputs)
        if edit.outputs:
            replaced[numbers.output] = _replacing(numbers.output, edit.outputs)
        if edit.initializers and isinstance(proto, GraphProto):
            replaced[numbers.initializer] = self.new_initializers(numbers.initializer, proto, edit)
        return replaced

    def new_initializers(self, number: int, graph: GraphProto, edit: GraphEdit) -> Mapping[int, Rope]:
        old = graph.initializer
        return {
            index: joined(
                length_field(number, self.write(new, old[index] if 0 <= index < len(old) else None)) for new in tensors
            )
            for index, tensors in edit.initializers.items()
        }

    def additions(self, edit: GraphEdit, numbers: _Numbers, nodes: int) -> Rope:
        """The fields at the end of the message: appended nodes and all that is added."""
        added = [_message(numbers.node, node) for node in edit.inserted.get(nodes, ())]
        added += [_message(numbers.value_info, value) for value in edit.added_value_info]
        if numbers.input is not None:
            added += [_message(numbers.input, value) for value in edit.added_inputs]
        if numbers.output is not None:
            added += [_message(numbers.output, value) for value in edit.added_outputs]
        if numbers.initializer is not None:
            added += [length_field(numbers.initializer, self.write(new, None)) for new in edit.added_initializers]
        return joined(added)

    def node(self, field: Field, index: int, proto: GraphProto | FunctionProto, tree: _Tree) -> Iterator[Patch]:
        before = tree.edit.inserted.get(index, ())
        if before:
            content = joined(_message(field.number, node) for node in before)
            yield Patch(field.start, field.start, content)
        inside = tree.inside.get(index, {})
        edit = tree.edit.nodes.get(index, _UNCHANGED)
        if edit is None and inside:
            raise ValueError(f"node {index} is dropped and a graph inside it is edited")
        if edit is None:
            yield Patch(field.start, field.end, NOTHING)
        elif inside or not edit.is_empty:
            content = _NodeSplice(self, field, proto.node[index], edit, inside).content()
            yield enclosed(self.data, field, content)

    def attribute(self, field: Field, proto: AttributeProto, graphs: Mapping[int, _Tree]) -> Rope:
        """The content of an attribute with the graphs in it edited; -1 is `g`, others are positions in `graphs`."""
        patches: list[Patch] = []
        seen: set[int] = set()
        listed = 0
        for part in _unmerged(self.data, field, ATTRIBUTE_G):
            if part.number == ATTRIBUTE_G:
                position, target = -1, proto.g
            elif part.number == ATTRIBUTE_GRAPHS:
                position, target = listed, proto.graphs[listed]
                listed += 1
            else:
                continue
            seen.add(position)
            if position in graphs:
                content = self.graph(part, target, graphs[position], _GRAPH)
                patches.append(enclosed(self.data, part, content))
        if not graphs.keys() <= seen:
            raise ValueError(f"attribute {proto.name!r} has no graphs {sorted(graphs.keys() - seen)}")
        return patched(self.data, field.body, field.end, patches)


class _NodeSplice:
    """One node and its edit; `new_texts` and `new_attributes` shrink as they find their places."""

    def __init__(
        self,
        splice: _Splice,
        field: Field,
        proto: NodeProto,
        edit: NodeEdit,
        inside: Mapping[int, Mapping[int, _Tree]],
    ) -> None:
        self.splice = splice
        self.field = field
        self.proto = proto
        self.edit = edit
        self.inside = dict(inside)
        self.texts = {NODE_INPUT: edit.inputs, NODE_OUTPUT: edit.outputs}
        self.new_texts = {n: _strings(n, texts) for n, texts in self.texts.items() if texts is not None}
        self.new_attributes = {a.name: _message(NODE_ATTRIBUTE, a) for a in edit.attributes}
        self.gone = {*self.new_attributes, *edit.dropped_attributes}

    def content(self) -> Rope:
        patches: list[Patch] = []
        attributes = 0
        for part in _messages(self.splice.data, self.field):
            if part.number == NODE_ATTRIBUTE:
                patches.extend(self.attribute(part, attributes))
                attributes += 1
            elif self.texts.get(part.number) is not None:
                # The first of the old ones gives the new ones their place.
                patches.append(Patch(part.start, part.end, self.new_texts.pop(part.number, NOTHING)))
        if self.inside:
            raise ValueError(f"node {self.proto.name!r} has no attributes {sorted(self.inside)}")
        rest = joined([*self.new_texts.values(), *self.new_attributes.values()])
        patches.append(Patch(self.field.end, self.field.end, rest))
        return patched(self.splice.data, self.field.body, self.field.end, patches)

    def attribute(self, part: Field, index: int) -> Iterator[Patch]:
        proto = self.proto.attribute[index]
        graphs = self.inside.pop(index, None)
        if proto.name in self.gone:
            if graphs is not None:
                raise ValueError(f"attribute {proto.name!r} is replaced and a graph inside it is edited")
            yield Patch(part.start, part.end, self.new_attributes.pop(proto.name, NOTHING))
        elif graphs is not None:
            yield enclosed(self.splice.data, part, self.splice.attribute(part, proto, graphs))


def _messages(data: Content, field: Field) -> Iterator[Field]:
    return (part for part in fields(data, field.body, field.end) if part.wire == LENGTH)


def _unmerged(data: Content, field: Field, singular: int) -> tuple[Field, ...]:
    """The parts of a message in which the message `singular` comes in one chunk; else UnsureError."""
    parts = tuple(_messages(data, field))
    if sum(part.number == singular for part in parts) > 1:
        raise UnsureError
    return parts


def _message(number: int, message: Message) -> Rope:
    return length_field(number, message.SerializeToString(deterministic=True))


def _strings(number: int, texts: Sequence[str]) -> Rope:
    return rope(b"".join(text_field(number, text.encode()) for text in texts))


def _replacing(number: int, values: Mapping[int, ValueInfoProto | None]) -> Mapping[int, Rope]:
    return {index: NOTHING if value is None else _message(number, value) for index, value in values.items()}


def _check_positions(
    tree: _Tree, replaced: Mapping[int, Mapping[int, Rope]], counts: Mapping[int, int], node: int
) -> None:
    nodes = counts[node]
    for index in (*tree.edit.nodes, *tree.inside):
        if not 0 <= index < nodes:
            raise ValueError(f"there is no node {index}, the graph has {nodes}")
    for index in tree.edit.inserted:
        if not 0 <= index <= nodes:
            raise ValueError(f"nodes cannot be inserted before node {index}, the graph has {nodes}")
    for number, contents in replaced.items():
        for index in contents:
            if not 0 <= index < counts[number]:
                raise ValueError(f"field {number} has no entry {index}, the graph has {counts[number]}")


def _check_function_edit(edit: GraphEdit) -> None:
    ports = (edit.inputs, edit.added_inputs, edit.outputs, edit.added_outputs)
    if edit.initializers or edit.added_initializers or any(ports):
        raise ValueError("a function has neither initializers nor typed inputs and outputs")
