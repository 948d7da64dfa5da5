"""The frames between bnfold and the child process that runs onnxruntime.

A frame is four magic bytes, the length of a JSON header as four little-endian bytes, the header, then the raw bytes of
each array in the header's order. The header gives each array's dtype by name and its shape, so a reader knows every
length before it reads, and nothing in a frame is ever executed (no pickle). Strings travel inside the header.
"""

from __future__ import annotations

import json
import math
import re
import struct
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

Header = dict[str, object]

PIECE: Final = "the piece of a model that is to be run"
"""The array of a request that holds a serialised model."""

_MAGIC: Final = b"BNF1"
_PREFIX: Final = struct.Struct("<4sI")
_MOST_HEADER_BYTES: Final = 1 << 28
_NATIVE: Final = re.compile("bool|u?int(8|16|32|64)|float(16|32|64)|complex(64|128)")
_STRING: Final = "string"


class BrokenFrame(Exception):
    """What arrived is no frame: the other side wrote something else, or died while writing."""


def dtype_called(name: str) -> np.dtype[np.generic]:
    """The numpy dtype of a name; bfloat16 and the 8-bit floats come from ml_dtypes. Raises `BrokenFrame`."""
    if _NATIVE.fullmatch(name):
        return np.dtype(name)
    # Late: few models need it, and the child starts faster without it.
    import ml_dtypes  # noqa: PLC0415  # as said above

    scalar = getattr(ml_dtypes, name, None) if name.startswith(("bfloat", "float8")) else None
    if scalar is None:
        raise BrokenFrame(f"no array type is called {name!r}")
    dtype: np.dtype[np.generic] = np.dtype(scalar)
    return dtype


def send(stream: BinaryIO, header: Mapping[str, object], arrays: Mapping[str, np.ndarray]) -> None:
    """Write one frame and flush it. Raises OSError when the other side is gone."""
    # No ascontiguousarray here: it would make a scalar one-dimensional.
    packed = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    described = [_described(name, value) for name, value in packed.items()]
    encoded = json.dumps({**header, "arrays": described}).encode()
    stream.write(_PREFIX.pack(_MAGIC, len(encoded)))
    stream.write(encoded)
    for value in packed.values():
        if value.dtype.kind not in "OUS" and value.size:
            stream.write(value.reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[Header, dict[str, np.ndarray]]:
    """Read one frame. Raises EOFError at the end of the stream, `BrokenFrame` for anything that is no frame."""
    prefix = stream.read(_PREFIX.size)
    if not prefix:
        raise EOFError
    if len(prefix) < _PREFIX.size:
        raise BrokenFrame("a frame ends early")
    magic, length = _PREFIX.unpack(prefix)
    if magic != _MAGIC or length > _MOST_HEADER_BYTES:
        raise BrokenFrame("a frame does not begin as one")
    header = _parsed(stream.read(length))
    described = header.pop("arrays", None)
    if not isinstance(described, list):
        raise BrokenFrame("a frame does not list its arrays")
    return header, dict(_read_array(stream, entry) for entry in described)


def _described(name: str, value: np.ndarray) -> dict[str, object]:
    shape = list(value.shape)
    if value.dtype.kind in "OUS":
        strings = [str(element) for element in value.reshape(-1)]
        return {"name": name, "dtype": _STRING, "shape": shape, "values": strings}
    return {"name": name, "dtype": value.dtype.name, "shape": shape}


def _parsed(encoded: bytes) -> Header:
    try:
        header = json.loads(encoded)
    except ValueError as error:
        raise BrokenFrame("a frame's header is no JSON") from error
    if not isinstance(header, dict):
        raise BrokenFrame("a frame's header is no object")
    return header


def _read_array(stream: BinaryIO, entry: object) -> tuple[str, np.ndarray]:
    if not isinstance(entry, dict):
        raise BrokenFrame("an array is not described")
    name, kind, shape = entry.get("name"), entry.get("dtype"), entry.get("shape")
    if not (isinstance(name, str) and isinstance(kind, str) and isinstance(shape, list)):
        raise BrokenFrame("an array is not described")
    if not all(isinstance(length, int) and length >= 0 for length in shape):
        raise BrokenFrame("an array has no shape")
    if kind == _STRING:
        return name, _strings(entry.get("values"), shape)
    return name, _filled(stream, dtype_called(kind), shape)


def _strings(values: object, shape: list[int]) -> np.ndarray:
    if not isinstance(values, list) or len(values) != math.prod(shape):
        raise BrokenFrame("strings do not fill their shape")
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def _filled(stream: BinaryIO, dtype: np.dtype[np.generic], shape: list[int]) -> np.ndarray:
    array = np.empty(math.prod(shape), dtype=dtype)
    if not array.size:
        return array.reshape(shape)
    target = array.view(np.uint8).data
    filled = 0
    while filled < len(target):
        # `readinto` is what every buffered binary stream has; BinaryIO alone does not promise it.
        count = stream.readinto(target[filled:])  # type: ignore[attr-defined]  # as said above
        if not count:
            raise BrokenFrame("a frame ends early")
        filled += count
    return array.reshape(shape)
