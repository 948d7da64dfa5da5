"""A model that was read: its bytes, its skeleton as a protobuf, and the data of its tensors.

Invariant: nobody changes `proto`; it mirrors the file, position for position, and edits refer to those positions.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from bnfold.model.datatypes import ITEM_BITS
from bnfold.model.hashing import Hash
from bnfold.model.storage import Span, Storage, same_bytes
from bnfold.model.tensors import canonical, decoded, external_entries

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class ModelFile:
    """A model file, opened. `path` is None when it came as bytes or as a ModelProto.

    `proto` is the skeleton: a tensor whose inline raw_data has 1024 bytes or more carries no payload there, it is
    marked as external data with an empty location. Ask `array` and `span` for the data of any of its tensors.
    `size` (bytes) is that of the model file, without external data.
    """

    path: Path | None
    proto: ModelProto = field(repr=False)
    size: int
    data_files: tuple[Path, ...]
    storage: Storage = field(repr=False)
    locations: Mapping[str, tuple[Path, int]] = field(repr=False)
    _hash: list[Hash] = field(default_factory=list, init=False, repr=False)

    @property
    def sha256(self) -> str:
        """The hash (hex) of the model file, without external data; computed when it is first asked for."""
        if not self._hash:
            self._hash.append(Hash(self.storage.content))
        return self._hash[0].hex()

    def hash_ahead(self) -> None:
        """Begin to hash, beside all else: it will be asked for."""
        if not self._hash:
            self._hash.append(Hash(self.storage.content, ahead=True))

    def array(self, tensor: TensorProto) -> NDArray[Any]:
        """The data of a tensor of the skeleton: read-only, shape = dims, native numpy or ml_dtypes dtype.

        Raises InputRefused when the data cannot be read, and for segments and strings that are not UTF-8.
        """
        return decoded(tensor, self._raw(tensor))

    def stretch(self, tensor: TensorProto, start: int, count: int) -> NDArray[Any]:
        """`count` elements of a tensor of the skeleton, from number `start` on in the order of the file, as a vector.

        Of a payload in a file only these are read. Raises as `array` does.
        """
        span = self.span(tensor)
        bits = ITEM_BITS[tensor.data_type]
        if span is None or bits < 8 or sys.byteorder == "big":
            return self.array(tensor).reshape(-1)[start : start + count]
        item = bits // 8
        raw = self.storage.view(replace(span, offset=span.offset + start * item, length=count * item))
        return np.frombuffer(raw, helper.tensor_dtype_to_np_dtype(tensor.data_type))

    def span(self, tensor: TensorProto) -> Span | None:
        """Where the data of a tensor of the skeleton lie; None when they are typed or short, inside the skeleton."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return None
        entries = external_entries(tensor)
        location, offset = entries.get("location", ""), int(entries.get("offset", "0"))
        if not location:
            return Span(None, offset, int(entries["length"]))
        path, size = self.locations[location]
        return Span(path, offset, int(entries.get("length", size - offset)))

    def same_data(self, tensor: TensorProto, other: ModelFile, theirs: TensorProto) -> bool:
        """Whether two tensors hold the same raw bytes, whether typed, inline or external; read in blocks.

        Raises InputRefused when the data of either cannot be read.
        """
        one, two = self.span(tensor), other.span(theirs)
        if one is not None and one.file is not None and one == two:
            return True
        return same_bytes(self._blocks(tensor), other._blocks(theirs))

    def sha256_of(self, tensor: TensorProto) -> str:
        """The hash of a tensor's data as raw bytes, the same for typed, inline and external storage."""
        digest = hashlib.sha256()
        for block in self._blocks(tensor):
            digest.update(block)
        return digest.hexdigest()

    def _blocks(self, tensor: TensorProto) -> Iterable[bytes | memoryview]:
        span = self.span(tensor)
        if span is not None:
            return self.storage.blocks(span)
        return (tensor.raw_data if tensor.HasField("raw_data") else canonical(tensor),)

    @property
    def has_external_data(self) -> bool:
        """Whether data of tensors lie in files beside the model."""
        return bool(self.data_files)

    def _raw(self, tensor: TensorProto) -> bytes | memoryview | None:
        span = self.span(tensor) if tensor.data_location == TensorProto.EXTERNAL else None
        if span is not None:
            return self.storage.view(span)
        return tensor.raw_data if tensor.HasField("raw_data") else None
