from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from bnfold.equality.prepare import name_optional_outputs, perturb_constants, prepared
from bnfold.equality.runner import CannotRun, Runner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

X = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
BN = """(float[2,2,3] x) => (float[2,2,3] y) <float[2] s = {1,2}, float[2] m = {0,1}> {
  y = BatchNormalization (x, s, m, m, s) }"""


def parsed(text: str, opset: int = 17) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')


def with_outputs(model: onnx.ModelProto, outputs: list[str]) -> onnx.ModelProto:
    del model.graph.node[0].output[:]
    model.graph.node[0].output.extend(outputs)
    return model


@pytest.mark.parametrize(
    ("opset", "outputs"), [(7, ["y", "", "", "", ""]), (9, ["y", "", "", "", ""]), (14, ["y", "", ""]), (15, ["y", ""])]
)
def test_empty_outputs_that_crash_onnxruntime_are_cut(
    opset: int, outputs: list[str], runner: Runner, write: Callable[..., Path]
) -> None:
    plain = runner.run(write(parsed(BN, opset), "plain.onnx"), {"x": X})["y"]
    path = write(with_outputs(parsed(BN, opset), outputs))
    assert np.array_equal(runner.run(path, {"x": X})["y"], plain)


def test_a_node_too_large_to_be_noticed_costs_a_child_at_most(write: Callable[..., Path]) -> None:
    model = with_outputs(parsed(BN), ["y", "", ""])
    model.graph.node[0].name = "n" * 20000
    with Runner() as runner:
        with contextlib.suppress(CannotRun):
            runner.run(write(model, "crashing.onnx"), {"x": X})
        assert runner.run(write(parsed(BN)), {"x": X})["y"].shape == X.shape


def test_an_empty_output_before_a_named_one_gets_a_name() -> None:
    model = with_outputs(parsed(BN), ["y", "", "unused_0", ""])
    assert name_optional_outputs(model)
    assert list(model.graph.node[0].output) == ["y", "unused_1", "unused_0"]


def test_nested_graphs_and_functions_are_searched(runner: Runner, write: Callable[..., Path]) -> None:
    model = parsed("""(bool c, float[2,2,3] x) => (float[2,2,3] y) <float[2] s = {1,2}, float[2] m = {0,1}> {
      y = If (c) <then_branch = t () => (float[2,2,3] a) { a = BatchNormalization (x, s, m, m, s) },
        else_branch = e () => (float[2,2,3] b) { b = Neg (x) }> }""")
    inner = model.graph.node[0].attribute[0].g.node[0]
    inner.output.extend(["", ""])
    outputs = runner.run(write(model), {"c": np.array(True), "x": X})
    assert np.array_equal(outputs["y"], runner.run(write(parsed(BN), "plain.onnx"), {"x": X})["y"])

    node = helper.make_node("BatchNormalization", ["a", "b", "b", "b", "b"], ["z", "", ""])
    function = helper.make_function("own", "F", ["a", "b"], ["z"], [node], [helper.make_opsetid("", 17)])
    model = parsed(BN.replace("y = BatchNormalization (x, s, m, m, s)", "y = Neg (x)"))
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("F", ["x", "s"], ["y"], domain="own"))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert runner.run(write(model, "function.onnx"), {"x": X})["y"].shape == X.shape


@pytest.mark.parametrize("outputs", [["y"], ["y", "a", "b"]])
def test_a_model_that_needs_no_copy_has_none(outputs: list[str], write: Callable[..., Path]) -> None:
    assert prepared(write(with_outputs(parsed(BN), outputs)), perturb=None, upgrade="none") is None


def test_other_operators_keep_their_empty_outputs(write: Callable[..., Path]) -> None:
    path = write(with_outputs(parsed(BN.replace("BatchNormalization (x, s, m, m, s)", "Dropout (x)")), ["y", ""]))
    assert prepared(path, perturb=None, upgrade="none") is None


def test_a_copy_finds_its_external_data(runner: Runner, tmp_path: Path) -> None:
    model = with_outputs(parsed(BN), ["y", "", ""])
    plain = runner.run(save(parsed(BN), tmp_path / "plain.onnx"), {"x": X})["y"]
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.bin")
    assert np.array_equal(runner.run(tmp_path / "m.onnx", {"x": X})["y"], plain)


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("dtype", "unit"), [("float16", 2.0**-11), ("float32", 2.0**-24), ("float64", 2.0**-53)])
def test_perturbation_stays_within_a_unit(dtype: str, unit: float) -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(dtype)
    model = parsed("(float[1] x) => (float[1] y) { y = Identity (x) }")
    model.graph.initializer.append(numpy_helper.from_array(values, "w"))
    perturb_constants(model, 0)
    moved = numpy_helper.to_array(model.graph.initializer[0])
    assert moved.dtype == values.dtype
    relative = (moved.astype(float) - values.astype(float)) / values.astype(float)
    assert np.abs(relative).max() <= 4 * unit
    assert 0.2 < np.mean(relative > 0) < 0.6
    assert 0.2 < np.mean(relative < 0) < 0.6


def test_perturbation_moves_every_kind_of_float_constant_and_no_other() -> None:
    text = """(bool c, float[8] x) => (float[8] y) <float[8] w = {1,2,3,4,5,6,7,8}, int64[2] i = {1,2}> {
      k = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]> ()
      j = Constant <value_ints = [1, 2, 3]> ()
      y = If (c) < then_branch = t () => (float[8] a) <float[8] v = {1,2,3,4,5,6,7,8}> { a = Add (v, w) },
        else_branch = e () => (float[8] b) { b = Constant <value = float[8] {1,2,3,4,5,6,7,8}> () }>
    }"""
    before, after, again = parsed(text), parsed(text), parsed(text)
    perturb_constants(after, 3)
    perturb_constants(again, 3)
    assert after == again
    one, other = before.graph, after.graph
    assert one.initializer[0] != other.initializer[0]
    assert one.initializer[1] == other.initializer[1]
    assert one.node[0] != other.node[0]
    assert one.node[1] == other.node[1]
    for branch in (0, 1):
        assert one.node[2].attribute[branch] != other.node[2].attribute[branch]


def test_zeros_infinities_and_shapes_are_not_moved() -> None:
    model = parsed("(float[1,1,4,4] x) => (float[1,1,8,8] y) <float[4] s = {1,1,2,2}> { y = Resize (x, , s) }")
    special = np.array([0, np.inf, -np.inf, np.finfo(np.float32).max, np.nan], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(special, "w"))
    for seed in range(3):
        perturb_constants(model, seed)
    assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == [1, 1, 2, 2]
    kept = numpy_helper.to_array(model.graph.initializer[1])
    assert kept[:3].tolist() == special[:3].tolist()
    assert np.isfinite(kept[3])


def test_a_constant_of_bfloat16_is_moved() -> None:
    model = parsed("(float[1] x) => (float[1] y) { y = Identity (x) }")
    model.graph.initializer.append(helper.make_tensor("w", onnx.TensorProto.BFLOAT16, [64], [1.5] * 64))
    perturb_constants(model, 0)
    moved = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float32)
    assert set(moved.tolist()) <= {1.5, 1.5 + 2.0**-7, 1.5 - 2.0**-7}
    assert len(set(moved.tolist())) == 3
