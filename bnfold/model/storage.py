"""The one place through which the data of tensors are read: spans of the model's bytes or of a file beside it.

Invariant: a span is read completely or refused; a file that became shorter since the model was opened is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bnfold.errors import InputRefused
from bnfold.model.wire import BLOCK_BYTES

# Not on every platform; where they lack, there is nothing to ask for.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes at `offset` of `file`, or of the model's own bytes when `file` is None."""

    file: Path | None
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Storage:
    """The model's own bytes, and the files beside it."""

    content: bytes = field(repr=False)

    def view(self, span: Span) -> bytes | memoryview:
        """All bytes of a span, read-only. Raises InputRefused when they cannot be read."""
        if span.file is None:
            return memoryview(self.content)[span.offset : span.offset + span.length]
        return b"".join(self.blocks(span))

    def blocks(self, span: Span) -> Iterator[bytes | memoryview]:
        """The bytes of a span in blocks. Raises InputRefused when they cannot be read."""
        if span.file is None:
            yield self.view(span)
            return
        try:
            yield from _file_blocks(span.file, span.offset, span.length)
        except OSError as error:
            raise InputRefused(f"{str(span.file)!r} cannot be read: {error.strerror}") from error


def _file_blocks(file: Path, offset: int, length: int) -> Iterator[bytes]:
    # Opened without following a link: the file was checked when the model was opened, and may have been swapped.
    with os.fdopen(os.open(file, _OPEN_FLAGS), "rb", buffering=0) as stream:
        stream.seek(offset)
        left = length
        while left:
            block = stream.read(min(left, BLOCK_BYTES))
            if not block:
                raise InputRefused(f"{str(file)!r} became shorter since the model was opened")
            left -= len(block)
            yield block


def same_bytes(ours: Iterable[bytes | memoryview], theirs: Iterable[bytes | memoryview]) -> bool:
    """Whether two rows of blocks are the same bytes, however they are cut."""
    one, two = iter(ours), iter(theirs)
    left, right = _next(one), _next(two)
    while left and right:
        length = min(len(left), len(right))
        # As bytes they are compared by one memcmp, as views element by element.
        if bytes(left[:length]) != bytes(right[:length]):
            return False
        left = left[length:] or _next(one)
        right = right[length:] or _next(two)
    return not left and not right


def _next(blocks: Iterator[bytes | memoryview]) -> memoryview:
    """The next block that is not empty; an empty one at the end."""
    return next((memoryview(block) for block in blocks if len(block)), memoryview(b""))
