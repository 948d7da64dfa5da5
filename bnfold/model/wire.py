"""Protobuf's wire format, just deep enough to find fields and to put other bytes in their place.

Invariant: a `Rope` that is made from a message holds the message's own bytes everywhere outside its patches; only
the length prefixes around a patch are written anew. Unknown fields, wire types that a field's declaration does not
expect (protobuf reads those as unknown fields), groups and over-long varints are stepped over, never interpreted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)

# Protobuf's own limit of one message.
MOST_BYTES = 2**31 - 1

BLOCK_BYTES = 4 << 20
_GATHERED_BYTES = 64 << 10


class WireError(Exception):
    """The bytes are not a protobuf message; `truncated` when a field reaches beyond the end."""

    def __init__(self, sentence: str, *, truncated: bool = False) -> None:
        super().__init__(sentence)
        self.truncated = truncated


class UnsureError(Exception):
    """Valid protobuf in an encoding that splicing does not handle: a singular message in several chunks."""


class Field(NamedTuple):
    """Where one field lies: its tag at `start`, its value in `body`..`end` (of a varint: the varint itself)."""

    number: int
    wire: int
    start: int
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class Blocks:
    """`length` bytes that are made only while they are written."""

    length: int
    produce: Callable[[], Iterable[bytes | memoryview]]


Piece = bytes | memoryview | Blocks


@dataclass(frozen=True, slots=True)
class Rope:
    """Bytes that were not concatenated yet; `length` is their total."""

    pieces: tuple[Piece, ...]
    length: int


class Patch(NamedTuple):
    """The bytes `start`..`end` of a message are to become `content`."""

    start: int
    end: int
    content: Rope


NOTHING = Rope((), 0)


def rope(*pieces: Piece) -> Rope:
    """One rope of these pieces, in this order."""
    return Rope(pieces, sum(p.length if isinstance(p, Blocks) else len(p) for p in pieces))


def joined(ropes: Iterable[Rope]) -> Rope:
    """One rope of several, in this order."""
    pieces: list[Piece] = []
    for one in ropes:
        pieces.extend(one.pieces)
    return rope(*pieces)


def varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """The number at `position` and the position behind it. Raises WireError beyond `end` or beyond ten bytes."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise WireError("a number is cut off", truncated=True)
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
    raise WireError("a number has more than ten bytes")


def encoded_varint(value: int) -> bytes:
    """The shortest encoding of a number >= 0."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(data: bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in `start`..`end`, in file order. Raises WireError where there is no field."""
    position = start
    while position < end:
        begin = position
        tag = data[position]
        position += 1
        if tag > 0x7F:
            tag, position = varint(data, begin, end)
        if tag < 8:
            raise WireError("a field has the number 0")
        body = position
        if tag & 7 == LENGTH:
            length, body = varint(data, position, end)
            position = body + length
        else:
            position = _behind(data, tag, body, end)
        if position > end:
            raise WireError("a field reaches beyond the end", truncated=True)
        yield Field(tag >> 3, tag & 7, begin, body, position)


def _behind(data: bytes, tag: int, position: int, end: int) -> int:
    wire = tag & 7
    if wire == VARINT:
        return varint(data, position, end)[1]
    if wire == FIXED64:
        return position + 8
    if wire == FIXED32:
        return position + 4
    if wire == GROUP:
        return _behind_group(data, tag, position, end)
    raise WireError("a field has no known wire type")


def _behind_group(data: bytes, tag: int, position: int, end: int) -> int:
    open_groups = [tag >> 3]
    while open_groups:
        tag, position = varint(data, position, end)
        wire = tag & 7
        if wire == GROUP:
            open_groups.append(tag >> 3)
        elif wire == END_GROUP:
            if open_groups.pop() != tag >> 3:
                raise WireError("a group ends that did not begin")
        elif wire == LENGTH:
            length, position = varint(data, position, end)
            position += length
        else:
            position = _behind(data, tag, position, end)
    return position


def number_at(data: bytes, field: Field) -> int:
    """The value of a varint field, as an unsigned 64-bit number."""
    return varint(data, field.body, field.end)[0]


def length_field(number: int, content: bytes | Rope) -> Rope:
    """A new length-delimited field."""
    inner = rope(content) if isinstance(content, bytes) else content
    prefix = encoded_varint(number << 3 | LENGTH) + encoded_varint(inner.length)
    return Rope((prefix, *inner.pieces), len(prefix) + inner.length)


def patched(data: bytes, start: int, end: int, patches: Iterable[Patch]) -> Rope:
    """The bytes `start`..`end` with the patches in them, which are in order and do not overlap."""
    view = memoryview(data)
    pieces: list[Piece] = []
    length = end - start
    position = start
    for patch in patches:
        if patch.start > position:
            pieces.append(view[position : patch.start])
        pieces.extend(patch.content.pieces)
        length += patch.content.length - (patch.end - patch.start)
        position = patch.end
    if end > position:
        pieces.append(view[position:end])
    return Rope(tuple(pieces), length)


def enclosed(data: bytes, field: Field, content: Rope) -> Patch:
    """The patch that gives a length-delimited field another content; the bytes of its tag stay."""
    _, behind_tag = varint(data, field.start, field.end)
    prefix = data[field.start : behind_tag] + encoded_varint(content.length)
    return Patch(field.start, field.end, Rope((prefix, *content.pieces), len(prefix) + content.length))


def blocks(content: Rope) -> Iterator[bytes | memoryview]:
    """The bytes of a rope in blocks of at most BLOCK_BYTES; small neighbours come as one block."""
    gathered: list[bytes | memoryview] = []
    size = 0
    for part in _parts(content):
        if len(part) < _GATHERED_BYTES:
            gathered.append(part)
            size += len(part)
        if size and (size >= BLOCK_BYTES or len(part) >= _GATHERED_BYTES):
            yield b"".join(gathered)
            gathered.clear()
            size = 0
        if len(part) >= _GATHERED_BYTES:
            yield from (part[at : at + BLOCK_BYTES] for at in range(0, len(part), BLOCK_BYTES))
    if size:
        yield b"".join(gathered)


def to_bytes(content: Rope) -> bytes:
    """The bytes of a rope in one piece."""
    return b"".join(_parts(content))


def _parts(content: Rope) -> Iterator[bytes | memoryview]:
    for piece in content.pieces:
        if not isinstance(piece, Blocks):
            yield piece
            continue
        length = 0
        for block in piece.produce():
            part = memoryview(block).cast("B")
            length += len(part)
            yield part
        # The length stands before the data in the file: other data would silently shift all that follows.
        if length != piece.length:
            raise ValueError(f"{piece.length} bytes of data were announced and {length} bytes came")
