"""Writing: the old file or the new one, never a part of one, and nothing left behind."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from model_builders import edited, example, full, loaded, with_external
from onnx import TensorProto, numpy_helper

from bnfold.errors import CannotWrite
from bnfold.model import Address, GraphEdit, NewTensor, NodeEdit, candidate, read, to_bytes

MAIN = Address()
EDITS = {MAIN: GraphEdit(nodes={0: NodeEdit(outputs=("p",), inputs=("x", "b"))}, value_info={0: None})}


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "m.onnx"
    file.write_bytes(example().SerializeToString())
    return file


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize("edits", [{}, EDITS])
def test_a_published_candidate_is_the_target(path, edits):
    model = read(path)
    target = path.with_name("out.onnx")
    with candidate(model, edits, target) as made:
        assert made.path.parent == target.parent
        assert not target.exists()
        assert made.size == made.path.stat().st_size
        assert made.sha256 == hashlib.sha256(made.path.read_bytes()).hexdigest()
        assert made.data_path is None
        made.publish()
    assert target.read_bytes() == to_bytes(model, edits)
    assert names(path.parent) == ["m.onnx", "out.onnx"]


def test_in_place_keeps_the_mode(path):
    path.chmod(0o640)
    with candidate(read(path), EDITS, path) as made:
        made.publish()
    assert path.stat().st_mode & 0o777 == 0o640
    assert loaded(path) == edited(example(), EDITS)


def test_a_new_file_has_the_mode_of_the_umask(path):
    ordinary = path.with_name("ordinary")
    ordinary.touch()
    target = path.with_name("out.onnx")
    with candidate(read(path), {}, target) as made:
        made.publish()
    assert target.stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, RuntimeError, None])
def test_what_is_not_published_is_removed(path, ending):
    before = path.read_bytes()
    try:
        with candidate(read(path), EDITS, path):
            if ending is not None:
                raise ending
    except (SystemExit, KeyboardInterrupt, RuntimeError):
        assert ending is not None
    assert path.read_bytes() == before
    assert names(path.parent) == ["m.onnx"]


@pytest.mark.parametrize("failing", ["replace", "fsync", "chmod"])
def test_a_failing_publish_leaves_the_old_file(path, monkeypatch, failing):
    def fails(*_args, **_options):
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    model = read(path)
    with candidate(model, EDITS, path) as made, monkeypatch.context() as patch:
        patch.setattr(os, failing, fails)
        with pytest.raises(CannotWrite, match="cannot be written: No space left on device"):
            made.publish()
    assert path.read_bytes() == before
    assert names(path.parent) == ["m.onnx"]


def test_data_that_fail_while_they_are_written_leave_nothing(path):
    def blocks():
        yield b"1234"
        raise OSError(5, "Input/output error")

    new = NewTensor(TensorProto(name="n", dims=[2], data_type=1), 8, blocks)
    edits = {MAIN: GraphEdit(added_initializers=(new,))}
    with pytest.raises(CannotWrite, match="Input/output error"), candidate(read(path), edits, path):
        pass
    assert names(path.parent) == ["m.onnx"]


def test_targets_that_cannot_be_written(path):
    model = read(path)
    (path.parent / "link.onnx").symlink_to(path)
    (path.parent / "folder").mkdir()
    targets = {
        "folder": "is a folder",
        "missing/out.onnx": "there is no folder",
        "m.onnx/out.onnx": "there is no folder",
        "link.onnx": "is a symbolic link",
        "x" * 300: "File name too long",
    }
    for name, sentence in targets.items():
        with pytest.raises(CannotWrite, match=sentence), candidate(model, {}, path.parent / name):
            pass
    assert names(path.parent) == ["folder", "link.onnx", "m.onnx"]


def test_a_folder_that_may_not_be_written(path):
    model = read(path)
    folder = path.parent / "closed"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(CannotWrite, match="Permission denied"), candidate(model, {}, folder / "out.onnx"):
        pass


REWRITE = """
import sys
from pathlib import Path
import numpy as np
from bnfold.model import Address, GraphEdit, NewTensor, candidate, read
path = Path(sys.argv[1])
print("ready", flush=True)
for value in range(10**6):
    model = read(path)
    new = NewTensor.of("large", np.full(3_000_000, value, np.float32))
    with candidate(model, {Address(): GraphEdit(initializers={0: (new,)})}, path) as made:
        made.publish()
"""


def test_kill_at_any_moment_leaves_a_complete_model(tmp_path):
    path = tmp_path / "m.onnx"
    model = example()
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.output[0].name = "x"
    start = NewTensor.of("large", np.full(3_000_000, -1, np.float32))
    model.graph.initializer.append(full(start))
    path.write_bytes(model.SerializeToString())
    rng = random.Random(0)
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", REWRITE, path], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.4))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        array = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
        assert array.shape == (3_000_000,)
        assert (array == array[0]).all()


# External data.


@pytest.fixture
def external(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "m.onnx"
    with_external(example(), file)
    return file


NEW = NewTensor.of("large", np.arange(5000, dtype=np.float64))
REPLACED = {MAIN: GraphEdit(initializers={2: (NEW,)}, nodes={0: NodeEdit(inputs=("x", "b"))})}


def test_external_data_are_written_to_one_file_beside_the_target(external, tmp_path):
    model = read(external)
    assert model.data_files == (external.with_name("m.onnx.data"),)
    target = tmp_path / "out.onnx"
    with candidate(model, REPLACED, target) as made:
        assert made.data_path == tmp_path / "out.onnx.data"
        assert read(made.path).array(read(made.path).proto.graph.initializer[2]).shape == (5000,)
        made.publish()
    assert names(tmp_path) == ["in", "out.onnx", "out.onnx.data"]
    assert loaded(target) == edited(example(), REPLACED)
    assert read(target).proto.graph.initializer[2].data_location == TensorProto.EXTERNAL


def test_without_edits_in_the_same_folder_the_data_file_is_shared(external):
    target = external.with_name("out.onnx")
    with candidate(read(external), {}, target) as made:
        assert made.data_path is None
        made.publish()
    assert target.read_bytes() == external.read_bytes()


def test_without_edits_in_another_folder_the_data_come_along(external, tmp_path):
    with candidate(read(external), {}, tmp_path / "out.onnx") as made:
        made.publish()
    assert loaded(tmp_path / "out.onnx") == loaded(external)


def test_a_taken_name_of_a_data_file_is_not_overwritten(external, tmp_path):
    (tmp_path / "out.onnx.data").write_bytes(b"mine")
    for _ in range(2):
        with candidate(read(external), REPLACED, tmp_path / "out.onnx") as made:
            made.publish()
    assert (tmp_path / "out.onnx.data").read_bytes() == b"mine"
    (hashed,) = [name for name in names(tmp_path) if name.count(".") == 3]
    digest = hashlib.sha256((tmp_path / hashed).read_bytes()).hexdigest()
    assert hashed == f"out.onnx.{digest[:8]}.data"
    assert loaded(tmp_path / "out.onnx") == edited(example(), REPLACED)


def test_in_place_the_old_data_file_stays(external):
    old = external.with_name("m.onnx.data").read_bytes()
    with candidate(read(external), REPLACED, external) as made:
        made.publish()
    assert external.with_name("m.onnx.data").read_bytes() == old
    assert len(names(external.parent)) == 3
    assert loaded(external) == edited(example(), REPLACED)


def test_an_unpublished_candidate_takes_its_data_file_along(external, tmp_path):
    with candidate(read(external), REPLACED, tmp_path / "out.onnx"):
        pass
    assert names(tmp_path) == ["in"]


def test_data_that_nobody_needs_are_not_written(external, tmp_path):
    everything = {MAIN: GraphEdit(initializers=dict.fromkeys(range(3), ()), nodes=dict.fromkeys(range(5)))}
    with candidate(read(external), everything, tmp_path / "out.onnx") as made:
        made.publish()
    assert not (tmp_path / "out.onnx.data").exists() or (tmp_path / "out.onnx.data").stat().st_size < 4800


def test_the_data_file_of_the_input_is_no_target(external):
    model, data = read(external), external.with_name("m.onnx.data")
    with pytest.raises(CannotWrite, match="holds data of the model that is read"), candidate(model, {}, data):
        pass


def test_to_bytes_takes_external_data_in(external):
    model = read(external)
    for edits in ({}, REPLACED):
        inside = onnx.ModelProto.FromString(to_bytes(model, edits))
        assert inside == edited(example(), edits)


def test_tensors_that_share_data_share_them_again(tmp_path):
    path = tmp_path / "m.onnx"
    model = with_external(example(), path)
    model = onnx.load(path, load_external_data=False)
    twin = model.graph.initializer.add()
    twin.CopyFrom(model.graph.initializer[2])
    twin.name = "twin"
    path.write_bytes(model.SerializeToString())
    with candidate(read(path), EDITS, tmp_path / "out.onnx") as made:
        assert made.data_path is not None
        assert made.data_path.stat().st_size < 2 * 4800 + 4096
        made.publish()
    first, second = (t for t in onnx.load(tmp_path / "out.onnx").graph.initializer if t.name in {"large", "twin"})
    assert first.raw_data == second.raw_data
