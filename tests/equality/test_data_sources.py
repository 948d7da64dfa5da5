"""Data that come as folders of files, as Python objects and as functions."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import parser

from bnfold.equality import data_files
from bnfold.equality.data import data_batches
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

X = np.arange(30, dtype=np.float32).reshape(10, 3)


def parsed(text: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')


ONE = parsed("(float[N,3] x) => (float[N,3] y) { y = Relu (x) }")
TWO = parsed("(float[N,3] a, int64[N] b) => (float[N,3] y) { y = Relu (a) }")
TABLE = parsed("(float[N,3] x, float[M,3] t) => (float[N,M] y) { s = Transpose (t) y = MatMul (x, s) }")


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "samples").mkdir()
    return tmp_path / "samples"


def test_the_files_of_a_folder_are_sets_by_name(folder: Path) -> None:
    np.save(folder / "b.npy", X[:2])
    np.savez(folder / "a.npz", x=X[2:5], labels=np.arange(3))
    (folder / "README").write_text("not data")
    (folder / ".c.npy").write_bytes(b"an editor's")
    batches = data_batches(ONE, folder)
    assert [batch.label for batch in batches] == ["a.npz 0..2", "b.npy 0..1"]
    assert [batch.feeds["x"].tolist() for batch in batches] == [X[2:5].tolist(), X[:2].tolist()]
    assert batches[0].labels is not None
    assert batches[1].labels is None


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "samples: holds neither .npy nor .npz files nor a test_data_set_0"),
        ({"a.npy": X}, r"samples/a\.npy: the model's inputs are 'a', 'b', the data hold one array without a name"),
        ({"a.npz": b"no archive"}, r"samples/a\.npz: is neither a \.npz nor a \.npy file"),
        ({"a.npy": b"version https://git-lfs.github.com/spec/v1\n"}, r"samples/a\.npy: is a Git LFS pointer"),
    ],
)
def test_a_folder_that_does_not_suit_is_refused(folder: Path, files: dict[str, object], says: str) -> None:
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            np.save(folder / name, content)
    with pytest.raises(UsageError, match=says):
        data_batches(TWO, folder)


def test_a_folder_in_the_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "a.npy").mkdir()
    with pytest.raises(UsageError, match=r"samples/a\.npy: is no file"):
        data_batches(ONE, folder)


def test_the_files_of_a_folder_share_one_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "MOST_BYTES", 200)
    np.save(folder / "a.npy", X)
    assert len(data_batches(ONE, folder)) == 1
    np.save(folder / "b.npy", X)
    with pytest.raises(UsageError, match=r"samples/b\.npy: 'b\.npy' takes 120 bytes, more than the 80 that are read"):
        data_batches(ONE, folder)


def test_remarks_on_many_files_are_few_and_said_once(folder: Path) -> None:
    for samples in range(4, 21):
        np.save(folder / f"{samples:02}.npy", np.ones((samples, 3), np.float64))
    fixed = parsed("(float[4,3] x) => (float[4,3] y) { y = Relu (x) }")
    batches = data_batches(fixed, folder)
    assert batches[0].notes[0] == "data for 'x' were converted from float64 to float32"
    assert len(batches[0].notes) == 9
    assert batches[0].notes[-1] == "and 5 more remarks on the data"
    assert all(batch.notes == () for batch in batches[1:])


# Arrays that are no samples


def test_arrays_of_different_lengths_are_one_batch_if_the_model_calls_them_differently() -> None:
    (batch,) = data_batches(TABLE, {"x": X, "t": X[:4]})
    assert [batch.feeds[name].shape for name in ("x", "t")] == [(10, 3), (4, 3)]
    assert batch.label == "data[0]"


def test_arrays_of_different_lengths_that_should_be_alike_are_refused() -> None:
    with pytest.raises(UsageError, match=r"differ in their number of samples \('a': 10, 'b': 4\)"):
        data_batches(TWO, {"a": X, "b": np.arange(4)})


# Python


def twice() -> Iterator[dict[str, np.ndarray]]:
    yield {"x": X[:2], "labels": np.arange(2)}
    yield {"x": X[2:5]}


@pytest.mark.parametrize(
    ("given", "lengths"),
    [
        ({"x": X}, [10]),
        (X, [10]),
        ([X[:2], X[2:]], [2, 8]),
        ([{"x": X[:2].tolist()}], [2]),
        (twice, [2, 3]),
        (twice(), [2, 3]),
        (lambda: X, [10]),
        (lambda: {"x": X}, [10]),
        (lambda: [X, X], [10, 10]),
    ],
)
def test_python_gives_data_in_many_ways(given: object, lengths: list[int]) -> None:
    assert [len(batch.feeds["x"]) for batch in data_batches(ONE, given)] == lengths


def test_a_buffer_that_is_filled_again_and_again_is_copied() -> None:
    def refilling() -> Iterator[np.ndarray]:
        buffer = np.zeros((1, 3), np.float32)
        for k in range(3):
            buffer[:] = k
            yield buffer

    assert [batch.feeds["x"].max() for batch in data_batches(ONE, refilling)] == [0, 1, 2]


def test_an_endless_generator_is_cut_and_that_is_said() -> None:
    closed = []

    def endless() -> Iterator[np.ndarray]:
        try:
            while True:
                yield X
        finally:
            closed.append(True)

    batches = data_batches(ONE, endless)
    assert len(batches) == 64
    assert batches[0].notes == ("only the first 64 sets of samples were run, there are more",)
    assert closed == [True]
    assert data_batches(ONE, [X] * 64)[0].notes == ()


def test_what_a_function_gives_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "MOST_BYTES", 200)
    with pytest.raises(UsageError, match="the given data gives more than the 200 bytes that are read"):
        data_batches(ONE, [X, X])


def failing() -> Iterator[np.ndarray]:
    yield X
    raise ValueError("\n  the disk\nis gone")


def leaving() -> np.ndarray:
    sys.exit(3)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (3, "the data are of the type int, and must be a path"),
        (b"abc", "the data are of the type bytes"),
        (None, "the data are of the type NoneType"),
        ([], "gives no data"),
        (lambda: None, "gives something of the type NoneType, and must give arrays by name"),
        (lambda: "text", "gives something of the type str, and must give arrays by name"),
        ([(X, X)], "gives something of the type tuple, and must give arrays by name, or arrays"),
        ([{3: X}], "gives arrays by 3, and must give them by name"),
        ([{"x": object()}], "gives something of the type object for 'x', which is no array of numbers"),
        ([{"x": [[1, 2], [3]]}], "failed: ValueError: "),
        (failing, "the given data failed: ValueError: the disk$"),
        (leaving, "the given data failed: it left with exit code 3"),
        (lambda needed: needed, "failed: TypeError: .* missing 1 required positional argument: 'needed'"),
        ({"z": X, "x": X}, "the model's inputs are 'x', the data hold 'z', 'x'"),
        ({"x": X[:, :2]}, r"the input 'x' wants the shape \(any, 3\), the data have \(10, 2\)"),
        ({"x": np.array([["a"] * 3])}, "the input 'x' wants float32, the data are str"),
    ],
)
def test_python_that_gives_no_data_is_refused_in_one_line(given: object, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        data_batches(ONE, given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit(128 + signal.SIGTERM), SystemExit(128 + signal.SIGHUP)])
def test_a_stop_of_the_whole_process_is_no_failure_of_the_function(stop: BaseException) -> None:
    def stopped() -> np.ndarray:
        raise stop

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        data_batches(ONE, stopped)


# Functions by name


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes samples/loading.py into the current folder, from where it is found though that is not on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    path = list(sys.path)
    (tmp_path / "samples").mkdir()

    def written(text: str) -> None:
        (tmp_path / "samples" / "loading.py").write_text(f"import numpy as np\nX = np.ones((2, 3), 'f')\n{text}\n")

    yield written
    assert sys.path == path
    for name in ("samples", "samples.loading", "samples.helper"):
        sys.modules.pop(name, None)


def test_a_function_of_the_current_folder_is_found_by_name(module: Callable[[str], None], tmp_path: Path) -> None:
    module("def batches():\n    from samples import helper\n    yield {'x': helper.scale * X}")
    (tmp_path / "samples" / "helper.py").write_text("scale = 5")
    (batch,) = data_batches(ONE, "samples.loading:batches")
    assert batch.label == "batches[0] 0..1"
    assert batch.feeds["x"].tolist() == [[5, 5, 5], [5, 5, 5]]


def test_a_method_is_found_too(module: Callable[[str], None]) -> None:
    module("class Sets:\n    @staticmethod\n    def first():\n        return X")
    (batch,) = data_batches(ONE, "samples.loading:Sets.first")
    assert batch.label == "Sets.first[0] 0..1"


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("", "samples.loading:none", "failed: AttributeError: .*'none'"),
        ("", "samples.nothing:none", "failed: ModuleNotFoundError: No module named 'samples.nothing'"),
        ("", "samples.loading:X", "is of the type ndarray and cannot be called"),
        ("raise RuntimeError('at once')", "samples.loading:X", "failed: RuntimeError: at once"),
        ("this is no Python", "samples.loading:X", "failed: SyntaxError: "),
        ("raise SystemExit('usage')", "samples.loading:X", "failed: it left with exit code 'usage'"),
        ("def f(): 1 / 0", "samples.loading:f", "failed: ZeroDivisionError: division by zero"),
        ("def f():\n    yield X\n    1 / 0", "samples.loading:f", "failed: ZeroDivisionError"),
    ],
)
def test_a_function_that_fails_is_named_in_one_line(
    module: Callable[[str], None], text: str, name: str, says: str
) -> None:
    module(text)
    with pytest.raises(UsageError, match=f"the function '{name}' {says}") as refused:
        data_batches(ONE, name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["none.npz", "a:b:c", "a b:c", ":f", "m:", "m.:f", "a/b:c", "x" * 300])
def test_what_is_neither_a_file_nor_a_function_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"is no file or folder, and no function's name \(pkg.mod:function\)"):
        data_batches(ONE, name)


def test_a_file_whose_name_looks_like_a_function_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", X)
    (tmp_path / "a.npy").rename(tmp_path / "samples:train")
    assert len(data_batches(ONE, "samples:train")) == 1
