from __future__ import annotations

import io
import pickle
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import parser

from bnfold.equality import data_files
from bnfold.equality.data import data_batches
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

FREE = "(float[N,3] x) => (float[N,3] y) { y = Relu (x) }"
FIXED = "(float[4,3] x) => (float[4,3] y) { y = Relu (x) }"
PAIR = "(float[N,3] a, int64[N] b) => (float[N,3] y) { y = Relu (a) }"
X = np.arange(30, dtype=np.float32).reshape(10, 3)


def parsed(text: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def test_a_free_batch_dimension_takes_up_to_64(tmp_path: Path) -> None:
    values = np.arange(390, dtype=np.float32).reshape(130, 3)
    batches = data_batches(parsed(FREE), npz(tmp_path, x=values))
    assert [(batch.label, len(batch.feeds["x"])) for batch in batches] == [
        ("data 0..63", 64),
        ("data 64..127", 64),
        ("data 128..129", 2),
    ]
    assert np.array_equal(np.concatenate([batch.feeds["x"] for batch in batches]), values)


def test_a_fixed_batch_dimension_leaves_a_remainder_out_and_says_so(tmp_path: Path) -> None:
    batches = data_batches(parsed(FIXED), npz(tmp_path, x=X, labels=np.arange(10)))
    assert [batch.feeds["x"].shape for batch in batches] == [(4, 3), (4, 3)]
    assert [batch.labels.tolist() for batch in batches if batch.labels is not None] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert batches[0].notes == ("the last 2 of 10 samples fill no batch of 4 and were left out",)
    assert batches[1].notes == ()


@pytest.mark.parametrize("name", ["labels", "label", "y", "targets"])
def test_labels_are_recognised_by_name(name: str, tmp_path: Path) -> None:
    (batch,) = data_batches(parsed(FREE), npz(tmp_path, **{"x": X, name: np.arange(10)}))
    assert batch.labels is not None
    assert batch.labels.tolist() == list(range(10))


def test_an_input_called_like_labels_is_an_input(tmp_path: Path) -> None:
    text = FREE.replace("(float[N,3] x)", "(float[N,3] label)").replace("Relu (x)", "Relu (label)")
    (batch,) = data_batches(parsed(text), npz(tmp_path, label=X))
    assert batch.labels is None
    assert list(batch.feeds) == ["label"]


def test_the_only_array_feeds_the_only_input(tmp_path: Path) -> None:
    (batch,) = data_batches(parsed(FREE), npz(tmp_path, images=X))
    assert np.array_equal(batch.feeds["x"], X)
    assert batch.notes == ("the only array 'images' was fed to the only input 'x'",)
    (batch,) = data_batches(parsed(FREE), npz(tmp_path, arr_0=X))
    assert batch.notes == ()
    np.save(tmp_path / "one.npy", np.asfortranarray(X))
    (batch,) = data_batches(parsed(FREE), tmp_path / "one.npy")
    assert np.array_equal(batch.feeds["x"], X)


def test_casts_are_said(tmp_path: Path) -> None:
    (batch,) = data_batches(parsed(FREE), npz(tmp_path, x=X.astype(np.float64)))
    assert batch.feeds["x"].dtype == np.float32
    assert batch.notes == ("data for 'x' were converted from float64 to float32",)
    (batch,) = data_batches(parsed(FREE), npz(tmp_path, x=X.astype(np.float64) / 7))
    assert batch.notes == ("data for 'x' were converted from float64 to float32, which rounds them",)
    (batch,) = data_batches(parsed(FREE), npz(tmp_path, x=X.astype(np.uint8)))
    assert np.array_equal(batch.feeds["x"], X)


@pytest.mark.parametrize(
    ("text", "arrays", "says"),
    [
        (PAIR, {"a": X, "c": np.arange(10)}, "the model's inputs are 'a', 'b', the data hold 'a', 'c'"),
        (PAIR, {"a": X}, "the data hold 'a'"),
        (PAIR, {"a": X, "b": np.arange(9)}, "differ in their number of samples"),
        (PAIR, {"a": X, "b": np.arange(10) + 0.5}, "wants int64, which cannot hold the data's float64"),
        (PAIR, {"a": X, "b": np.array(["s"] * 10)}, "wants int64, the data are str"),
        (FREE, {"x": X.reshape(10, 3, 1)}, r"wants the shape \(any, 3\), the data have \(10, 3, 1\)"),
        (FREE, {"x": X.reshape(15, 2)}, r"wants the shape \(any, 3\)"),
        (FREE, {"x": X[:0]}, "holds no samples"),
        (FIXED, {"x": X[:3]}, "holds 3 samples, fewer than the 4"),
        (FREE, {"x": X, "labels": np.arange(9)}, "labels must be 10 integers"),
        (FREE, {"x": X, "labels": np.ones(10)}, "labels must be 10 integers, these are float64"),
        (FREE, {}, "the data hold nothing"),
        (FREE, {"x": X + 1j}, "wants float32, the data are complex"),
    ],
)
def test_data_that_do_not_suit_the_model_are_refused(
    text: str, arrays: dict[str, np.ndarray], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        data_batches(parsed(text), npz(tmp_path, **arrays))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.npz' is no file or folder"):
        data_batches(parsed(FREE), tmp_path / "none.npz")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a pickle was executed",))


HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117)
    + b"\n"
)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"PK\x03\x04garbage",
        b"\x93NUMPY",
        npy(X)[:-4],
        HUGE,
        HUGE.replace(b"1099511627776", b"-5".ljust(13)),
        HUGE.replace(b"1099511627776", b"1000000000".ljust(13)),
        HUGE.replace(b"'<f4'", b"'|O' "),
        HUGE.replace(b"'<f4'", b"'<q9'"),
        pickle.dumps(Evil()),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_file_is_refused(content: bytes, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "evil"
    path.write_bytes(content)
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
    with pytest.raises(UsageError, match="evil: "):
        data_batches(parsed(FREE), path)


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="holds Python objects"):
        data_batches(parsed(FREE), tmp_path / "evil.npy")


def test_the_sum_of_all_members_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "MOST_BYTES", 100)
    with pytest.raises(UsageError, match="more than the 100 that are read"):
        data_batches(parsed(FREE), npz(tmp_path, x=X[:8], z=X[:8]))


def test_a_member_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(np.zeros((100000, 3), np.float32)))
    content = path.read_bytes()
    size = len(npy(np.zeros((100000, 3), np.float32)))
    path.write_bytes(content.replace(size.to_bytes(4, "little"), (200).to_bytes(4, "little")))
    with pytest.raises(UsageError, match=r"bomb\.npz"):
        data_batches(parsed(FREE), path)
