"""Models below opset 7 at opset 7: every operator against numpy, and the mode of each BatchNormalization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from copies import copied
from onnx import TensorProto, helper, numpy_helper

from bnfold.equality.end_to_end import compare
from bnfold.equality.pair import Outcome
from bnfold.equality.prepare import Upgrade
from bnfold.equality.runner import CannotRun, Runner

Arrays = dict[str, np.ndarray]

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 3, 4, 5)).astype(np.float32)
PARAMETERS = {name: RANDOM.uniform(0.5, 2, 3).astype(np.float32) for name in ("g", "b", "m", "v")}
ULPS = 64 * 2.0**-24
"""A normalization takes 8 roundings of a float32, a mean of 40 values no more than 40 others, of numbers below 8."""


def old(nodes: list[onnx.NodeProto], opset: int, constants: Arrays, feeds: Arrays) -> onnx.ModelProto:
    """A model of IR 3, in which constants are inputs too; its output is `y`."""
    known = feeds | constants
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in known.items() if n != "if"]
    if "if" in feeds:
        ports.append(helper.make_tensor_value_info("if", TensorProto.BOOL, []))
    kept = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", ports, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def result(
    runner: Runner,
    folder: Path,
    nodes: list[onnx.NodeProto],
    opset: int,
    upgrade: Upgrade = "marked",
    **arrays: np.ndarray,
) -> np.ndarray:
    """`y` of a model of these nodes; `x`, or another array in capitals, is fed, the others are constants."""
    feeds = {"x": X} if "x" not in arrays else {"x": arrays.pop("x")}
    path = saved(old(nodes, opset, arrays, feeds), folder / "m.onnx")
    return runner.run(path, feeds, upgrade=upgrade)["y"]


def node(op: str, *inputs: str, outputs: tuple[str, ...] = ("y",), **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def inference(x: np.ndarray) -> np.ndarray:
    g, b, m, v = (PARAMETERS[name][:, None, None].astype(np.float64) for name in "gbmv")
    return (x - m) / np.sqrt(v + np.float64(np.float32(1e-5))) * g + b


def training(x: np.ndarray) -> np.ndarray:
    g, b = (PARAMETERS[name][:, None, None].astype(np.float64) for name in "gb")
    wide = x.astype(np.float64)
    mean, variance = wide.mean((0, 2, 3), keepdims=True), wide.var((0, 2, 3), keepdims=True)
    return (wide - mean) / np.sqrt(variance + np.float64(np.float32(1e-5))) * g + b


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool(np.all(np.abs(one - other) <= ULPS * np.maximum(1, np.abs(other))))


def test_the_two_modes_are_far_apart() -> None:
    assert not same(training(X), inference(X))


FIVE = ("y", "m1", "v1", "m2", "v2")
CONSUMED = [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("opset", "outputs", "attributes", "marked", "assumed"),
    [
        (6, ("y",), {"is_test": 1}, inference, inference),
        (6, ("y",), {"is_test": 0}, training, inference),
        (6, ("y",), {}, training, inference),
        (6, FIVE, {"is_test": 1}, inference, inference),
        (6, FIVE, {"is_test": 0}, training, training),
        (6, ("y", "", "", "", ""), {"is_test": 0}, training, inference),
        (6, ("y", "", "", "", ""), {"is_test": 1}, inference, inference),
        (6, ("y", "m1", ""), {"is_test": 0}, training, training),
        (6, ("y",), {"is_test": 1, "spatial": 1, "momentum": 0.25}, inference, inference),
        (5, ("y",), {"is_test": 1, "consumed_inputs": CONSUMED}, inference, inference),
        (1, ("y",), {"is_test": 1, "consumed_inputs": CONSUMED}, inference, inference),
        (1, ("y",), {"is_test": 0, "consumed_inputs": CONSUMED, "spatial": 1}, training, inference),
        (1, FIVE, {"consumed_inputs": CONSUMED}, training, training),
    ],
)
def test_a_normalization_runs_in_the_mode_that_it_is_marked_with_or_was_assumed(  # noqa: PLR0913  # fixtures and cases
    *,
    runner: Runner,
    tmp_path: Path,
    opset: int,
    outputs: tuple[str, ...],
    attributes: dict[str, object],
    marked,
    assumed,
) -> None:
    nodes = [node("BatchNormalization", "x", "g", "b", "m", "v", outputs=outputs, **attributes)]
    assert same(result(runner, tmp_path, nodes, opset, **PARAMETERS), marked(X))
    assert same(result(runner, tmp_path, nodes, opset, "inference", **PARAMETERS), assumed(X))


def test_parameters_per_element_run_as_such(runner: Runner, tmp_path: Path) -> None:
    per_element = {name: RANDOM.uniform(0.5, 2, (3, 4, 5)).astype(np.float32) for name in PARAMETERS}
    nodes = [node("BatchNormalization", "x", "g", "b", "m", "v", is_test=1, spatial=0)]
    g, b, m, v = (per_element[name].astype(np.float64) for name in "gbmv")
    expected = (X - m) / np.sqrt(v + 1e-5) * g + b
    assert same(result(runner, tmp_path, nodes, 6, **per_element), expected)


def test_statistics_of_an_inference_node_that_something_reads_cannot_be_run(runner: Runner, tmp_path: Path) -> None:
    nodes = [
        node("BatchNormalization", "x", "g", "b", "m", "v", outputs=("n", "mean", "v1", "m2", "v2"), is_test=1),
        node("Add", "n", "mean", broadcast=1, axis=1),
    ]
    with pytest.raises(CannotRun, match="is_test=1, and something reads 'mean'"):
        result(runner, tmp_path, nodes, 6, **PARAMETERS)


VECTOR, MATRIX = RANDOM.uniform(1, 2, 3).astype(np.float32), RANDOM.uniform(1, 2, (3, 4)).astype(np.float32)
LAST, ONE = RANDOM.uniform(1, 2, 5).astype(np.float32), np.array([1.5], np.float32)


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize(
    ("op", "function"), [("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Div", np.divide)]
)
@pytest.mark.parametrize(
    ("constant", "attributes", "shape"),
    [
        (VECTOR, {"broadcast": 1, "axis": 1}, (3, 1, 1)),
        (VECTOR, {"broadcast": 1, "axis": -3}, (3, 1, 1)),
        (MATRIX, {"broadcast": 1, "axis": 1}, (3, 4, 1)),
        (LAST, {"broadcast": 1, "axis": 3}, (5,)),
        (LAST, {"broadcast": 1, "axis": -1}, (5,)),
        (LAST, {"broadcast": 1}, (5,)),
        (ONE, {"broadcast": 1, "axis": 0}, (1, 1, 1, 1)),
        (X, {}, X.shape),
    ],
    ids=str,
)
def test_an_old_operand_is_aligned_at_its_axis(  # noqa: PLR0913  # fixtures and cases
    *, runner: Runner, tmp_path: Path, opset: int, op: str, function, constant, attributes, shape
) -> None:
    more = {"consumed_inputs": [0, 0]} if opset == 1 else {}
    # Behind an operator, so that no shape of the first operand is declared.
    relu = node("Relu", "x", outputs=("h",), **({"consumed_inputs": [0]} if opset == 1 else {}))
    nodes = [relu, node(op, "h", "c", **attributes, **more)]
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = function(np.maximum(X, 0), constant.reshape(shape))
    found = result(runner, tmp_path, nodes, opset, c=constant)
    assert np.array_equal(found, expected, equal_nan=True)


def test_an_operand_of_unknown_rank_at_an_axis_cannot_be_run(runner: Runner, tmp_path: Path) -> None:
    nodes = [node("Abs", "c", outputs=("d",)), node("Mul", "x", "d", broadcast=1, axis=1)]
    with pytest.raises(CannotRun, match="the Mul that makes 'y' aligns 'd' at an axis, and its rank is not known"):
        result(runner, tmp_path, nodes, 6, c=VECTOR)


def test_old_forms_of_other_operators(runner: Runner, tmp_path: Path) -> None:
    table = X.reshape(2, 60)
    weight, bias = RANDOM.standard_normal((60, 7)).astype(np.float32), RANDOM.standard_normal(7).astype(np.float32)
    slope = np.array([0.5, 0.25, 2], np.float32)
    cases = [
        (1, [node("Reshape", "x", shape=[2, 60])], {}, table),
        (5, [node("Flatten", "x")], {}, table),
        (1, [node("Concat", "x", "x")], {}, np.concatenate([X, X], 1)),
        (4, [node("Concat", "x", "x", axis=2)], {}, np.concatenate([X, X], 2)),
        (1, [node("Dropout", "x", is_test=1, consumed_inputs=[0])], {}, X),
        (6, [node("Dropout", "x", is_test=1, outputs=("y", "mask"))], {}, X),
        (1, [node("Cast", "x", to="FLOAT")], {}, X),
        (6, [node("Cast", "x", to=TensorProto.FLOAT)], {}, X),
        (6, [node("PRelu", "x", "s")], {"s": slope}, np.where(X < 0, X * slope[:, None, None], X)),
        (6, [node("PRelu", "x", "s")], {"s": ONE}, np.where(X < 0, X * ONE, X)),
        (1, [node("Sum", "x", "x", consumed_inputs=[0, 0])], {}, X + X),
    ]
    for opset, nodes, constants, expected in cases:
        assert np.array_equal(result(runner, tmp_path, nodes, opset, **constants), expected), nodes
    for opset in (1, 6):
        nodes = [
            node("Flatten", "x", outputs=("t",)),
            node("Gemm", "t", "w", "b", broadcast=1, alpha=0.5),
        ]
        wide = 0.5 * (table.astype(np.float64) @ weight) + bias
        # 60 products of numbers below 4 and 5, one rounding each and one of each partial sum.
        bound = 120 * 2.0**-24 * (np.abs(table) @ np.abs(weight) + np.abs(bias))
        assert np.all(np.abs(result(runner, tmp_path, nodes, opset, w=weight, b=bias) - wide) <= bound)


def test_a_dropout_in_training_mode_is_random_and_cannot_be_run(runner: Runner, tmp_path: Path) -> None:
    for attributes in ({}, {"is_test": 0}):
        nodes = [node("Dropout", "x", **attributes)]
        with pytest.raises(CannotRun, match=r"in training mode .* --assume-inference"):
            result(runner, tmp_path, nodes, 6)
        assert np.array_equal(result(runner, tmp_path, nodes, 6, "inference"), X)
    masked = [node("Dropout", "x", outputs=("n", "mask")), node("Mul", "n", "mask")]
    with pytest.raises(CannotRun, match="in training mode"):
        result(runner, tmp_path, masked, 6, "inference")


def test_a_type_that_is_none_is_refused(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="casts to 'FLOATS', which is no type"):
        result(runner, tmp_path, [node("Cast", "x", to="floats")], 1)


def test_what_the_converter_has_no_rule_for_is_an_answer(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="Pad"):
        result(runner, tmp_path, [node("Pad", "x", paddings=[0] * 8)], 1)


def test_nested_graphs_are_upgraded_too(runner: Runner, tmp_path: Path) -> None:
    port = [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    other = [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)]
    norm = node("BatchNormalization", "x", "g", "b", "m", "v", outputs=("t",))
    scaled = node("Mul", "x", "g", outputs=("e",), broadcast=1, axis=1)
    branches = {
        "then_branch": helper.make_graph([norm], "t", [], port),
        "else_branch": helper.make_graph([scaled], "e", [], other),
    }
    path = saved(
        old([node("If", "if", **branches)], 6, PARAMETERS, {"x": X, "if": np.array(True)}), tmp_path / "m.onnx"
    )
    for condition, upgrade, expected in (
        (True, "marked", training(X)),
        (True, "inference", inference(X)),
        (False, "marked", X * PARAMETERS["g"][:, None, None]),
    ):
        found = runner.run(path, {"x": X, "if": np.array(condition)}, upgrade=upgrade)["y"]
        assert same(found, expected)


def test_names_of_the_model_are_not_taken_again(runner: Runner, tmp_path: Path) -> None:
    nodes = [
        node("Relu", "x", outputs=("upgraded_0",)),
        node("BatchNormalization", "upgraded_0", "g", "b", "m", "v"),
    ]
    assert same(result(runner, tmp_path, nodes, 6, **PARAMETERS), training(np.maximum(X, 0)))


def test_an_initializer_that_is_no_input_below_ir_4_is_a_constant_all_the_same(runner: Runner, tmp_path: Path) -> None:
    model = old([node("BatchNormalization", "x", "g", "b", "m", "v", is_test=1)], 6, PARAMETERS, {"x": X})
    del model.graph.input[2:]
    path = saved(model, tmp_path / "m.onnx")
    assert same(runner.run(path, {"x": X}, upgrade="marked")["y"], inference(X))
    signature = runner.signature(path, upgrade="marked")
    assert ([port.name for port in signature.inputs], signature.overridable) == (["x"], ())


def test_constants_of_an_upgraded_copy_are_perturbed(tmp_path: Path) -> None:
    nodes = [node("BatchNormalization", "x", "g", "b", "m", "v")]
    path = saved(old(nodes, 6, PARAMETERS, {"x": X}), tmp_path / "m.onnx")
    plain, moved = (copied(path, perturb=seed, upgrade="inference") for seed in (None, 1))
    for one, other in zip(plain.graph.initializer, moved.graph.initializer, strict=True):
        before, after = (numpy_helper.to_array(tensor) for tensor in (one, other))
        assert 0 < np.max(np.abs(after / before - 1)) <= 4 * 2.0**-24
    assert plain.graph.node == moved.graph.node


# Both models of a fold.


def fold_of(conv: np.ndarray) -> Arrays:
    g, b, m, v = (PARAMETERS[name].astype(np.float64) for name in "gbmv")
    scale = g / np.sqrt(v + np.float64(np.float32(1e-5)))
    folded = {"w2": conv * scale[:, None, None, None], "b2": b - m * scale}
    return {name: array.astype(np.float32) for name, array in folded.items()}


def judged(runner: Runner, folder: Path, rest: list[onnx.NodeProto], *, assume: bool, **attributes: object) -> Outcome:
    """Conv and a BatchNormalization with these attributes, then `rest` from `n` to `y`; folded as inference."""
    conv = np.random.default_rng(1).standard_normal((3, 3, 2, 2)).astype(np.float32)
    own = {f"{name}2": array[::-1].copy() for name, array in PARAMETERS.items()}
    norm = node("BatchNormalization", "c", "g", "b", "m", "v", outputs=("n",), **attributes)
    before = [node("Conv", "x", "w", outputs=("c",)), norm, *rest]
    after = [node("Conv", "x", "w2", "bias", outputs=("n",)), *rest]
    folded = fold_of(conv)
    constants = own | {"w2": folded["w2"], "bias": folded["b2"]}
    original = old(before, 6, PARAMETERS | own | {"w": conv}, {"x": X})
    paths = [
        saved(original, folder / "before.onnx"),
        saved(old(after, 6, constants, {"x": X}), folder / "after.onnx"),
    ]
    return compare(*paths, runner=runner, proto=original, assume_inference=assume)


RELU = [node("Relu", "n")]


def test_a_fold_of_an_inference_node_is_the_same_function(runner: Runner, tmp_path: Path) -> None:
    outcome = judged(runner, tmp_path, RELU, assume=False, is_test=1)
    assert outcome.word == "within"
    assert outcome.end_to_end is not None
    assert outcome.end_to_end.notes == ("both models were converted to opset 7 in order to run, by onnx's converter",)


def test_a_fold_of_a_training_node_differs_unless_inference_is_assumed(runner: Runner, tmp_path: Path) -> None:
    assert judged(runner, tmp_path, RELU, assume=False, is_test=0).word == "differs"
    outcome = judged(runner, tmp_path, RELU, assume=True, is_test=0)
    assert outcome.word == "within"
    assert outcome.end_to_end is not None
    assert "what says is_test=0 was run as inference, as asked" in outcome.end_to_end.notes


@pytest.mark.parametrize("assume", [True, False])
def test_a_training_node_that_stays_is_run_as_it_is(runner: Runner, tmp_path: Path, assume: bool) -> None:
    stays = [node("BatchNormalization", "n", "g2", "b2", "m2", "v2", outputs=("y", "q", "r", "s", "t"))]
    assert judged(runner, tmp_path, stays, assume=assume, is_test=1).word == "within"


def test_a_training_dropout_that_stays_leaves_it_undecided(runner: Runner, tmp_path: Path) -> None:
    outcome = judged(runner, tmp_path, [node("Dropout", "n")], assume=False, is_test=1)
    assert (outcome.word, outcome.reason) == ("undecided", "refused")
    assert "--assume-inference" in outcome.sentence
    assert judged(runner, tmp_path, [node("Dropout", "n")], assume=True, is_test=1).word == "within"
