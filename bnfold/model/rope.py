"""Bytes that were not concatenated yet: some at hand, some in files, some that are made only while they are written.

Invariant: the length of every piece is known before any of its bytes is; bytes of another number are a ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bnfold.model.disk import BLOCK_BYTES, OpenFile

_GATHERED_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Blocks:
    """`length` bytes that are made only while they are written."""

    length: int
    produce: Callable[[], Iterable[bytes | memoryview]]


@dataclass(frozen=True, slots=True)
class Range:
    """`length` bytes of a file, from `start` on; `open` gives the file."""

    open: Callable[[], OpenFile]
    start: int
    length: int

    def blocks(self) -> Iterator[bytes]:
        """Its bytes in blocks."""
        return self.open().blocks(self.start, self.start + self.length)


Piece = bytes | memoryview | Blocks | Range


@dataclass(frozen=True, slots=True)
class Rope:
    """Pieces in a row; `length` is their total in bytes."""

    pieces: tuple[Piece, ...]
    length: int


NOTHING = Rope((), 0)


def length_of(piece: Piece) -> int:
    """How many bytes a piece has."""
    return piece.length if isinstance(piece, Blocks | Range) else len(piece)


def rope(*pieces: Piece) -> Rope:
    """One rope of these pieces, in this order."""
    return Rope(pieces, sum(map(length_of, pieces)))


def joined(ropes: Iterable[Rope]) -> Rope:
    """One rope of several, in this order."""
    pieces: list[Piece] = []
    length = 0
    for one in ropes:
        pieces.extend(one.pieces)
        length += one.length
    return Rope(tuple(pieces), length)


def cut(piece: Piece, start: int, end: int) -> Piece:
    """The bytes `start`..`end` of a piece."""
    if isinstance(piece, Range):
        return Range(piece.open, piece.start + start, end - start)
    if not isinstance(piece, Blocks):
        return memoryview(piece)[start:end]
    if (start, end) == (0, piece.length):
        return piece
    return Blocks(end - start, lambda: _some(piece, start, end))


def _some(piece: Blocks, start: int, end: int) -> Iterator[memoryview]:
    at = 0
    for part in parts_of(piece):
        yield memoryview(part)[max(0, start - at) : max(0, end - at)]
        at += len(part)


def blocks(content: Rope) -> Iterator[bytes | memoryview]:
    """The bytes of a rope in blocks of at most BLOCK_BYTES; small neighbours come as one block."""
    gathered: list[bytes | memoryview] = []
    size = 0
    for piece in content.pieces:
        for part in parts_of(piece) if isinstance(piece, Blocks | Range) else (piece,):
            length = len(part)
            if length < _GATHERED_BYTES:
                gathered.append(part)
                size += length
            if size and (size >= BLOCK_BYTES or length >= _GATHERED_BYTES):
                yield b"".join(gathered)
                gathered.clear()
                size = 0
            if length >= _GATHERED_BYTES:
                yield from (part[at : at + BLOCK_BYTES] for at in range(0, length, BLOCK_BYTES))
    if size:
        yield b"".join(gathered)


def to_bytes(content: Rope) -> bytes:
    """The bytes of a rope in one piece."""
    return b"".join(part for piece in content.pieces for part in parts_of(piece))


def parts_of(piece: Piece) -> Iterator[bytes | memoryview]:
    """The bytes of a piece, as they come."""
    if isinstance(piece, Range):
        yield from piece.blocks()
        return
    if not isinstance(piece, Blocks):
        yield piece
        return
    length = 0
    for block in piece.produce():
        part = memoryview(block).cast("B")
        length += len(part)
        yield part
    # The length stands before the data in the file: other data would silently shift all that follows.
    if length != piece.length:
        raise ValueError(f"{piece.length} bytes of data were announced and {length} bytes came")
