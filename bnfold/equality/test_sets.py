"""Test data as ONNX ships them with models: a folder of input_0.pb, ..., output_0.pb, ..., each file one TensorProto.

A set is one batch as it is. Its tensors are the model's fed inputs and its outputs: by their names if all of them bear
names of the model, else in the model's order. A file is parsed only if its size is within limits, and its tensor must
hold what its shape says, in the file itself.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types
from onnx import TensorProto, numpy_helper

from bnfold.equality.data_files import check_present
from bnfold.equality.data_fitting import Given, whole_batch
from bnfold.equality.inputs import Batch, fed_inputs
from bnfold.errors import InputRefused, UsageError
from bnfold.model.checks import check_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    import onnx

MOST_PROTOBUF_BYTES: Final = (1 << 31) - 1
_FILE: Final = re.compile(r"(input|output)_(\d+)\.pb")
_SET: Final = re.compile(r"test_data_set_(\d+)")


def sets_in(folder: Path) -> tuple[Path, ...]:
    """The test sets of a folder: itself, or those of its folders that are called test_data_set_N, by number."""
    entries = list(folder.iterdir())
    if any(_FILE.fullmatch(entry.name) for entry in entries):
        return (folder,)
    numbered = [(int(found[1]), entry) for entry in entries if (found := _SET.fullmatch(entry.name))]
    return tuple(entry for _, entry in sorted(numbered) if entry.is_dir())


def batch_of_set(model: onnx.ModelProto, folder: Path, most: int) -> Batch:
    """The inputs of one test set as a batch, with the outputs that were shipped with it.

    `most`: how many bytes its files may take. Raises `UsageError`.
    """
    title = folder.name or str(folder.absolute().name)
    files = {kind: _files(title, folder, kind) for kind in ("input", "output")}
    size = sum(file.stat().st_size for kind in files.values() for file in kind)
    if size > most:
        raise UsageError(f"{title}: its files take {size} bytes, more than the {most} that are read")
    inputs = _assigned(title, "input", files["input"], fed_inputs(model))
    batch = whole_batch(model, Given(title, title, inputs))
    unread = [port for port in model.graph.output if not port.type.HasField("tensor_type")]
    outputs = _assigned(title, "output", files["output"], model.graph.output)
    notes = (*batch.notes, *(f"the shipped {port.name!r} is no tensor and was not compared" for port in unread))
    return replace(batch, notes=notes if outputs else batch.notes, shipped=outputs or None)


def _files(title: str, folder: Path, kind: str) -> list[Path]:
    numbered = {
        int(found[2]): entry
        for entry in folder.iterdir()
        if (found := _FILE.fullmatch(entry.name)) and found[1] == kind
    }
    for number in range(len(numbered)):
        if number not in numbered:
            raise UsageError(f"{title}: {kind}_{number}.pb is missing")
    return [numbered[number] for number in range(len(numbered))]


def _assigned(title: str, kind: str, files: list[Path], ports: Iterable[onnx.ValueInfoProto]) -> dict[str, np.ndarray]:
    """The arrays of files by the names of the model's inputs or outputs; outputs may be missing, or be no tensors."""
    known = list(ports)
    if len(files) > len(known) or (kind == "input" and len(files) < len(known)):
        wanted = ", ".join(repr(port.name) for port in known) or "none"
        raise UsageError(f"{title}: holds {len(files)} {kind}(s), the model's {kind}s are {wanted}")
    pairs = [(port, file) for port, file in zip(known, files, strict=False) if _is_tensor(title, kind, port)]
    places = [port.name for port, _ in pairs]
    tensors = [_tensor(f"{title}/{file.name}", file) for _, file in pairs]
    names = [tensor.name for tensor in tensors]
    by_name = len(set(names)) == len(names) and set(names) <= {port.name for port in known}
    arrays = [_values(f"{title}/{file.name}", tensor) for (_, file), tensor in zip(pairs, tensors, strict=True)]
    return dict(zip(names if by_name else places, arrays, strict=True))


def _is_tensor(title: str, kind: str, port: onnx.ValueInfoProto) -> bool:
    """Whether a tensor is expected here; an input that is a sequence, an optional or a map is refused."""
    if port.type.HasField("tensor_type"):
        return True
    if kind == "output":
        return False
    what = (port.type.WhichOneof("value") or "unknown_type").removesuffix("_type")
    raise UsageError(f"{title}: the input {port.name!r} is no tensor but of the kind {what!r}, which is not read")


def _tensor(title: str, file: Path) -> TensorProto:
    content = _content(title, file)
    try:
        tensor: TensorProto = TensorProto.FromString(content)
    except DecodeError as error:
        raise UsageError(f"{title}: is no tensor (a TensorProto)") from error
    if isinstance(tensor.name, bytes):  # not UTF-8
        raise UsageError(f"{title}: the name of its tensor is not UTF-8")
    if tensor.data_location == TensorProto.EXTERNAL:
        raise UsageError(f"{title}: its data lie in another file, which is not read")
    try:
        check_tensors((tensor,), {}, {})
    except InputRefused as error:
        raise UsageError(f"{title}: {error}") from error
    return tensor


def _content(title: str, file: Path) -> bytes:
    check_present(file, title)
    if file.stat().st_size > MOST_PROTOBUF_BYTES:
        raise UsageError(f"{title}: is larger than the 2 GiB that protobuf allows")
    return file.read_bytes()


def _values(title: str, tensor: TensorProto) -> np.ndarray:
    try:
        values: np.ndarray = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{title}: is no tensor that can be read ({(str(error).splitlines() or [''])[0]})") from error
    return values
