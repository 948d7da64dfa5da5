"""Where external data lie, checked by onnx's own resolver.

Invariant: no file is opened whose path onnx does not accept: below the model's folder, no link of any kind on the
way, a regular file. Only what lies inside a file is checked here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from onnx import TensorProto
from onnx.checker import ValidationError
from onnx.external_data_helper import load_external_data_for_tensor

from bnfold.errors import InputRefused
from bnfold.model.tensors import external_entries

Locations = dict[str, tuple[Path, int]]


def resolved(tensors: Iterable[TensorProto], folder: Path | None) -> Locations:
    """Location -> (path, size in bytes) of the files that these external tensors name, each file asked for once.

    Raises InputRefused for what onnx refuses, and when there is no folder because the model came without a path.
    """
    found: Locations = {}
    for tensor in tensors:
        location = external_entries(tensor).get("location", "")
        # A path ends at the first NUL for the system: what is checked would not be what is opened.
        if not location or "\0" in location:
            raise InputRefused(f"tensor {tensor.name!r} has external data and names no file")
        if folder is None:
            raise InputRefused(
                f"tensor {tensor.name!r} has external data in {location!r}; give the path of the model instead"
            )
        if location not in found:
            found[location] = _resolved(folder, location, tensor.name)
    return found


def _resolved(folder: Path, location: str, name: str) -> tuple[Path, int]:
    path = folder / location
    try:
        size = path.lstat().st_size
    except (OSError, ValueError):
        size = 0
    try:
        load_external_data_for_tensor(_probe(location, size, name), str(folder))
    except (ValidationError, ValueError, OSError) as error:
        # The message repeats the location, which may hold anything: on one line, and without control characters.
        reason = " ".join(str(error).split()).encode("unicode_escape").decode()
        raise InputRefused(f"the external data {location!r} of tensor {name!r} are refused: {reason}") from error
    return path, size


def _probe(location: str, size: int, name: str) -> TensorProto:
    # Nothing from the end of the file: onnx resolves and opens the file, and reads no byte of it.
    probe = TensorProto(name=name, data_type=TensorProto.UINT8, dims=[0], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(size)), ("length", "0")):
        probe.external_data.add(key=key, value=value)
    return probe


def check_extent(tensor: TensorProto, expected: int, locations: Locations) -> None:
    """Refuse external data that do not lie inside their file or whose length is not `expected` bytes."""
    entries = external_entries(tensor)
    path, size = locations[entries["location"]]
    offset = _number(tensor, "offset", entries.get("offset", "0"))
    length = _number(tensor, "length", entries.get("length", str(max(size - offset, 0))))
    if offset + length > size:
        raise InputRefused(
            f"the external data of tensor {tensor.name!r} reach beyond the end of {path.name!r}: "
            f"offset {offset}, length {length}, the file has {size} bytes"
        )
    if length != expected:
        raise InputRefused(
            f"the external data of tensor {tensor.name!r} have {length} bytes, its shape needs {expected}"
        )


def _number(tensor: TensorProto, key: str, text: str) -> int:
    # Longer numbers name no place in a file, and Python refuses to read very long ones.
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise InputRefused(f"the {key} {text[:40]!r} of the external data of tensor {tensor.name!r} is no number")
    return int(text)
