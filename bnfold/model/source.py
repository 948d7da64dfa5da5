"""From a path, bytes or a ModelProto to a ModelFile, or to one sentence that says why not.

Invariant: whatever the input is, the outcome is a ModelFile or InputRefused; nothing is opened that is not a regular
file, and nothing is read that is larger than allowed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from google.protobuf.message import (  # type: ignore[import-untyped]  # protobuf ships no types
    DecodeError,
    EncodeError,
)
from onnx import ModelProto, TensorProto

from bnfold.errors import InputRefused
from bnfold.model.checks import check_names, check_tensors, check_versions
from bnfold.model.content import Content, Held, InFile
from bnfold.model.disk import CAN_READ_BY_POSITION, OpenFile
from bnfold.model.external import resolved
from bnfold.model.modelfile import ModelFile
from bnfold.model.skeleton import skeleton
from bnfold.model.storage import Storage
from bnfold.model.tensors import all_tensors, external_entries
from bnfold.model.walk import Kind, patched_tensors, whole
from bnfold.model.wire import MOST_BYTES, UnsureError, WireError

_FOREIGN = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer; `git lfs pull` fetches the model"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"PK\x03\x04", "a zip archive, as PyTorch writes them, and not an ONNX model"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them, and not an ONNX model"),
)
_HTML = (b"<!doctype html", b"<html", b"<?xml")

HELD_BYTES = 4 << 20
"""A file up to this size is read at once; of a larger one the payloads stay where they are."""


def read(source: str | os.PathLike[str] | bytes | ModelProto, *, max_bytes: int | None = None) -> ModelFile:
    """Open a model. `max_bytes` limits the model file itself, external data excluded.

    Raises InputRefused, with one sentence that names the path, for everything that is not a sound ONNX model.
    """
    if isinstance(source, ModelProto):
        return _opened(Held(_serialised(source)), None, "the ModelProto", max_bytes)
    if isinstance(source, bytes):
        return _opened(Held(source), None, "the model's bytes", max_bytes)
    path = Path(source)
    title = repr(str(path))
    return _opened(_content_of(path, title, max_bytes), path, title, max_bytes)


def reopened(data: Content, path: Path | None) -> ModelFile:
    """The model of these bytes as if they lay at `path`: its external data are looked for there.

    Raises InputRefused for bytes that are no sound model; the sentence names no path.
    """
    try:
        return _checked(data, path)
    except WireError as error:
        raise InputRefused(str(error)) from error


def _serialised(model: ModelProto) -> bytes:
    try:
        data: bytes = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise InputRefused(f"the ModelProto cannot be serialised: {error}") from error
    return data


def _content_of(path: Path, title: str, max_bytes: int | None) -> Content:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputRefused(f"{title} is a folder, not a model file")
        if not stat.S_ISREG(status.st_mode):
            raise InputRefused(f"{title} is not a regular file")
        _check_size(status.st_size, title, max_bytes)
        if status.st_size <= HELD_BYTES or not CAN_READ_BY_POSITION:
            return Held(path.read_bytes())
        return InFile(OpenFile(path, through_links=True))
    except FileNotFoundError as error:
        raise InputRefused(f"{title} does not exist") from error
    except OSError as error:
        raise InputRefused(f"{title} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputRefused(f"{title} is no path: {error}") from error


def _check_size(size: int, title: str, max_bytes: int | None) -> None:
    if size == 0:
        raise InputRefused(f"{title} is empty")
    if max_bytes is not None and size > max_bytes:
        raise InputRefused(f"{title} has {size} bytes, more than the {max_bytes} that are allowed")
    if size > MOST_BYTES:
        raise InputRefused(f"{title} has {size} bytes, more than the 2 GiB that protobuf allows")


def _opened(data: Content, path: Path | None, title: str, max_bytes: int | None) -> ModelFile:
    _check_size(len(data), title, max_bytes)
    _check_foreign(data, title)
    try:
        return _checked(data, path)
    except WireError as error:
        raise InputRefused(f"{title} {_broken(data, error)}: {error}") from error
    except InputRefused as error:
        raise InputRefused(f"{title} is refused: {error}") from error


def _check_foreign(data: Content, title: str) -> None:
    head = bytes(data.read(0, min(256, len(data))))
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise InputRefused(f"{title} is {what}")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML):
        raise InputRefused(f"{title} is an HTML page, not a model")


def _broken(data: Content, error: WireError) -> str:
    # Every serialiser writes the IR version first: a file that begins with it was an ONNX model once.
    if bytes(data.read(0, 1)) != b"\x08":
        return "is not an ONNX model"
    return "is truncated or broken" if error.truncated else "is broken"


def _checked(data: Content, path: Path | None) -> ModelFile:
    light, left_out = skeleton(data)
    model = _parsed(light, data)
    check_versions(model)
    check_names(model)
    tensors = tuple(all_tensors(model))
    outside = _outside(tensors, left_out)
    folder = path.parent if path is not None else None
    locations = resolved(outside, folder)
    check_tensors(tensors, left_out, locations)
    files = tuple(dict.fromkeys(file for file, _ in locations.values()))
    return ModelFile(path, model, len(data), files, Storage(data), locations)


def _parsed(light: bytes, data: Content) -> ModelProto:
    try:
        model: ModelProto = ModelProto.FromString(light)
    except DecodeError as error:
        # protobuf gives no reason; the depth of the graphs is the one that can be found.
        with suppress(UnsureError):
            patched_tensors(data, whole(data), Kind.MODEL, lambda _field: None, 0)
        raise WireError("protobuf cannot parse it, or its messages are nested too deep") from error
    return model


def _outside(tensors: tuple[TensorProto, ...], left_out: dict[int, int]) -> list[TensorProto]:
    """The tensors whose data lie in other files; those that the skeleton marked are told apart by their offset."""
    marks = dict(left_out)
    found: list[TensorProto] = []
    for tensor in tensors:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = external_entries(tensor)
        # A file that carries the mark itself claims an offset twice, or one that is none.
        if entries.get("location") != "" or marks.pop(_offset(entries), None) is None:
            found.append(tensor)
    return found


def _offset(entries: Mapping[str, str]) -> int:
    text = entries.get("offset", "")
    return int(text) if len(text) <= 20 and text.isascii() and text.isdigit() else -1
