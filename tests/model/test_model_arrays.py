"""Every data type in every storage comes out as onnx's own helper reads it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from model_builders import example
from onnx import TensorProto, helper, numpy_helper

from bnfold.errors import InputRefused
from bnfold.model import Address, GraphEdit, NewTensor, Span, read, to_bytes
from bnfold.model.storage import same_bytes

TYPES = [
    number for name, number in TensorProto.DataType.items() if name not in {"UNDEFINED", "STRING"}
]  # fmt: skip


def values(data_type: int, count: int) -> np.ndarray:
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    numbers = np.arange(count) % 2
    return (numbers + 1j * numbers).astype(dtype) if dtype.kind == "c" else numbers.astype(dtype)


def holding(tensor: TensorProto) -> onnx.ModelProto:
    model = example()
    model.graph.initializer.append(tensor)
    return model


@pytest.mark.parametrize("count", [0, 1, 3, 7, 5001])
@pytest.mark.parametrize("data_type", TYPES)
def test_raw_data(data_type, count):
    array = values(data_type, count)
    tensor = numpy_helper.from_array(array, "t")
    model = read(holding(tensor))
    found = model.array(model.proto.graph.initializer[-1])
    assert found.dtype == array.dtype
    assert not found.flags.writeable
    assert found.tobytes() == numpy_helper.to_array(tensor).tobytes()
    span = model.span(model.proto.graph.initializer[-1])
    assert (span is None) == (len(tensor.raw_data) < 1024)
    new = NewTensor.of("t", array)
    assert b"".join(bytes(block) for block in new.blocks()) == tensor.raw_data
    assert new.nbytes == len(tensor.raw_data)


@pytest.mark.parametrize("count", [0, 1, 3, 7])
@pytest.mark.parametrize("data_type", TYPES)
def test_typed_data(data_type, count):
    tensor = helper.make_tensor("t", data_type, [count], values(data_type, count))
    model = read(holding(tensor))
    found = model.proto.graph.initializer[-1]
    assert model.span(found) is None
    assert model.array(found).tobytes() == numpy_helper.to_array(tensor).tobytes()


@pytest.mark.parametrize("data_type", TYPES)
def test_external_data(tmp_path, data_type):
    array = values(data_type, 40)
    path = tmp_path / "m.onnx"
    tensor = numpy_helper.from_array(array, "t")
    (tmp_path / "w").write_bytes(b"12345" + tensor.raw_data)
    length = len(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, "w", 5, length)
    tensor.ClearField("raw_data")
    path.write_bytes(holding(tensor).SerializeToString())
    model = read(path)
    found = model.proto.graph.initializer[-1]
    assert model.span(found) == Span(tmp_path / "w", 5, length)
    assert model.data_files == (tmp_path / "w",)
    assert model.array(found).tobytes() == array.tobytes()


def stored_three_ways(folder, array):
    typed = helper.make_tensor("t", TensorProto.FLOAT, [len(array)], array)
    raw = numpy_helper.from_array(array, "t")
    onnx.save_model(holding(raw), folder / "m.onnx", save_as_external_data=True, location="w", size_threshold=2000)
    models = [read(source) for source in (holding(typed), holding(raw), folder / "m.onnx")]
    return [(model, model.proto.graph.initializer[-1]) for model in models]


def test_the_same_values_are_the_same_data_in_every_storage(tmp_path):
    array = np.arange(600, dtype=np.float32)
    other = array.copy()
    other[-1] += 1
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    same, different = stored_three_ways(tmp_path / "a", array), stored_three_ways(tmp_path / "b", other)
    for model, tensor in same:
        assert all(model.same_data(tensor, *one) for one in same)
        assert not any(model.same_data(tensor, *one) for one in different)
    assert len({model.sha256_of(tensor) for model, tensor in same}) == 1


@pytest.mark.parametrize(
    ("theirs", "same"),
    [
        ([b"abcdef"], True),
        ([b"a", b"", memoryview(b"bcdef"), b""], True),
        ([b"abc", b"def"], True),
        ([b"abcde"], False),
        ([b"abcdef", b"g"], False),
        ([b"abcdeg"], False),
        ([b"xbcdef"], False),
        ([], False),
    ],
)
def test_blocks_are_compared_however_they_are_cut(theirs, same):
    assert same_bytes([b"ab", b"cdef"], theirs) is same
    assert same_bytes(theirs, [memoryview(b"abcd"), b"ef"]) is same


def test_nothing_is_the_same_as_nothing():
    assert same_bytes([], [b""])


def test_scalars_and_strings():
    scalar = numpy_helper.from_array(np.float32(3), "t")
    model = read(holding(scalar))
    assert model.array(model.proto.graph.initializer[-1]).shape == ()
    text = helper.make_tensor("t", TensorProto.STRING, [2], [b"a", b"bc"])
    model = read(holding(text))
    assert list(model.array(model.proto.graph.initializer[-1])) == ["a", "bc"]
    other = read(holding(helper.make_tensor("t", TensorProto.STRING, [2], [b"ab", b"c"])))
    found, theirs = model.proto.graph.initializer[-1], other.proto.graph.initializer[-1]
    assert model.same_data(found, model, found)
    assert not model.same_data(found, other, theirs)
    assert model.sha256_of(found) != other.sha256_of(theirs)


def test_strings_that_are_not_utf8_are_refused():
    model = read(holding(helper.make_tensor("t", TensorProto.STRING, [1], [b"\xff"])))
    with pytest.raises(InputRefused, match="the data of tensor 't' cannot be read"):
        model.array(model.proto.graph.initializer[-1])


def test_a_new_tensor_of_a_view_is_written_as_its_values():
    array = np.arange(12, dtype=np.float16).reshape(3, 4)[:, ::2].T
    edits = {Address(): GraphEdit(added_initializers=(NewTensor.of("t", array),))}
    out = onnx.ModelProto.FromString(to_bytes(read(example()), edits))
    np.testing.assert_array_equal(numpy_helper.to_array(out.graph.initializer[-1]), array)


def test_the_skeleton_holds_no_large_payload():
    model = read(example())
    marked = [t for t in model.proto.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert [t.name for t in marked] == ["large"]
    assert {e.key: e.value for e in marked[0].external_data}["location"] == ""
    assert model.proto.ByteSize() < 2048
    assert model.data_files == ()
