"""Graph -> Plan: every affine ends as exactly one Move (the homes it goes to) or one Refusal (why it stays).

Each looks for homes among what makes its value first, and then among what reads it.
One pass in topological order, producers first. A search for a home carries an affine from value to value; at each
value it either settles (ops/linear.py), passes (ops/passing.py, possibly to several values: all of them must find
a home, or none is used; a constant on the way may keep the shift), or meets an obstacle, upon which it goes back to
the last node that could have taken over everything. What was decided earlier is seen by what comes later: a node that
has moved away is transparent, and a home composes what settles in it. Nothing is changed here; `Plan` is a value.

An affine that stayed is looked at again where a node that its search looked at has gone since, or has taken something
over: so a second fold finds nothing that the first did not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

from bnfold.beside import Summand, summands
from bnfold.choosing import Choice, Verdicts, refused
from bnfold.decided import Decided, fed_to, not_free
from bnfold.graph import Graph
from bnfold.merging import Merging
from bnfold.moves import Move, Plan, Refusal
from bnfold.nodes import Node, Site
from bnfold.ops.affine import AffineOp, affine_nodes, affine_of, is_batch_norm
from bnfold.ops.facts import Facts
from bnfold.ops.joining import is_sum
from bnfold.ops.reasons import MISMATCH, SKIPPED
from bnfold.selecting import Selection
from bnfold.tapping import LONGEST_ROW, Row, sideways

EVERYTHING = Selection()
BN_ONLY = "it is written by hand, and --bn-only was asked for"


def make_plan(  # noqa: PLR0913  # each wish by its own name
    graph: Graph,
    selection: Selection = EVERYTHING,
    *,
    bn_only: bool = False,
    assume_inference: bool = False,
    merge_branches: bool = False,
    mismatched: frozenset[Site] = frozenset(),
    facts: Facts | None = None,
) -> Plan:
    """Decide everything that fold will do to a model; time is linear in its nodes and weights.

    `bn_only` leaves affines that are written by hand; `assume_inference` takes BatchNormalizations older than opset 7
    for inference whatever their is_test says; `merge_branches` makes one of parallel convolutions; `mismatched` are
    affines whose fold was found to differ, or not shown to be right, and which stay.
    `facts` are those of the graph, with the same `assume_inference`, if they are wanted for more than the plan.
    Raises UsageError for a selection that names what is not there.
    """
    facts, decided = facts or Facts(graph, assume_inference=assume_inference), Decided()
    nodes = affine_nodes(facts)
    left_out = dict(selection.left_out(nodes))
    decided.kept.update(selection.untouched(nodes))
    if bn_only:
        left_out |= {node.id: BN_ONLY for node in nodes if not is_batch_norm(node.op)}
    decided.staying.update(left_out, (node.id for node in nodes if node.site in mismatched))
    planning = _Planning(facts, decided)
    meant = {node.id for node in nodes}
    for node in facts.order:
        if node.id not in meant:
            planning.beside(node)
        elif node.id in left_out:
            planning.note({node.id: Refusal(node.site, SKIPPED, left_out[node.id])})
        elif node.site in mismatched:
            planning.note(
                {node.id: Refusal(node.site, MISMATCH, "folded, it was another function, or not shown to be the same")}
            )
        else:
            planning.choose(node)
    planning.look_again()
    merges = tuple(Merging(facts, decided).merges()) if merge_branches else ()
    return Plan(graph.model.sha256, *planning.found(), assume_inference, merges)


@dataclass(slots=True)
class _Planning:
    """What has become of each affine so far, and which of those that stayed are worth another look."""

    facts: Facts
    decided: Decided
    verdicts: Verdicts = field(default_factory=dict)
    watchers: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    """By a node's id, the affines that stayed and whose search looked at it."""
    woken: set[int] = field(default_factory=set)

    def found(self) -> tuple[tuple[Move, ...], tuple[Refusal, ...]]:
        """The moves, in the order in which they act, and the refusals."""
        found = list(self.verdicts.values())
        moves = tuple(entry for entry in found if isinstance(entry, Move))
        return moves, tuple(entry for entry in found if isinstance(entry, Refusal))

    def choose(self, node: Node) -> None:
        """Decide what becomes of a node that is an affine, or is meant as one."""
        affine = affine_of(self.facts, node)
        if isinstance(affine, AffineOp):
            choice = Choice(self.facts, self.decided, affine)
            is_home = node.id in self.decided.homes
            self.note((choice.handed_on() if is_home else choice.made()) or self.stays(node), choice.seen)
        elif affine is not None:
            self.note({node.id: refused(node, affine)})

    def stays(self, node: Node) -> Verdicts:
        """What was decided of a node before."""
        return {node.id: self.verdicts[node.id]}

    def note(self, verdicts: Verdicts, seen: Collection[int] = ()) -> None:
        """What has become of some affines, by what was `seen`; moves stand in the order in which they act."""
        for id_, verdict in verdicts.items():
            if isinstance(verdict, Move):
                self.verdicts.pop(id_, None)
                self.stir(id_, verdict)
            else:
                for each in seen:
                    self.watchers[each].add(id_)
            self.verdicts[id_] = verdict

    def stir(self, mover: int, move: Move) -> None:
        """Something has changed of what moved and of its homes: who looked at them may find something else now."""
        if not self.watchers:
            return
        at = self.facts.graph.at
        changed = {mover, *(at(arrival.home).id for arrival in move.all_arrivals)}
        if move.joint is not None:
            changed.update(at(site).id for site in (move.joint, *move.climb))
        self.woken.update(*(self.watchers.pop(id_) for id_ in changed & self.watchers.keys()))

    def look_again(self) -> None:
        """Decide once more of those that stayed, producers first, until nothing changes any more."""
        nodes = self.facts.graph.nodes
        while self.woken:
            woken, self.woken = sorted(self.woken, key=self.facts.place.__getitem__), set()
            for node in (nodes[id_] for id_ in woken):
                if isinstance(self.verdicts[node.id], Refusal):
                    self.choose(node)

    def beside(self, joint: Node) -> None:
        """Where a value that is added is an affine that stayed, it may be a tap of what makes another one.

        It is decided here, when all that stands before the sum has been, and what stands behind it has not.
        """
        if is_sum(joint):
            while joint.id not in self.decided.gone and self.tapped(joint):
                continue

    def tapped(self, joint: Node) -> bool:
        """Whether one more of the values that a sum adds up, by way of others too, has become a tap."""
        for summand in summands(self.facts, self.decided, joint):
            row = self.row(summand)
            sites = {affine.node.site for affine in row.affines}
            settled = (self.verdicts.get(affine.node.id) for affine in row.affines)
            if not row.crossed and any(isinstance(each, Move) and not each.goes_within(sites) for each in settled):
                continue
            moves = sideways(self.facts, self.decided, row, summand)
            self.note({self.facts.graph.at(move.site).id: move for move in moves})
            if moves:
                return True
        return False

    def row(self, summand: Summand) -> Row:
        """The affines in a row before a summand, each seen by the next one alone."""
        decided, readers = self.decided, self.facts.graph.readers
        affines, value, reader, crossed = list[AffineOp](), summand.value, summand.joint, bool(summand.climb)
        while len(readers(value)) == 1 and not_free(self.facts.graph, value, reader) is None:
            node = self.facts.graph.producer(value)
            if node is not None and node.id in decided.lost and node.id in decided.gone:  # one value is left of it
                reader, value, crossed = node, decided.fed[node.id], True
                continue
            affine = None if node is None else affine_of(self.facts, node)
            if node is None or not isinstance(affine, AffineOp) or len(affines) == LONGEST_ROW:
                break
            refusal = self.verdicts.get(node.id)
            if isinstance(refusal, Refusal) and refusal.reason in {SKIPPED, MISMATCH}:
                break
            affines.append(affine)
            reader, value = node, fed_to(affine)
        return Row(tuple(affines), crossed)
