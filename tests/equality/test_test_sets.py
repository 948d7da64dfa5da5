"""Test data as ONNX ships them: read as one batch, and their outputs held against both models."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from bnfold.equality import data_files, test_sets
from bnfold.equality.data import data_batches
from bnfold.equality.end_to_end import compare
from bnfold.equality.pair import Outcome
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bnfold.equality.runner import Runner

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def parsed(text: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')


ONE = parsed("(float[2,3] x) => (float[2,3] y) { y = Relu (x) }")
TWO = parsed("(float[N,3] a, int64[M] b) => (float[N,3] y, int64[M] z) { y = Relu (a) z = Neg (b) }")


def ship(folder: Path, **files: np.ndarray | TensorProto) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        tensor = value if isinstance(value, TensorProto) else numpy_helper.from_array(value)
        (folder / f"{name}.pb").write_bytes(tensor.SerializeToString())
    return folder


def named(value: np.ndarray, name: str) -> TensorProto:
    return numpy_helper.from_array(value, name)


def test_a_set_is_one_batch_and_brings_its_outputs(tmp_path: Path) -> None:
    folder = ship(tmp_path / "test_data_set_0", input_0=X, output_0=np.abs(X))
    (batch,) = data_batches(ONE, folder)
    assert (batch.label, batch.labels, batch.notes) == ("test_data_set_0", None, ())
    assert batch.feeds["x"].tolist() == X.tolist()
    assert batch.shipped is not None
    assert batch.shipped["y"].tolist() == X.tolist()


def test_the_sets_of_a_folder_come_by_number(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        ship(tmp_path / f"test_data_set_{number}", input_0=X + number)
    np.save(tmp_path / "beside.npy", X)
    batches = data_batches(ONE, tmp_path)
    assert [batch.label for batch in batches] == ["test_data_set_0", "test_data_set_2", "test_data_set_10"]
    assert [batch.feeds["x"][0, 0] for batch in batches] == [0, 2, 10]
    assert batches[0].notes == ("files of arrays beside the test sets were not read",)
    assert all(batch.shipped is None for batch in batches)


def test_inputs_come_in_the_order_of_the_model(tmp_path: Path) -> None:
    (batch,) = data_batches(TWO, ship(tmp_path / "set", input_0=X, input_1=np.arange(5)))
    assert [batch.feeds[name].shape for name in ("a", "b")] == [(2, 3), (5,)]


def test_names_of_the_model_outweigh_the_order(tmp_path: Path) -> None:
    folder = ship(tmp_path / "set", input_0=named(np.arange(5), "b"), input_1=named(X, "a"))
    ship(folder, output_0=named(-np.arange(5), "z"))
    (batch,) = data_batches(TWO, folder)
    assert [batch.feeds[name].shape for name in ("a", "b")] == [(2, 3), (5,)]
    assert batch.shipped is not None
    assert list(batch.shipped) == ["z"]


def test_names_of_another_model_mean_nothing(tmp_path: Path) -> None:
    folder = ship(tmp_path / "set", input_0=named(X, "b"), input_1=named(np.arange(5), "other"))
    (batch,) = data_batches(TWO, folder)
    assert batch.feeds["a"].shape == (2, 3)


def test_an_input_with_a_default_is_not_in_the_set(tmp_path: Path) -> None:
    model = parsed("(float[2,3] w, float[2,3] x) => (float[2,3] y) <float[2,3] w = {1,1,1,1,1,1}> { y = Add (x, w) }")
    (batch,) = data_batches(model, ship(tmp_path / "set", input_0=X))
    assert list(batch.feeds) == ["x"]


def test_a_model_without_inputs_has_sets_of_outputs(tmp_path: Path) -> None:
    model = parsed("() => (float[2] y) <float[2] w = {1,2}> { y = Neg (w) }")
    (batch,) = data_batches(model, ship(tmp_path / "set", output_0=np.array([-1, -2], "f")))
    assert (dict(batch.feeds), batch.shipped is None) == ({}, False)


def test_strings_are_read(tmp_path: Path) -> None:
    model = parsed("(string[2] x) => (string[2] y) { y = Identity (x) }")
    folder = ship(tmp_path / "set", input_0=helper.make_tensor("x", TensorProto.STRING, [2], [b"a", "ä".encode()]))
    assert data_batches(model, folder)[0].feeds["x"].tolist() == ["a", "ä"]


def external(name: str = "x") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


SHORT = TensorProto(data_type=TensorProto.FLOAT, dims=[2, 3], raw_data=b"1234")
HUGE = TensorProto(data_type=TensorProto.FLOAT, dims=[1 << 40, 1 << 40])


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"output_0": X}, r"holds 0 input\(s\), the model's inputs are 'x'"),
        ({"input_0": X, "input_1": X}, r"holds 2 input\(s\), the model's inputs are 'x'"),
        ({"input_0": X, "output_0": X, "output_1": X}, r"holds 2 output\(s\), the model's outputs are 'y'"),
        ({"input_1": X}, r"input_0\.pb is missing"),
        ({"input_0": X[:1]}, r"the input 'x' wants the shape \(2, 3\), the data have \(1, 3\)"),
        ({"input_0": X.reshape(3, 2)}, r"the input 'x' wants the shape \(2, 3\)"),
        ({"input_0": X.astype(complex)}, "the input 'x' wants float32, the data are complex128"),
        ({"input_0": external()}, r"input_0\.pb: its data lie in another file, which is not read"),
        ({"input_0": SHORT}, r"input_0\.pb: the data of tensor '' have 4 bytes, its shape needs 24"),
        ({"input_0": HUGE}, r"input_0\.pb: tensor '' has 0 entries in float_data"),
        ({"input_0": TensorProto(data_type=99)}, r"input_0\.pb: tensor '' has the unknown data type 99"),
        ({"input_0": TensorProto(data_type=1, dims=[-1])}, "negative dimension"),
        (
            {"input_0": helper.make_tensor("x", TensorProto.STRING, [1], [b"\xff"])},
            r"input_0\.pb: is no tensor that can",
        ),
    ],
)
def test_a_set_that_does_not_suit_is_refused(tmp_path: Path, files: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        data_batches(ONE, ship(tmp_path / "test_data_set_0", **files))
    assert str(refused.value).startswith("test_data_set_0")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"garbage", "is no tensor"),
        (b"\xff" * 100, "is no tensor"),
        (b"version https://git-lfs.github.com/spec/", "LFS"),
    ],
)
def test_a_file_that_is_no_tensor_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "input_0.pb").write_bytes(content)
    with pytest.raises(UsageError, match=rf"input_0\.pb: .*{says}"):
        data_batches(ONE, tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "input_0.pb")
    with pytest.raises(UsageError, match=r"input_0\.pb: is no file"):
        data_batches(ONE, tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "x.npy")
    with pytest.raises(UsageError, match=r"x\.npy: is no file"):
        data_batches(ONE, tmp_path / "folder")


def test_sizes_are_checked_before_anything_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ship(tmp_path / "set", input_0=X)
    monkeypatch.setattr(data_files, "MOST_BYTES", 20)
    monkeypatch.setattr(test_sets, "_tensor", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(UsageError, match=r"set: its files take \d+ bytes, more than the 20 that are read"):
        data_batches(ONE, folder)
    monkeypatch.undo()
    monkeypatch.setattr(test_sets, "MOST_PROTOBUF_BYTES", 20)
    with pytest.raises(UsageError, match=r"set/input_0\.pb: is larger than the 2 GiB that protobuf allows"):
        data_batches(ONE, folder)


@pytest.mark.parametrize(("kind", "word"), [("seq(float[2,3])", "sequence"), ("optional(float[2,3])", "optional")])
def test_an_input_that_is_no_tensor_is_refused(tmp_path: Path, kind: str, word: str) -> None:
    model = parsed(f"({kind} x) => ({kind} y) {{ y = Identity (x) }}")
    with pytest.raises(UsageError, match=f"the input 'x' is no tensor but of the kind '{word}', which is not read"):
        data_batches(model, ship(tmp_path / "set", input_0=X))


def test_an_output_that_is_no_tensor_is_left_out_and_said(tmp_path: Path) -> None:
    model = parsed("(float[2,3] x) => (seq(float[2,3]) y, float[2,3] z) { y = SequenceConstruct (x) z = Neg (x) }")
    (batch,) = data_batches(model, ship(tmp_path / "set", input_0=X, output_0=X, output_1=-X))
    assert batch.notes == ("the shipped 'y' is no tensor and was not compared",)
    assert batch.shipped is not None
    assert list(batch.shipped) == ["z"]


# Shipped outputs against both models


def outcome_of(before: Path, after: Path, runner: Runner, data: Path) -> Outcome:
    return compare(before, after, runner=runner, proto=onnx.load(before), data=data)


def shipped_notes(outcome: Outcome) -> list[str]:
    assert outcome.end_to_end is not None
    return [note for note in outcome.end_to_end.notes if "ship" in note]


SCALED = "(float[2,3] x) => (float[2,3] y) <float k = {{{}}}> {{ y = Mul (x, k) }}"


def test_outputs_that_agree_are_said_to(runner: Runner, write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(SCALED.format(2))
    outcome = outcome_of(path, path, runner, ship(tmp_path / "test_data_set_0", input_0=X, output_0=2 * X))
    assert outcome.word == "equal"
    assert shipped_notes(outcome) == ["the shipped outputs of test_data_set_0: both models are equal to them"]


def test_outputs_that_both_models_miss_decide_nothing(
    runner: Runner, write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(SCALED.format(2))
    outcome = outcome_of(path, path, runner, ship(tmp_path / "test_data_set_0", input_0=X, output_0=1.6 * X))
    assert outcome.word == "equal"
    assert shipped_notes(outcome) == [
        "the shipped outputs of test_data_set_0: both models are off by relative L2 2.5e-01"
    ]


def test_only_the_rewritten_model_misses_them(runner: Runner, write: Callable[..., Path], tmp_path: Path) -> None:
    before, after = write(SCALED.format(2), "before.onnx"), write(SCALED.format(3), "after.onnx")
    outcome = outcome_of(before, after, runner, ship(tmp_path / "test_data_set_0", input_0=X, output_0=2 * X))
    assert outcome.word == "differs"
    said, missed = shipped_notes(outcome)
    assert said.endswith(": the original is equal to them, the rewritten model off by relative L2 5.0e-01")
    assert missed.startswith("the rewritten model is further from the shipped 'y' of test_data_set_0 than the original")
    assert missed.endswith("by more than rounding explains: off by relative L2 5.0e-01, the original equal to them")
    nearer = outcome_of(after, before, runner, ship(tmp_path / "test_data_set_0", output_0=2 * X))
    assert nearer.word == "differs", "being nearer to what was shipped makes no other model the same"
    assert len(shipped_notes(nearer)) == 1


def test_behind_a_discrete_operator_what_was_shipped_is_what_tells(
    runner: Runner, write: Callable[..., Path], tmp_path: Path
) -> None:
    text = SCALED.replace("y = Mul (x, k)", "z = Mul (x, k) y = Round (z)")
    before, after = write(text.format(2), "before.onnx"), write(text.format(3), "after.onnx")
    outcome = outcome_of(before, after, runner, ship(tmp_path / "set", input_0=X, output_0=2 * X))
    assert (outcome.word, outcome.reason) == ("undecided", "discrete")
    assert "the rewritten model is further from the shipped 'y'" in shipped_notes(outcome)[1]


def test_a_shipped_output_of_another_form_is_not_compared(
    runner: Runner, write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(SCALED.format(2))
    outcome = outcome_of(path, path, runner, ship(tmp_path / "set", input_0=X, output_0=X.astype(np.float64)))
    assert shipped_notes(outcome) == [
        "set ships 'y' as float64[2, 3], and the original gives float32[2, 3]: not compared"
    ]


def test_whole_numbers_and_strings_are_equal_or_not(runner: Runner, write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("(int64[3] x, string[1] s) => (int64[3] y, string[1] z) { y = Neg (x) z = Identity (s) }")
    text = helper.make_tensor("", TensorProto.STRING, [1], [b"a"])
    folder = ship(tmp_path / "set", input_0=np.arange(3), input_1=text, output_0=-np.arange(3), output_1=text)
    assert "both models are equal to them" in shipped_notes(outcome_of(path, path, runner, folder))[0]
    ship(folder, output_1=helper.make_tensor("", TensorProto.STRING, [1], [b"b"]))
    assert "both models are not equal to them" in shipped_notes(outcome_of(path, path, runner, folder))[0]
