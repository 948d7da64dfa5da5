"""Perturbed copies: what moves by how much, the same wherever data lie, and without a trace on the disk."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from copies import copied
from onnx import TensorProto, helper, numpy_helper, parser

from bnfold.equality import outside, perturb
from bnfold.equality.outside import NoRoom
from bnfold.equality.perturb import perturb_constants
from bnfold.equality.prepare import SCRATCH, Copy, prepared, prepared_piece
from bnfold.equality.runner import CannotRun, Runner


def parsed(text: str, opset: int = 17) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')


@pytest.mark.parametrize(("dtype", "unit"), [("float16", 2.0**-11), ("float32", 2.0**-24), ("float64", 2.0**-53)])
def test_perturbation_stays_within_a_unit(dtype: str, unit: float) -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(dtype)
    model = parsed("(float[1] x) => (float[1] y) { y = Identity (x) }")
    model.graph.initializer.append(numpy_helper.from_array(values, "w"))
    perturb_constants(model, 0)
    moved = numpy_helper.to_array(model.graph.initializer[0])
    assert moved.dtype == values.dtype
    relative = (moved.astype(float) - values.astype(float)) / values.astype(float)
    assert np.abs(relative).max() <= 4 * unit
    assert 0.2 < np.mean(relative > 0) < 0.6
    assert 0.2 < np.mean(relative < 0) < 0.6


SIGMOIDS = """(bool c, float[8] x) => (float[8] s, float[8] y) <float[1] w = {-7}> {
  p = Add (x, w)
  s = Sigmoid (p)
  y = If (c) < then_branch = t () => (float[8] a) { a = Sigmoid (s) },
    else_branch = e () => (float[8] b) { b = Neg (s) }>
}"""


def test_a_sigmoid_moves_by_units_of_one_however_small_it_is(tmp_path: Path, runner: Runner) -> None:
    model, path = parsed(SIGMOIDS), tmp_path / "m.onnx"
    onnx.save(model, path)
    feeds = {"c": np.array(True), "x": np.zeros(8, np.float32)}
    plain = runner.run(path, feeds)
    moved = [runner.run(path, feeds, perturb=seed) for seed in range(8)]
    for name, least in (("s", 2.0**-27), ("y", 2.0**-27)):
        apart = [np.abs(one[name].astype(float) - plain[name].astype(float)).max() for one in moved]
        assert least < max(apart) <= 6 * 2.0**-24
    perturb_constants(model, 0)
    again = parsed(SIGMOIDS)
    perturb_constants(again, 0)
    assert model == again


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_a_sigmoid_of_another_type_stays(dtype: str) -> None:
    model = parsed(SIGMOIDS.replace("float[8]", f"{dtype}[8]").replace("float[1]", f"{dtype}[1]"))
    perturb_constants(model, 0)
    assert [node.op_type for node in model.graph.node] == ["Add", "Sigmoid", "If"]


def test_perturbation_moves_every_kind_of_float_constant_and_no_other() -> None:
    text = """(bool c, float[8] x) => (float[8] y) <float[8] w = {1,2,3,4,5,6,7,8}, int64[2] i = {1,2}> {
      k = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]> ()
      j = Constant <value_ints = [1, 2, 3]> ()
      y = If (c) < then_branch = t () => (float[8] a) <float[8] v = {1,2,3,4,5,6,7,8}> { a = Add (v, w) },
        else_branch = e () => (float[8] b) { b = Constant <value = float[8] {1,2,3,4,5,6,7,8}> () }>
    }"""
    before, after, again = parsed(text), parsed(text), parsed(text)
    perturb_constants(after, 3)
    perturb_constants(again, 3)
    assert after == again
    one, other = before.graph, after.graph
    assert one.initializer[0] != other.initializer[0]
    assert one.initializer[1] == other.initializer[1]
    assert one.node[0] != other.node[0]
    assert one.node[1] == other.node[1]
    for branch in (0, 1):
        assert one.node[2].attribute[branch] != other.node[2].attribute[branch]


def test_zeros_infinities_and_shapes_are_not_moved() -> None:
    model = parsed("(float[1,1,4,4] x) => (float[1,1,8,8] y) <float[4] s = {1,1,2,2}> { y = Resize (x, , s) }")
    special = np.array([0, np.inf, -np.inf, np.finfo(np.float32).max, np.nan], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(special, "w"))
    for seed in range(3):
        perturb_constants(model, seed)
    assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == [1, 1, 2, 2]
    kept = numpy_helper.to_array(model.graph.initializer[1])
    assert kept[:3].tolist() == special[:3].tolist()
    assert np.isfinite(kept[3])


def test_a_constant_of_bfloat16_is_moved() -> None:
    model = parsed("(float[1] x) => (float[1] y) { y = Identity (x) }")
    model.graph.initializer.append(helper.make_tensor("w", onnx.TensorProto.BFLOAT16, [64], [1.5] * 64))
    perturb_constants(model, 0)
    moved = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float32)
    assert set(moved.tolist()) <= {1.5, 1.5 + 2.0**-7, 1.5 - 2.0**-7}
    assert len(set(moved.tolist())) == 3


# Wherever the data lie.

IDENTITY = "(float[1] x) => (float[1] y) { y = Identity (x) }"


def constants() -> dict[str, np.ndarray]:
    """Of every type that is perturbed, of odd sizes, on either side of what the skeleton of a model holds."""
    random = np.random.default_rng(0)
    bf16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    sizes = {
        "few": (3, np.float32),
        "a": (1001, np.float32),
        "half": (999, np.float16),
        "tiny": (7, np.float16),
        "wide": (501, np.float64),
        "brain": (1003, bf16),
        "zeros": (2000, np.float32),
        "last": (5, np.float32),
    }
    values = {name: random.standard_normal(size).astype(dtype) for name, (size, dtype) in sizes.items()}
    values["zeros"][:] = 0
    return values


def holding(store: Callable[[TensorProto, np.ndarray], None]) -> onnx.ModelProto:
    model = parsed(IDENTITY)
    for name, array in constants().items():
        tensor = numpy_helper.from_array(array, name)
        store(tensor, array)
        model.graph.initializer.append(tensor)
    model.graph.initializer.append(numpy_helper.from_array(np.arange(1000), "ids"))
    return model


def as_it_is(*_: object) -> None:
    pass


def typed(tensor: TensorProto, array: np.ndarray) -> None:
    if array.dtype == np.float32:
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, array.shape, array))


def written(folder: Path) -> dict[str, Path]:
    """The same model with its constants as raw data, as numbers, in one file, and in one file each."""
    paths = {name: folder / name / "m.onnx" for name in ("raw", "typed", "outside", "apart")}
    for path in paths.values():
        path.parent.mkdir()
    onnx.save(holding(as_it_is), paths["raw"])
    onnx.save(holding(typed), paths["typed"])
    for name, together in (("outside", True), ("apart", False)):
        wishes = {"save_as_external_data": True, "all_tensors_to_one_file": together, "size_threshold": 0}
        onnx.save(holding(as_it_is), paths[name], **wishes)
    return paths


def values_of(model: onnx.ModelProto) -> dict[str, bytes]:
    return {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}


def test_the_draws_are_the_same_wherever_the_data_lie(tmp_path: Path) -> None:
    found = [values_of(copied(path, perturb=5)) for path in written(tmp_path).values()]
    in_memory = holding(as_it_is)
    perturb_constants(in_memory, 5)
    assert all(one == values_of(in_memory) for one in found)
    plain = {name: array.tobytes() for name, array in constants().items()}
    assert {name for name, data in plain.items() if found[0][name] == data} == {"zeros"}
    assert found[0]["ids"] == np.arange(1000).tobytes()


@pytest.mark.parametrize("kind", ["raw", "outside", "apart"])
def test_a_piece_is_perturbed_as_the_model_is(kind: str, tmp_path: Path) -> None:
    path, scratch = written(tmp_path)[kind], tmp_path / "scratch"
    with prepared_piece(path.read_bytes(), path.parent, perturb=5, scratch=scratch) as found:
        assert isinstance(found, Path)
        assert values_of(onnx.load(found)) == values_of(copied(path, perturb=5))
    assert not scratch.exists()


def test_a_piece_that_is_not_perturbed_is_run_as_it_came(tmp_path: Path) -> None:
    with prepared_piece(b"piece", tmp_path, perturb=None, scratch=tmp_path / "scratch") as found:
        assert found == Copy(b"piece", tmp_path)


@pytest.mark.parametrize(("elements", "size"), [(64, 1 << 20), (1 << 16, 256), (100, 1000)])
def test_the_draws_are_the_same_in_blocks_of_any_size(
    elements: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path)
    whole = values_of(copied(paths["raw"], perturb=2))
    monkeypatch.setattr(perturb, "_BLOCK", elements)
    monkeypatch.setattr(outside, "_BLOCK", size)
    monkeypatch.setattr("bnfold.model.disk.BLOCK_BYTES", size + 1)  # reads need not end where a number does
    assert all(values_of(copied(path, perturb=2)) == whole for path in paths.values())


def test_another_seed_draws_something_else(tmp_path: Path) -> None:
    path = written(tmp_path)["outside"]
    one, other = (values_of(copied(path, perturb=seed)) for seed in (0, 1))
    assert {name for name in one if one[name] == other[name]} == {"zeros", "ids"}


def state(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    stats = {path: path.stat() for path in folder.iterdir()}
    return {path.name: (path.read_bytes(), stat.st_mtime_ns, stat.st_nlink) for path, stat in stats.items()}


def test_the_model_and_its_data_stay_as_they_are(tmp_path: Path) -> None:
    path = written(tmp_path)["apart"]
    before = state(path.parent)
    copied(path, perturb=1)
    assert state(path.parent) == before


def test_nothing_stays_of_a_copy_that_failed(tmp_path: Path) -> None:
    path, scratch = written(tmp_path)["outside"], tmp_path / "scratch"

    def failing() -> None:
        with prepared(path, perturb=1, upgrade="none", scratch=scratch):
            assert len(list(scratch.iterdir())) == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert not scratch.exists()


def test_zeros_take_no_room(tmp_path: Path) -> None:
    model = parsed(IDENTITY)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1 << 22, np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    with prepared(tmp_path / "m.onnx", perturb=1, upgrade="none", scratch=tmp_path / "scratch") as found:
        assert isinstance(found, Path)
        (data,) = found.parent.glob("*.data")
        assert data.stat().st_size == 1 << 24
        assert data.stat().st_blocks * 512 < 1 << 16


# Where there is no room.


def refused(path: Path, scratch: Path, says: str) -> None:
    with pytest.raises(NoRoom, match=says), prepared(path, perturb=1, upgrade="none", scratch=scratch):
        pass
    assert not scratch.exists()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    refused(written(tmp_path)["raw"], tmp_path / "no" / "scratch", "No such file or directory")


def test_a_disk_that_is_too_small_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refused(written(tmp_path)["outside"], tmp_path / "scratch", "takes 0.0 GiB .* has 0.0 GiB free")


def test_a_disk_that_is_full_all_of_a_sudden_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outside, "_write_all", full)
    refused(written(tmp_path)["outside"], tmp_path / "scratch", "No space left on device")


def test_a_copy_that_cannot_be_written_is_a_refusal_of_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    model = parsed("(float[3] x) => (float[3] y) <float[3] w = {1,2,3}> { y = Mul (x, w) }")
    onnx.save(model, tmp_path / "m.onnx")
    with Runner() as runner:
        assert runner.run(tmp_path / "m.onnx", {"x": np.ones(3, np.float32)})["y"].tolist() == [1, 2, 3]
        with pytest.raises(CannotRun, match="folder for temporary files") as caught:
            runner.run(tmp_path / "m.onnx", {"x": np.ones(3, np.float32)}, perturb=1)
    assert caught.value.kind == "refused"
    assert str(tmp_path) not in caught.value.sentence


# What others leave.


def left(folder: Path, name: str, age: float) -> Path:
    """A folder with a copy in it that was made `age` seconds ago."""
    found = folder / f"{SCRATCH}{name}"
    found.mkdir()
    (found / "some.data").write_bytes(b"weights")
    then = time.time() - age
    os.utime(found, (then, then))
    return found


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    path = written(tmp_path)["raw"]
    dead, fresh, other = left(tmp_path, "dead", 100), left(tmp_path, "fresh", 10), left(tmp_path, "used", 100)
    mine = tmp_path / "bnfold-mine"
    mine.mkdir()
    link = tmp_path / f"{SCRATCH}link"
    link.symlink_to(mine)
    os.utime(link, (0, 0), follow_symlinks=False)
    held = outside._locked(other)
    with prepared(path, perturb=1, upgrade="none", scratch=tmp_path / "scratch"):
        assert not dead.exists()
        assert all(kept.exists() for kept in (fresh, other, mine, link))
    os.close(held)
    outside.sweep(tmp_path)
    assert not other.exists()


def test_a_copy_that_is_being_written_is_not_swept(tmp_path: Path) -> None:
    path, scratch = written(tmp_path)["raw"], tmp_path / f"{SCRATCH}here"
    with prepared(path, perturb=1, upgrade="none", scratch=scratch) as found:
        assert isinstance(found, Path)
        os.utime(scratch, (0, 0))
        outside.sweep(tmp_path)
        assert found.exists()
    assert not scratch.exists()
