"""Feeds written as an .npz: data.py reads the very same arrays back, whatever their names, types and shapes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from bnfold.equality.data import data_batches
from bnfold.equality.saving import is_one_batch, npz_of
from bnfold.errors import CannotWrite, UsageError

NAMES = [
    "x",
    "a/b",
    "/a",
    "../up",
    "a.npy",
    "a b",
    "ä/ö",
    "日本",
    "a\\b",
    "a\nb",
    "a\0b",
    "\x1b[31m",
    "labels",
    ".",
    " ",
    "C:x",
]
TYPES = ["float32", "float16", "float64", "bfloat16", "float8_e4m3fn", "int8", "uint8", "int64", "bool", "complex64"]


def dtype_of(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def model(feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model whose inputs these are, with free dimensions."""
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), [f"d{i}" for i in range(value.ndim)]
        )
        for name, value in feeds.items()
    ]
    graph = helper.make_graph([], "g", inputs, [])
    return helper.make_model(graph)


def read_back(tmp_path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    (tmp_path / "x.npz").write_bytes(npz_of(feeds))
    (batch,) = data_batches(model(feeds), tmp_path / "x.npz")
    assert (batch.label, batch.labels, batch.notes) == ("data, as one batch", None, ())
    return dict(batch.feeds)


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        assert (value.dtype, value.shape) == (other[name].dtype, other[name].shape)
        assert value.tobytes() == other[name].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_an_input_of_any_name_comes_back_under_it(tmp_path: Path, name: str) -> None:
    feeds = {name: np.arange(6, dtype="f").reshape(2, 3), "another": np.zeros((2, 1), "f")}
    equal(read_back(tmp_path, feeds), feeds)


@pytest.mark.parametrize("kind", TYPES)
def test_an_input_of_any_type_comes_back_bit_for_bit(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    values = (random.standard_normal((3, 4)) * 8).astype(dtype_of(kind))
    feeds = {"x": values, "other": np.zeros((3, 1), "f")}
    equal(read_back(tmp_path, feeds), feeds)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=2, max_size=4), st.booleans())
def test_inputs_of_any_shapes_come_back_as_one_batch(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], in_columns: bool
) -> None:
    order = "F" if in_columns else "C"
    feeds = {f"i{k}": np.asarray(np.random.default_rng(k).random(shape), order=order) for k, shape in enumerate(shapes)}
    equal(read_back(tmp_path_factory.mktemp("shapes"), feeds), feeds)


def test_more_samples_than_a_batch_has_are_not_cut(tmp_path: Path) -> None:
    feeds = {"x": np.arange(390, dtype="f").reshape(130, 3)}
    equal(read_back(tmp_path, feeds), feeds)
    np.savez(tmp_path / "plain.npz", **feeds)
    assert len(data_batches(model(feeds), tmp_path / "plain.npz")) == 3


def test_numpy_reads_it_and_finds_nothing_else_in_it() -> None:
    feeds = {"a/b": np.arange(3, dtype="f"), "c": np.arange(2)}
    with np.load(io.BytesIO(npz_of(feeds)), allow_pickle=False) as found:
        equal({name: found[name] for name in found.files}, feeds)


def test_the_same_feeds_give_the_same_bytes() -> None:
    feeds = {"x": np.arange(3, dtype="f"), "z": np.zeros((), "i8")}
    assert npz_of(feeds) == npz_of(dict(feeds))
    stamps = {member.date_time for member in zipfile.ZipFile(io.BytesIO(npz_of(feeds))).infolist()}
    assert stamps == {(1980, 1, 1, 0, 0, 0)}


def test_strings_are_not_written() -> None:
    for values in (np.array(["a", None], object), np.array(["a"])):
        with pytest.raises(CannotWrite, match="'x' holds strings"):
            npz_of({"x": values})


def test_a_name_that_no_archive_takes_is_not_written() -> None:
    equal_enough = "x" * ((1 << 16) - 1 - len(".npy"))
    assert npz_of({equal_enough: np.zeros(1)})
    for name in (equal_enough + "x", "ä" * 40_000):
        with pytest.raises(CannotWrite, match="too long") as refused:
            npz_of({name: np.zeros(1)})
        assert len(str(refused.value)) < 200


def test_only_what_was_written_here_is_one_batch(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", x=np.zeros(3))
    np.save(tmp_path / "plain.npy", np.zeros(3))
    (tmp_path / "ours.npz").write_bytes(npz_of({"x": np.zeros(3)}))
    assert is_one_batch(tmp_path / "ours.npz")
    for name in ("plain.npz", "plain.npy", "missing"):
        assert not is_one_batch(tmp_path / name)


def test_bits_of_another_size_are_not_taken_for_an_input(tmp_path: Path) -> None:
    feeds = {"x": np.zeros((2, 3), ml_dtypes.bfloat16)}
    (tmp_path / "x.npz").write_bytes(npz_of(feeds))
    wider = {"x": np.zeros((2, 3), "f")}
    for wanted in (wider, {"x": np.zeros((2, 3), ml_dtypes.float8_e5m2)}):
        with pytest.raises(UsageError, match="'x' wants"):
            data_batches(model(wanted), tmp_path / "x.npz")


def test_labels_beside_the_arrays_make_it_data_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(npz_of({"x": np.zeros((70, 3), "f"), "labels": np.zeros(70, "i8")}))
    batches = data_batches(model({"x": np.zeros((1, 3), "f")}), tmp_path / "x.npz")
    assert [len(batch.labels) for batch in batches if batch.labels is not None] == [64, 6]
