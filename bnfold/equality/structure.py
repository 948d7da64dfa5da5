"""Whether a rewritten model is the original but for what was claimed: node by node, name by name, byte by byte.

The invariant that is checked: a name in both files means the same value in both. So every node of the original has
its counterpart in the same order with the same attributes, except the claimed nodes and what nobody reads any
more; every value keeps its name, except those between a home and what settled in it; every constant keeps its
content, except those that a home alone reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from google.protobuf.message import Message  # type: ignore[import-untyped]  # protobuf ships no types
from onnx import TensorProto

from bnfold.graph import Graph
from bnfold.nodes import Node, Scope, Site, Value, nested_graphs

CLAIMED_ATTRIBUTES = frozenset({"beta"})
"""What a home's rewriting may change besides its constants; the numbers are checked with it."""

_PAIRED_ELSEWHERE = frozenset({"node", "initializer", "value_info"})
_TYPED_DATA = tuple(f"{kind}_data" for kind in ("float", "double", "int32", "int64", "uint64", "string"))
_DATA = ("raw_data", "external_data", "data_location", *_TYPED_DATA)


class DeviationError(Exception):
    """The rewritten model changes something that no claim covers; the message says what, as one sentence."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a fold says it did with one normalization: the node that went, the nodes it passed, and its homes.

    `path` has the nearest node first. All sites are of the original model.
    """

    site: Site
    path: tuple[Site, ...]
    homes: tuple[Site, ...]


@dataclass(frozen=True, slots=True)
class Pairing:
    """Counterparts: original node id -> node of the rewritten model, original value id -> its name there.

    `scopes` leads from the path of an original scope to that of its counterpart: indices shift when nodes go.
    `rewired` has, by original node id, the inputs at which a home reads another name than before; which of them may
    be is for who knows the operator to say. `new` are the nodes of the rewritten model without a counterpart.
    """

    nodes: dict[int, Node] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    scopes: dict[str, str] = field(default_factory=dict)
    rewired: dict[int, frozenset[int]] = field(default_factory=dict)
    new: list[Node] = field(default_factory=list)


def pair(before: Graph, after: Graph, claims: tuple[Claim, ...]) -> Pairing:
    """Match two models under the claims; raises DeviationError at the first thing that no claim covers."""
    _same_sites(before, claims)
    gone = {before.at(claim.site).id for claim in claims}
    homes = {before.at(site).id for claim in claims for site in claim.homes}
    passed = {before.at(site).id for claim in claims for site in claim.path}
    pairing = Pairing()
    _same_frame(before, after)
    _pair_nodes(before, after, gone, homes | passed, pairing)
    changed = {v.id for id_ in homes | passed for v in (before.nodes[id_].output(0),) if v is not None}
    _name_values(before, [node for node in before.producers_first() if node.id in gone], pairing)
    _check_names(before, gone, changed, pairing)
    for id_, node in pairing.nodes.items():
        _same_reading(before.nodes[id_], node, pairing, is_home=id_ in homes)
        _same_attached(before, after, before.nodes[id_], node)
    if not homes <= pairing.nodes.keys():
        raise DeviationError("a home of a claim is missing in the rewritten model")
    _same_constants(before, after, pairing, {pairing.nodes[id_].id for id_ in homes})
    return pairing


def _same_sites(before: Graph, claims: tuple[Claim, ...]) -> None:
    """Every site that a claim names is one of the original."""
    for site in (site for claim in claims for site in (claim.site, *claim.path, *claim.homes)):
        try:
            before.at(site)
        except KeyError as error:
            raise DeviationError(f"a claim names {site}, which the original has not") from error


def _same_frame(before: Graph, after: Graph) -> None:
    """Everything of the model but nodes, initializers and value_info; the main graph's interface by itself."""
    for ours, theirs in zip(_frames(before), _frames(after), strict=True):
        _same_message(before, after, ours, theirs, "something outside the graph's nodes and constants")
    for name in ("input", "output"):
        ours, theirs = (_interface(graph, name) for graph in (before, after))
        if ours != theirs:
            raise DeviationError(f"the graph's {name}s differ")


def _frames(graph: Graph) -> tuple[Message, Message]:
    """The model without its graph and the nodes of its functions, and the graph without what is paired elsewhere."""
    frame = _without(graph.model.proto, {"graph", "functions"})
    for function in graph.model.proto.functions:
        frame.functions.append(_without(function, _PAIRED_ELSEWHERE))
    return frame, _without(graph.model.proto.graph, _PAIRED_ELSEWHERE | {"input", "output"})


def _without(source: Message, names: Iterable[str]) -> Message:
    """A copy of a message without some of its fields."""
    copy = type(source)()
    for field_, value in source.ListFields():
        if field_.name in names:
            continue
        if field_.is_repeated:
            getattr(copy, field_.name).extend(value)
        elif field_.message_type is not None:
            getattr(copy, field_.name).CopyFrom(value)
        else:
            setattr(copy, field_.name, value)
    return copy


def _same_message(before: Graph, after: Graph, ours: Message, theirs: Message, what: str) -> None:
    """Two messages say the same, wherever the data of their tensors lie."""
    if _bare(ours) != _bare(theirs):
        raise DeviationError(f"{what} differs (opsets, metadata, functions, the interface of a nested graph)")
    for a, b in zip(_tensors(ours), _tensors(theirs), strict=True):
        _same_tensor(before, after, a, b, f"a tensor in {what}")


def _bare(message: Message) -> bytes:
    """The bytes of a message, the data of its tensors left out."""
    copy = type(message)()
    copy.CopyFrom(message)
    for tensor in _tensors(copy):
        for name in _DATA:
            tensor.ClearField(name)
    return bytes(copy.SerializeToString(deterministic=True))


def _tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor inside a message."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field_, value in message.ListFields():
        if field_.message_type is not None:
            for entry in value if field_.is_repeated else [value]:
                yield from _tensors(entry)


def _interface(graph: Graph, kind: str) -> list[bytes]:
    entries = getattr(graph.model.proto.graph, kind)
    constants = {t.name for t in graph.model.proto.graph.initializer} if graph.needs_initializer_inputs else set()
    return [entry.SerializeToString(deterministic=True) for entry in entries if entry.name not in constants]


def _pair_nodes(before: Graph, after: Graph, gone: set[int], renamed: set[int], pairing: Pairing) -> None:
    """Counterparts scope by scope, outer ones first; nested scopes are found through the nodes that hold them."""
    scopes = {scope.path: scope for scope in after.scopes}
    for scope in before.scopes:
        path = _path_there(before, scope, pairing)
        there = None if path is None else scopes.get(path)
        if path is None or there is None:
            continue
        pairing.scopes[scope.path] = path
        if scope.parent is not None:
            ours, theirs = (_without(s.proto, _PAIRED_ELSEWHERE) for s in (scope, there))
            _same_message(before, after, ours, theirs, f"something of {scope.path}")
        theirs = _Awaited(iter(after.nodes_of(there)), before.names, pairing.new)
        _pair_scope([node for node in before.nodes_of(scope) if node.id not in gone], theirs, renamed, pairing)
    if len(pairing.scopes) != len(scopes):
        raise DeviationError("the rewritten model has a nested graph or function that the original has not")


def _path_there(before: Graph, scope: Scope, pairing: Pairing) -> str | None:
    """The path of a scope's counterpart; None where the node that holds it has none."""
    if scope.parent is None:
        return scope.path
    index, position, k = scope.address.nested[-1]
    holder = before.nodes_of(scope.parent)[index]
    there = pairing.nodes.get(holder.id)
    if there is None:
        return None
    attribute = holder.proto.attribute[position].name
    return f"{there.site}.{attribute}" + (f"[{k}]" if k >= 0 else "")


@dataclass(frozen=True, slots=True)
class _Awaited:
    """The nodes of a rewritten scope in order; constants that a function was given go to `new` on the way."""

    nodes: Iterator[Node]
    names: frozenset[str]
    new: list[Node]

    def next(self) -> Node | None:
        for node in self.nodes:
            if not self.is_new(node):
                return node
            self.new.append(node)
        return None

    def is_new(self, node: Node) -> bool:
        in_function = node.op == "Constant" and node.scope.kind == "function"
        return in_function and self.names.isdisjoint(node.proto.output)


def _pair_scope(ours: list[Node], theirs: _Awaited, renamed: set[int], pairing: Pairing) -> None:
    waiting = theirs.next()
    for node in ours:
        if waiting is not None and _corresponds(node, waiting, named=node.id not in renamed):
            pairing.nodes[node.id] = waiting
            waiting = theirs.next()
    if waiting is not None:
        raise DeviationError(f"{waiting.site} of the rewritten model has no counterpart in the original")


def _corresponds(ours: Node, theirs: Node, *, named: bool) -> bool:
    """Whether two nodes are the same but for their inputs (and, unless `named`, for the names of their outputs)."""
    a, b = ours.proto, theirs.proto
    if len(a.output) != len(b.output) or (named and list(a.output) != list(b.output)):
        return False
    return _signature(ours, named=named) == _signature(theirs, named=named)


def _signature(node: Node, *, named: bool) -> list[bytes]:
    """All that a node says of itself, nested graphs left to their own scopes, data of tensors to `_same_attached`."""
    nested = {position for position, *_ in nested_graphs(node.proto)}
    return [
        _bare(a)
        for position, a in enumerate(node.proto.attribute)
        if position not in nested and (named or a.name not in CLAIMED_ATTRIBUTES)
    ] + [_bare(_without(node.proto, {"input", "output", "attribute"}))]


def _name_values(before: Graph, gone: list[Node], pairing: Pairing) -> None:
    """The name of every value in the rewritten model; what a claimed node put out is what it was fed."""
    for id_, node in pairing.nodes.items():
        for value, name in zip(before.nodes[id_].outputs, node.proto.output, strict=True):
            if value is not None:
                pairing.names[value.id] = name
    for node in gone:
        source, target = node.input(0), node.output(0)
        if source is None or target is None or source.id not in pairing.names:
            raise DeviationError(f"the input of {node.site} is no node's output")
        pairing.names[target.id] = pairing.names[source.id]


def _check_names(before: Graph, gone: set[int], changed: set[int], pairing: Pairing) -> None:
    """A name in both files means the same value in both."""
    outputs = [before.nodes[id_].output(0) for id_ in gone]
    inherited = {value.name for value in outputs if value is not None and value.id not in changed}
    for id_, name in pairing.names.items():
        value = before.values[id_]
        if id_ not in changed and name != value.name:
            raise DeviationError(f"{value.name!r} is called {name!r}, though its content does not change")
        if id_ in changed and name in before.names and name not in inherited:
            raise DeviationError(f"{value.name!r} changes and is now called {name!r}, which meant another value")


def _same_reading(ours: Node, theirs: Node, pairing: Pairing, *, is_home: bool) -> None:
    """Every input of a counterpart is the counterpart of the input; where a home's is not is noted."""
    names = [pairing.names.get(v.id, v.name) if v is not None else "" for v in ours.inputs]
    found = list(theirs.proto.input)
    differing = {i for i in range(max(len(names), len(found))) if names[i : i + 1] != found[i : i + 1]}
    if differing and not is_home:
        raise DeviationError(f"{ours.site} reads {found} instead of {names}")
    pairing.rewired[ours.id] = frozenset(differing)


def _same_attached(before: Graph, after: Graph, ours: Node, theirs: Node) -> None:
    """Tensors in a node's attributes hold the same bytes."""
    for a, b in zip(_attached(ours), _attached(theirs), strict=True):
        _same_tensor(before, after, a, b, f"the tensor in {ours.site}")


def _attached(node: Node) -> list[TensorProto]:
    nested = {position for position, *_ in nested_graphs(node.proto)}
    return [t for position, a in enumerate(node.proto.attribute) if position not in nested for t in _tensors(a)]


def _same_constants(before: Graph, after: Graph, pairing: Pairing, homes: set[int]) -> None:
    """Constants of the same name hold the same bytes; new ones are read by homes alone; defaults stay."""
    originals: dict[tuple[str, str], TensorProto] = {}
    defaults = {v.name for v in after.values if after.initializer(v) is not None and after.is_graph_input(v)}
    for value in before.values:
        found = before.initializer(value)
        if found is not None and found.scope.path in pairing.scopes:
            originals[pairing.scopes[found.scope.path], value.name] = found.tensor
        if before.is_overridable(value) and value.name not in defaults:
            raise DeviationError(f"the input {value.name!r} has lost its default")
    for new in (value for node in pairing.new for value in node.outputs if value is not None):
        _new_and_private(before, after, new, homes)
    for value in after.values:
        theirs = after.initializer(value)
        if theirs is None:
            continue
        original = originals.get((theirs.scope.path, value.name))
        if original is not None:
            _same_tensor(before, after, original, theirs.tensor, f"the constant {value.name!r}")
        else:
            _new_and_private(before, after, value, homes)


def _new_and_private(before: Graph, after: Graph, value: Value, homes: set[int]) -> None:
    """A new constant bears a new name, and only homes read it."""
    others = [reader for reader in after.readers(value) if reader.node.id not in homes]
    if value.name in before.names or others or after.is_graph_output(value):
        raise DeviationError(f"the new constant {value.name!r} is read by something that was not rewritten")


def _same_tensor(before: Graph, after: Graph, a: TensorProto, b: TensorProto, what: str) -> None:
    same_form = (list(a.dims), a.data_type) == (list(b.dims), b.data_type)
    if not same_form or before.model.sha256_of(a) != after.model.sha256_of(b):
        raise DeviationError(f"{what} changed")
