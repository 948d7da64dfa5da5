"""Protobuf's wire format, just deep enough to find fields and to put other bytes in their place.

Invariant: a `Rope` that is made from a message holds the message's own bytes everywhere outside its patches; only
the length prefixes around a patch are written anew. Unknown fields, wire types that a field's declaration does not
expect (protobuf reads those as unknown fields), groups and over-long varints are stepped over, never interpreted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bnfold.model.content import HEADER_BYTES, Content
from bnfold.model.rope import Piece, Rope, rope

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)

# Protobuf's own limit of one message.
MOST_BYTES = 2**31 - 1


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


class Patch(NamedTuple):
    """The bytes `start`..`end` of a message are to become `content`."""

    start: int
    end: int
    content: Rope


def varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """The number at `position` and the position behind it. Raises WireError beyond `end` or beyond ten bytes."""
    if position < end and data[position] < 0x80:  # as most are
        return data[position], position + 1
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


_ONE_BYTE = tuple(bytes((value,)) for value in range(0x80))


def encoded_varint(value: int) -> bytes:
    """The shortest encoding of a number >= 0."""
    if value <= 0x7F:
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(data: Content, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in `start`..`end`, in file order. Raises WireError where there is no field.

    Of a length-delimited field only the length is looked at: its content may lie in a file and stay there.
    """
    position = start
    window, base = data.window(start)
    reach = base + len(window)
    last = min(end, reach) - base
    while position < end:
        if position + HEADER_BYTES > reach:
            window, base = data.window(position)
            reach = base + len(window)
            last = min(end, reach) - base
        begin = at = position - base
        tag = window[at]
        at += 1
        if tag > 0x7F:
            tag, at = varint(window, begin, last)
        if tag < 8:
            raise WireError("a field has the number 0")
        body = at
        if tag & 7 == LENGTH:
            length, body = varint(window, at, last)
            position = base + body + length
        elif tag & 7 == GROUP:
            position = _behind_group(data, tag, base + body, end)
        else:
            position = base + _behind(window, tag, body, last)
        if position > end:
            raise WireError("a field reaches beyond the end", truncated=True)
        yield Field(tag >> 3, tag & 7, base + begin, base + body, position)


def _behind(window: bytes, tag: int, position: int, end: int) -> int:
    wire = tag & 7
    if wire == VARINT:
        return varint(window, position, end)[1]
    if wire == FIXED64:
        return position + 8
    if wire == FIXED32:
        return position + 4
    raise WireError("a field has no known wire type")


def _behind_group(data: Content, tag: int, position: int, end: int) -> int:
    open_groups = [tag >> 3]
    while open_groups:
        if position >= end:
            raise WireError("a group does not end", truncated=True)
        window, base = data.window(position)
        last = min(end - base, len(window))
        tag, at = varint(window, position - base, last)
        wire = tag & 7
        if wire == GROUP:
            open_groups.append(tag >> 3)
        elif wire == END_GROUP:
            if open_groups.pop() != tag >> 3:
                raise WireError("a group ends that did not begin")
        elif wire == LENGTH:
            length, at = varint(window, at, last)
            at += length
        else:
            at = _behind(window, tag, at, last)
        position = base + at
    return position


def number_at(data: Content, field: Field) -> int:
    """The value of a varint field, as an unsigned 64-bit number."""
    window, base = data.window(field.body)
    return varint(window, field.body - base, field.end - base)[0]


def length_field(number: int, content: bytes | Rope) -> Rope:
    """A new length-delimited field."""
    if isinstance(content, bytes):
        return rope(text_field(number, content))
    prefix = encoded_varint(number << 3 | LENGTH) + encoded_varint(content.length)
    return Rope((prefix, *content.pieces), len(prefix) + content.length)


def text_field(number: int, content: bytes) -> bytes:
    """The same, of bytes that are at hand."""
    return encoded_varint(number << 3 | LENGTH) + encoded_varint(len(content)) + content


def patched(data: Content, start: int, end: int, patches: Iterable[Patch]) -> Rope:
    """The bytes `start`..`end` with the patches in them, which are in order and do not overlap."""
    pieces: list[Piece] = []
    length = end - start
    position = start
    for patch in patches:
        if patch.start > position:
            pieces.extend(data.rope(position, patch.start).pieces)
        pieces.extend(patch.content.pieces)
        length += patch.content.length - (patch.end - patch.start)
        position = patch.end
    if end > position:
        pieces.extend(data.rope(position, end).pieces)
    return Rope(tuple(pieces), length)


def enclosed(data: Content, field: Field, content: Rope) -> Patch:
    """The patch that gives a length-delimited field another content; the bytes of its tag stay."""
    window, base = data.window(field.start)
    begin = field.start - base
    _, behind_tag = varint(window, begin, min(field.end - base, len(window)))
    prefix = window[begin:behind_tag] + encoded_varint(content.length)
    return Patch(field.start, field.end, Rope((prefix, *content.pieces), len(prefix) + content.length))
