"""A copy of a model whose data lie in a file beside it: read in blocks where the original has them, and written so.

Invariant: a few blocks at a time are in memory, and the files are there only while their `Outside` is open. Whoever
runs the copy has mapped its data by then, and needs their name no more. What a killed process leaves is removed by the
next one that makes a copy: it tells by the lock on the folder, which ended with its holder.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from onnx import ModelProto, TensorProto, helper

from bnfold.equality.perturb import perturb_constants
from bnfold.equality.prepare import SCRATCH
from bnfold.model.storage import Span
from bnfold.model.tensors import all_tensors, external_entries

try:
    import fcntl
except ImportError:  # on Windows, where an open file cannot be removed anyway
    fcntl = None  # type: ignore[assignment]  # said above

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path

    from bnfold.equality.perturb import Change
    from bnfold.model.storage import Storage

_PAGE: Final = 4096
_BLOCK: Final = 1 << 20  # bytes, and a multiple of every item's size
_ITEM: Final = 8  # bytes of the largest item that is ever changed
_GIB: Final = 1 << 30
_FRESH: Final = 60.0  # seconds


class NoRoom(Exception):
    """The copy cannot be written; one sentence."""


SpanOf = Callable[[TensorProto], Span | None]
"""Where the data of a tensor lie, None if inside it."""


def spans_in(folder: Path) -> SpanOf:
    """As external data say it themselves, each with its offset and length, in files of `folder`."""

    def span_of(tensor: TensorProto) -> Span | None:
        if tensor.data_location != TensorProto.EXTERNAL:
            return None
        entries = external_entries(tensor)
        return Span(folder / entries["location"], int(entries["offset"]), int(entries["length"]))

    return span_of


class Outside:
    """The files of a copy in `folder`, which is made for them and goes with them. A context manager.

    `span_of` says where the data of the original's tensors lie, and `storage` reads them. Entering it raises
    `NoRoom`, and so does whatever writes.
    """

    def __init__(self, folder: Path, span_of: SpanOf, storage: Storage) -> None:
        self._span_of = span_of
        self._storage = storage
        self._folder = folder
        self._model = folder / "model.onnx"
        # No name that the original could have for a file of its own.
        self._data = folder / f"{secrets.token_hex(16)}.data"
        self._stream: FileIO | None = None
        self._end = 0
        self._lock = -1

    def __enter__(self) -> Self:
        sweep(self._folder.parent)
        with _sentence():
            self._folder.mkdir(mode=0o700, exist_ok=True)
            try:
                self._lock = _locked(self._folder)
                self._stream = self._data.open("xb", buffering=0)
            except BaseException:
                self._remove()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self._remove()

    def _remove(self) -> None:
        # Where a mapped file cannot be removed (on Windows), the parent does it once this process has ended.
        with suppress(OSError):
            self._model.unlink(missing_ok=True)
            self._data.unlink(missing_ok=True)
            self._folder.rmdir()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def perturbed(self, model: ModelProto, seed: int) -> Path:
        """The model (which is changed) as a file, with its constants as `perturb_constants` moves them."""
        self._check_room(model)
        perturb_constants(model, seed, self)
        for tensor in all_tensors(model):
            outside = tensor.data_location == TensorProto.EXTERNAL
            if outside and external_entries(tensor).get("location") != self._data.name:
                self._write(tensor, (np.frombuffer(block, dtype=np.uint8) for block in self._read(tensor)))
        self._close()
        with _sentence():
            self._model.write_bytes(model.SerializeToString())
        return self._model

    def write(self, tensor: TensorProto, change: Change) -> None:
        """Write what `change` makes of the tensor's data, block by block, and let the tensor say where they lie."""
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        self._write(tensor, (change(np.frombuffer(block, dtype=dtype)).view(np.uint8) for block in self._read(tensor)))

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _check_room(self, model: ModelProto) -> None:
        needed = sum(span.length for span in map(self._span_of, all_tensors(model)) if span is not None)
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise NoRoom(
                f"a copy of its weights takes {needed / _GIB:.1f} GiB in the folder for temporary files (TMPDIR), "
                f"which has {free / _GIB:.1f} GiB free"
            )

    def _read(self, tensor: TensorProto) -> Iterator[memoryview]:
        """The tensor's data in blocks of whole items."""
        span = self._span_of(tensor)
        assert span is not None  # noqa: S101  # only tensors whose data lie outside come here
        rest = b""
        for part in self._storage.blocks(span):
            view = memoryview(rest + part) if rest else memoryview(part)
            whole = len(view) - len(view) % _ITEM
            yield from (view[start : min(start + _BLOCK, whole)] for start in range(0, whole, _BLOCK))
            rest = bytes(view[whole:])
        if rest:
            yield memoryview(rest)

    def _write(self, tensor: TensorProto, blocks: Iterator[np.ndarray]) -> None:
        assert self._stream is not None  # noqa: S101  # nobody writes what is finished
        start = self._end = self._end + -self._end % _PAGE
        for block in blocks:
            with _sentence():
                # A hole reads as zeros, and takes no room.
                if block.any():
                    self._stream.seek(self._end)
                    _write_all(self._stream, block)
            self._end += len(block)
        with _sentence():
            self._stream.truncate(self._end)
        del tensor.external_data[:]
        for key, value in (("location", self._data.name), ("offset", start), ("length", self._end - start)):
            tensor.external_data.add(key=key, value=str(value))


def sweep(parent: Path) -> None:
    """Remove the folders of copies in `parent` that nobody writes any more."""
    if fcntl is None:
        return
    for folder in parent.glob(f"{SCRATCH}*"):
        with suppress(OSError):
            # One that was just made may not be locked yet.
            if time.time() - folder.lstat().st_mtime > _FRESH:
                os.close(_locked(folder))
                shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path) -> int:
    """A descriptor that holds the lock on a folder of ours, -1 where there are no locks. Raises OSError."""
    if fcntl is None:
        return -1
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _write_all(stream: FileIO, block: np.ndarray) -> None:
    # An unbuffered write may take a part only.
    left = block.data
    while left:
        left = left[stream.write(left) :]


@contextmanager
def _sentence() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise NoRoom(f"a copy of its weights cannot be written to the folder for temporary files ({reason})") from error
