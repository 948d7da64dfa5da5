"""What finds faults in random graphs finds those that are put there: a wrong fold, another plan, a crash."""

from __future__ import annotations

from dataclasses import replace

import graph_judge
import numpy as np
import onnx
import pytest
from graph_disguise import disguised, form_of
from graph_drawn import drawn
from graph_judge import Judge, folded
from graph_shrinking import shrunk
from onnx import numpy_helper

from bnfold.graph import Graph
from bnfold.moves import Plan

SEED = next(seed for seed in range(200) if any(name == "residual" for _, name in drawn(seed).blocks))


def wrong_in(what: str, monkeypatch: pytest.MonkeyPatch, *, certified: bool = False) -> str:
    """The law that is found broken where the folded model has one constant changed by a thousandth."""

    def changed(model: bytes, *, merge: bool = False) -> tuple[Graph, Plan, bytes]:
        graph, plan, after = folded(model, merge=merge)
        proto = onnx.load_model_from_string(after)
        made = next((t for t in proto.graph.initializer if t.name.endswith(what)), None)
        if made is not None:
            made.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(made) * np.float32(1.001), made.name))
        return graph, plan, proto.SerializeToString(deterministic=True)

    monkeypatch.setattr(graph_judge, "folded", changed)
    if certified:
        monkeypatch.setattr(graph_judge, "certify", lambda *_: type("Held", (), {"holds": True})())
    with Judge() as judge:
        return judge.seed(SEED).broken


def test_a_wrong_number_is_caught_by_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong_in("_folded", monkeypatch) == "certified"


def test_a_wrong_number_is_caught_by_running_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong_in("_folded", monkeypatch, certified=True) == "same"


def test_a_crash_is_a_finding_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def crashes(_: bytes, *, merge: bool) -> None:
        del merge
        raise RuntimeError("as if")

    monkeypatch.setattr(graph_judge, "folded", crashes)
    with Judge() as judge:
        found = judge.seed(3)
    assert found.broken == "crashed"
    assert "as if" in found.detail
    assert "--only 3 --shrink" in str(found)


def test_a_plan_that_hangs_on_names_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(model: bytes, *, merge: bool = False) -> tuple[Graph, Plan, bytes]:
        graph, plan, after = folded(model, merge=merge)
        others = any(node.name.startswith("node ") for node in onnx.load_model_from_string(model).graph.node)
        return graph, replace(plan, moves=plan.moves[1:]) if others else plan, after

    monkeypatch.setattr(graph_judge, "folded", hangs)
    with Judge() as judge:
        assert judge.seed(SEED).broken == "disguised"


def test_a_second_fold_that_finds_more_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a fold that never ends, for each folded model is another one; nothing else is asked."""
    asked: list[bytes] = []

    def never_ends(model: bytes, *, merge: bool = False) -> tuple[Graph, Plan, bytes]:
        graph, plan, after = folded(model, merge=merge)
        asked.append(model)
        proto = onnx.load_model_from_string(after)
        proto.producer_version = "1" * len(asked)
        return graph, plan, after if len(asked) == 1 else proto.SerializeToString(deterministic=True)

    monkeypatch.setattr(graph_judge, "folded", never_ends)
    with Judge() as judge:
        assert judge.seed(SEED).broken == "once"


def test_what_breaks_a_law_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(model: bytes, *, merge: bool = False) -> tuple[Graph, Plan, bytes]:
        if any(node.op_type == "BatchNormalization" for node in onnx.load_model_from_string(model).graph.node):
            raise RuntimeError("a BatchNormalization")
        return folded(model, merge=merge)

    monkeypatch.setattr(graph_judge, "folded", breaks)
    with Judge() as judge:
        graph, found = shrunk(judge, judge.seed(SEED))
    assert found.broken == "crashed"
    assert len(graph.blocks) == 1 < len(drawn(SEED).blocks)


# Guises.


@pytest.mark.parametrize("seed", range(0, 160, 8))
def test_a_guise_is_the_same_graph(seed: int) -> None:
    before = drawn(seed).proto
    other = disguised(before, seed)
    assert other != before
    assert form_of(other) == form_of(before)


def test_another_constant_is_another_form() -> None:
    before = drawn(SEED).proto
    other = onnx.ModelProto()
    other.CopyFrom(before)
    place = next(i for i, t in enumerate(other.graph.initializer) if t.name.endswith(tuple("0123456789")) and t.dims)
    array = numpy_helper.to_array(other.graph.initializer[place]).copy()
    array.flat[0] = array.flat[0] + 1
    other.graph.initializer[place].CopyFrom(numpy_helper.from_array(array, other.graph.initializer[place].name))
    assert form_of(other) != form_of(before)


def test_another_operand_is_another_form() -> None:
    before = drawn(SEED).proto
    other = onnx.ModelProto()
    other.CopyFrom(before)
    node = next(n for n in other.graph.node if n.op_type in {"Add", "Sub"} and n.input[0] != n.input[1])
    node.input[:] = list(reversed(node.input))
    assert form_of(other) != form_of(before)
