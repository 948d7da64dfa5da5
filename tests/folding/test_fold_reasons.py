"""Every reason is given for a minimal model, blames the right node, and its remedy works when it is followed."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import pytest
from folding_support import assert_same_function, inputs
from reason_models import EXAMPLES, Example

from bnfold.apply import rewrite
from bnfold.graph import Graph
from bnfold.model import read, subject_of, to_bytes
from bnfold.moves import Plan, Refusal
from bnfold.ops.reasons import REASONS
from bnfold.planning import make_plan
from bnfold.selecting import Selection


def planned(proto: onnx.ModelProto, options: Mapping[str, object]) -> tuple[Graph, Plan]:
    """The plan that a command makes with these options."""
    wishes = dict(options)
    before = {name: bool(wishes.pop(name, False)) for name in ("inline", "freeze_inputs")}
    graph = Graph.of(subject_of(read(proto), **before).model)
    selection = Selection((), wishes.pop("skip", ()))
    plan = make_plan(graph, selection, **wishes)
    assert plan.accounts_for(graph)
    return graph, plan


def of_op(plan: Plan, op: str) -> list[Refusal]:
    return [refusal for refusal in plan.refusals if refusal.site.op == op]


def test_every_reason_has_a_minimal_model_and_no_other_has_one() -> None:
    assert set(EXAMPLES) == set(REASONS)


@pytest.mark.parametrize("code", EXAMPLES)
def test_a_reason_is_given_for_its_minimal_model_and_blames_the_node(code: str) -> None:
    example = EXAMPLES[code]()
    _, plan = planned(example.before, example.options)
    assert len(plan.refusals) == example.left
    (refusal,) = of_op(plan, example.op)
    assert refusal.reason is REASONS[code]
    assert (None if refusal.blamed is None else refusal.blamed.op) == example.blamed
    assert refusal.detail
    assert refusal.remedy == REASONS[code].remedy


@pytest.mark.parametrize("code", EXAMPLES)
def test_a_remedy_works_when_it_is_followed(code: str) -> None:
    example = EXAMPLES[code]()
    assert REASONS[code].can_be_remedied == (example.remedied is not None)
    assert not (example.same and REASONS[code].changes_function and example.remedied is not None)
    if example.remedied is None:
        assert len(REASONS[code].remedy) > len("none, and no word on why") + 20
        return
    graph, plan = planned(example.remedied, example.remedy_options)
    assert of_op(plan, example.op) == []
    assert example.op in {move.site.op for move in plan.moves}
    if example.same:
        after = onnx.load_model_from_string(to_bytes(graph.model, rewrite(graph, plan).edits))
        assert_remedied(example, after)


def assert_remedied(example: Example, after: onnx.ModelProto) -> None:
    """What was folded in the end is the model that the remedy was for."""
    assert example.remedied is not None
    feeds = {name: array for name, array in inputs(example.remedied).items() if name in names(after)}
    assert_same_function(example.before, after, feeds, 27)


def names(proto: onnx.ModelProto) -> set[str]:
    return {port.name for port in proto.graph.input}
