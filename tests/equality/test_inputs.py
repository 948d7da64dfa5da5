from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from bnfold.equality.inputs import Batch, CannotFeed, fed_inputs, random_batches
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bnfold.equality.runner import Runner


def parsed(text: str, ir: int = 8) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : 17]> g {text}')


def feeds(text: str, name: str = "i", **wishes: object) -> list[np.ndarray]:
    batches = random_batches(parsed(text), seed=0, dims={}, **wishes)
    return [batch.feeds[name] for batch in batches]


def test_three_distributions_reach_what_they_are_for() -> None:
    batches = random_batches(parsed("(float[100,100] x) => (float[100,100] y) { y = Relu (x) }"), seed=0, dims={})
    assert [batch.label for batch in batches] == ["normal", "wide", "uniform"]
    normal, wide, uniform = (batch.feeds["x"] for batch in batches)
    assert abs(normal.std() - 1) < 0.05
    assert abs(wide.std() - 4) < 0.2
    assert 0 <= uniform.min() < uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.02


def test_symbolic_dimensions_are_given_or_one_and_two() -> None:
    model = parsed("(float[N,3,H] x, float[N] z) => (float[N] y) { y = Identity (z) }")
    shapes = [
        (batch.feeds["x"].shape, batch.feeds["z"].shape) for batch in random_batches(model, seed=0, dims={"H": 7})
    ]
    assert shapes == [((2, 3, 7), (2,))] * 3 + [((1, 3, 7), (1,))]


@pytest.mark.parametrize("dims", [{"M": 2}, {"N": 0}, {"N": -1}])
def test_a_dimension_that_cannot_be_is_refused(dims: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        random_batches(parsed("(float[N] x) => (float[N] y) { y = Relu (x) }"), seed=0, dims=dims)


def test_the_seed_decides_everything() -> None:
    model = parsed("(float[N] x, int64[3] i, bool c) => (float[N] y) { y = Relu (x) }")

    def flat(batches: tuple[Batch, ...]) -> bytes:
        return b"".join(value.tobytes() for batch in batches for value in batch.feeds.values())

    one, same, other = (flat(random_batches(model, seed=seed, dims={})) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("ir", [3, 8])
def test_an_input_with_an_initializer_is_not_fed(ir: int) -> None:
    model = parsed("(float[3] x, float[3] w) => (float[3] y) <float[3] w = {1,2,3}> { y = Add (x, w) }", ir)
    if "w" not in {port.name for port in model.graph.input}:
        model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3]))
    assert {port.name for port in fed_inputs(model)} == {"x"}


def test_an_index_stays_below_its_dimension() -> None:
    text = "(int64[1000] i) => (float[A,B] y) <float[2,3] t = {1,2,3,4,5,6}> { y = Gather <axis = 1> (t, i) }"
    assert all(set(value.tolist()) == {0, 1, 2} for value in feeds(text))


def test_an_index_is_followed_through_casts_and_into_nested_graphs() -> None:
    text = """(bool c, int32[1000] i) => (float[A,B] y) <float[2,3] t = {1,2,3,4,5,6}> {
      j = Cast <to = 7> (i)
      y = If (c) <then_branch = a () => (float[A,B] u) { u = Gather (t, j) },
                  else_branch = b () => (float[A,B] v) { v = Gather <axis = -1> (t, j) }>
    }"""
    assert all(set(value.tolist()) == {0, 1} for value in feeds(text))


@pytest.mark.parametrize(
    "text",
    [
        "(float[4] x, int64[2] i) => (float[A,B] y) { y = Expand (x, i) }",
        "(int64[2] i) => (float[A,B] y) { y = ConstantOfShape (i) }",
        "(float[4] x, int64[1] i) => (float[A] y, int64[A] z) { y, z = TopK (x, i) }",
        "(float[1,1,4,4] x, float[4] i) => (float[A,B,C,D] y) { y = Resize (x, , i) }",
    ],
)
def test_dims_and_counts_are_ones(text: str) -> None:
    assert all((value == 1).all() for value in feeds(text))


MEANINGS = {
    "a declared shape": ("(float[6] x, int64[2] i) => (float[3,2] y) { y = Reshape (x, i) }", [3, 2]),
    "a shape declared in part": ("(float[6] x, int64[2] i) => (float[3,A] y) { y = Reshape (x, i) }", [3, -1]),
    "an unknown shape": (
        "(float[6] x, int32[3] i) => (float y) { j = Cast <to = 7> (i) z = Reshape (x, j) y = ReduceSum (z) }",
        [-1, 1, 1],
    ),
    "one of several lengths": (
        """(float[6] x, int64[1] i) => (float[A,B] y) <int64[1] r = {-1}>
        { s = Concat <axis = 0> (i, r) y = Reshape (x, s) }""",
        [1],
    ),
    "a declared size": ("(float[1,1,4,4] x, int64[4] i) => (float[1,1,8,6] y) { y = Resize (x, , , i) }", [1, 1, 8, 6]),
    "a size along some axes": (
        "(float[1,1,4,4] x, int64[2] i) => (float[1,1,8,6] y) { y = Resize <axes = [3,2]> (x, , , i) }",
        [6, 8],
    ),
    "an unknown size": ("(float[1,1,4,5] x, int64[4] i) => (float[A,B,C,D] y) { y = Resize (x, , , i) }", [1, 1, 4, 5]),
    "parts": (
        "(float[7,2] x, int64[3] i) => (float[A,2] y, float[B,2] z, float[C,2] w) { y, z, w = Split (x, i) }",
        [3, 2, 2],
    ),
    "axes": ("(float[2,3] x, int64[2] i) => (float y) { y = ReduceSum (x, i) }", [0, 1]),
    "axes to be left out": ("(float[2,1,3,1] x, int64[2] i) => (float[2,3] y) { y = Squeeze (x, i) }", [1, 3]),
    "a start": ("(float[4,5] x, int64[2] i, int64[2] e) => (float[A,B] y) { y = Slice (x, i, e) }", [0, 0]),
    "an end": (
        "(float[4,5] x, int64[2] s, int32[2] i) => (float[A,B] y) { e = Cast <to = 7> (i) y = Slice (x, s, e) }",
        [2**31 - 1] * 2,
    ),
    "a step": (
        "(float[4] x, int64[1] s, int64[1] e, int64[1] a, int64[1] i) => (float[A] y) { y = Slice (x, s, e, a, i) }",
        [1],
    ),
    "a training mode": ("(float[4] x, bool i) => (float[4] y) <float r = {0.5}> { y = Dropout (x, r, i) }", 0),
}


@pytest.mark.parametrize("meaning", MEANINGS)
def test_a_number_is_what_its_reader_makes_of_it(meaning: str, runner: Runner, write: Callable[..., Path]) -> None:
    text, expected = MEANINGS[meaning]
    assert [value.tolist() for value in feeds(text)] == [expected] * 3
    path = write(text, opset=18)
    for batch in random_batches(onnx.load(path), seed=0, dims={}):
        runner.run(path, batch.feeds)  # raises where onnxruntime does not accept them


def test_a_length_reaches_as_far_as_the_sequence_and_no_further() -> None:
    text = """(float[9,50,2] x, int32[50] i) => (float[9,1,50,3] y) <float[1,12,2] w, float[1,12,3] r>
    { y = LSTM <hidden_size = 3> (x, w, r, , i) }"""
    assert all(value.min() >= 1 and value.max() == 9 for value in feeds(text))


def test_an_initial_state_is_drawn_like_any_other_float() -> None:
    text = """(float[9,2,2] x, float[1,2,3] i) => (float[9,1,2,3] y) <float[1,12,2] w, float[1,12,3] r>
    { y = LSTM <hidden_size = 3> (x, w, r, , , i) }"""
    assert all(np.unique(value).size == 6 for value in feeds(text))


def test_a_divisor_is_not_zero_and_a_variance_not_negative() -> None:
    assert all(value.min() >= 1 for value in feeds("(int64[999] i, int64[999] x) => (int64[999] y) { y = Div (x, i) }"))
    assert any(value.min() < 0 for value in feeds("(float[9] i, float[9] x) => (float[9] y) { y = Div (x, i) }"))
    text = "(float[2,9] x, float[9] w, float[9] i) => (float[2,9] y) { y = BatchNormalization (x, w, w, w, i) }"
    assert all(value.min() >= 0 for value in feeds(text))


def test_an_index_into_a_symbolic_dimension_stays_below_its_length() -> None:
    text = "(float[N,3] x, int64[1000] i) => (float[1000,3] y) { y = Gather (x, i) }"
    assert [set(value.tolist()) for value in feeds(text)] == [{0, 1}] * 3 + [{0}]
    batches = random_batches(parsed(text), seed=0, dims={"N": 5})
    assert [set(batch.feeds["i"].tolist()) for batch in batches] == [{0, 1, 2, 3, 4}] * 3


def test_where_readers_disagree_an_index_wins() -> None:
    text = """(int64[2] i) => (float[A,B] y, float[2] z) <float[3] t = {1,2,3}>
    { y = ConstantOfShape (i) z = Gather (t, i) }"""
    assert all(set(value.tolist()) <= {0, 1, 2} for value in feeds(text))


def test_integers_of_unknown_meaning_are_small() -> None:
    values = feeds("(int64[1000] i) => (int64[1000] y) { y = Neg (i) }")
    assert all(value.min() == 0 and value.max() == 7 for value in values)
    assert all((value == 0).all() for value in feeds("(int64[9] i) => (int64[9] y) { y = Neg (i) }", integers=1))


@pytest.mark.parametrize(("element", "least", "most"), [("uint8", 0, 255), ("int8", -128, 127)])
def test_bytes_take_all_values(element: str, least: int, most: int) -> None:
    values = feeds(f"({element}[9999] i) => (float[9999] y) {{ y = Cast <to = 1> (i) }}")
    assert all((value.min(), value.max()) == (least, most) for value in values)


def test_a_bool_takes_both_values() -> None:
    assert {bool(value) for value in feeds("(bool i) => (bool y) { y = Not (i) }")} == {True, False}


@pytest.mark.parametrize("element", ["float16", "bfloat16", "double", "complex64"])
def test_other_floats_are_fed_in_their_type(element: str) -> None:
    values = feeds(f"({element}[5] i) => ({element}[5] y) {{ y = Identity (i) }}")
    assert all(value.dtype.name == {"double": "float64"}.get(element, element) for value in values)


def test_a_model_without_inputs_is_still_run() -> None:
    batches = random_batches(parsed("() => (float[1] y) <float[1] w = {1}> { y = Neg (w) }"), seed=0, dims={})
    assert [(batch.label, dict(batch.feeds)) for batch in batches] == [("no inputs", {})]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("(string[2] i) => (string[2] y) { y = Identity (i) }", "holds strings"),
        ("(seq(float[2]) i) => (seq(float[2]) y) { y = Identity (i) }", "is no tensor"),
        ("(float i) => (float y) { y = Identity (i) }", "declares no rank"),
        ("(float[1000000,1000000] i) => (float[1] y) { y = Identity (i) }", "would have 1000000000000 elements"),
    ],
)
def test_what_cannot_be_made_up_is_refused(text: str, says: str) -> None:
    model = parsed(text)
    if "rank" in says:
        model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(CannotFeed, match=says):
        random_batches(model, seed=0, dims={})
