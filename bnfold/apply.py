"""Plan -> edits of the model file: the only module that changes anything, and where each weight is rounded, once.

What an affine left behind decides the names. A value whose content changes gets a new name; the output of a
removed BatchNormalization keeps its own, and is now produced by the node before it. A weight that something else
reads stays, and the home gets a clone. What the plan orphans (parameters, constant expressions, their value_info
and, below IR 4, their graph inputs) goes with it; what was unused before is left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from bnfold.affine import Affine
from bnfold.assembly import Assembly, CopiedNode, Fresh, FurnishedHome, NamedConstant, Names, Removed
from bnfold.errors import UsageError
from bnfold.graph import Graph
from bnfold.merging import finished_homes
from bnfold.model import Edits
from bnfold.moves import Merge, Move, Plan
from bnfold.nodes import Node, Value, nested_graphs
from bnfold.ops.affine import AffineOp, affine_of
from bnfold.ops.facts import Facts, reads_metadata_alone
from bnfold.ops.home import Home, NewNode
from bnfold.ops.reasons import Obstacle
from bnfold.ops.taking import Taken, home_with


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The edits that carry out a plan, and the names of the weights that had to be cloned for it."""

    edits: Edits
    cloned: tuple[str, ...]


def rewrite(graph: Graph, plan: Plan, facts: Facts | None = None) -> Rewrite:
    """The edits that carry out `plan`; raises UsageError where the plan was made for another model.

    `facts` are those that the plan was made from, if they are still at hand.
    """
    if plan.fingerprint != graph.model.sha256:
        raise UsageError("the plan was made for another model: its fingerprint is not this file's")
    fresh = Fresh(set(graph.names))
    facts = facts or Facts(graph, assume_inference=plan.assumes_inference)
    lost = _lost(graph, plan)
    joined = {id_: left[0] for id_, inputs in lost.items() if len(left := _left_of(graph.nodes[id_], inputs)) == 1}
    moved = [_moved(facts, graph, move, joined) for move in plan.moves]
    moved += [_merged(facts, graph, merge, joined) for merge in plan.merges]
    moved += [_Moved(graph.nodes[id_], data) for id_, data in joined.items()]
    moved.sort(key=lambda each: facts.place[each.node.id])  # names are made producers first
    names = _names(graph, plan, moved, fresh)
    homes = list(_homes(facts, graph, plan, fresh))
    removed = _removed(graph, moved, homes, {id_: lost[id_] for id_ in lost.keys() - joined.keys()})
    edits = Assembly(graph, names, homes, removed, fresh).edits()
    return Rewrite(edits, tuple(_cloned(graph, homes, removed)))


@dataclass(frozen=True, slots=True, eq=False)
class _Moved:
    """A node that goes, and which of its inputs takes the place of its output; nothing does of a branch that ends.

    `ended` are the values of that branch, up to the sum that read it.
    """

    node: Node
    data: int
    ended: tuple[Value, ...] = ()


def _lost(graph: Graph, plan: Plan) -> dict[int, frozenset[int]]:
    """The inputs that sums lose, by their ids."""
    lost: dict[int, frozenset[int]] = {}
    named = [(move.joint, move.lost) for move in plan.moves] + [(merge.joint, merge.lost) for merge in plan.merges]
    for joint, index in named:
        if joint is not None:
            id_ = graph.at(joint).id
            lost[id_] = lost.get(id_, frozenset()) | {index}
    return lost


def _left_of(node: Node, lost: frozenset[int]) -> list[int]:
    return [index for index in range(len(node.inputs)) if index not in lost]


def _moved(facts: Facts, graph: Graph, move: Move, joined: dict[int, int]) -> _Moved:
    """The node of a move."""
    node = graph.at(move.site)
    found = affine_of(facts, node)
    if not isinstance(found, AffineOp):
        raise UsageError(f"the plan moves {node.site}, which is no affine")
    if move.joint is None:
        return _Moved(node, found.data)
    joint = graph.at(move.joint)
    return _Moved(node, found.data, tuple(_branch(facts, node, joint.inputs[move.lost], joined)))


def _merged(facts: Facts, graph: Graph, merge: Merge, joined: dict[int, int]) -> _Moved:
    """A convolution that is merged into another."""
    node, joint = graph.at(merge.site), graph.at(merge.joint)
    return _Moved(node, 0, tuple(_branch(facts, node, joint.inputs[merge.lost], joined)))


def _homes(facts: Facts, graph: Graph, plan: Plan, fresh: Fresh) -> Iterator[FurnishedHome]:
    """Every home with what it needs; what others are merged into is furnished once, with all of them."""
    taken = {graph.at(site): each for site, each in plan.homes().items()}
    finished = finished_homes(facts, taken, plan.merges)
    went = {merge.site for merge in plan.merges}
    for node, each in taken.items():
        if node.id not in finished:
            yield _home(facts, node, each, fresh)
    for id_, done in finished.items():
        if graph.nodes[id_].site not in went:
            yield _furnished(graph.nodes[id_], done.linear, done.after, fresh)


def _branch(facts: Facts, node: Node, value: Value | None, joined: dict[int, int]) -> Iterator[Value]:
    """What a node puts out and what affines, and sums that have gone, make of that, up to a value.

    `joined` has, by the sums that go, the input that stands for them.
    """
    while value is not None:
        yield value
        producer = facts.graph.producer(value)
        if producer is None or producer is node:
            return
        found = affine_of(facts, producer)
        data = found.data if isinstance(found, AffineOp) else joined.get(producer.id)
        value = None if data is None else producer.inputs[data]


def _names(graph: Graph, plan: Plan, moved: list[_Moved], fresh: Fresh) -> Names:
    """The new name of every value whose content changes: those between a home and what settled in it.

    What a node put out that went forward is what it was fed, and takes that name, unless something went back there.
    So does a sum of which another value is left than the one that took over what it has lost, and what went behind it.
    """
    crossed = _crossed(graph, plan, moved)
    ahead = {move.site for move in plan.moves if move.is_forward}
    lifted = {move.joint for move in plan.moves if move.climb}
    aliases: set[int] = set()
    becomes: dict[int, Value] = {}
    is_fed: list[tuple[Value, Value]] = []
    for each in moved:
        x, y = each.node.inputs[each.data], each.node.output(0)
        if each.ended:
            continue
        is_ahead = each.node.site in ahead and each.node.id not in crossed
        if x is not None and y is not None and (is_ahead or each.node.site in lifted or x.id in aliases):
            is_fed.append((y, x))
            aliases |= set() if is_ahead else {y.id}
        elif x is not None and y is not None:
            becomes[x.id] = y
    names: dict[int, str] = {}
    renamed: dict[int, str] = {}
    changed = {value.id: value for value in _changing(graph, plan, moved, crossed)}
    for value in changed.values():
        final = value
        while final.id in becomes:
            final = becomes[final.id]
        if final.id not in names:
            names[final.id] = fresh(f"{final.name}_folded") if final.id in changed else final.name
        renamed[value.id] = names[final.id]
    for y, x in is_fed:  # producers first
        renamed[y.id] = renamed.get(x.id, x.name)
    smaller = {value.id for value in _climbed(graph, plan)}  # what is added may have made it as large as it was
    return Names(renamed, frozenset(becomes) | {y.id for y, _ in is_fed} | smaller)


def _crossed(graph: Graph, plan: Plan, moved: list[_Moved]) -> set[int]:
    """The nodes that went forward through which one behind them went back: the only one to read them went itself."""
    ahead = {move.site for move in plan.moves if move.is_forward}
    goes = {each.node.id for each in moved}
    stays_put = {each.node.id for each in moved if each.node.site in ahead}
    for each in (each for each in reversed(moved) if each.node.id in stays_put):  # producers last
        value = each.node.output(0)
        readers = [] if value is None else [r.node.id for r in graph.readers(value) if not reads_metadata_alone(r)]
        if len(readers) == 1 and readers[0] in goes and readers[0] not in stays_put:
            stays_put.remove(each.node.id)
    return {each.node.id for each in moved if each.node.site in ahead} - stays_put


def _changing(graph: Graph, plan: Plan, moved: list[_Moved], crossed: set[int]) -> Iterator[Value]:
    """The values whose content changes: what homes put out that took something over behind them, and what is passed."""
    outputs = [graph.at(site).output(0) for site, taken in plan.homes().items() if taken.after is not None]
    for move in plan.moves:
        passed = [graph.at(site) for site in move.path]
        if move.is_forward:
            outputs += [value for node in passed for value in node.outputs]
        else:
            outputs += _on_the_way(graph, graph.at(move.joint or move.site), passed)
        if move.onward is not None:  # what it put out is what it was fed, which is now something else
            outputs += [value for site in (move.site, *move.onward.path) for value in graph.at(site).outputs]
    outputs += _climbed(graph, plan)
    for merge in plan.merges:
        outputs += [graph.at(site).output(0) for site in (merge.home, *merge.path)]
    for each in (each for each in moved if each.node.id in crossed):
        outputs += (each.node.inputs[each.data], each.node.output(0))
    yield from (value for value in outputs if value is not None)


def _climbed(graph: Graph, plan: Plan) -> list[Value]:
    """What sums put out that lost a value which is added again further on."""
    sites = [site for move in plan.moves if move.climb and move.joint for site in (move.joint, *move.climb[:-1])]
    return [value for site in sites for value in graph.at(site).outputs if value is not None]


def _on_the_way(graph: Graph, site: Node, passed: list[Node]) -> Iterator[Value | None]:
    """The outputs of the nodes that a move passed: of several, the one that leads to what moved."""
    moving = {site.id, *(node.id for node in passed)}
    for node in passed:
        if len(node.outputs) == 1:
            yield node.output(0)
            continue
        leads = (v for v in node.outputs if v is not None and any(r.node.id in moving for r in graph.readers(v)))
        yield from leads


def _home(facts: Facts, node: Node, taken: Taken, fresh: Fresh) -> FurnishedHome:
    found = home_with(facts, node, taken)
    if found is None or isinstance(found, Obstacle):
        raise UsageError(f"the plan names {node.site} as a home, and it is none")
    return _furnished(node, *found, fresh)


def _furnished(node: Node, home: Home, after: Affine, fresh: Fresh) -> FurnishedHome:
    needed = home.furnishing(after)
    constants = tuple(NamedConstant(fresh(new.hint), new) for new in needed.constants)
    copied = tuple(_copied(new, fresh) for new in needed.nodes)
    added = None if needed.added is None else NamedConstant(fresh(needed.added.hint), needed.added)
    return FurnishedHome(node, constants, copied, needed.attributes, needed.dropped, added, after.rank)


def _copied(new: NewNode, fresh: Fresh) -> CopiedNode:
    constants = tuple(NamedConstant(fresh(constant.hint), constant) for constant in new.constants)
    return CopiedNode(fresh(f"{new.like.proto.output[0]}_folded"), new, constants)


def _removed(
    graph: Graph, moved: list[_Moved], homes: list[FurnishedHome], inputs: dict[int, frozenset[int]]
) -> Removed:
    """The moved nodes and all that nobody reads once they are gone, from reader to producer.

    `inputs` are those that nodes lose which stay, by their ids.
    """
    ended = {value.id for each in moved for value in each.ended}
    removed = Removed({each.node.id for each in moved}, {}, ended, inputs)
    lost: Counter[int] = Counter()
    suspects = list(_left(moved, homes))
    suspects += [v for id_, places in inputs.items() for i in places if (v := graph.nodes[id_].inputs[i]) is not None]
    read_again = _read_by_copies(homes)
    while suspects:
        value = suspects.pop()
        lost[value.id] += 1
        kept = value.id in read_again or not _removable(graph, value)
        if kept or lost[value.id] < len(graph.readers(value)):
            continue
        initializer, producer = graph.initializer(value), graph.producer(value)
        if initializer is not None:
            removed.initializers[value.id] = initializer
            removed.values.add(value.id)
        elif producer is not None and producer.id not in removed.nodes and _is_dead(graph, producer, lost):
            removed.nodes.add(producer.id)
            removed.values.update(output.id for output in producer.outputs if output is not None)
            suspects += [operand for operand in producer.inputs if operand is not None]
    return removed


def _left(moved: list[_Moved], homes: list[FurnishedHome]) -> Iterator[Value]:
    """Every value that loses a reader: one entry for each."""
    for home in homes:
        yield from (named.new.beside.value for named in home.constants if named.new.replaces)
        yield from (value for copied in home.copied if (value := home.node.inputs[copied.new.index]) is not None)
    for each in moved:
        yield from (value for i, value in enumerate(each.node.inputs) if value is not None and i != each.data)


def _read_by_copies(homes: list[FurnishedHome]) -> set[int]:
    """What the copies of nodes read of what was there before."""
    found: set[int] = set()
    for copied in (copied for home in homes for copied in home.copied):
        own = {named.new.index for named in copied.constants}
        inputs = enumerate(copied.new.like.inputs)
        found.update(value.id for i, value in inputs if value is not None and i not in own)
    return found


def _removable(graph: Graph, value: Value) -> bool:
    """Whether a value may go once nobody reads it: no promise to a caller is attached to it."""
    return not (graph.is_graph_output(value) or graph.is_overridable(value) or graph.is_sparse(value))


def _is_dead(graph: Graph, node: Node, lost: Counter[int]) -> bool:
    """Whether nobody reads any output of a node; one that holds graphs is kept, for what they read is not counted."""
    if any(True for _ in nested_graphs(node.proto)):
        return False
    outputs = [value for value in node.outputs if value is not None]
    return all(lost[v.id] >= len(graph.readers(v)) and _removable(graph, v) for v in outputs)


def _cloned(graph: Graph, homes: list[FurnishedHome], removed: Removed) -> Iterator[str]:
    """The weights that stay although a home has got its own, because something else reads them."""
    news = [named.new for home in homes for named in home.all_constants()]
    originals = {new.beside.value.id: new.beside.value for new in news if new.replaces}
    for value in originals.values():
        producer = graph.producer(value)
        if value.id not in removed.initializers and (producer is None or producer.id not in removed.nodes):
            yield value.name
