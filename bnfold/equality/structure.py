"""Whether a rewritten model is the original but for what was claimed: node by node, name by name, byte by byte.

The invariant that is checked: a name in both files means the same value in both, and is looked up in the same scope,
for a nested graph may give a name of its own to what bears it outside. So every node of the original has
its counterpart in the same order with the same attributes, except the claimed nodes and what nobody reads any
more; it reads the same, but for what a claim says that a sum lost; every value keeps its name, except those between a
home and what settled in it; every constant keeps its content, except those that a home alone reads. Three kinds of
nodes may be new: a constant of a function, the copy of a DequantizeLinear with other scales, both read by homes alone,
and the Add behind a home that has no bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import Message  # type: ignore[import-untyped]  # protobuf ships no types
from onnx import AttributeProto, TensorProto

from bnfold.equality.claim import Claim, DeviationError, Tree, UncertainError, handed_on, homes_of, lost_by
from bnfold.equality.linear import rewritable
from bnfold.equality.messages import bare, same_message, same_tensor, tensors, without
from bnfold.equality.reference import dequantises, lacks_bias, reads_form_alone
from bnfold.equality.trees import crossed_by
from bnfold.graph import Graph
from bnfold.nodes import Node, Scope, Value, nested_graphs

__all__ = ["Claim", "DeviationError", "Pairing", "pair"]

_PAIRED_ELSEWHERE = frozenset({"node", "initializer", "value_info"})
_OLD_BROADCASTING = frozenset({"axis", "broadcast"})
_OF_A_NUMBER = frozenset({"name", "type", "f", "doc_string"})

Place = tuple[str, str]
"""The path of a scope, and a name that the scope gives to a value: together they mean that value."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Counterparts: original node id -> node of the rewritten model, original value id -> its scope and name there.

    `scopes` leads from the path of an original scope to that of its counterpart: indices shift when nodes go.
    `rewired` has, by original node id, the inputs at which a home reads another name than before; which of them may
    be is for who knows the operator to say. `new` are the constants and dequantisations of the rewritten model that
    have no counterpart; `added` has, by the home's original id, the Add that stands behind it for want of a bias.
    """

    nodes: dict[int, Node] = field(default_factory=dict)
    names: dict[int, Place] = field(default_factory=dict)
    scopes: dict[str, str] = field(default_factory=dict)
    rewired: dict[int, frozenset[int]] = field(default_factory=dict)
    new: list[Node] = field(default_factory=list)
    added: dict[int, Node] = field(default_factory=dict)


def pair(before: Graph, after: Graph, trees: Sequence[Tree]) -> Pairing:
    """Match two models under the claims; raises DeviationError at the first thing that no claim covers."""
    chains = [chain for tree in trees for chain in tree.chains]
    ahead = [tree.ahead for tree in trees if tree.ahead is not None]
    beside = [tree.beside for tree in trees if tree.beside is not None]
    gone = {node.id for tree in trees for node in tree.gone}
    homes = {home.id for tree in trees for home in homes_of(tree)} - handed_on(trees)
    passed = {link.node.id for chain in chains for link in chain.links[:-1]}
    passed |= {link.node.id for each in ahead for link in each.passed}
    passed |= {link.node.id for each in beside for link in each.links}
    climbed = [link for each in beside for link in each.climbed]
    passed |= {link.node.id for link in climbed}
    pairing = Pairing()
    _same_frame(before, after)
    _Pairs(before, after, gone, homes, homes | passed, pairing).find()
    outputs = [home.output(0) for chain in chains for home, _ in chain.homes]
    links = {(link.node.id, link.output): link for chain in chains for link in chain.links[:-1]}
    outputs += [link.target for link in links.values()]
    outputs += [link.target for each in ahead for link in each.passed]
    outputs += [value for each in beside for value in (each.home.output(0), *(link.target for link in each.links))]
    outputs += [link.target for link in climbed]
    outputs += [link.target for link in crossed_by(before, trees)]
    parted = [tree.link.target for tree in trees if tree.claim.part]
    outputs += parted
    changed = {value.id for value in outputs if value is not None}
    _name_values(before, trees, pairing, {link.node.id for link in climbed})
    fed = [each.site.target for each in ahead if each.site.target not in parted]
    fed += [link.target for link in climbed if link.node.id in gone]
    aliases = {value.id for value in fed if value is not None}
    _check_names(before, gone, changed, {id_: name for id_, name in pairing.names.items() if id_ not in aliases})
    lost = lost_by(trees)
    for id_, node in pairing.nodes.items():
        _same_reading(before.nodes[id_], node, pairing, is_home=id_ in homes, lost=lost.get(id_, frozenset()))
        _same_attached(before, after, before.nodes[id_], node)
    _same_outputs(before, after, pairing)
    if not homes <= pairing.nodes.keys():
        raise DeviationError("a home of a claim is missing in the rewritten model")
    readers = [*(pairing.nodes[id_] for id_ in homes), *pairing.new, *pairing.added.values()]
    _same_constants(before, after, pairing, {node.id for node in readers})
    return pairing


def _same_frame(before: Graph, after: Graph) -> None:
    """Everything of the model but nodes, initializers and value_info; the main graph's interface by itself."""
    for ours, theirs in zip(_frames(before), _frames(after), strict=True):
        same_message(before, after, ours, theirs, "something outside the graph's nodes and constants")
    for name in ("input", "output"):
        ours, theirs = (_interface(graph, name) for graph in (before, after))
        if ours != theirs:
            raise DeviationError(f"the graph's {name}s differ")


def _frames(graph: Graph) -> tuple[Message, Message]:
    """The model without its graph and the nodes of its functions, and the graph without what is paired elsewhere."""
    frame = without(graph.model.proto, {"graph", "functions"})
    for function in graph.model.proto.functions:
        frame.functions.append(without(function, _PAIRED_ELSEWHERE))
    return frame, without(graph.model.proto.graph, _PAIRED_ELSEWHERE | {"input", "output"})


def _interface(graph: Graph, kind: str) -> list[bytes]:
    entries = getattr(graph.model.proto.graph, kind)
    constants = {t.name for t in graph.model.proto.graph.initializer} if graph.needs_initializer_inputs else set()
    if kind == "input":
        constants |= graph.frozen_inputs
    return [entry.SerializeToString(deterministic=True) for entry in entries if entry.name not in constants]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The search for counterparts. `renamed` are the nodes whose outputs may bear other names, homes included."""

    before: Graph
    after: Graph
    gone: set[int]
    homes: set[int]
    renamed: set[int]
    pairing: Pairing

    def find(self) -> None:
        """Scope by scope, outer ones first; nested scopes are found through the nodes that hold them."""
        scopes = {scope.path: scope for scope in self.after.scopes}
        if any(len({scope.path for scope in graph.scopes}) < len(graph.scopes) for graph in (self.before, self.after)):
            raise UncertainError("a node has two attributes of one name that hold graphs")
        for scope in self.before.scopes:
            path = self.path_there(scope)
            if path is None:
                continue
            there = scopes.get(path)
            if there is None:
                raise DeviationError(f"the rewritten model has no {path}")
            self.pairing.scopes[scope.path] = path
            if scope.parent is not None:
                ours, theirs = (without(s.proto, _PAIRED_ELSEWHERE) for s in (scope, there))
                same_message(self.before, self.after, ours, theirs, f"something of {scope.path}")
            self.pair_scope(scope, there)
        if len(self.pairing.scopes) != len(scopes):
            raise DeviationError("the rewritten model has a nested graph or function that the original has not")

    def path_there(self, scope: Scope) -> str | None:
        """The path of a scope's counterpart; None where the node that holds it has none."""
        if scope.parent is None:
            return scope.path
        index, position, k = scope.address.nested[-1]
        holder = self.before.nodes_of(scope.parent)[index]
        there = self.pairing.nodes.get(holder.id)
        if there is None:
            return None
        attribute = holder.proto.attribute[position].name
        return f"{there.site}.{attribute}" + (f"[{k}]" if k >= 0 else "")

    def pair_scope(self, scope: Scope, there: Scope) -> None:
        """Counterparts in order; what is new in the rewritten scope is noted on the way."""
        theirs = iter(self.after.nodes_of(there))
        waiting = self.awaited(theirs)
        for node in self.before.nodes_of(scope):
            if node.id in self.gone or waiting is None:
                continue
            numbers = rewritable(node) if node.id in self.homes else frozenset()
            if not _corresponds(node, waiting, numbers, named=node.id not in self.renamed):
                continue
            self.pairing.nodes[node.id] = waiting
            if node.id in self.homes:
                self.note_added(node, waiting)
            waiting = self.awaited(theirs)
        if waiting is not None:
            raise DeviationError(f"{waiting.site} of the rewritten model has no counterpart in the original")

    def awaited(self, theirs: Iterator[Node]) -> Node | None:
        """The next node of the rewritten model that needs a counterpart."""
        added = {node.id for node in self.pairing.added.values()}
        for node in theirs:
            if node.id in added:
                continue
            if not self.is_new(node):
                return node
            self.pairing.new.append(node)
        return None

    def is_new(self, node: Node) -> bool:
        """Whether a node is a constant or a dequantisation that homes may have been given."""
        allowed = dequantises(node) or (node.op == "Constant" and node.scope.kind == "function")
        return allowed and self.before.names.isdisjoint(node.proto.output)

    def note_added(self, home: Node, there: Node) -> None:
        """The Add that a home got for want of a bias: there is one more in the row of Adds behind it than before."""
        if not lacks_bias(home):
            return
        row = self.adds_behind(self.after, there, set())
        if len(row) != len(self.adds_behind(self.before, home, self.gone)) + 1:
            return
        added, raw = row[0], there.output(0)
        between = self.after.nodes_of(there.scope)[there.index + 1 : added.index]
        if added.scope is not there.scope or added.index < there.index or not all(self.is_new(n) for n in between):
            raise DeviationError(f"{added.site} does not stand right behind {there.site}")
        if raw is None or raw.name in self.before.names or len(self.after.readers(raw)) != 1:
            raise DeviationError(f"{added.site} is not all that reads what {there.site} puts out, under a new name")
        if self.after.is_graph_output(raw) or len(added.inputs) != 2 or added.input(0) is not raw:
            raise DeviationError(f"{added.site} is no sum of what {there.site} puts out and a constant")
        attributes = {a.name for a in added.proto.attribute}
        if len(added.outputs) != 1 or not attributes <= (_OLD_BROADCASTING if added.scope.opset < 7 else set()):
            raise DeviationError(f"{added.site} is no plain Add")
        self.pairing.added[home.id] = added

    def adds_behind(self, graph: Graph, node: Node, gone: set[int]) -> list[Node]:
        """The Adds, each the only reader of the one before, as they are when some nodes are gone."""
        row: list[Node] = []
        value = node.output(0)
        while value is not None:
            readers = [r.node for r in graph.readers(value) if not reads_form_alone(r)]
            if len(readers) != 1 or not (readers[0].id in gone or readers[0].op == "Add"):
                break
            if readers[0].id not in gone:
                row.append(readers[0])
            value = readers[0].output(0)
        return row


def _corresponds(ours: Node, theirs: Node, numbers: frozenset[str], *, named: bool) -> bool:
    """Whether two nodes are the same but for their inputs (and, unless `named`, for the names of their outputs).

    Attributes called as in `numbers` may have another number, and come and go.
    """
    a, b = ours.proto, theirs.proto
    if len(a.output) != len(b.output) or (named and list(a.output) != list(b.output)):
        return False
    return _signature(ours, numbers) == _signature(theirs, numbers) and _same_but_for_numbers(ours, theirs, numbers)


def _signature(node: Node, numbers: frozenset[str]) -> list[bytes]:
    """All that a node says of itself, nested graphs left to their own scopes, data of tensors to `_same_attached`."""
    nested = {position for position, *_ in nested_graphs(node.proto)}
    attributes = enumerate(node.proto.attribute)
    own = [bare(a) for position, a in attributes if position not in nested and a.name not in numbers]
    return [*own, bare(without(node.proto, {"input", "output", "attribute"}))]


def _same_but_for_numbers(ours: Node, theirs: Node, numbers: frozenset[str]) -> bool:
    """Whether of these attributes nothing else than a number changed, came or went, and each stands there once."""
    found = [[a for a in node.proto.attribute if a.name in numbers] for node in (ours, theirs)]
    if any(len({a.name for a in each}) < len(each) or any(map(_says_more, each)) for each in found):
        return False
    before, after = ({(a.name, a.doc_string) for a in each} for each in found)
    return after <= before | {(name, "") for name in numbers}


def _says_more(attribute: AttributeProto) -> bool:
    """Whether an attribute holds anything else than one number."""
    return attribute.type != AttributeProto.FLOAT or any(f.name not in _OF_A_NUMBER for f, _ in attribute.ListFields())


def _name_values(before: Graph, trees: Sequence[Tree], pairing: Pairing, climbed: set[int]) -> None:
    """The name of every value in the rewritten model; what a claimed node put out is what it was fed.

    The sums of `climbed` (ids) may have been fed anything.
    """
    for id_, node in pairing.nodes.items():
        for value, name in zip(before.nodes[id_].outputs, node.proto.output, strict=True):
            if value is not None:
                pairing.names[value.id] = node.scope.path, name
    for id_, node in pairing.added.items():
        value = before.nodes[id_].output(0)
        if value is not None:
            pairing.names[value.id] = node.scope.path, node.proto.output[0]
    ended = {value.id for tree in trees if tree.beside is not None for value in tree.beside.branch}
    for tree in trees:
        if tree.merged is None:
            continue
        target, source = tree.merged.node.output(0), tree.merged.source
        if target is not None and target.id in ended:
            continue
        is_known = tree.ahead is not None or tree.acts.id in climbed or source.id in pairing.names
        if target is None or not is_known:
            raise DeviationError(f"the input of {tree.claim.site} is no node's output")
        pairing.names[target.id] = _meant(source, pairing)


def _check_names(before: Graph, gone: set[int], changed: set[int], names: Mapping[int, Place]) -> None:
    """A name in both files means the same value in both; what a node put out that went ahead is what it was fed."""
    outputs = [before.nodes[id_].output(0) for id_ in gone]
    inherited = {value.name for value in outputs if value is not None and value.id not in changed}
    for id_, (_, name) in names.items():
        value = before.values[id_]
        if id_ not in changed and name != value.name:
            raise DeviationError(f"{value.name!r} is called {name!r}, though its content does not change")
        if id_ in changed and name in before.names and name not in inherited:
            raise DeviationError(f"{value.name!r} changes and is now called {name!r}, which meant another value")


def _meant(value: Value, pairing: Pairing) -> Place:
    """What the counterpart of a value is called, and where; what no node puts out keeps its name."""
    found = pairing.names.get(value.id)
    return found if found is not None else (pairing.scopes[value.scope.path], value.name)


def _same_reading(ours: Node, theirs: Node, pairing: Pairing, *, is_home: bool, lost: frozenset[int]) -> None:
    """Every input of a counterpart is the counterpart of the input, but for those that it `lost`.

    Where a home's is not is noted.
    """
    meant = [None if v is None else _meant(v, pairing) for i, v in enumerate(ours.inputs) if i not in lost]
    found = [None if v is None else (v.scope.path, v.name) for v in theirs.inputs]
    differing = {i for i in range(max(len(meant), len(found))) if meant[i : i + 1] != found[i : i + 1]}
    if differing and not is_home:
        names = ["" if place is None else place[1] for place in meant]
        if names == list(theirs.proto.input):
            raise DeviationError(f"{ours.site} reads other values by the names {names}")
        raise DeviationError(f"{ours.site} reads {list(theirs.proto.input)} instead of {names}")
    pairing.rewired[ours.id] = frozenset(differing)


def _same_outputs(before: Graph, after: Graph, pairing: Pairing) -> None:
    """What a graph or a function puts out, by the same names, is the counterpart of what it put out."""
    theirs = {scope.path: outputs for scope, outputs in _outputs(after)}
    for scope, values in _outputs(before):
        path = pairing.scopes.get(scope.path)
        if path is not None and [_meant(v, pairing) for v in values] != [(v.scope.path, v.name) for v in theirs[path]]:
            raise DeviationError(f"{scope.path or 'the graph'} puts out another value by the same name")


def _outputs(graph: Graph) -> Iterator[tuple[Scope, list[Value]]]:
    """The values that each graph and function puts out; one that it does not define is that of a graph around it."""
    known = {(value.scope.path, value.name): value for value in graph.values}
    for scope in graph.scopes:
        values = []
        for output in scope.proto.output:
            name, holder = output if isinstance(output, str) else output.name, scope
            while (holder.path, name) not in known and holder.parent is not None:
                holder = holder.parent
            values.append(known[holder.path, name])
        yield scope, values


def _same_attached(before: Graph, after: Graph, ours: Node, theirs: Node) -> None:
    """Tensors in a node's attributes hold the same bytes."""
    for a, b in zip(_attached(ours), _attached(theirs), strict=True):
        same_tensor(before, after, a, b, f"the tensor in {ours.site}")


def _attached(node: Node) -> list[TensorProto]:
    nested = {position for position, *_ in nested_graphs(node.proto)}
    return [t for position, a in enumerate(node.proto.attribute) if position not in nested for t in tensors(a)]


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
    for node in pairing.new:
        _read_behind(after, node)
    for value in after.values:
        theirs = after.initializer(value)
        if theirs is None:
            continue
        original = originals.get((theirs.scope.path, value.name))
        if original is not None:
            same_tensor(before, after, original, theirs.tensor, f"the constant {value.name!r}")
        else:
            _new_and_private(before, after, value, homes)


def _new_and_private(before: Graph, after: Graph, value: Value, homes: set[int]) -> None:
    """A new constant bears a new name, and only what was rewritten reads it."""
    others = [reader for reader in after.readers(value) if reader.node.id not in homes]
    if value.name in before.names or others or after.is_graph_output(value):
        raise DeviationError(f"the new constant {value.name!r} is read by something that was not rewritten")


def _read_behind(after: Graph, node: Node) -> None:
    """What reads a new node stands behind it in the same scope, and there is such a node."""
    readers = [r.node for value in node.outputs if value is not None for r in after.readers(value)]
    if not readers or any(r.scope is not node.scope or r.index < node.index for r in readers):
        raise DeviationError(f"{node.site} of the rewritten model does not stand where its readers are")
