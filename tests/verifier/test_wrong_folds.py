"""The verifier alone catches wrong folds and rejects no correct one: the short version of commands/wrong_folds.py.

Each case comes from its seed; `python tests/commands/wrong_folds.py --only SEED --deepest 8` runs a wrong one alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import faults
import nets
import numpy as np
import onnx
import pytest
from cases import COMBINATIONS, Case, deep_epsilon, judged, right, wrong
from correct import Constants, Style, folded
from correct import right as right_constants
from exact import Unsupported, values_of
from tables import caught_table, correct_table, listed

from bnfold.equality.runner import Runner

WRONG, RIGHT, DEEPEST = 120, 60, 8


@pytest.mark.parametrize("seed", range(WRONG))
def test_a_wrong_fold_differs(seed: int) -> None:
    finding = judged(wrong(seed, deepest=DEEPEST))
    assert finding.word == "differs", listed([finding])


@pytest.mark.parametrize("seed", range(RIGHT))
def test_a_correct_fold_is_not_rejected(seed: int) -> None:
    finding = judged(right(seed, deepest=DEEPEST))
    # Without a name that means the same in both, the verifier may find no counterpart; it must not reject, though.
    nameless = {"no name kept", "names of other values"}
    assert finding.word in ({"same", "unknown"} if finding.kind in nameless else {"same"}), listed([finding])


def test_names_that_all_mean_another_value_reject_no_fold() -> None:
    """Where weights cancel, values of different layers come within 5 % of each other: names alone tell them apart."""
    kind = "names of other values"
    assert [judged(right(seed, kind=kind)).word for seed in (98, 52)] == ["same", "same"]


# The cases themselves.


def net(family: str = "conv", statistics: str = "ordinary", dtype: str = "float32", depth: int = 1) -> nets.Net:
    for seed in range(20):
        try:
            return nets.draw(np.random.default_rng([seed, depth]), family, statistics, dtype, depth)
        except nets.Unsuitable:
            continue
    raise AssertionError(f"no net of {family}, {statistics}")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("family", [family for family in nets.FAMILIES if family != "quantised"])
def test_the_float64_values_are_those_of_onnxruntime_up_to_rounding(family: str, dtype: str, tmp_path: Path) -> None:
    drawn = net(family, dtype=dtype)
    [layer] = drawn.layers
    batch = drawn.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    feeds = {"x": drawn.values["x"][: batch or 3].astype(dtype)}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(drawn.model)
    exposed.graph.output.append(onnx.ValueInfoProto(name=layer.result))
    onnx.save(exposed, tmp_path / "net.onnx")
    with Runner() as runner:
        ran = runner.run(tmp_path / "net.onnx", feeds)[layer.result].astype(np.float64)
    exact = values_of(drawn.model, feeds)[layer.result]
    bound = (4 * np.sqrt(layer.rows.shape[1]) + 8) * drawn.unit * nets.sizes(drawn, layer)[: len(exact)]
    assert (np.abs(ran - exact) <= bound).all()


@pytest.mark.parametrize("statistics", nets.STATISTICS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_right_constants_are_no_fault_anywhere(statistics: str, dtype: str) -> None:
    drawn = net("grouped", statistics, dtype, depth=8)
    for layer in drawn.layers:
        assert not faults.shown(drawn, layer, right_constants(layer), "norm")


@pytest.mark.parametrize(("kind", "family"), COMBINATIONS[: len(faults.KINDS)])
def test_a_fault_is_in_one_layer_or_in_several_and_nowhere_else(kind: str, family: str) -> None:
    drawn = net(family, "ordinary", depth=6)
    rng = np.random.default_rng(1)
    one = faults.placed(drawn, kind, everywhere=False, names="norm", rng=rng)
    everywhere = faults.placed(drawn, kind, everywhere=True, names="norm", rng=rng)
    assert len(one) == 1
    assert len(everywhere) > 1
    after = {t.name: t.raw_data for t in folded(drawn, Style(), one).graph.initializer}
    good = {t.name: t.raw_data for t in folded(drawn, Style()).graph.initializer}
    home = next(layer.home for layer in drawn.layers if layer.norm in one)
    assert {name for name in good if good[name] != after[name]} <= {f"{home}_folded_weight", f"{home}_folded_bias"}
    assert good != after


def test_a_fault_that_rounding_hides_does_not_count() -> None:
    drawn = net("conv", "far mean", "float16")
    [layer] = drawn.layers
    constants = right_constants(layer)
    barely = Constants(constants.rows * (1 + 8 * drawn.unit), constants.bias)
    assert not faults.shown(drawn, layer, replace(barely, rows=constants.rows * (1 + drawn.unit)), "norm")
    assert faults.shown(drawn, layer, Constants(constants.rows * 2, constants.bias), "norm")


def test_a_fault_without_its_need_is_none() -> None:
    drawn = net("conv", "untrained", depth=4)
    rng = np.random.default_rng(0)
    for kind in ("beta lost", "mean with the wrong sign", "two channels swapped in gamma", "groups mixed"):
        assert faults.placed(drawn, kind, everywhere=True, names="norm", rng=rng) == {}


def test_a_channel_that_nothing_reads_is_no_place_for_a_fault_where_only_its_reader_is_named() -> None:
    # Behind a Relu that is shut nothing of the channel is left.
    drawn = net("conv", depth=3)
    layer = next(one for one in drawn.layers if any(n.op_type == "Relu" for n in readers(drawn, one)))
    shut = {**drawn.values, layer.result: drawn.values[layer.result] - 1e3}
    relu = next(n for n in readers(drawn, layer) if n.op_type == "Relu")
    shut[relu.output[0]] = np.zeros_like(shut[layer.result])
    wrong_bias = Constants(right_constants(layer).rows, right_constants(layer).bias - 1e3 + 1)
    assert not faults.shown(replace(drawn, values=shut), layer, wrong_bias, "home")


def readers(drawn: nets.Net, layer: nets.Layer) -> list[onnx.NodeProto]:
    return [node for node in drawn.model.graph.node if layer.result in node.input]


@pytest.mark.parametrize("draw", [wrong, right, deep_epsilon])
def test_a_seed_draws_the_same_case_each_time(draw: Callable[[int], Case]) -> None:
    first, second = draw(7), draw(7)
    assert isinstance(first, Case)
    assert first.before == second.before
    assert first.after == second.after
    assert first.before != draw(8).before


def test_a_deep_case_has_61_convs_and_one_wrong_weight() -> None:
    case = deep_epsilon(0)
    assert case.net is not None
    assert sum(node.op_type == "Conv" for node in case.before.graph.node) == 61
    assert sum(node.op_type == "Conv" for node in case.after.graph.node) == 61
    good = {t.name: t.raw_data for t in folded(case.net, Style()).graph.initializer}
    differing = [t.name for t in case.after.graph.initializer if good[t.name] != t.raw_data]
    assert {name.partition("_")[0] for name in differing} == {differing[0].partition("_")[0]}


def test_what_is_not_written_in_float64_is_refused() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Softplus (x) }'
    with pytest.raises(Unsupported, match="Softplus"):
        values_of(onnx.parser.parse_model(text), {"x": np.zeros(2)})


def test_a_missed_fold_stands_out_in_the_tables() -> None:
    found = judged(right(0, deepest=4))
    as_wrong = replace(found, kind="beta lost", family="conv", traits=())
    assert "| beta lost | **0/1** | **0/1** |" in caught_table([as_wrong])
    assert "| bnfold fold | 2 | 1 | 0 | 1 |" in correct_table(
        [replace(found, kind="bnfold fold"), replace(found, kind="bnfold fold", word="differs")], lambda one: one.kind
    )
    assert listed([found]).startswith("- 0 (")
