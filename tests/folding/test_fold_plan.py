"""A plan accounts for every norm, is a value that JSON carries, and belongs to one file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from folding_support import constants, fold, model, norm, plan_of, weights

import bnfold.ops
from bnfold.apply import rewrite
from bnfold.errors import UsageError
from bnfold.graph import Graph
from bnfold.model import read, to_bytes
from bnfold.ops.reasons import REASONS
from bnfold.planning import Plan, make_plan

TEXT = """(float[2,3,5,5] x) => (float[] y) {
    c = Conv (x, W)  n = BatchNormalization (c, g, be, m, v)  r = Relu (n)
    y = BatchNormalization (r, g, be, m, v)
}"""
HERE = Path(__file__).parent


def two(seed: int = 0):
    return model(TEXT, W=weights(4, 3, 3, 3, seed=seed), **norm(4))


def test_a_plan_says_what_goes_where_and_what_stays_and_why() -> None:
    plan = plan_of(two())
    (move,), (refusal,) = plan.moves, plan.refusals
    assert [str(move.site), [str(a.home) for a in move.arrivals], move.path] == ["BatchNormalization#1", ["Conv#0"], ()]
    assert move.arrivals[0].after.shape == (1, 4, 1, 1)
    assert [str(refusal.site), refusal.reason.code, str(refusal.blamed)] == [
        "BatchNormalization#3",
        "shift-stays",
        "Relu#2",
    ]
    assert refusal.remedy == REASONS["shift-stays"].remedy


def test_a_plan_goes_through_json_and_comes_back_equal_to_the_last_bit() -> None:
    plan = plan_of(two())
    text = json.dumps(plan.to_json())
    back = Plan.from_json(json.loads(text))
    assert back == plan
    assert json.dumps(back.to_json()) == text
    graph = Graph.of(read(two()))
    assert to_bytes(graph.model, rewrite(graph, back).edits) == fold(two()).bytes


def test_a_plan_that_moves_what_is_none_is_refused_though_its_fingerprint_is_right() -> None:
    graph, plan = Graph.of(read(two())), plan_of(two())
    relu = graph.nodes[2].site
    (move,) = plan.moves
    with pytest.raises(UsageError, match="the plan moves Relu#2, which is no affine"):
        rewrite(graph, replace(plan, moves=(replace(move, site=relu),)))
    elsewhere = (replace(move.arrivals[0], home=relu),)
    with pytest.raises(UsageError, match="the plan names Relu#2 as a home, and it is none"):
        rewrite(graph, replace(plan, moves=(replace(move, arrivals=elsewhere),)))


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"fingerprint": "x", "moves": [], "refusals": [{}]},
        {"fingerprint": "x", "moves": [{"site": 3, "homes": [], "path": []}], "refusals": []},
        {"fingerprint": "x", "moves": None, "refusals": []},
        {"fingerprint": "x", "moves": [], "refusals": [{"site": {"scope": "", "index": 0, "op": "", "name": ""},
                                                       "code": "no-such-code", "detail": "", "blamed": None}]},
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="this is no plan"):
        Plan.from_json(broken)


def test_a_plan_for_another_file_is_refused_although_it_would_fit() -> None:
    """The same graph with other weights: the plan's affine would be another one's."""
    graph = Graph.of(read(two(seed=1)))
    with pytest.raises(UsageError, match="made for another model"):
        rewrite(graph, plan_of(two()))
    assert constants(two(seed=1))["W"].tobytes() != constants(two())["W"].tobytes()


def test_accounting_fails_where_a_norm_is_left_out_or_told_twice() -> None:
    graph = Graph.of(read(two()))
    plan = make_plan(graph)
    assert plan.accounts_for(graph)
    for moves, refusals in ((), plan.refusals), (plan.moves, ()), (plan.moves * 2, plan.refusals):
        assert not Plan(plan.fingerprint, moves, refusals).accounts_for(graph)


def test_the_homes_compose_in_the_order_of_the_moves() -> None:
    text = TEXT.replace("r = Relu (n)", "r = Identity (n)")
    plan = plan_of(model(text, W=weights(4, 3, 3, 3), **norm(4)))
    first, second = (move.arrivals[0].after for move in plan.moves)
    (total,) = plan.homes().values()
    assert total.after == second @ first
    assert total.after != first @ first @ second
    assert [str(site) for site in plan.moves[1].path] == ["Identity#2", "BatchNormalization#1"]


def test_every_reason_says_what_why_and_what_to_do() -> None:
    for code, reason in REASONS.items():
        assert code == reason.code
        assert all(len(text) > 15 for text in (reason.summary, reason.why, reason.remedy)), code


def test_every_row_of_the_op_table_has_a_property_test() -> None:
    """A new operator brings its theorem: a file test_fold_theorem_*.py whose PROVEN names the row."""
    proven = set()
    for path in HERE.glob("test_fold_theorem_*.py"):
        module = __import__(path.stem)
        proven |= getattr(module, "PROVEN", set())
    assert {(row.kind, row.op) for row in bnfold.ops.TABLE} == proven


def test_what_was_found_to_differ_stays_and_the_rest_goes() -> None:
    graph = Graph.of(read(two()))
    before = make_plan(graph)
    site = before.moves[0].site
    plan = make_plan(graph, mismatched=frozenset({site}))
    assert plan.accounts_for(graph)
    assert {r.site: r.reason.code for r in plan.refusals}[site] == "mismatch"
    assert plan.left == before.left + 1
    assert [move.site for move in plan.moves] == [move.site for move in before.moves[1:]]
