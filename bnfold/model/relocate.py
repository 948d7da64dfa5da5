"""External data on their way out: gathered into one new file, or taken into the model.

Invariant: the external tensors of the written model are found by walking its bytes, so that nothing is copied that
no tensor needs, and no tensor is left that names a file of the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from onnx import TensorProto

from bnfold.model.content import Content, Woven
from bnfold.model.edits import Edits, NewTensor
from bnfold.model.modelfile import ModelFile
from bnfold.model.rope import NOTHING, Blocks, Rope, joined, rope, to_bytes
from bnfold.model.skeleton import PAYLOAD_BYTES, external_fields
from bnfold.model.splice import changes_something, check_size, inline, spliced
from bnfold.model.storage import Span
from bnfold.model.tensors import external_entries
from bnfold.model.walk import (
    GRAPH_INITIALIZER,
    MODEL_GRAPH,
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
    VARINT,
    Field,
    Patch,
    enclosed,
    fields,
    length_field,
    number_at,
    patched,
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
    """The bytes of the edited model with all external data inside; without edits and without those, the input's."""
    own = model.storage.content
    plain = spliced(own, model.proto, edits, inline) if changes_something(edits) else own.rope(0, len(own))
    if not model.has_external_data:
        return plain

    def content(tensor: TensorProto) -> Rope:
        return length_field(TENSOR_RAW, _data_of(model, tensor))

    return _rewritten(Woven(plain, own), content)


def relocated(model: ModelFile, edits: Edits, *, outward: bool = False) -> Relocation:
    """The edited model with its external data in one file; tensors that replace external ones are external too.

    `outward`: so are the initializers of the main graph that hold PAYLOAD_BYTES or more. Those of nested graphs and
    the tensors in attributes stay inside, for not every reader looks for theirs beside the model.
    """
    pending: list[tuple[NewTensor, TensorProto]] = []

    def write(new: NewTensor, replaced: TensorProto | None) -> Rope:
        if replaced is None or not external_entries(replaced).get("location"):
            return inline(new)
        # For now it is marked as in a skeleton, with its position among the pending ones as offset.
        marker = external_fields("", len(pending), new.nbytes)
        pending.append((new, replaced))
        return joined([rope(new.header.SerializeToString(deterministic=True)), marker])

    own = model.storage.content
    plain = Woven(spliced(own, model.proto, edits, write), own)
    layout = _Layout(model, pending)
    _rewritten(plain, layout.placed, layout.placed_payload if outward else None)

    def named(location: str) -> Rope:
        def outside(tensor: TensorProto) -> Rope:
            return external_fields(location, *layout.place_of(tensor))

        def payload(_content: Content, field: Field) -> Rope:
            return external_fields(location, layout.places[_payload_key(field)], field.end - field.body)

        return _rewritten(plain, outside, payload if outward else None)

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
        self.place(*self.source(tensor))
        return NOTHING

    def placed_payload(self, content: Content, field: Field) -> Rope:
        self.place(_payload_key(field), content.rope(field.body, field.end), 0)
        return NOTHING

    def place(self, key: Span | int, data: Rope, former: int) -> None:
        """Give data their place; at least as aligned as at their former offset, up to a page."""
        if key in self.places:
            return
        padding = -self.end % math.gcd(former, _PAGE)
        self.places[key] = self.end + padding
        self.ropes += [rope(bytes(padding)), data]
        self.end += padding + data.length

    def place_of(self, tensor: TensorProto) -> tuple[int, int]:
        key, data, _ = self.source(tensor)
        return self.places[key], data.length

    def source(self, tensor: TensorProto) -> tuple[Span | int, Rope, int]:
        """What identifies the data, the data, and the offset they had."""
        entries = external_entries(tensor)
        if entries.get("location"):
            span = self.model.span(tensor)
            assert span is not None  # noqa: S101  # an external tensor with a location has a span
            return span, self.model.storage.rope(span), span.offset
        index = int(entries["offset"])
        new, replaced = self.pending[index]
        data = Rope((Blocks(new.nbytes, new.blocks),), new.nbytes)
        return index, data, int(external_entries(replaced).get("offset", "0"))


def _payload_key(field: Field) -> Span:
    return Span(None, field.body, field.end - field.body)


def _data_of(model: ModelFile, tensor: TensorProto) -> Rope:
    span = model.span(tensor)
    assert span is not None  # noqa: S101  # only external tensors come here
    return model.storage.rope(span)


def restored(data: Content, model: ModelFile) -> Rope:
    """The bytes of a model made from the skeleton of `model`, with the payloads that the skeleton leaves out."""

    def content(tensor: TensorProto) -> Rope | None:
        if external_entries(tensor).get("location"):
            return None
        return length_field(TENSOR_RAW, _data_of(model, tensor))

    return _rewritten(data, content)


Outside = Callable[[TensorProto], Rope | None]
"""What an external tensor is to have instead of the fields that say where it lies; None leaves it as it is."""

Inside = Callable[[Content, Field], Rope]
"""What an initializer of the main graph is to have instead of its raw_data, the field that is given."""


def _rewritten(data: Content, outside: Outside, inside: Inside | None = None) -> Rope:
    """The model's bytes with its tensors rewritten."""

    def rewrite(sure: Content) -> Rope:
        own = frozenset(_main_initializers(sure)) if inside is not None else frozenset[int]()

        def visit(field: Field) -> Patch | None:
            return _visited(sure, field, outside, inside if field.start in own else None)

        return patched(sure, 0, len(sure), patched_tensors(sure, whole(sure), Kind.MODEL, visit, 0))

    return surely(data, rewrite)


def _main_initializers(data: Content) -> Iterator[int]:
    """Where the initializers of the main graph begin."""
    for graph in (part for part in fields(data, 0, len(data)) if (part.number, part.wire) == (MODEL_GRAPH, LENGTH)):
        inner = fields(data, graph.body, graph.end)
        yield from (part.start for part in inner if (part.number, part.wire) == (GRAPH_INITIALIZER, LENGTH))


def _visited(data: Content, field: Field, outside: Outside, inside: Inside | None) -> Patch | None:
    parts = tuple(fields(data, field.body, field.end))
    locations = [part for part in parts if part.number == TENSOR_LOCATION and part.wire == VARINT]
    if not locations or number_at(data, locations[-1]) != TensorProto.EXTERNAL:
        return None if inside is None else _moved_out(data, field, parts, inside)
    instead = outside(TensorProto.FromString(bytes(data.read(field.body, field.end))))
    if instead is None:
        return None
    gone = [Patch(part.start, part.end, NOTHING) for part in parts if _says_where(part)]
    added = Patch(field.end, field.end, instead)
    return enclosed(data, field, patched(data, field.body, field.end, [*gone, added]))


def _moved_out(data: Content, field: Field, parts: Sequence[Field], inside: Inside) -> Patch | None:
    """An initializer whose large raw_data, if that is how it stores its data, lie elsewhere."""
    stored = [part for part in parts if part.number in _STORAGE_NUMBERS]
    if len(stored) != 1 or (stored[0].number, stored[0].wire) != (TENSOR_RAW, LENGTH):
        return None
    payload = stored[0]
    if payload.end - payload.body < PAYLOAD_BYTES:
        return None
    moved = Patch(payload.start, payload.end, inside(data, payload))
    return enclosed(data, field, patched(data, field.body, field.end, [moved]))


def _says_where(part: Field) -> bool:
    return part.number in _STORAGE_NUMBERS and (part.number != TENSOR_EXTERNAL or part.wire == LENGTH)


def model_bytes(model: ModelFile, edits: Edits) -> bytes:
    """The bytes of the edited model, external data taken into it. Without edits and without those: the input's bytes.

    Raises CannotWrite beyond 2 GiB, InputRefused when external data cannot be read, ValueError for edits of what is
    not there.
    """
    content = inlined(model, edits)
    check_size(content)
    data = to_bytes(content)
    model.storage.content.check_unchanged()
    return data
