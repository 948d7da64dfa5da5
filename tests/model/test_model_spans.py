"""A model that stays in its file is read, and written, as one of which all bytes are at hand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_builders import example, messy
from onnx import numpy_helper

from bnfold.errors import InputRefused
from bnfold.model import Address, GraphEdit, NewTensor, candidate, read, to_bytes
from bnfold.model import content as contents
from bnfold.model.content import Content, Held, InFile, Woven
from bnfold.model.disk import OpenFile
from bnfold.model.rope import Blocks, Range, Rope, blocks, rope
from bnfold.model.rope import to_bytes as rope_bytes
from bnfold.model.skeleton import skeleton
from bnfold.model.walk import Kind, patched_tensors, whole
from bnfold.model.wire import Patch, UnsureError, WireError, fields, patched
from bnfold.ops import stretches as parts

BACKEND = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data").rglob("*.onnx"))


@pytest.fixture
def in_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model stays in its file, and is walked through a window in which hardly a field fits."""
    monkeypatch.setattr("bnfold.model.source.HELD_BYTES", 0)
    monkeypatch.setattr(contents, "_WINDOW_BYTES", 48)


def copied(model: object, path: Path) -> bytes:
    with candidate(model, {}, path) as made:
        return made.path.read_bytes()


# Parsed and written back.


@pytest.mark.usefixtures("in_file")
def test_every_model_of_onnx_comes_out_byte_for_byte(tmp_path: Path) -> None:
    assert len(BACKEND) > 100
    for path in BACKEND:
        data = path.read_bytes()
        try:
            model = read(path)
        except InputRefused:
            with pytest.raises(InputRefused):
                read(data)
            continue
        assert copied(model, tmp_path / "out.onnx") == data
        assert model.sha256 == hashlib.sha256(data).hexdigest()
        assert model.proto == read(data).proto


@pytest.mark.usefixtures("in_file")
def test_tensors_that_are_put_back_leave_every_byte() -> None:
    for path in BACKEND:
        content = InFile(OpenFile(path))

        def same(field: object, content: Content = content) -> Patch:
            return Patch(field.start, field.end, content.rope(field.start, field.end))

        patches = patched_tensors(content, whole(content), Kind.MODEL, same, 0)
        assert rope_bytes(patched(content, 0, len(content), patches)) == path.read_bytes()


def seen(content: Content) -> object:
    """All that the walk makes of a message, or what it says of one that is none."""
    try:
        outermost = list(fields(content, 0, len(content)))
        return outermost, skeleton(content)
    except (WireError, InputRefused) as error:
        return str(error)


def woven(data: bytes, random: Random) -> Woven:
    """The same bytes as pieces of several kinds."""
    cuts = sorted(random.sample(range(len(data) + 1), min(6, len(data))))
    places = list(zip([0, *cuts], [*cuts, len(data)], strict=True))
    pieces = [memoryview(data)[a:b] if random.random() < 0.5 else data[a:b] for a, b in places]
    return Woven(rope(*pieces))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    place=st.integers(0, 400),
    what=st.sampled_from(["whole", "cut", "garbled", "noise"]),
)
@pytest.mark.usefixtures("in_file")
def test_wherever_the_bytes_lie_the_walk_sees_the_same(seed: int, place: int, what: str, tmp_path: Path) -> None:
    """Unknown fields, groups, over-long numbers, messages in chunks; cut off, garbled, or no message at all."""
    random = Random(seed)
    data = messy(example().SerializeToString(), random) if what != "noise" else random.randbytes(place)
    if what == "cut":
        data = data[: random.randrange(len(data))]
    if what == "garbled":
        at = random.randrange(len(data))
        data = data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
    (tmp_path / "m").write_bytes(data)
    expected = seen(Held(data))
    assert seen(InFile(OpenFile(tmp_path / "m"))) == expected
    assert seen(woven(data, random)) == expected


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
@pytest.mark.usefixtures("in_file")
def test_an_edit_of_a_file_is_that_of_its_bytes(seed: int, tmp_path: Path) -> None:
    data = messy(example().SerializeToString(), Random(seed))
    (tmp_path / "m.onnx").write_bytes(data)
    new = NewTensor.of("large", np.arange(600.0).reshape(20, 30))
    place = next(i for i, t in enumerate(read(data).proto.graph.initializer) if t.name == "large")
    edits = {Address(): GraphEdit(initializers={place: (new,)})}
    model = read(tmp_path / "m.onnx")
    assert to_bytes(model, edits) == to_bytes(read(data), edits)
    assert copied(model, tmp_path / "out.onnx") == data


def test_a_graph_given_twice_is_merged_by_protobuf_alone(in_file: None, tmp_path: Path) -> None:
    """It takes the plain path: nothing is left out, and nothing is guessed."""
    del in_file
    model, more = example(), onnx.ModelProto()
    more.graph.doc_string = "further"
    data = model.SerializeToString() + more.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    found = read(tmp_path / "m.onnx")
    assert found.proto == onnx.ModelProto.FromString(data)
    with pytest.raises(UnsureError):
        patched_tensors(Held(data), whole(Held(data)), Kind.MODEL, lambda _field: None, 0)
    assert copied(found, tmp_path / "out.onnx") == data


def test_pieces_of_a_rope_are_read_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(range(200)))
    file = OpenFile(tmp_path / "f")
    made = Blocks(6, lambda: (b"abc", b"def"))
    whole_of_it = rope(b"01", Range(lambda: file, 100, 80), made, memoryview(b"xyz"))
    data = rope_bytes(whole_of_it)
    weave = Woven(whole_of_it)
    for start in range(len(data)):
        assert rope_bytes(weave.rope(start, len(data))) == data[start:]
        assert bytes(weave.read(start, min(len(data), start + 9))) == data[start : start + 9]
    assert b"".join(blocks(whole_of_it)) == data
    with pytest.raises(ValueError, match="6 bytes of data were announced and 3 bytes came"):
        rope_bytes(Rope((Blocks(6, lambda: (b"abc",)),), 6))


# What is not the file that was opened.


def large(folder: Path) -> Path:
    model = example()
    model.graph.initializer.append(numpy_helper.from_array(np.ones((400, 400)), "huge"))
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def written_to(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"something else")
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(("change", "said"), [(shorter, "became shorter"), (written_to, "was written to")])
def test_a_file_that_changes_before_it_is_written_is_refused(
    in_file: None, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    del in_file
    path = large(tmp_path)
    model = read(path)
    change(path)
    with pytest.raises(InputRefused, match=said), candidate(model, {}, tmp_path / "out.onnx"):
        pytest.fail("a candidate was made")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.usefixtures("in_file")
def test_a_file_that_is_replaced_is_still_the_one_that_was_opened(tmp_path: Path) -> None:
    path = large(tmp_path)
    data = path.read_bytes()
    model = read(path)
    (tmp_path / "new").write_bytes(b"")
    (tmp_path / "new").replace(path)
    assert to_bytes(model, {}) == data


@pytest.mark.usefixtures("in_file")
@pytest.mark.parametrize("missing", [1, 5, 100_000, 1_270_000])
def test_a_file_that_is_cut_off_is_refused_before_anything_is_read(tmp_path: Path, missing: int) -> None:
    path = large(tmp_path)
    os.truncate(path, path.stat().st_size - missing)
    with pytest.raises(InputRefused, match="is truncated or broken"):
        read(path)


# A weight, part by part.


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data())
def test_parts_cover_an_array_in_its_order(dims: list[int], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(dims) - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "STRETCH", data.draw(st.integers(1, 30)))
        array = np.arange(np.prod(dims)).reshape(dims)
        channel = np.broadcast_to(np.arange(dims[axis]).reshape(-1, *[1] * (len(dims) - 1 - axis)), dims).reshape(-1)
        found = 0
        for start, shape, along in parts.stretches(tuple(dims), axis):
            assert start == found
            found += int(np.prod(shape))
            assert np.prod(shape) <= parts.STRETCH
            part = array.reshape(-1)[start:found].reshape(shape)
            ours = np.broadcast_to(np.arange(dims[axis])[along, np.newaxis], shape).reshape(-1)
            assert np.array_equal(channel[part.reshape(-1)], ours)
        assert found == array.size
