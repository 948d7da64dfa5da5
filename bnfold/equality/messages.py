"""Whether two protobuf messages say the same, wherever the data of their tensors lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from google.protobuf.message import Message  # type: ignore[import-untyped]  # protobuf ships no types
from onnx import TensorProto

from bnfold.equality.claim import DeviationError
from bnfold.graph import Graph

_TYPED_DATA = tuple(f"{kind}_data" for kind in ("float", "double", "int32", "int64", "uint64", "string"))
_DATA = ("raw_data", "external_data", "data_location", *_TYPED_DATA)


def without(source: Message, names: Iterable[str]) -> Message:
    """A copy of a message without some of its fields."""
    copy = type(source)()
    for field_, value in source.ListFields():
        if field_.name in names:
            continue
        if field_.is_repeated:
            getattr(copy, field_.name).extend(value)
        elif field_.message_type is not None:
            getattr(copy, field_.name).CopyFrom(value)
        else:
            setattr(copy, field_.name, value)
    return copy


def same_message(before: Graph, after: Graph, ours: Message, theirs: Message, what: str) -> None:
    """Two messages say the same, wherever the data of their tensors lie."""
    if bare(ours) != bare(theirs):
        raise DeviationError(f"{what} differs (opsets, metadata, functions, the interface of a nested graph)")
    for a, b in zip(tensors(ours), tensors(theirs), strict=True):
        same_tensor(before, after, a, b, f"a tensor in {what}")


def bare(message: Message) -> bytes:
    """The bytes of a message, the data of its tensors left out."""
    copy = type(message)()
    copy.CopyFrom(message)
    for tensor in tensors(copy):
        for name in _DATA:
            tensor.ClearField(name)
    return bytes(copy.SerializeToString(deterministic=True))


def tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor inside a message."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field_, value in message.ListFields():
        if field_.message_type is not None:
            for entry in value if field_.is_repeated else [value]:
                yield from tensors(entry)


def same_tensor(before: Graph, after: Graph, a: TensorProto, b: TensorProto, what: str) -> None:
    """Two tensors have the same shape, type and content."""
    same_form = (list(a.dims), a.data_type) == (list(b.dims), b.data_type)
    if not same_form or not before.model.same_data(a, after.model, b):
        raise DeviationError(f"{what} changed")


def digest_of(*parts: bytes) -> bytes:
    """The SHA-256 of some parts, each with its length: other cuts of the same bytes are told apart."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()
