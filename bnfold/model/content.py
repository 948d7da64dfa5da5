"""The bytes of a model file, wherever they are: at hand, in a file that is read by position, or a rope of such pieces.

Invariant: all three answer alike. Of a file only windows of a few kilobytes are read where its messages are walked;
what lies between is stepped over, and copied block by block when it is written.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Protocol

from bnfold.model.disk import OpenFile
from bnfold.model.rope import Blocks, Piece, Range, Rope, blocks, cut, length_of, parts_of, rope, to_bytes

HEADER_BYTES = 20
"""A tag and a number behind it have at most ten bytes each."""

_WINDOW_BYTES = 64 << 10


class Content(Protocol):
    """The bytes of a model."""

    def __len__(self) -> int:
        """How many there are."""

    def window(self, start: int) -> tuple[bytes, int]:
        """Bytes around `start`, and where they begin: at least HEADER_BYTES from `start` on, unless the end is nearer.

        What a rope makes only while it is written stands in no window.
        """

    def rope(self, start: int, end: int) -> Rope:
        """The bytes `start`..`end`, not read yet."""

    def read(self, start: int, end: int) -> bytes | memoryview:
        """The bytes `start`..`end`. Raises InputRefused where a file does not have them any more."""

    def blocks(self, start: int, end: int) -> Iterator[bytes | memoryview]:
        """The same in blocks."""

    def check_unchanged(self) -> None:
        """Raise InputRefused where they lie in a file that somebody wrote to since it was opened."""


class Held:
    """Bytes at hand."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def window(self, start: int) -> tuple[bytes, int]:
        """All of them."""
        del start
        return self.data, 0

    def rope(self, start: int, end: int) -> Rope:
        """A view of them."""
        return Rope((memoryview(self.data)[start:end],), end - start)

    def read(self, start: int, end: int) -> memoryview:
        """A view of them."""
        return memoryview(self.data)[start:end]

    def blocks(self, start: int, end: int) -> Iterator[bytes | memoryview]:
        """In blocks."""
        return blocks(self.rope(start, end))

    def check_unchanged(self) -> None:
        """Nobody can change them."""


class InFile:
    """The bytes of a file that is open. Only one thread may walk it; any may read."""

    __slots__ = ("_base", "_window", "file")

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        self._window = b""
        self._base = 0

    def __len__(self) -> int:
        return self.file.size

    def window(self, start: int) -> tuple[bytes, int]:
        """The window that was read last, or another."""
        wanted = min(start + HEADER_BYTES, self.file.size)
        if not self._base <= start <= wanted <= self._base + len(self._window):
            self._window = self.file.read(start, min(_WINDOW_BYTES, self.file.size - start))
            self._base = start
        return self._window, self._base

    def rope(self, start: int, end: int) -> Rope:
        """What lies in the window as bytes, else a range of the file."""
        if self._base <= start and end <= self._base + len(self._window):
            return rope(self._window[start - self._base : end - self._base])
        return rope(Range(self._opened, start, end - start))

    def read(self, start: int, end: int) -> bytes:
        """As one piece."""
        return self.file.read(start, end - start)

    def blocks(self, start: int, end: int) -> Iterator[bytes | memoryview]:
        """In blocks."""
        return self.file.blocks(start, end)

    def check_unchanged(self) -> None:
        """Ask the file."""
        self.file.check_unchanged()

    def _opened(self) -> OpenFile:
        return self.file


class Woven:
    """The bytes of a rope, as if they were in one piece. Of what is short, neighbours are put together first."""

    __slots__ = ("_pieces", "_sources", "_starts")

    def __init__(self, content: Rope, *sources: Content) -> None:
        self._pieces = tuple(_gathered(content.pieces))
        self._starts = [0, *accumulate(map(length_of, self._pieces))]
        self._sources = sources

    def __len__(self) -> int:
        return self._starts[-1]

    def window(self, start: int) -> tuple[bytes, int]:
        """Some bytes from `start` on, up to a piece that is not made yet."""
        found = b""
        index = bisect_right(self._starts, start) - 1
        while len(found) < HEADER_BYTES and index < len(self._pieces):
            piece = self._pieces[index]
            if isinstance(piece, Blocks):
                break
            at = start + len(found) - self._starts[index]
            part = cut(piece, at, min(length_of(piece), at + _WINDOW_BYTES))
            found += b"".join(parts_of(part))
            index += 1
        return found, start

    def rope(self, start: int, end: int) -> Rope:
        """The pieces there."""
        index = bisect_right(self._starts, start) - 1
        pieces = []
        while start < end:
            first, behind = self._starts[index], self._starts[index + 1]
            if start < behind:
                pieces.append(cut(self._pieces[index], start - first, min(end, behind) - first))
            start, index = max(start, behind), index + 1
        return rope(*pieces)

    def read(self, start: int, end: int) -> bytes:
        """As one piece."""
        return to_bytes(self.rope(start, end))

    def blocks(self, start: int, end: int) -> Iterator[bytes | memoryview]:
        """In blocks."""
        return blocks(self.rope(start, end))

    def check_unchanged(self) -> None:
        """Ask those that it is made from."""
        for source in self._sources:
            source.check_unchanged()


def _gathered(pieces: Iterable[Piece]) -> Iterator[Piece]:
    run: list[bytes | memoryview] = []
    for piece in pieces:
        if not isinstance(piece, Blocks) and length_of(piece) < _WINDOW_BYTES:
            run.extend(parts_of(piece))
            continue
        if run:
            yield b"".join(run)
            run.clear()
        yield piece
    if run:
        yield b"".join(run)
