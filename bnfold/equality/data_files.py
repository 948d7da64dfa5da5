"""Arrays in .npy and .npz files, read without ever executing anything in them.

A file states the sizes of its arrays before it holds them: every array's shape is checked against the bytes that are
there, and the sum of all against a limit, before any memory is taken. Pickles are refused.
"""

from __future__ import annotations

import math
import tokenize
import warnings
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Final, cast

import numpy as np
from numpy.lib import format as npy

from bnfold.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES: Final = 8 << 30
SUFFIXES: Final = (".npy", ".npz")
_LFS: Final = b"version https://git-lfs.github.com/spec/"


def arrays_of(path: Path, title: str, most: int) -> dict[str, np.ndarray]:
    """The arrays of a .npz by name, or the one of a .npy under the name "".

    `title` names the file in errors, `most` is how many bytes its arrays may take. What it is, is read from its
    content. Raises `UsageError`.
    """
    try:
        check_present(path, title)
        with path.open("rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                file.seek(0)
                return {"": _array(f"{title}: {path.name!r}", cast("IO[bytes]", file), path.stat().st_size, most)}
            file.seek(0)
            return _members(title, cast("IO[bytes]", file), most)
    except OSError as error:
        raise UsageError(f"{title}: cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise UsageError(f"{title}: is neither a .npz nor a .npy file ({error})") from error


def check_present(path: Path, title: str) -> None:
    """Raise `UsageError` for what is no regular file, or only stands for one; OSError for what cannot be read."""
    if not path.is_file():
        raise UsageError(f"{title}: is no file")
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise UsageError(f"{title}: is a Git LFS pointer; `git lfs pull` fetches the data")


def _members(title: str, file: IO[bytes], most: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > most:
            raise UsageError(f"{title}: its arrays take {total} bytes, more than the {most} that are read")
        arrays: dict[str, np.ndarray] = {}
        for member in members:
            name = member.orig_filename.removesuffix(".npy")  # the file name is cut at a NUL
            if name in arrays:
                raise UsageError(f"{title}: holds {name!r} twice")
            if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:  # numpy writes no others
                raise UsageError(f"{title}: {name!r} is compressed in a way that is not read")
            with archive.open(member) as content:
                arrays[name] = _array(f"{title}: {name!r}", content, member.file_size, most)
        return arrays


def _array(title: str, content: IO[bytes], size: int, most: int) -> np.ndarray:
    """One array of a stream of `size` bytes, once its header agrees with that size."""
    shape, fortran, dtype = _header(title, content)
    if dtype.hasobject:
        raise UsageError(f"{title} holds Python objects, which are not read")
    if dtype.subdtype is not None or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise UsageError(f"{title} is no array (its shape is {shape}, its type {dtype})")
    needed = math.prod(shape) * dtype.itemsize
    if needed > most:
        raise UsageError(f"{title} takes {needed} bytes, more than the {most} that are read")
    if needed > size:
        raise UsageError(f"{title} says it takes {needed} bytes, but there are {size}")
    values = np.frombuffer(content.read(needed), dtype=np.uint8)
    if values.size < needed:
        raise UsageError(f"{title} ends early")
    return values.view(dtype).reshape(shape, order="F" if fortran else "C")


def _header(title: str, content: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    # A header is a Python literal: what the parser of literals says of a crafted one is of many kinds.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers that Python 2 wrote
            version = npy.read_magic(content)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            return header(content)
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{title} is no array ({reason})") from error
