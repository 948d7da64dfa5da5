"""From arrays by name to batches that suit a model: the right names, shapes and types, cut along axis 0.

A set of samples holds an array per input that must be fed; their first axes are the samples. A batch takes as many as
the model prescribes, else at most 64, in the given order. Arrays whose first axes differ are no samples: they are one
batch, if the model takes each of them whole and does not call those axes by one name. Values are converted where the
type of the input holds them, and floats also where it rounds them; every conversion is said.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from onnx import TensorProto, helper

from bnfold.equality.inputs import FED_TYPES, Batch, fed_inputs
from bnfold.equality.saving import unforeign
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

LABEL_NAMES: Final = ("labels", "label", "y", "targets")
_FREE_BATCH: Final = 64
_UNNAMED: Final = ("", "arr_0")  # what a .npy and np.savez call an array without a name

_Ports = dict[str, "onnx.ValueInfoProto"]


@dataclass(frozen=True, slots=True)
class Given:
    """Arrays by name, "" for one without a name.

    `title` is how errors call what they came from, `label` how the report calls batches made of them.
    """

    title: str
    label: str
    arrays: Mapping[str, np.ndarray]


def batches_of(model: onnx.ModelProto, given: Given) -> tuple[Batch, ...]:
    """The samples of a set, in their order, cut into batches.

    For a model with one input any one array will do. One called labels, label, y or targets that is no input holds N
    integer classes. Samples that do not fill a prescribed batch are left out. Raises `UsageError`.
    """
    ports = {port.name: port for port in fed_inputs(model)}
    arrays = dict(given.arrays)
    labels = next((arrays.pop(name) for name in LABEL_NAMES if name in arrays and name not in ports), None)
    notes: list[str] = []
    matched = _matched(given.title, ports, arrays, notes)
    feeds = {name: _fitted(given.title, ports[name], value, notes, free=1) for name, value in matched.items()}
    lengths = {name: len(value) for name, value in feeds.items() if value.ndim}
    samples = next(iter(lengths.values()), 1)
    if labels is not None:
        _check_labels(given.title, labels, samples)
    if len(set(lengths.values())) > 1:
        _check_whole(given.title, ports, feeds, lengths)
        return (Batch(given.label, feeds, labels, tuple(notes)),)
    return _cut(given, ports, Batch("", feeds, labels, tuple(notes)), samples)


def whole_batch(model: onnx.ModelProto, given: Given) -> Batch:
    """Arrays that are one batch as they are: nothing is cut, nothing is left out. Raises `UsageError`."""
    ports = {port.name: port for port in fed_inputs(model)}
    notes: list[str] = []
    matched = _matched(given.title, ports, given.arrays, notes) if ports or given.arrays else {}
    feeds = {name: _fitted(given.title, ports[name], value, notes, free=0) for name, value in matched.items()}
    return Batch(given.label, feeds, None, tuple(notes))


def _matched(title: str, ports: _Ports, arrays: Mapping[str, np.ndarray], notes: list[str]) -> dict[str, np.ndarray]:
    if not ports:
        raise UsageError(f"{title}: the model has no inputs that data could feed")
    if len(ports) == len(arrays) == 1:
        notes.extend(
            f"the only array {name!r} was fed to the only input {port!r}"
            for name, port in zip(arrays, ports, strict=True)
            if name not in {port, *_UNNAMED}
        )
        return dict(zip(ports, arrays.values(), strict=True))
    if arrays.keys() != ports.keys():
        wanted = ", ".join(map(repr, ports))
        held = ", ".join(repr(name) if name else "one array without a name" for name in arrays) or "nothing"
        raise UsageError(f"{title}: the model's inputs are {wanted}, the data hold {held}")
    return {name: arrays[name] for name in ports}


def _fitted(title: str, port: onnx.ValueInfoProto, value: np.ndarray, notes: list[str], *, free: int) -> np.ndarray:
    """The value in the dtype of the input; its shape, but for the first `free` axes, must be the input's."""
    kind = port.type.tensor_type
    if not port.type.HasField("tensor_type"):
        raise UsageError(f"{title}: the input {port.name!r} is no tensor, so no array can feed it")
    if kind.elem_type not in FED_TYPES | {TensorProto.STRING}:
        wanted = TensorProto.DataType.Name(kind.elem_type) if kind.elem_type else "no type"
        raise UsageError(f"{title}: the input {port.name!r} wants {wanted}, which cannot be fed")
    if not _fits(port, value, free=free):
        wanted = "(" + ", ".join("any" if dim is None else str(dim) for dim in _dims(port)) + ")"
        raise UsageError(f"{title}: the input {port.name!r} wants the shape {wanted}, the data have {value.shape}")
    if kind.elem_type == TensorProto.STRING:
        return _strings(title, port, value)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    value = unforeign(value, dtype)
    if value.dtype == dtype:
        return value
    return _converted(title, port, value.astype(value.dtype.newbyteorder("=")), dtype, notes)


def _fits(port: onnx.ValueInfoProto, value: np.ndarray, *, free: int) -> bool:
    dims = _dims(port)
    if not port.type.tensor_type.HasField("shape"):
        return True
    pairs = zip(dims[free:], value.shape[free:], strict=False)
    return len(dims) == value.ndim and all(dim is None or dim == length for dim, length in pairs)


def _dims(port: onnx.ValueInfoProto) -> list[int | None]:
    dims = port.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in dims]


def _strings(title: str, port: onnx.ValueInfoProto, value: np.ndarray) -> np.ndarray:
    if value.dtype.kind not in "OU" or not all(isinstance(text, str) for text in value.reshape(-1).tolist()):
        raise UsageError(f"{title}: the input {port.name!r} wants strings, the data are {value.dtype.name}")
    return value.astype(object)


def _converted(
    title: str, port: onnx.ValueInfoProto, value: np.ndarray, dtype: np.dtype[np.generic], notes: list[str]
) -> np.ndarray:
    if value.dtype == dtype:  # it had another byte order
        return value
    if value.dtype.kind not in "biuf" or dtype.kind not in "biufV":
        raise UsageError(f"{title}: the input {port.name!r} wants {dtype.name}, the data are {value.dtype.name}")
    with np.errstate(all="ignore"):
        converted = value.astype(dtype)
        exact = bool(np.array_equal(converted.astype(value.dtype), value, equal_nan=value.dtype.kind == "f"))
    rounds_floats = value.dtype.kind == "f" and dtype.kind in "fV"
    if not exact and not rounds_floats:
        raise UsageError(
            f"{title}: the input {port.name!r} wants {dtype.name}, which cannot hold the data's {value.dtype.name}"
        )
    notes.append(
        f"data for {port.name!r} were converted from {value.dtype.name} to {dtype.name}"
        + ("" if exact else ", which rounds them")
    )
    return converted


def _check_whole(title: str, ports: _Ports, feeds: Mapping[str, np.ndarray], lengths: Mapping[str, int]) -> None:
    symbols = {
        (dim.dim_param, length)
        for name, value in feeds.items()
        for dim, length in zip(ports[name].type.tensor_type.shape.dim, value.shape, strict=False)
        if dim.dim_param
    }
    one_length_each = len(symbols) == len({symbol for symbol, _ in symbols})
    if not one_length_each or not all(_fits(ports[name], value, free=0) for name, value in feeds.items()):
        listed = ", ".join(f"{name!r}: {length}" for name, length in lengths.items())
        raise UsageError(f"{title}: the inputs differ in their number of samples ({listed})")


def _check_labels(title: str, labels: np.ndarray, samples: int) -> None:
    if labels.shape != (samples,) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"{title}: labels must be {samples} integers, these are {labels.dtype.name} of shape {labels.shape}"
        )


@dataclass(frozen=True, slots=True)
class _Cut:
    """How many samples make a batch, and whether the model insists."""

    size: int
    fixed: bool


def _batch_size(ports: _Ports) -> _Cut:
    for port in ports.values():
        dims = _dims(port)
        if dims and dims[0]:
            return _Cut(dims[0], fixed=True)
    return _Cut(_FREE_BATCH, fixed=False)


def _cut(given: Given, ports: _Ports, all_: Batch, samples: int) -> tuple[Batch, ...]:
    if samples == 0:
        raise UsageError(f"{given.title}: holds no samples")
    cut = _batch_size(ports)
    last = samples - samples % cut.size if cut.fixed else samples
    if last == 0:
        raise UsageError(f"{given.title}: holds {samples} samples, fewer than the {cut.size} of one batch of the model")
    notes = list(all_.notes)
    if last < samples:
        notes.append(f"the last {samples - last} of {samples} samples fill no batch of {cut.size} and were left out")
    parts = [_part(given.label, all_, start, min(start + cut.size, last)) for start in range(0, last, cut.size)]
    return (replace(parts[0], notes=tuple(notes)), *parts[1:])


def _part(label: str, all_: Batch, start: int, end: int) -> Batch:
    return Batch(
        label=f"{label} {start}..{end - 1}",
        feeds={name: value[start:end] if value.ndim else value for name, value in all_.feeds.items()},
        labels=None if all_.labels is None else all_.labels[start:end],
    )
