"""The sizes of free dimensions: what weights and statistics say of them, and what is said where nothing fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import bnfold
from bnfold.equality.inputs import CannotFeed, advised, check_dims, fed_inputs, random_batches
from bnfold.equality.runner import Runner
from bnfold.equality.stated_sizes import stated_sizes
from bnfold.errors import UsageError


def model(text: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """A model of ONNX text without its header, with random constants of these shapes."""
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        array = random.uniform(0.5, 1.5, shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


IN_A_BRANCH = """(float[N,C,H,W] x, bool b) => (y) { y = If(b)
  <then_branch = t () => (float[A,B,D,E] p) { p = Conv(x,w) },
   else_branch = e () => (float[A,B,D,E] q) { q = Relu(x) }> }"""

STATED = {
    "a Conv": ("(float[N,C,H,W] x) => (y) { y = Conv(x,w) }", {"w": (8, 4, 3, 3)}, {"C": 4}),
    "groups": ("(float[N,C,H,W] x) => (y) { y = Conv<group = 2>(x,w) }", {"w": (8, 3, 3, 3)}, {"C": 6}),
    "a ConvTranspose": (
        "(float[N,C,H,W] x) => (y) { y = ConvTranspose<group = 2>(x,w) }", {"w": (6, 4, 3, 3)}, {"C": 6}
    ),
    "statistics": (
        "(float[N,C,H] x) => (y) { y = BatchNormalization(x,g,b,m,v) }", dict.fromkeys("gbmv", (5,)), {"C": 5}
    ),
    "a MatMul": ("(float[N,T,F] x) => (y) { y = MatMul(x,w) }", {"w": (4, 8)}, {"F": 4}),
    "a MatMul from the left": ("(float[N,T,F] x) => (y) { y = MatMul(w,x) }", {"w": (3, 7)}, {"T": 7}),
    "a Gemm": ("(float[N,F] x) => (y) { y = Gemm<transB = 1>(x,w) }", {"w": (8, 5)}, {"F": 5}),
    "a Gemm of columns": ("(float[F,N] x) => (y) { y = Gemm<transA = 1>(x,w) }", {"w": (6, 4)}, {"F": 6}),
    "an LSTM": (
        "(float[T,N,F] x, float[D,N,H] h, float[D,N,H] c) => (y) { y = LSTM<hidden_size = 5>(x,w,r,,,h,c) }",
        {"w": (1, 20, 3), "r": (1, 20, 5)}, {"F": 3, "H": 5, "D": 1},
    ),
    "what is added": ("(float[N,C,H,W] x) => (y) { y = Add(x,k) }", {"k": (6, 1, 1)}, {"C": 6}),
    "behind rectifiers and pools": (
        "(float[N,C,H,W] x) => (y) { a = Relu(x) b = MaxPool<kernel_shape = [2,2]>(a) y = Conv(b,w) }",
        {"w": (8, 4, 1, 1)}, {"C": 4},
    ),
    "behind a Transpose": (
        "(float[N,H,W,C] x) => (y) { t = Transpose<perm = [0,3,1,2]>(x) y = Conv(t,w) }", {"w": (8, 4, 1, 1)}, {"C": 4}
    ),
    "without names": ("(float[?,?,?,?] x) => (y) { y = Conv(x,w) }", {"w": (8, 4, 3, 3)}, {"x[1]": 4}),
    "of a value that meets another": (
        "(float[N,C,H,W] x, float[M,D,H,W] z) => (y) { a = Add(x,z) y = Conv(z,w) }", {"w": (8, 4, 1, 1)},
        {"C": 4, "D": 4},
    ),
    "a sum of weight and weight": (
        "(float[N,F] x) => (y) { t = Transpose(w) y = MatMul(x,t) }", {"w": (8, 300)}, {"F": 300}
    ),
    "in a branch": (IN_A_BRANCH, {"w": (3, 3, 1, 1)}, {"C": 3}),
    "nothing": ("(float[N,C] x) => (y) { y = Relu(x) }", {}, {}),
    "nothing by a one": ("(float[N,C] x) => (y) { y = Add(x,k) }", {"k": (1,)}, {}),
}  # fmt: skip


def stated(proto: onnx.ModelProto, **given: int) -> dict[str, int]:
    return stated_sizes(proto, fed_inputs(proto), given)


@pytest.mark.parametrize("by", STATED)
def test_what_a_model_states_of_its_inputs(by: str, runner: Runner, write: Callable[..., Path]) -> None:
    text, shapes, sizes = STATED[by]
    proto = model(text, **shapes)
    assert stated(proto) == sizes
    path = write(proto)
    for batch in random_batches(proto, seed=0, dims={}, fills=(8,)):  # room for every kernel
        assert runner.run(path, batch.feeds)


def test_a_size_that_is_given_stands() -> None:
    proto = model("(float[N,C,H,W] x) => (y) { y = Conv(x,w) }", w=(8, 4, 3, 3))
    assert stated(proto, C=9) == {}
    shapes = {batch.feeds["x"].shape for batch in random_batches(proto, seed=0, dims={"H": 7})}
    assert shapes == {(2, 4, 7, 2), (1, 4, 7, 1)}


def test_the_first_of_two_that_disagree_counts() -> None:
    proto = model("(float[N,F] x) => (y) { y = MatMul(x,v) z = MatMul(x,w) }", v=(4, 2), w=(5, 2))
    assert stated(proto) == {"F": 4}


def test_a_batch_alone_is_not_asked_for() -> None:
    """Inference of a large model takes time."""
    proto = model("(float[N,4] x) => (y) { y = Gemm<transA = 1>(x,w) }", w=(6, 4))
    assert stated(proto) == {}


def test_the_data_of_a_weight_are_not_asked_for() -> None:
    proto = model("(float[N,F] x) => (y) { y = MatMul(x,w) }", w=(400, 200))
    proto.graph.initializer[0].ClearField("raw_data")  # a skeleton: its data lie elsewhere
    assert stated(proto) == {"F": 400}


def test_images_of_a_usual_size_are_tried(tmp_path: Path) -> None:
    proto = model(
        "(float[N,C,H,W] x) => (y) { a = Conv(x,w) p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a) "
        "f = Flatten(p) y = Gemm(f,u) }",
        w=(2, 1, 3, 3),
        u=(2 * 13 * 13, 3),
    )
    onnx.save(proto, tmp_path / "m.onnx")
    verdict = bnfold.verify(tmp_path / "m.onnx", tmp_path / "m.onnx")
    assert verdict.word == "same"
    assert {one.batch for one in verdict.end_to_end.comparisons} >= {"normal, free dimensions 28"}


def test_where_no_size_fits_the_sentence_says_what_to_give(tmp_path: Path) -> None:
    proto = model(
        "(float[N,C,H,W] x) => (y) { a = Conv(x,w) f = Flatten(a) y = Gemm(f,u) }", w=(2, 3, 1, 1), u=(2 * 7 * 5, 3)
    )
    onnx.save(proto, tmp_path / "m.onnx")
    verdict = bnfold.verify(tmp_path / "m.onnx", tmp_path / "m.onnx")
    assert verdict.word == "unknown"
    assert "the size of N, H, W was guessed; --dim N=SIZE" in str(verdict)
    given = bnfold.verify(tmp_path / "m.onnx", tmp_path / "m.onnx", dims={"H": 7, "W": 5})
    assert given.word == "same"


def test_a_dimension_without_a_name_can_be_given_by_its_place() -> None:
    proto = model("(float[?,?] x) => (y) { y = Relu(x) }")
    check_dims(proto, {"x[1]": 5})
    assert random_batches(proto, seed=0, dims={"x[1]": 5})[0].feeds["x"].shape == (2, 5)
    assert "--dim x[1]=SIZE" in advised(proto, {"x[0]": 2})
    with pytest.raises(UsageError, match=r"x\[2\]"):
        check_dims(proto, {"x[2]": 5})


def test_nothing_is_advised_where_no_size_was_guessed() -> None:
    assert advised(model("(float[2,3] x) => (y) { y = Relu(x) }"), {}) == ""
    assert advised(model("(float[2,F] x) => (y) { y = MatMul(x,w) }", w=(4, 4)), {}) == ""


def test_what_is_too_large_names_the_sizes() -> None:
    proto = model("(float[N,C,D,H,W] x) => (y) { y = Relu(x) }")
    with pytest.raises(CannotFeed, match=r"would have .* elements, \[2, 224, 224, 224, 224\]"):
        random_batches(proto, seed=0, dims={}, fills=(224,))
