"""Whether a rewritten model is the original but for what was claimed: node by node, name by name, byte by byte.

The invariant that is checked: a name in both files means the same value in both. So every node of the original has
its counterpart in the same order with the same attributes, except the claimed nodes and what nobody reads any
more; every value keeps its name, except those between a home and what settled in it; every constant keeps its
content, except those that a home alone reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, TensorProto

from bnfold.graph import Graph, Node, Scope, Site, nested_graphs

CLAIMED_ATTRIBUTES = frozenset({"beta"})
"""What a home's rewriting may change besides its constants; the numbers are checked with it."""


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
    """

    nodes: dict[int, Node] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    scopes: dict[str, str] = field(default_factory=dict)


def pair(before: Graph, after: Graph, claims: tuple[Claim, ...]) -> Pairing:
    """Match two models under the claims; raises DeviationError at the first thing that no claim covers."""
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


def _same_frame(before: Graph, after: Graph) -> None:
    """Everything of the model but nodes, initializers and value_info."""
    if _frame(before) != _frame(after):
        raise DeviationError("something outside the graph's nodes and constants differs (opsets, metadata, functions)")
    for name in ("input", "output"):
        ours, theirs = (_interface(graph, name) for graph in (before, after))
        if ours != theirs:
            raise DeviationError(f"the graph's {name}s differ")


def _frame(graph: Graph) -> bytes:
    frame = onnx.ModelProto()
    source = graph.model.proto
    for field_, value in source.ListFields():
        if field_.name in {"graph", "functions"}:
            continue
        if field_.is_repeated:
            getattr(frame, field_.name).extend(value)
        elif field_.message_type is not None:
            getattr(frame, field_.name).CopyFrom(value)
        else:
            setattr(frame, field_.name, value)
    for function in source.functions:
        ours = frame.functions.add()
        ours.CopyFrom(function)
        del ours.node[:]
        del ours.value_info[:]
    return bytes(frame.SerializeToString(deterministic=True))


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
        _pair_scope(before.nodes_of(scope), iter(after.nodes_of(there)), gone, renamed, pairing)
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


def _pair_scope(
    ours: tuple[Node, ...], theirs: Iterator[Node], gone: set[int], renamed: set[int], pairing: Pairing
) -> None:
    waiting = next(theirs, None)
    for node in ours:
        if node.id in gone:
            continue
        while waiting is not None and _is_new_constant(waiting, node):
            waiting = next(theirs, None)
        if waiting is not None and _corresponds(node, waiting, named=node.id not in renamed):
            pairing.nodes[node.id] = waiting
            waiting = next(theirs, None)
    if waiting is not None:
        raise DeviationError(f"{waiting.site} of the rewritten model has no counterpart in the original")


def _is_new_constant(theirs: Node, ours: Node) -> bool:
    return theirs.op == "Constant" and theirs.scope.kind == "function" and not _corresponds(ours, theirs, named=True)


def _corresponds(ours: Node, theirs: Node, *, named: bool) -> bool:
    """Whether two nodes are the same but for their inputs (and, unless `named`, for the names of their outputs)."""
    a, b = ours.proto, theirs.proto
    if (a.op_type, a.domain, a.name, len(a.output)) != (b.op_type, b.domain, b.name, len(b.output)):
        return False
    if named and list(a.output) != list(b.output):
        return False
    return _signature(ours, named=named) == _signature(theirs, named=named)


def _signature(node: Node, *, named: bool) -> list[bytes]:
    """A node's attributes and remarks, nested graphs left to their own scopes, spans left to the constants."""
    nested = {position for position, *_ in nested_graphs(node.proto)}
    return [
        f"{a.name} is a tensor".encode() if a.type == AttributeProto.TENSOR else a.SerializeToString(deterministic=True)
        for position, a in enumerate(node.proto.attribute)
        if position not in nested and (named or a.name not in CLAIMED_ATTRIBUTES)
    ] + [node.proto.doc_string.encode(), node.proto.overload.encode()]


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
    """Every input of a counterpart is the counterpart of the input; a home's constants are checked by number."""
    computed = {i for i, v in enumerate(ours.inputs) if v is not None and v.id in pairing.names}
    names = [pairing.names.get(v.id, v.name) if v is not None else "" for v in ours.inputs]
    found = list(theirs.proto.input)
    differing = {i for i in range(max(len(names), len(found))) if names[i : i + 1] != found[i : i + 1]}
    if differing and (not is_home or differing & computed):
        raise DeviationError(f"{ours.site} reads {found} instead of {names}")


def _same_attached(before: Graph, after: Graph, ours: Node, theirs: Node) -> None:
    """Tensors in a node's attributes hold the same bytes."""
    for a, b in zip(_attached(ours), _attached(theirs), strict=True):
        _same_tensor(before, after, a, b, f"the tensor in {ours.site}")


def _attached(node: Node) -> list[TensorProto]:
    return [a.t for a in node.proto.attribute if a.type == AttributeProto.TENSOR]


def _same_constants(before: Graph, after: Graph, pairing: Pairing, homes: set[int]) -> None:
    """Constants of the same name hold the same bytes; new ones are read by homes alone."""
    originals: dict[tuple[str, str], TensorProto] = {}
    for value in before.values:
        found = before.initializer(value)
        if found is not None and found.scope.path in pairing.scopes:
            originals[pairing.scopes[found.scope.path], value.name] = found.tensor
    for value in after.values:
        theirs = after.initializer(value)
        if theirs is None:
            continue
        original = originals.get((theirs.scope.path, value.name))
        if original is not None:
            _same_tensor(before, after, original, theirs.tensor, f"the constant {value.name!r}")
        elif value.name in before.names or any(reader.node.id not in homes for reader in after.readers(value)):
            raise DeviationError(f"the new constant {value.name!r} is read by something that was not rewritten")


def _same_tensor(before: Graph, after: Graph, a: TensorProto, b: TensorProto, what: str) -> None:
    same_form = (list(a.dims), a.data_type) == (list(b.dims), b.data_type)
    if not same_form or before.model.sha256_of(a) != after.model.sha256_of(b):
        raise DeviationError(f"{what} changed")
