"""A rope on its way into a file: what is untouched is copied by the operating system, the rest is written in blocks.

What is hashed has to be read anyway, and is then written from where it was read.
"""

from __future__ import annotations

import errno
import os
from io import FileIO
from pathlib import Path

from bnfold.model.ahead import made_ahead
from bnfold.model.disk import BLOCK_BYTES
from bnfold.model.hashing import Digest
from bnfold.model.rope import Range, Rope, blocks, length_of, parts_of, rope

_WORTH_A_CALL = 64 << 10
_CANNOT_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY}


def write_hashed(path: Path, content: Rope) -> str:
    """Write a rope to a file, which is replaced; the SHA-256 (hex) of its bytes."""
    with path.open("wb", buffering=0) as stream, Digest(content.length) as digest:
        for block in made_ahead(blocks(content), content.length):
            digest.update(block)
            _write_all(stream, block)
        return digest.hex()


def write_copied(path: Path, content: Rope) -> None:
    """Write a rope to a file, which is replaced, without looking at what is copied."""
    with path.open("wb", buffering=0) as stream:
        for piece in content.pieces:
            if isinstance(piece, Range) and piece.length >= _WORTH_A_CALL:
                _copy(piece, stream)
                continue
            for part in made_ahead(parts_of(piece), length_of(piece)):
                _write_all(stream, part)


def _copy(piece: Range, stream: FileIO) -> None:
    file = piece.open()
    done = 0
    while done < piece.length:
        copied = _copied_by_system(file.fileno(), stream.fileno(), piece.length - done, piece.start + done)
        if not copied:  # it cannot, or the file ends: reading says which
            for block in blocks(rope(Range(lambda: file, piece.start + done, piece.length - done))):
                _write_all(stream, block)
            return
        done += copied


def _copied_by_system(source: int, target: int, length: int, offset: int) -> int:
    """How many bytes the system copied from an offset of one file to the place where the other is; 0 if it cannot."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(source, target, length, offset)
    except OSError as error:
        if error.errno in _CANNOT_COPY:
            return 0
        raise


def _write_all(stream: FileIO, block: bytes | memoryview) -> None:
    # An unbuffered write may take a part only.
    left = memoryview(block)
    while left:
        left = left[stream.write(left[:BLOCK_BYTES]) :]
