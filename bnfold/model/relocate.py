"""External data on their way out: gathered into one new file, or taken into the model.

Invariant: the external tensors of the written model are found by walking its bytes, so that nothing is copied that
no tensor needs, and no tensor is left that names a file of the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from onnx import TensorProto

from bnfold.model.edits import Edits, NewTensor
from bnfold.model.modelfile import ModelFile
from bnfold.model.skeleton import external_fields
from bnfold.model.splice import changes_something, check_size, inline, spliced
from bnfold.model.storage import Span
from bnfold.model.tensors import external_entries
from bnfold.model.walk import (
    TENSOR_EXTERNAL,
    TENSOR_LOCATION,
    TENSOR_RAW,
    Kind,
    patched_tensors,
    surely,
    whole,
)
from bnfold.model.wire import (
    LENGTH,
    NOTHING,
    VARINT,
    Blocks,
    Field,
    Patch,
    Rope,
    enclosed,
    fields,
    joined,
    length_field,
    number_at,
    patched,
    rope,
    to_bytes,
)

_PAGE = 4096

# Where a tensor stores data; an external one that also stores data itself has those ignored by every reader.
_STORAGE_NUMBERS = frozenset({4, 5, 6, 7, TENSOR_RAW, 10, 11, TENSOR_EXTERNAL, TENSOR_LOCATION})


@dataclass(frozen=True, slots=True)
class Relocation:
    """The bytes of a data file, and those of the model that names it `location`."""

    has_data: bool
    data: Rope
    model: Callable[[str], Rope]


def inlined(model: ModelFile, edits: Edits) -> Rope:
    """The bytes of the edited model with all external data inside."""
    plain = to_bytes(spliced(model.storage.content, model.proto, edits, inline))

    def content(tensor: TensorProto) -> Rope:
        data = _span_blocks(model, tensor)
        return length_field(TENSOR_RAW, Rope((data,), data.length))

    return _rewritten(plain, content)


def relocated(model: ModelFile, edits: Edits) -> Relocation:
    """The edited model with its external data in one file; tensors that replace external ones are external too."""
    pending: list[tuple[NewTensor, TensorProto]] = []

    def write(new: NewTensor, replaced: TensorProto | None) -> Rope:
        if replaced is None or not external_entries(replaced).get("location"):
            return inline(new)
        # For now it is marked as in a skeleton, with its position among the pending ones as offset.
        marker = external_fields("", len(pending), new.nbytes)
        pending.append((new, replaced))
        return joined([rope(new.header.SerializeToString(deterministic=True)), marker])

    plain = to_bytes(spliced(model.storage.content, model.proto, edits, write))
    layout = _Layout(model, pending)
    _rewritten(plain, layout.placed)

    def named(location: str) -> Rope:
        return _rewritten(plain, lambda tensor: external_fields(location, *layout.place_of(tensor)))

    return Relocation(bool(layout.places), joined(layout.ropes), named)


class _Layout:
    """Which data stand where in the new file. Tensors that share data in the input share them again."""

    def __init__(self, model: ModelFile, pending: list[tuple[NewTensor, TensorProto]]) -> None:
        self.model = model
        self.pending = pending
        self.places: dict[Span | int, int] = {}
        self.ropes: list[Rope] = []
        self.end = 0

    def placed(self, tensor: TensorProto) -> Rope:
        key, data, former = self.source(tensor)
        if key not in self.places:
            padding = -self.end % math.gcd(former, _PAGE)
            self.places[key] = self.end + padding
            self.ropes += [rope(bytes(padding)), Rope((data,), data.length)]
            self.end += padding + data.length
        return NOTHING

    def place_of(self, tensor: TensorProto) -> tuple[int, int]:
        key, data, _ = self.source(tensor)
        return self.places[key], data.length

    def source(self, tensor: TensorProto) -> tuple[Span | int, Blocks, int]:
        """What identifies the data, the data, and the offset they had: none becomes less aligned, up to a page."""
        entries = external_entries(tensor)
        if entries.get("location"):
            span = self.model.span(tensor)
            assert span is not None  # noqa: S101  # an external tensor with a location has a span
            return span, _span_blocks(self.model, tensor), span.offset
        index = int(entries["offset"])
        new, replaced = self.pending[index]
        return index, Blocks(new.nbytes, new.blocks), int(external_entries(replaced).get("offset", "0"))


def _span_blocks(model: ModelFile, tensor: TensorProto) -> Blocks:
    span = model.span(tensor)
    assert span is not None  # noqa: S101  # only external tensors come here
    return Blocks(span.length, lambda: model.storage.blocks(span))


def restored(data: bytes, model: ModelFile) -> Rope:
    """The bytes of a model made from the skeleton of `model`, with the payloads that the skeleton leaves out."""

    def content(tensor: TensorProto) -> Rope | None:
        if external_entries(tensor).get("location"):
            return None
        payload = _span_blocks(model, tensor)
        return length_field(TENSOR_RAW, Rope((payload,), payload.length))

    return _rewritten(data, content)


def _rewritten(data: bytes, content: Callable[[TensorProto], Rope | None]) -> Rope:
    """The model's bytes in which every external tensor has `content` instead of the fields that say where it lies.

    None leaves a tensor as it is.
    """

    def rewrite(sure: bytes) -> Rope:
        def visit(field: Field) -> Patch | None:
            return _visited(sure, field, content)

        return patched(sure, 0, len(sure), patched_tensors(sure, whole(sure), Kind.MODEL, visit, 0))

    return surely(data, rewrite)


def _visited(data: bytes, field: Field, content: Callable[[TensorProto], Rope | None]) -> Patch | None:
    parts = tuple(fields(data, field.body, field.end))
    locations = [part for part in parts if part.number == TENSOR_LOCATION and part.wire == VARINT]
    if not locations or number_at(data, locations[-1]) != TensorProto.EXTERNAL:
        return None
    tensor = TensorProto.FromString(data[field.body : field.end])
    instead = content(tensor)
    if instead is None:
        return None
    gone = [Patch(part.start, part.end, NOTHING) for part in parts if _says_where(part)]
    added = Patch(field.end, field.end, instead)
    return enclosed(data, field, patched(data, field.body, field.end, [*gone, added]))


def _says_where(part: Field) -> bool:
    return part.number in _STORAGE_NUMBERS and (part.number != TENSOR_EXTERNAL or part.wire == LENGTH)


def model_bytes(model: ModelFile, edits: Edits) -> bytes:
    """The bytes of the edited model, external data taken into it. Without edits and without those: the input's bytes.

    Raises CannotWrite beyond 2 GiB, InputRefused when external data cannot be read, ValueError for edits of what is
    not there.
    """
    if model.has_external_data:
        content = inlined(model, edits)
    elif changes_something(edits):
        content = spliced(model.storage.content, model.proto, edits, inline)
    else:
        return model.storage.content
    check_size(content)
    return to_bytes(content)
