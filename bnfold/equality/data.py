"""The user's own data as batches: .npy and .npz files, read without ever executing anything in them.

A file states the sizes of its arrays before it holds them: every array's shape is checked against the bytes that are
there, and the sum of all against a limit, before any memory is taken. Pickles are refused.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, cast

import numpy as np
from numpy.lib import format as npy
from onnx import helper

from bnfold.equality.inputs import Batch, fed_inputs
from bnfold.equality.saving import is_one_batch, unforeign
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx

LABEL_NAMES: Final = ("labels", "label", "y", "targets")
MOST_BYTES: Final = 8 << 30
_FREE_BATCH: Final = 64


def data_batches(model: onnx.ModelProto, path: Path, *, seed: int = 0) -> tuple[Batch, ...]:
    """The samples of a .npz or .npy file, in the file's order, cut along axis 0 into batches.

    A .npz holds one array per graph input, by name; for a model with one input any one array will do. One called
    labels, label, y or targets that is no input holds N integer classes. A batch has as many samples as the model
    prescribes, else at most 64. Samples that do not fill a prescribed batch are left out; what `--save-counterexample`
    wrote is one batch, as it is. `seed` is not used: data are never shuffled.

    Raises `UsageError` for a file that is missing, unreadable, or does not suit the model.
    """
    del seed
    ports = {port.name: port for port in fed_inputs(model)}
    arrays = _read(path)
    labels = next((arrays.pop(name) for name in LABEL_NAMES if name in arrays and name not in ports), None)
    feeds = _matched(path, ports, arrays)
    notes: list[str] = []
    cast_feeds = {name: _fitted(path, ports[name], value, notes) for name, value in feeds.items()}
    if labels is None and is_one_batch(path):
        return (Batch(label="data, as one batch", feeds=cast_feeds, labels=None, notes=tuple(notes)),)
    samples = _samples(path, cast_feeds)
    if labels is not None:
        labels = _checked_labels(path, labels, samples)
    return _cut(path, ports, cast_feeds, labels, notes)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                file.seek(0)
                return {"": _array(path, path.name, cast("IO[bytes]", file), path.stat().st_size)}
            file.seek(0)
            return _read_members(path, cast("IO[bytes]", file))
    except OSError as error:
        raise UsageError(f"{path.name or path}: cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise UsageError(f"{path.name}: is neither a .npz nor a .npy file ({error})") from error


def _read_members(path: Path, file: IO[bytes]) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > MOST_BYTES:
            raise UsageError(f"{path.name}: its arrays take {total} bytes, more than the {MOST_BYTES} that are read")
        arrays = {}
        for member in members:
            with archive.open(member) as content:
                name = member.orig_filename.removesuffix(".npy")  # the file name is cut at a NUL
                arrays[name] = _array(path, name, content, member.file_size)
        return arrays


def _array(path: Path, name: str, content: IO[bytes], size: int) -> np.ndarray:
    """One array of a stream of `size` bytes, once its header agrees with that size."""
    try:
        version = npy.read_magic(content)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = header(content)
    except ValueError as error:
        raise UsageError(f"{path.name}: {name!r} is no array ({str(error).splitlines()[0]})") from error
    if min(shape, default=0) < 0:
        raise UsageError(f"{path.name}: {name!r} is no array (its shape is {shape})")
    if dtype.hasobject:
        raise UsageError(f"{path.name}: {name!r} holds Python objects, which are not read")
    needed = math.prod(shape) * dtype.itemsize
    if needed > MOST_BYTES:
        raise UsageError(f"{path.name}: {name!r} takes {needed} bytes, more than the {MOST_BYTES} that are read")
    if needed > size:
        raise UsageError(f"{path.name}: {name!r} says it takes {needed} bytes, but there are {size}")
    values = np.frombuffer(content.read(needed), dtype=np.uint8)
    if values.size < needed:
        raise UsageError(f"{path.name}: {name!r} ends early")
    return values.view(dtype).reshape(shape, order="F" if fortran else "C")


def _matched(
    path: Path, ports: Mapping[str, onnx.ValueInfoProto], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    if not ports:
        raise UsageError(f"{path.name}: the model has no inputs that data could feed")
    if len(ports) == len(arrays) == 1:
        return dict(zip(ports, arrays.values(), strict=True))
    missing = [name for name in ports if name not in arrays]
    unknown = [name for name in arrays if name not in ports]
    if missing or unknown:
        wanted, held = ", ".join(map(repr, ports)), ", ".join(map(repr, arrays)) or "nothing"
        raise UsageError(f"{path.name}: the model's inputs are {wanted}, the file holds {held}")
    return {name: arrays[name] for name in ports}


def _fitted(path: Path, port: onnx.ValueInfoProto, value: np.ndarray, notes: list[str]) -> np.ndarray:
    """The value in the dtype of the input; its shape without axis 0 must be the input's."""
    kind = port.type.tensor_type
    if not port.type.HasField("tensor_type"):
        raise UsageError(f"{path.name}: the input {port.name!r} is no tensor, so no array can feed it")
    dims = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in kind.shape.dim]
    fits = len(dims) == value.ndim and all(
        dim is None or dim == length for dim, length in zip(dims[1:], value.shape[1:], strict=False)
    )
    if kind.HasField("shape") and not fits:
        wanted = "(" + ", ".join("any" if dim is None else str(dim) for dim in dims) + ")"
        raise UsageError(f"{path.name}: the input {port.name!r} wants the shape {wanted}, the data have {value.shape}")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    value = unforeign(value, dtype)
    if value.dtype == dtype:
        return value
    if value.dtype.kind not in "biuf" or dtype.kind not in "biufV":
        raise UsageError(f"{path.name}: the input {port.name!r} wants {dtype.name}, the data are {value.dtype.name}")
    with np.errstate(all="ignore"):
        converted = value.astype(dtype)
        exact = bool(np.array_equal(converted.astype(value.dtype), value, equal_nan=value.dtype.kind == "f"))
    rounds_floats = value.dtype.kind == "f" and dtype.kind in "fV"
    if not exact and not rounds_floats:
        raise UsageError(
            f"{path.name}: the input {port.name!r} wants {dtype.name}, which cannot hold the data's {value.dtype.name}"
        )
    notes.append(
        f"data for {port.name!r} were converted from {value.dtype.name} to {dtype.name}"
        + ("" if exact else ", which rounds them")
    )
    return converted


def _samples(path: Path, feeds: Mapping[str, np.ndarray]) -> int:
    lengths = {name: len(value) for name, value in feeds.items() if value.ndim}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name!r}: {length}" for name, length in lengths.items())
        raise UsageError(f"{path.name}: the inputs differ in their number of samples ({listed})")
    samples = next(iter(lengths.values()), 1)
    if samples == 0:
        raise UsageError(f"{path.name}: holds no samples")
    return samples


def _checked_labels(path: Path, labels: np.ndarray, samples: int) -> np.ndarray:
    if labels.shape != (samples,) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"{path.name}: labels must be {samples} integers, these are {labels.dtype.name} of shape {labels.shape}"
        )
    return labels


@dataclass(frozen=True, slots=True)
class _Cut:
    """How many samples make a batch, and whether the model insists."""

    size: int
    fixed: bool


def _batch_size(ports: Mapping[str, onnx.ValueInfoProto]) -> _Cut:
    for port in ports.values():
        dims = port.type.tensor_type.shape.dim
        if len(dims) and dims[0].HasField("dim_value") and dims[0].dim_value > 0:
            return _Cut(dims[0].dim_value, fixed=True)
    return _Cut(_FREE_BATCH, fixed=False)


def _cut(
    path: Path,
    ports: Mapping[str, onnx.ValueInfoProto],
    feeds: Mapping[str, np.ndarray],
    labels: np.ndarray | None,
    notes: list[str],
) -> tuple[Batch, ...]:
    samples = _samples(path, feeds)
    cut = _batch_size(ports)
    last = samples - samples % cut.size if cut.fixed else samples
    if last == 0:
        raise UsageError(f"{path.name}: holds {samples} samples, fewer than the {cut.size} of one batch of the model")
    if last < samples:
        notes.append(f"the last {samples - last} of {samples} samples fill no batch of {cut.size} and were left out")
    return tuple(
        Batch(
            label=f"data {start}..{min(start + cut.size, last) - 1}",
            feeds={
                name: value[start : min(start + cut.size, last)] if value.ndim else value
                for name, value in feeds.items()
            },
            labels=None if labels is None else labels[start : min(start + cut.size, last)],
            notes=tuple(notes) if start == 0 else (),
        )
        for start in range(0, last, cut.size)
    )
