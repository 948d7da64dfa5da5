"""A model file without the large payloads of its tensors, small enough to be parsed as a protobuf.

Invariant: the skeleton differs from the file only in tensors whose inline raw_data has at least PAYLOAD_BYTES; those
are marked as external data with the empty location, which no valid file has, at their offset in the file.
"""

from __future__ import annotations

from onnx import TensorProto

from bnfold.model.content import Content
from bnfold.model.rope import Rope, joined, rope, to_bytes
from bnfold.model.walk import TENSOR_EXTERNAL, TENSOR_LOCATION, TENSOR_RAW, Kind, patched_tensors, whole
from bnfold.model.wire import (
    LENGTH,
    Field,
    Patch,
    UnsureError,
    enclosed,
    encoded_varint,
    fields,
    length_field,
    patched,
)

PAYLOAD_BYTES = 1024

# float_data, int32_data, string_data, int64_data, double_data, uint64_data
_TYPED_NUMBERS = frozenset({4, 5, 6, 7, 10, 11})


def skeleton(data: Content) -> tuple[bytes, dict[int, int]]:
    """The bytes of the skeleton, and offset -> length of each payload that it leaves out.

    A file in an encoding that only protobuf merges is its own skeleton. Raises WireError, InputRefused.
    """
    left_out: dict[int, int] = {}

    def visit(field: Field) -> Patch | None:
        payload = _payload(data, field)
        if payload is None:
            return None
        return _without(data, field, payload, left_out)

    try:
        patches = patched_tensors(data, whole(data), Kind.MODEL, visit, PAYLOAD_BYTES)
    except UnsureError:
        return bytes(data.read(0, len(data))), {}
    return to_bytes(patched(data, 0, len(data), patches)), left_out


def _payload(data: Content, tensor: Field) -> Field | None:
    found: Field | None = None
    for part in fields(data, tensor.body, tensor.end):
        if part.number in _TYPED_NUMBERS or part.number in {TENSOR_EXTERNAL, TENSOR_LOCATION}:
            return None
        if part.number == TENSOR_RAW and part.wire == LENGTH:
            if found is not None:
                return None
            found = part
    return found if found is not None and found.end - found.body >= PAYLOAD_BYTES else None


def _without(data: Content, tensor: Field, payload: Field, left_out: dict[int, int]) -> Patch:
    offset, length = payload.body, payload.end - payload.body
    left_out[offset] = length
    marker = Patch(payload.start, payload.end, external_fields("", offset, length))
    return enclosed(data, tensor, patched(data, tensor.body, tensor.end, [marker]))


def external_fields(location: str, offset: int, length: int) -> Rope:
    """The fields of a TensorProto that say where its external data lie."""
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    listed = [length_field(TENSOR_EXTERNAL, _entry(key, value)) for key, value in entries.items()]
    return joined([*listed, rope(_LOCATION_EXTERNAL)])


_LOCATION_EXTERNAL = encoded_varint(TENSOR_LOCATION << 3) + encoded_varint(TensorProto.EXTERNAL)


def _entry(key: str, value: str) -> Rope:
    return joined([length_field(1, key.encode()), length_field(2, value.encode())])
