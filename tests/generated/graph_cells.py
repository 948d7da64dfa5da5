"""What the op table says may happen, as cells to be filled: an operator, and a way in which an affine goes there.

The cells come from the table, from the operators that let one pass ahead, and from what the layers of the graphs say
of themselves, never from a list: a new row is a new cell, which stays empty until a block fills it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import bnfold
from bnfold.graph import Graph
from bnfold.moves import Move, Plan
from bnfold.nodes import Node, Site
from bnfold.ops.facts import Facts
from bnfold.ops.linear import LINEAR, ways_of

IS, BEHIND, BEFORE, BESIDE, BACK, AHEAD_OF = (
    "is one that goes", "takes one behind it", "takes one before it", "takes one beside it", "lets one pass back",
    "lets one pass ahead",
)  # fmt: skip
MERGES = "is made one with another"
OF_KIND = {
    "affine": IS, "linear": BEHIND, "passing": BACK, "feeding": BEFORE, "forward": AHEAD_OF, "sideways": BESIDE,
}  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One operator and one way."""

    op: str
    way: str

    def __str__(self) -> str:
        return f"{self.op} {self.way}"


def of_the_table() -> frozenset[Cell]:
    """The cells that the table names: its rows, one affine that passes another, and parallel convolutions."""
    rows = {Cell(row.op, OF_KIND[row.kind]) for row in bnfold.operators()}
    passed = {Cell(row.op, AHEAD_OF) for row in bnfold.operators() if row.kind == "affine"}
    return frozenset(rows | passed | {Cell("Conv", MERGES)})


def of_layers(graph: Graph) -> frozenset[Cell]:
    """What the layers of one graph say that they take over besides."""
    facts = Facts(graph)
    found: set[Cell] = set()
    for node in (node for node in graph.nodes if node.op in LINEAR):
        ways = ways_of(facts, node)
        for way in ways if isinstance(ways, tuple) else ():
            found |= {Cell(node.op, BEFORE)} if getattr(way, "fed", None) is not None else set()
            found |= {Cell(node.op, BESIDE)} if getattr(way, "center", None) is not None else set()
    return frozenset(found)


def moved(graph: Graph, plan: Plan) -> Counter[Cell]:
    """How many affines of a graph went each way, and how many convolutions were merged."""
    nodes = {node.site: node for node in graph.nodes}
    found = Counter(cell for move in plan.moves for cell in _of_move(graph, nodes, move))
    return found + Counter(Cell(merge.home.op, MERGES) for merge in plan.merges)


def _of_move(graph: Graph, nodes: dict[Site, Node], move: Move) -> Iterable[Cell]:
    cells = {Cell(move.site.op, IS)}
    for arrival in move.all_arrivals:
        way = BESIDE if arrival.is_tap else BEFORE if arrival.data_input is not None else BEHIND
        made = {arrival.home.op, *_operands(graph, nodes[arrival.home])}
        cells |= {Cell(op, way) for op in made}
    if move.joint is None:
        cells |= {Cell(site.op, AHEAD_OF if move.is_forward else BACK) for site in move.path}
    if move.onward is not None:
        cells |= {Cell(site.op, AHEAD_OF) for site in move.onward.path}
    return cells


def _operands(graph: Graph, home: Node) -> set[str]:
    """The operators that make a home's weights out of what the file holds, as a dequantisation does."""
    found: set[str] = set()
    for value in (value for value in home.inputs if value is not None):
        node = graph.producer(value)
        if node is not None and all(v is None or graph.initializer(v) is not None for v in node.inputs):
            found.add(node.op)
    return found


def refused(plan: Plan) -> Counter[str]:
    """How many affines stayed because of each operator: their own, where no other is to blame."""
    return Counter((refusal.blamed or refusal.site).op for refusal in plan.refusals)
