"""Plan -> edits of the model file: the only module that changes anything, and where each weight is rounded, once.

What an affine left behind decides the names. A value whose content changes gets a new name; the output of a
removed BatchNormalization keeps its own, and is now produced by the node before it. A weight that something else
reads stays, and the home gets a clone. What the plan orphans (parameters, constant expressions, their value_info
and, below IR 4, their graph inputs) goes with it; what was unused before is left alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import onnx
from onnx import NodeProto, ValueInfoProto, helper

from bnfold.affine import Affine
from bnfold.errors import UsageError
from bnfold.graph import Graph
from bnfold.model import Address, Edits, GraphEdit, NewTensor, NodeEdit
from bnfold.nodes import Initializer, Node, Scope, Value, nested_graphs
from bnfold.ops.facts import Array, Constant, Facts, constant_node
from bnfold.ops.linear import Linear, absorbed_bias, absorbed_weight, linear_of
from bnfold.planning import Plan


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The edits that carry out a plan, and the names of the weights that had to be cloned for it."""

    edits: Edits
    cloned: tuple[str, ...]


def rewrite(graph: Graph, plan: Plan) -> Rewrite:
    """The edits that carry out `plan`; raises UsageError where the plan was made for another model."""
    if plan.fingerprint != graph.model.sha256:
        raise UsageError("the plan was made for another model: its fingerprint is not this file's")
    fresh = _Fresh(set(graph.names))
    names = _names(graph, plan, fresh)
    facts = Facts(graph)
    homes = [_home(facts, graph.at(site), after, fresh) for site, after in plan.homes().items()]
    removed = _removed(graph, [graph.at(move.site) for move in plan.moves], homes)
    edits = _Assembly(graph, names, homes, removed).edits()
    return Rewrite(edits, tuple(_cloned(graph, homes, removed)))


@dataclass(slots=True)
class _Fresh:
    """Gives out names that nothing in the model bears yet."""

    taken: set[str]
    counts: Counter[str] = field(default_factory=Counter)

    def __call__(self, name: str) -> str:
        candidate = name
        while candidate in self.taken:
            self.counts[name] += 1
            candidate = f"{name}_{self.counts[name]}"
        self.taken.add(candidate)
        return candidate


@dataclass(frozen=True, slots=True)
class _Names:
    """New names by value id, and the values whose own name ends because they became one with a later value."""

    renamed: dict[int, str]
    merged: frozenset[int]


def _names(graph: Graph, plan: Plan, fresh: _Fresh) -> _Names:
    """The new name of every value whose content changes: those between a home and what settled in it."""
    moved = [graph.at(move.site) for move in plan.moves]
    passed = [graph.at(site) for move in plan.moves for site in move.path]
    homes = [graph.at(site) for site in plan.homes()]
    changed = {value.id: value for value in (node.output(0) for node in (*homes, *passed)) if value is not None}
    becomes = {x.id: y for x, y in ((node.input(0), node.output(0)) for node in moved) if x is not None and y}
    names: dict[int, str] = {}
    renamed: dict[int, str] = {}
    for value in changed.values():
        final = value
        while final.id in becomes:
            final = becomes[final.id]
        if final.id not in names:
            names[final.id] = fresh(f"{final.name}_folded") if final.id in changed else final.name
        renamed[value.id] = names[final.id]
    return _Names(renamed, frozenset(becomes))


@dataclass(frozen=True, slots=True, eq=False)
class _New:
    """A new constant: which input reads it, its name, what it is made of, and the constant it replaces (or follows)."""

    index: int
    name: str
    content: partial[Array]
    beside: Constant
    replaces: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Home:
    """A home and its new constants; `dropped` are the attributes that the bias has taken in."""

    node: Node
    news: tuple[_New, ...]
    dropped: frozenset[str]


def _home(facts: Facts, node: Node, after: Affine, fresh: _Fresh) -> _Home:
    linear = linear_of(facts, node)
    if not isinstance(linear, Linear):
        raise UsageError(f"the plan names {node.site} as a home, and it is none")
    weight, old = linear.weight, linear.bias
    content = partial(absorbed_weight, linear, after)
    news = [_New(linear.weight_input, fresh(f"{weight.value.name}_folded"), content, weight, replaces=True)]
    bias = absorbed_bias(linear, after)
    if bias is None:
        return _Home(node, tuple(news), frozenset())
    name = fresh(_bias_name(weight.value.name) if old is None else f"{old.value.name}_folded")
    news.append(_New(linear.bias_input, name, partial(_same, bias), old or weight, replaces=old is not None))
    return _Home(node, tuple(news), linear.dropped)


def _same(array: Array) -> Array:
    return array


@dataclass(frozen=True, slots=True)
class _Removed:
    """What goes: node ids, initializers by value id, and the values that nothing produces any more."""

    nodes: set[int]
    initializers: dict[int, Initializer]
    values: set[int]


def _removed(graph: Graph, moved: list[Node], homes: list[_Home]) -> _Removed:
    """The moved nodes and all that nobody reads once they are gone, from reader to producer."""
    removed = _Removed({node.id for node in moved}, {}, set())
    lost: Counter[int] = Counter()
    suspects = [new.beside.value for home in homes for new in home.news if new.replaces]
    suspects += [value for node in moved for value in node.inputs[1:] if value is not None]
    while suspects:
        value = suspects.pop()
        lost[value.id] += 1
        if lost[value.id] < len(graph.readers(value)) or not _removable(graph, value):
            continue
        initializer, producer = graph.initializer(value), graph.producer(value)
        if initializer is not None:
            removed.initializers[value.id] = initializer
            removed.values.add(value.id)
        elif producer is not None and _is_dead(graph, producer, lost):
            removed.nodes.add(producer.id)
            removed.values.update(output.id for output in producer.outputs if output is not None)
            suspects += [operand for operand in producer.inputs if operand is not None]
    return removed


def _removable(graph: Graph, value: Value) -> bool:
    """Whether a value may go once nobody reads it: no promise to a caller is attached to it."""
    return not (graph.is_graph_output(value) or graph.is_overridable(value) or graph.is_sparse(value))


def _is_dead(graph: Graph, node: Node, lost: Counter[int]) -> bool:
    """Whether nobody reads any output of a node; one that holds graphs is kept, for what they read is not counted."""
    if any(True for _ in nested_graphs(node.proto)):
        return False
    outputs = [value for value in node.outputs if value is not None]
    return all(lost[v.id] >= len(graph.readers(v)) and _removable(graph, v) for v in outputs)


def _cloned(graph: Graph, homes: list[_Home], removed: _Removed) -> Iterator[str]:
    """The weights that stay although a home has got its own, because something else reads them."""
    originals = {new.beside.value.id: new.beside.value for home in homes for new in home.news if new.replaces}
    for value in originals.values():
        producer = graph.producer(value)
        if value.id not in removed.initializers and (producer is None or producer.id not in removed.nodes):
            yield value.name


@dataclass(slots=True)
class _Pending:
    """What is to change in one scope, while it is being collected."""

    nodes: dict[int, NodeEdit | None] = field(default_factory=dict)
    inserted: dict[int, list[NodeProto]] = field(default_factory=lambda: defaultdict(list))
    tensors: list[tuple[Initializer | None, NewTensor]] = field(default_factory=list)
    dropped: list[Initializer] = field(default_factory=list)
    names: dict[str, str | None] = field(default_factory=dict)


class _Assembly:
    """Puts names, homes and removals together as one edit per scope."""

    def __init__(self, graph: Graph, names: _Names, homes: list[_Home], removed: _Removed) -> None:
        self.graph = graph
        self.removed = removed
        self.inputs: dict[int, list[str]] = {}
        self.outputs: dict[int, list[str]] = {}
        self.dropped_attributes: dict[int, frozenset[str]] = {}
        self.pending: dict[Scope, _Pending] = defaultdict(_Pending)
        self.rename(names)
        for home in homes:
            self.furnish(home)
        self.remove()

    def edits(self) -> dict[Address, GraphEdit]:
        """The edits of all scopes."""
        for id_ in (self.inputs.keys() | self.outputs.keys()) - self.removed.nodes:
            node = self.graph.nodes[id_]
            self.pending[node.scope].nodes[node.index] = self.node_edit(id_)
        return {scope.address: self.graph_edit(scope, pending) for scope, pending in self.pending.items()}

    def rename(self, names: _Names) -> None:
        """Write the new names at producers and readers, and remember what becomes of the old ones' value_info."""
        for id_, name in names.renamed.items():
            value = self.graph.values[id_]
            producer = self.graph.producer(value)
            if producer is not None:
                _list(self.outputs, producer.id, producer.proto.output)[producer.outputs.index(value)] = name
            for reader in self.graph.readers(value):
                _list(self.inputs, reader.node.id, reader.node.proto.input)[reader.index] = name
            self.pending[value.scope].names[value.name] = None if id_ in names.merged else name

    def furnish(self, home: _Home) -> None:
        """Let a home read its new constants, and put them where the old ones lay."""
        inputs = _list(self.inputs, home.node.id, home.node.proto.input)
        self.dropped_attributes[home.node.id] = home.dropped
        for new in home.news:
            inputs += [""] * (new.index + 1 - len(inputs))
            inputs[new.index] = new.name
            anchor = self.graph.initializer(new.beside.value)
            scope = self.holder(home.node, anchor)
            if scope.kind == "function":
                self.pending[scope].inserted[home.node.index].append(constant_node(new.name, new.content()))
            else:
                self.pending[scope].tensors.append((anchor, _tensor(new)))

    def holder(self, home: Node, anchor: Initializer | None) -> Scope:
        """The scope of a new constant: where the old one lies, else the home's own; below IR 4 the main graph's."""
        if anchor is not None:
            return anchor.scope
        in_main = self.graph.needs_initializer_inputs and home.scope.address.function is None
        return self.graph.scopes[0] if in_main else home.scope

    def remove(self) -> None:
        for id_ in self.removed.nodes:
            node = self.graph.nodes[id_]
            self.pending[node.scope].nodes[node.index] = None
        for id_ in self.removed.values:
            value = self.graph.values[id_]
            self.pending[value.scope].names[value.name] = None
        for initializer in self.removed.initializers.values():
            self.pending[initializer.scope].dropped.append(initializer)

    def node_edit(self, id_: int) -> NodeEdit:
        inputs, outputs = self.inputs.get(id_), self.outputs.get(id_)
        return NodeEdit(
            inputs=None if inputs is None else tuple(inputs),
            outputs=None if outputs is None else tuple(outputs),
            dropped_attributes=self.dropped_attributes.get(id_, frozenset()),
        )

    def graph_edit(self, scope: Scope, pending: _Pending) -> GraphEdit:
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


def _tensor(new: _New) -> NewTensor:
    """A weight is computed when it is written, and not held; a bias is small."""
    if new.content.func is _same:
        return NewTensor.of(new.name, new.content())
    header = onnx.TensorProto(name=new.name, data_type=new.beside.data_type, dims=new.beside.dims)
    nbytes = new.beside.dtype.itemsize
    for dim in new.beside.dims:
        nbytes *= dim
    return NewTensor(header, nbytes, lambda: NewTensor.of(new.name, new.content()).blocks())


def _bias_name(weight: str) -> str:
    return f"{weight.removesuffix('weight')}bias" if weight.endswith("weight") else f"{weight}_bias"
