"""BN017: measured in the onnxruntime that is installed, right or wrong, and where it is right it is no finding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from rule_models import ALONE, CONV, W, codes, kernel, model, only, sound

import bnfold
from bnfold.equality.runner import CannotRun, Runner
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.rules.running import measure, suspects
from bnfold.rules.subject import Surroundings

SQUARE = """(float[4,3] x) => (float[4,4] y) {
    a = MatMul (x, W)  t = Transpose <perm = [1, 0]> (a)  y = BatchNormalization (t, g, b, m, v) }"""
RESHAPED = """(float[8,3] x) => (float[2,4,4] y) {
    a = MatMul (x, W)  t = Reshape (a, s)  y = BatchNormalization (t, g, b, m, v) }"""
SEQUENCE = """(float[N,5,3] x) => (float[N,4,5] y) {
    a = MatMul (x, W)  t = Transpose <perm = [0, 2, 1]> (a)  y = BatchNormalization (t, g, b, m, v) }"""
TRAINING = "(float[N,4] x) => (float[N,4] y%s) { y, r, s = BatchNormalization <training_mode = 1> (x, g, b, m, v) }"
WEIGHT = kernel(3, 4)


def wrong_here(proto: onnx.ModelProto, size: tuple[int, ...]) -> bool:
    """Whether the onnxruntime that is installed gives other numbers with its optimiser on."""
    feeds = {"x": np.random.default_rng(0).standard_normal(size).astype(np.float32)}
    found = []
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found.append(session.run(["y"], feeds)[0])
    return bool(np.abs(found[0] - found[1]).max() > 1e-2)


def suspected(proto: onnx.ModelProto) -> int:
    return len(suspects(Surroundings(Graph.of(read(proto))).norms))


@pytest.mark.parametrize(
    ("text", "size"), [(SQUARE, (4, 3)), (SQUARE.replace("float[4,3]", "float[N,3]"), (4, 3)), (RESHAPED, (8, 3))]
)
def test_a_product_behind_a_layout_is_a_finding_where_this_onnxruntime_is_wrong(
    text: str, size: tuple[int, ...]
) -> None:
    proto = model(text, W=WEIGHT, s=np.array([2, 4, 4]), **sound())
    assert suspected(proto) == 1
    assert codes(proto) == (["BN017"] if wrong_here(proto, size) else [])


def test_equal_parameters_in_training_are_a_finding_where_this_onnxruntime_is_wrong() -> None:
    new = model(TRAINING % "", **sound(g=1, b=0, m=0, v=1))
    assert codes(new) == (["BN001", "BN017"] if wrong_here(new, (5, 4)) else ["BN001"])
    other = model(TRAINING % "", **sound())
    assert suspected(other) == 1
    assert codes(other) == ["BN001"]


def test_what_is_computed_rightly_is_tried_and_no_finding() -> None:
    proto = model(SEQUENCE, W=WEIGHT, **sound())
    assert suspected(proto) == 1
    assert codes(proto) == []


@pytest.mark.parametrize(
    ("text", "tensors"),
    [
        (CONV, {"W": W}),
        (ALONE, {}),
        (
            "(float[N,3] x) => (float[N,4] y) { a = MatMul (x, W) y = BatchNormalization (a, g, b, m, v) }",
            {"W": WEIGHT},
        ),
        (SQUARE.replace("t = Transpose <perm = [1, 0]> (a)", "t = Relu (a)"), {"W": WEIGHT}),
        (SQUARE.replace("float[4,3] x)", "float[4,3] x, float[3,4] W)"), {}),
        (SEQUENCE.replace("float[N,5,3] x) => (float[N,4,5]", "float[N,4,3] x) => (float[N,4,5]"), {"W": kernel(3, 5)}),
        (TRAINING % ", float[4] r, float[4] s", {}),
    ],
)
def test_nothing_is_run_where_no_place_looks_so(
    text: str, tensors: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text.replace("perm = [0, 2, 1]", "perm = [0, 1, 2]") if "float[N,4,3]" in text else text
    monkeypatch.setattr(Runner, "run", lambda *_, **__: pytest.fail("nothing is to be run"))
    assert "BN017" not in codes(model(text, **tensors, **sound()))


class Pretending:
    """In place of onnxruntime: y = x, and with the optimiser on, y = x * factor."""

    def __init__(self, factor: float, refuses: str = "") -> None:
        self.factor = factor
        self.refuses = refuses
        self.shapes: list[tuple[int, ...]] = []

    def run(
        self, path: Path, feeds: Mapping[str, np.ndarray], *, perturb: int | None = None, optimise: bool = False
    ) -> dict[str, np.ndarray]:
        assert path.is_file()
        assert onnx.load(path).graph.output[0].name == "y"
        self.shapes.append(feeds["x"].shape)
        if self.refuses:
            raise CannotRun("refused", self.refuses)
        jitter = 1e-7 if perturb is not None else 0.0
        return {"y": feeds["x"] * np.float32(self.factor if optimise else 1.0 + jitter)}


@pytest.mark.parametrize(("factor", "found"), [(1.0, False), (1.0 + 2e-7, False), (1.001, True), (-1.0, True)])
def test_only_what_rounding_does_not_explain_is_a_finding(factor: float, found: bool) -> None:
    around = Surroundings(Graph.of(read(model(SQUARE, W=WEIGHT, **sound()))))
    assert measure(around.norms, Pretending(factor), seed=0, dims={}) == ()
    assert (around.norms[0].miscomputed is not None) == found
    if found:
        assert "relative L2" in str(around.norms[0].miscomputed)


def test_a_place_that_cannot_be_run_is_a_remark_and_no_finding() -> None:
    around = Surroundings(Graph.of(read(model(SEQUENCE, W=WEIGHT, **sound()))))
    pretending = Pretending(2.0, refuses="it has no kernel")
    (remark,) = measure(around.norms, pretending, seed=0, dims={})
    assert "it has no kernel" in remark
    assert around.norms[0].miscomputed is None
    assert pretending.shapes == [(2, 5, 3), (4, 5, 3)], "a free dimension is tried as 2, and as the channels"


def test_a_dimension_may_be_given() -> None:
    around = Surroundings(Graph.of(read(model(SEQUENCE, W=WEIGHT, **sound()))))
    pretending = Pretending(1.0)
    measure(around.norms, pretending, seed=0, dims={"N": 7})
    assert set(pretending.shapes) == {(7, 5, 3)}


def test_a_place_of_unknown_shape_is_a_remark() -> None:
    proto = model(SEQUENCE, W=WEIGHT, **sound())
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    found = bnfold.validate(proto)
    assert [one.code for one in found if one.code == "BN017"] == []
    assert any("shape or type" in remark for remark in found.remarks)


def test_the_finding_is_an_error_that_says_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    pretending = Pretending(1.5)
    monkeypatch.setattr(Runner, "run", lambda _, *given, **named: pretending.run(*given, **named))
    found = only(model(SQUARE, W=WEIGHT, **sound()), "BN017", "relative L2 0.5")
    assert found.severity == "error"
