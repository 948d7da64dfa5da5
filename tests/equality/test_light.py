"""The original as a model that onnxruntime maps: the same bits as the file gives, and where it is not tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from site_models import kernel, model, norm

from bnfold.equality.pair import Pair
from bnfold.equality.pieces import Source, light
from bnfold.equality.prepare import Copy
from bnfold.equality.runner import Runner
from bnfold.graph import Graph
from bnfold.model import read

TEXT = """(float[2,8,9,9] x) => (float[2,8,7,7] y) {
  c = Conv(x,w) n = BatchNormalization(c,g,be,m,v) k = Constant<value = float[1] {2.0}>() y = Mul(n,k) }"""
BODY = """(bool up, float[2] x) => (float[2] y) { y = If(up) <
  then_branch = t () => (float[2] a) { a = Abs(x) }, else_branch = e () => (float[2] a) { a = Relu(x) }> }"""


def lightened(path: Path) -> Copy | None:
    return light(Source(Graph.of(read(path)), path))


def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((2, 8, 9, 9), dtype=np.float32)}


@pytest.mark.parametrize("outside", [False, True])
def test_it_gives_the_bits_that_the_file_gives(outside: bool, runner: Runner, tmp_path: Path) -> None:
    path, proto = tmp_path / "model.onnx", model(TEXT, w=kernel(), **norm())
    large = onnx.numpy_helper.from_array(np.linspace(0, 1, 8 * 7 * 7, dtype=np.float32).reshape(8, 7, 7), "k")
    proto.graph.node[2].attribute[0].CopyFrom(helper.make_attribute("value", large))
    onnx.save(proto, path, save_as_external_data=outside, location="data", size_threshold=0)
    copy = lightened(path)
    assert copy is not None
    assert np.array_equal(runner.run_piece(copy, feeds())["y"], runner.run(path, feeds())["y"])
    assert runner.signature(copy) == runner.signature(path)


def test_weights_stay_in_their_file(write: Callable[..., Path]) -> None:
    path = write(model(TEXT, w=kernel(), **norm()))
    copy = lightened(path)
    assert copy is not None
    assert len(copy.content) < 1500 < kernel().size * 4 < path.stat().st_size


def test_bodies_and_sparse_constants_are_left_to_the_file(write: Callable[..., Path]) -> None:
    assert lightened(write(BODY)) is None
    proto = model("(float[2,3] x) => (float[2,3] y) { y = Mul(x,k) }")
    values = onnx.numpy_helper.from_array(np.ones(1, np.float32), "k")
    indices = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "i")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    assert lightened(write(proto)) is None


def test_what_onnxruntime_does_not_take_is_run_as_the_file(runner: Runner, write: Callable[..., Path]) -> None:
    path = write(model(TEXT, w=kernel(), **norm()))
    pair = Pair(path, path, runner, "none")
    assert pair.lightened(Copy(b"no model", path.parent)) is pair
    assert pair.lightened(None) is pair
    assert pair.lightened(lightened(path)).light is not None
    converted = replace(pair, upgrade="marked")
    assert converted.lightened(lightened(path)) is converted
