"""A file that is read by position, in blocks: never mapped, and refused as soon as it is not the file that was opened.

Invariant: what is asked for comes completely, or InputRefused does. A file that became shorter cannot be read to the
end of a span; one that was written to in place has another time or size, and `check_unchanged` says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bnfold.errors import InputRefused

BLOCK_BYTES = 1 << 20

CAN_READ_BY_POSITION = hasattr(os, "pread")
"""Windows can neither read by position nor replace a file that is open."""

# Not on every platform; where they lack, there is nothing to ask for.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


class OpenFile:
    """One file, open until nobody holds this object. Raises OSError where it cannot be opened."""

    __slots__ = ("_descriptor", "_state", "path", "size")

    def __init__(self, path: Path, *, through_links: bool = False) -> None:
        self._descriptor = -1  # for __del__, where opening fails
        self.path = path
        self._descriptor = os.open(path, _OPEN_FLAGS | (0 if through_links else _NO_LINK))
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        self._state = status.st_size, status.st_mtime_ns

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def fileno(self) -> int:
        """The descriptor, for the operating system to copy from."""
        return self._descriptor

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start` on. Raises InputRefused where the file does not have them any more."""
        if length <= 0:
            return b""
        found = self._read(start, length)
        if len(found) == length:
            return found
        parts = [found]
        while parts[-1] and (length := length - len(parts[-1])):
            start += len(parts[-1])
            parts.append(self._read(start, length))
        if not parts[-1]:
            raise InputRefused(f"{str(self.path)!r} became shorter since the model was opened")
        return b"".join(parts)

    def blocks(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes `start`..`end` in blocks of at most BLOCK_BYTES."""
        for at in range(start, end, BLOCK_BYTES):
            yield self.read(at, min(BLOCK_BYTES, end - at))

    def check_unchanged(self) -> None:
        """Raise InputRefused where somebody wrote to the file since it was opened."""
        status = os.fstat(self._descriptor)
        if (status.st_size, status.st_mtime_ns) != self._state:
            raise InputRefused(f"{str(self.path)!r} was written to since the model was opened")

    def _read(self, start: int, length: int) -> bytes:
        try:
            if CAN_READ_BY_POSITION:
                return os.pread(self._descriptor, length, start)
            os.lseek(self._descriptor, start, os.SEEK_SET)
            return os.read(self._descriptor, length)
        except OSError as error:
            raise InputRefused(f"{str(self.path)!r} cannot be read: {error.strerror}") from error
