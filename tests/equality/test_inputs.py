from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from bnfold.equality.inputs import Batch, CannotFeed, fed_inputs, random_batches
from bnfold.errors import UsageError


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
        "(float[4] x, int64[2] i) => (float[A,B] y) { y = Reshape (x, i) }",
        "(float[4] x, int64[2] i) => (float[A,B] y) { y = Expand (x, i) }",
        "(int64[2] i) => (float[A,B] y) { y = ConstantOfShape (i) }",
        "(float[4] x, int64[1] i) => (float[A] y, int64[A] z) { y, z = TopK (x, i) }",
        "(float[1,1,4,4] x, float[4] i) => (float[A,B,C,D] y) { y = Resize (x, , i) }",
    ],
)
def test_dims_and_counts_are_ones(text: str) -> None:
    assert all((value == 1).all() for value in feeds(text))


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
    assert [dict(batch.feeds) for batch in batches] == [{}] * 3


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
