"""A weight is read and written some rows at a time, also a 16-bit one and one that takes over something of its data.

Blocks are made much smaller than the weight, and no file is held: then no read may be as long as the weight, and what
is written has to be the number that one computation of the whole gives.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from folding_support import model
from onnx import numpy_helper

import bnfold
from bnfold.model.disk import OpenFile
from bnfold.ops import exact, facts, stretches

CHANNELS, WIDE, BLOCK = 24, 64, 1 << 14

BEHIND = "(T[1, 24, 1, L] x) => (T[1, 24, 1, M] y) { c = Conv(x, w) y = BatchNormalization(c, g, b, m, v) }"
BEFORE = "(T[1, 24, 1, L] x) => (T[1, 24, 1, M] y) { c = BatchNormalization(x, g, b, m, v) y = Conv(c, w) }"


def made(text: str, kind: type[np.floating]) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    weight = random.standard_normal((CHANNELS, CHANNELS, 1, WIDE)).astype(kind)
    rest = {name: random.uniform(0.5, 1.5, CHANNELS).astype(kind) for name in "gbmv"}
    element = "float16" if kind is np.float16 else "float"
    return model(text.replace("T[", f"{element}["), w=weight, **rest)


def vectors(proto: onnx.ModelProto) -> list[np.ndarray]:
    """The four parameters in float64."""
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}
    return [arrays[name] for name in "gbmv"]


def written(proto: onnx.ModelProto) -> np.ndarray:
    (weight,) = (t for t in proto.graph.initializer if len(t.dims) == 4)
    return numpy_helper.to_array(weight)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize(("text", "axis"), [(BEHIND, 0), (BEFORE, 1)], ids=["behind", "before"])
def test_no_read_is_as_long_as_the_weight(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, axis: int, kind: type[np.floating]
) -> None:
    proto = made(text, kind)
    source, target = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(proto, source)
    weight = written(proto)
    lengths: list[int] = []
    right = OpenFile.read

    def noting(self: OpenFile, start: int, length: int) -> bytes:
        lengths.append(length)
        return right(self, start, length)

    monkeypatch.setattr(OpenFile, "read", noting)
    monkeypatch.setattr(exact, "BLOCK", 5 * weight[0].size)
    for module in (facts, stretches):
        monkeypatch.setattr(module, "STRETCH", 5 * weight[0].size)
    monkeypatch.setattr("bnfold.model.disk.BLOCK_BYTES", BLOCK)
    monkeypatch.setattr("bnfold.model.content._WINDOW_BYTES", BLOCK)
    monkeypatch.setattr("bnfold.model.source.HELD_BYTES", 0)
    bnfold.fold(source, target, verify="off")
    assert sum(lengths) > 2 * weight.nbytes  # for the plan, and to be written
    assert max(lengths) <= max(5 * weight[0].nbytes, BLOCK) < weight.nbytes
    gamma, _, _, variance = vectors(proto)
    factors = gamma / np.sqrt(variance + np.float64(np.float32(1e-5)))
    shape = [1] * 4
    shape[axis] = CHANNELS
    expected = (weight.astype(np.float64) * factors.reshape(shape)).astype(kind)
    np.testing.assert_array_equal(written(onnx.load(target)), expected)


def test_a_weight_whose_rows_lie_apart_is_the_same_whatever_a_block_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs of a ConvTranspose are the second axis. Without a shift it takes over what its data bear."""
    text = BEFORE.replace("Conv(c, w)", "ConvTranspose(c, w)").replace("T[1, 24, 1, M]", "T[1, 5, 1, M]")
    random = np.random.default_rng(1)
    weight = random.standard_normal((CHANNELS, 5, 1, 3)).astype(np.float32)
    scales = (random.uniform(0.5, 1.5, CHANNELS).astype(np.float32) for _ in "gv")
    none = np.zeros(CHANNELS, np.float32)
    rest = dict(zip("gv", scales, strict=True)) | {"b": none, "m": none}
    proto = model(text.replace("T[", "float["), w=weight, **rest)
    monkeypatch.setattr(exact, "BLOCK", 1)
    folded = bnfold.fold(proto, verify="certificate").to_proto()
    gamma, _, _, variance = vectors(proto)
    factors = gamma / np.sqrt(variance + np.float64(np.float32(1e-5)))
    assert [node.op_type for node in folded.graph.node] == ["ConvTranspose"]
    expected = (weight.astype(np.float64) * factors[:, None, None, None]).astype(np.float32)
    np.testing.assert_array_equal(written(folded), expected)
