"""The one place through which the data of tensors are read: spans of the model's own bytes or of a file beside it.

Invariant: a span is read completely or refused; a file that became shorter since the model was opened is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bnfold.errors import InputRefused
from bnfold.model.content import Content
from bnfold.model.disk import OpenFile
from bnfold.model.rope import Range, Rope, rope


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes at `offset` of `file`, or of the model's own bytes when `file` is None."""

    file: Path | None
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Storage:
    """The model's own bytes, and the files beside it."""

    content: Content = field(repr=False)

    def view(self, span: Span) -> bytes | memoryview:
        """All bytes of a span, read-only. Raises InputRefused when they cannot be read."""
        if span.file is None:
            return self.content.read(span.offset, span.offset + span.length)
        return opened(span.file).read(span.offset, span.length)

    def blocks(self, span: Span) -> Iterator[bytes | memoryview]:
        """The bytes of a span in blocks. Raises InputRefused when they cannot be read."""
        if span.file is None:
            yield from self.content.blocks(span.offset, span.offset + span.length)
        else:
            yield from opened(span.file).blocks(span.offset, span.offset + span.length)

    def rope(self, span: Span) -> Rope:
        """The bytes of a span, not read yet."""
        file = span.file
        if file is None:
            return self.content.rope(span.offset, span.offset + span.length)
        # Opened when it is read: data may lie in more files than a process may have open.
        return rope(Range(lambda: opened(file), span.offset, span.length))


def opened(file: Path) -> OpenFile:
    """A file of external data. Raises InputRefused; a link is not followed.

    The file was checked when the model was opened, and may have been swapped since.
    """
    try:
        return OpenFile(file)
    except OSError as error:
        raise InputRefused(f"{str(file)!r} cannot be read: {error.strerror}") from error


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
