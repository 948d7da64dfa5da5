"""2,000 graphs drawn at random hold every law, and fill every cell of the op table.

Of all of them the constants are recomputed and both models are run; every tenth one is compared site by site.
`python tests/commands/random_graphs.py` asks the same of any number. A finding names its seed and a command that
reproduces it and leaves out what is not needed. BNFOLD_GRAPHS=100 asks only so many.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import graph_kept
import pytest
from graph_cells import AHEAD_OF, BEHIND, MERGES, OF_KIND, Cell, moved, of_layers, of_the_table
from graph_drawn import BLOCKS, NAMES, ROUND, drawn
from graph_judge import Judge
from graph_kept import keep, kept, kept_seeds

from bnfold.graph import Graph
from bnfold.model import read
from bnfold.planning import make_plan

GRAPHS = int(os.environ.get("BNFOLD_GRAPHS", "2000"))
PIECE = 40
EACH = 50
"""How often every cell has to be filled, of 2,000 graphs."""


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge() as one:
        yield one


@pytest.mark.parametrize("first", range(0, GRAPHS, PIECE))
def test_graphs_hold_every_law(judge: Judge, first: int) -> None:
    seeds = range(first, min(first + PIECE, GRAPHS))
    found = [judge.seed(seed, thorough=seed % 10 == 0) for seed in seeds]
    assert [str(one) for one in found if one.broken] == []


@pytest.mark.parametrize("seed", kept_seeds())
def test_a_graph_that_once_broke_a_law_holds_it(judge: Judge, seed: int) -> None:
    """What long runs found, and is mended; site by site."""
    found = judge.graph(kept(seed))
    assert not found.broken, str(found)


def test_a_graph_is_kept_as_it_was_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(graph_kept, "FOLDER", tmp_path)
    monkeypatch.setattr(graph_kept, "SAID", tmp_path / "drawn.json")
    ones = [drawn(seed) for seed in range(20)]
    for one in ones:
        keep(one)
    assert kept_seeds() == [one.seed for one in ones]
    for one in ones:
        again = kept(one.seed)
        assert again.proto == one.proto
        assert (again.shape, again.sizes, again.merge) == (one.shape, one.sizes, one.merge)
        assert (again.form.data, again.form.opset) == (one.form.data, one.form.opset)


def test_every_cell_of_the_op_table_is_filled() -> None:
    """Plans alone, for which nothing is run: that they hold is asked above."""
    counted, wanted = Counter[Cell](), set(of_the_table())
    for seed in range(2000):
        one = drawn(seed)
        graph = Graph.of(read(one.proto))
        counted.update(moved(graph, make_plan(graph, merge_branches=one.merge)))
        wanted |= of_layers(graph)
    assert {str(cell): counted[cell] for cell in sorted(wanted) if counted[cell] < EACH} == {}


def test_every_operator_of_the_table_has_a_block() -> None:
    named = {name.partition(" ")[2] for name in NAMES}
    assert sorted({cell.op for cell in of_the_table()} - named) == []


def test_every_block_can_stand_where_it_was_drawn() -> None:
    """But for one time in two: a block that is always left out shows nothing."""
    stood, asked = Counter[str](), Counter[str]()
    for seed in range(3 * len(ROUND)):
        name = ROUND[seed % len(ROUND)]
        asked[name] += 1
        stood[name] += any(block == name for _, block in drawn(seed).blocks)
    assert [name for name in BLOCKS if 2 * stood[name] < asked[name]] == []


def test_a_seed_is_one_graph() -> None:
    for seed in range(20):
        assert drawn(seed).proto.SerializeToString(deterministic=True) == drawn(seed).proto.SerializeToString(
            deterministic=True
        )


def test_a_block_stays_as_it_is_without_those_behind_it() -> None:
    whole = drawn(40)
    last = whole.blocks[-1][0]
    shorter = drawn(40, frozenset({last}))
    assert shorter.blocks == whole.blocks[:-1]
    kept = [node for node in whole.proto.graph.node if not node.output[0].startswith((f"b{last}_", "b99_"))]
    assert kept == [node for node in shorter.proto.graph.node if not node.output[0].startswith("b99_")]


def test_the_cells_come_from_the_table() -> None:
    assert Cell("Conv", BEHIND) in of_the_table()
    assert {cell.way for cell in of_the_table()} == {*OF_KIND.values(), AHEAD_OF, MERGES}
