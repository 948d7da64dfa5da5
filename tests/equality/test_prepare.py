from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from bnfold.equality.prepare import name_optional_outputs, prepared
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
    path = write(with_outputs(parsed(BN), outputs))
    with prepared(path, perturb=None, upgrade="none", scratch=path.parent / "none") as found:
        assert found == path


def test_other_operators_keep_their_empty_outputs(write: Callable[..., Path]) -> None:
    path = write(with_outputs(parsed(BN.replace("BatchNormalization (x, s, m, m, s)", "Dropout (x)")), ["y", ""]))
    with prepared(path, perturb=None, upgrade="none", scratch=path.parent / "none") as found:
        assert found == path


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
