"""What is to be changed in a model file, as values.

Invariant: an edit names what it changes by its position in the repeated fields of the graph as it was read. What no
edit names stays byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from bnfold.model.datatypes import ITEM_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Value = TypeVar("_Value")


def _empty() -> Mapping[int, _Value]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Address:
    """Which graph of a file: `function` is an index into ModelProto.functions, None for the main graph.

    `nested` leads from there to a graph inside: each step is (node index, attribute index, index in the attribute's
    `graphs`, or -1 for its `g`).
    """

    function: int | None = None
    nested: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to be written: a header without data, and `nbytes` bytes that are produced only while writing.

    `blocks` yields the data as ONNX's raw_data has them (little-endian, types below one byte packed); it may be
    called more than once and must yield the same bytes each time.
    """

    header: TensorProto
    nbytes: int
    blocks: Callable[[], Iterable[bytes | memoryview]]

    @classmethod
    def of(cls, name: str, array: NDArray[Any], data_type: int | None = None) -> NewTensor:
        """The tensor with this array's shape and values; `data_type` defaults to the type of the array.

        Raises ValueError when the array's dtype is not that of `data_type`: rounding is the caller's decision.
        """
        kind = helper.np_dtype_to_tensor_dtype(array.dtype) if data_type is None else data_type
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        if array.dtype != dtype:
            raise ValueError(f"an array of {array.dtype} is not a tensor of {dtype}")
        if kind not in ITEM_BITS:
            raise ValueError(f"a tensor of {dtype} has no raw data")
        return cls.in_parts(TensorProto(name=name, data_type=kind, dims=array.shape), lambda: (array,))

    @classmethod
    def in_parts(cls, header: TensorProto, parts: Callable[[], Iterable[NDArray[Any]]]) -> NewTensor:
        """The tensor whose values come as arrays of its type, one after another in the order of the file.

        Of a type below one byte, in one array.
        """
        kind = header.data_type
        nbytes = -(-math.prod(header.dims) * ITEM_BITS[kind] // 8)
        return cls(header, nbytes, lambda: (_raw(array, kind) for array in parts()))


def _raw(array: NDArray[Any], kind: int) -> bytes | memoryview:
    if ITEM_BITS[kind] < 8:
        return numpy_helper.from_array(array).raw_data
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return little.reshape(-1).view(np.uint8).data


@dataclass(frozen=True, slots=True)
class NodeEdit:
    """Changes of one node; None and empty mean that this part stays byte for byte.

    `attributes` are added, or replace the attribute of the same name.
    """

    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    attributes: tuple[AttributeProto, ...] = ()
    dropped_attributes: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is changed."""
        return self.inputs is None and self.outputs is None and not (self.attributes or self.dropped_attributes)


@dataclass(frozen=True, slots=True)
class GraphEdit:
    """Changes of one graph; all keys are positions in the repeated fields of that graph as it was read.

    `nodes`: None drops the node. `inserted`: put before the node of that index; the number of nodes as index appends.
    `initializers`: replaced by these tensors, () drops. `inputs`, `value_info`: None drops.
    Functions have neither initializers nor typed inputs and outputs: editing those is a ValueError.
    """

    nodes: Mapping[int, NodeEdit | None] = field(default_factory=_empty)
    inserted: Mapping[int, tuple[NodeProto, ...]] = field(default_factory=_empty)
    initializers: Mapping[int, tuple[NewTensor, ...]] = field(default_factory=_empty)
    added_initializers: tuple[NewTensor, ...] = ()
    inputs: Mapping[int, ValueInfoProto | None] = field(default_factory=_empty)
    added_inputs: tuple[ValueInfoProto, ...] = ()
    outputs: Mapping[int, ValueInfoProto] = field(default_factory=_empty)
    added_outputs: tuple[ValueInfoProto, ...] = ()
    value_info: Mapping[int, ValueInfoProto | None] = field(default_factory=_empty)
    added_value_info: tuple[ValueInfoProto, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is changed."""
        changed_nodes = any(edit is None or not edit.is_empty for edit in self.nodes.values())
        others = (
            any(self.inserted.values()), self.initializers, self.added_initializers, self.inputs, self.added_inputs,
            self.outputs, self.added_outputs, self.value_info, self.added_value_info,
        )  # fmt: skip
        return not changed_nodes and not any(others)


Edits = Mapping[Address, GraphEdit]
