"""Normalizations that cannot go, beside one that folds: run as they are, or undecided, and never anything worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from folding_support import inputs, model, norm, weights
from onnx import helper

import bnfold
from bnfold.equality.runner import Runner

W = weights(4, 3, 3, 3)
STAYING = """(float[N,3,5,5] x) => (float[N,4,3,3] y) {
    c = Conv (x, W)  n = BatchNormalization (c, g, be, m, v)  p = Relu (n)
    y = BatchNormalization (p, hg, hbe, hm, hv)
}"""


def staying(opset: int, outputs: list[str], *, per_element: bool = False, **attributes: int) -> onnx.ModelProto:
    """A normalization that folds, and behind it another that cannot."""
    own = norm(4, "h", seed=3)
    if per_element:
        own = {name: np.broadcast_to(vector[:, None, None], (4, 3, 3)).copy() for name, vector in own.items()}
    before = model(STAYING, opset=opset, W=W, **norm(4), **own)
    last = before.graph.node[-1]
    del last.output[:]
    last.output.extend(outputs)
    last.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return before


@pytest.mark.parametrize(
    ("before", "code"),
    [
        (staying(7, ["y"], per_element=True, spatial=0), "spatial-zero"),
        (staying(8, ["y"], per_element=True, spatial=0), "spatial-zero"),
        (staying(7, ["y", "o1", "o2", "o3", "o4"]), "training-mode"),
        (staying(9, ["y", "o1", "o2", "o3", "o4"]), "training-mode"),
        (staying(13, ["y", "", "", "", "o4"]), "training-mode"),
        (staying(14, ["y", "o1", "o2"], training_mode=1), "training-mode"),
        (staying(15, ["y", "o1", "o2"], training_mode=1), "training-mode"),
        (staying(15, ["y", "", ""], training_mode=1), "training-mode"),
    ],
    ids=str,
)
def test_a_normalization_that_cannot_go_is_run_as_it_is(before: onnx.ModelProto, code: str) -> None:
    result = bnfold.fold(before)
    assert len(result.plan.moves) == 1
    assert [refusal.reason.code for refusal in result.plan.refusals] == [code]
    assert isinstance(result.verdict, bnfold.Same)
    assert (result.verdict.certified, result.verdict.executed) == (True, True)


@pytest.mark.parametrize(
    "before",
    [
        staying(8, ["y"], spatial=0),
        staying(9, ["y", "o1"]),
        staying(9, ["y", "o1", "", "", ""]),
        staying(15, ["y"], training_mode=1),
        staying(15, ["y", "o1"], training_mode=1),
        staying(14, ["y", "o1", "o2"]),
    ],
    ids=str,
)
def test_one_that_onnxruntime_refuses_leaves_the_model_undecided(before: onnx.ModelProto) -> None:
    with pytest.raises(bnfold.Undecided, match="--verify certificate") as raised:
        bnfold.fold(before)
    assert "\n" not in str(raised.value)


def test_statistics_that_onnxruntime_overwrites_in_a_run_leave_the_model_undecided(tmp_path: Path) -> None:
    """It updates the running mean and variance in place: where another node reads them, no two runs agree."""
    before = staying(15, ["y", "o1", "o2"], training_mode=1)
    before.graph.node[-1].input[1:] = ["g", "be", "m", "v"]
    onnx.save(before, tmp_path / "m.onnx")
    feeds = {"x": inputs(before)["x"]}
    with Runner() as runner:
        first, second = (runner.run(tmp_path / "m.onnx", feeds)["y"] for _ in range(2))
    assert np.abs(first - second).max() > 0.01
    with pytest.raises(bnfold.Undecided, match="gives another 'y' each time"):
        bnfold.fold(before)
