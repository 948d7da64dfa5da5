"""From a TensorProto and its bytes to an array, whatever way the data are stored.

Invariant: an array has the shape that the tensor declares and is read-only; nothing is converted to another type.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from bnfold.errors import InputRefused
from bnfold.model.datatypes import ITEM_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray


_AS_IN_MEMORY: dict[int, np.dtype[Any]] = {
    kind: helper.tensor_dtype_to_np_dtype(kind)
    for kind, bits in ITEM_BITS.items()
    if bits >= 8 and sys.byteorder == "little"
}
"""The types whose raw data are what an array of them holds."""


def external_entries(tensor: TensorProto) -> Mapping[str, str]:
    """The key-value pairs that say where external data lie; of a key that stands twice, the last counts."""
    return {_text(entry.key): _text(entry.value) for entry in tensor.external_data}


def _text(value: str | bytes) -> str:
    # protobuf hands out text that is not UTF-8 as bytes; it names no file and no number.
    return value if isinstance(value, str) else ""


def decoded(tensor: TensorProto, raw: bytes | memoryview | None) -> NDArray[Any]:
    """The array of a tensor, from its raw data, or from its typed data when `raw` is None.

    Raises InputRefused when the data do not fill the shape or when the type has no array.
    """
    try:
        array = _decoded(tensor, raw)
    except (ValueError, TypeError, KeyError, UnicodeDecodeError, OverflowError) as error:
        raise InputRefused(f"the data of tensor {tensor.name!r} cannot be read: {error}") from error
    array.flags.writeable = False
    return array


def _decoded(tensor: TensorProto, raw: bytes | memoryview | None) -> NDArray[Any]:
    if tensor.HasField("segment"):
        raise ValueError("it is a segment of a larger tensor")
    if raw is None:
        return numpy_helper.to_array(tensor)
    dtype = _AS_IN_MEMORY.get(tensor.data_type)
    if dtype is None:
        plain = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=bytes(raw))
        return numpy_helper.to_array(plain)
    return np.frombuffer(raw, dtype=dtype).reshape(tuple(tensor.dims))


def canonical(tensor: TensorProto) -> bytes:
    """The bytes that the typed data of a tensor have as raw data; strings as length and bytes of each."""
    if tensor.data_type == TensorProto.STRING:
        return b"".join(len(text).to_bytes(8, "little") + text for text in tensor.string_data)
    return numpy_helper.from_array(decoded(tensor, None)).raw_data


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: initializers, sparse ones, attributes; nested graphs, functions, training included."""
    yield from _graph_tensors(model.graph)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)
    for function in model.functions:
        yield from _node_tensors(function)
        for attribute in function.attribute_proto:
            yield from _attribute_tensors(attribute)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph)


def _node_tensors(graph: GraphProto | FunctionProto) -> Iterator[TensorProto]:
    for node in graph.node:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("sparse_tensor"):
        yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
    for sparse in attribute.sparse_tensors:
        yield from (sparse.values, sparse.indices)
    for graph in nested_graphs(attribute):
        yield from _graph_tensors(graph)


def nested_graphs(attribute: AttributeProto) -> list[GraphProto]:
    """The graphs of an attribute, whatever its type says."""
    return [attribute.g, *attribute.graphs] if attribute.HasField("g") else list(attribute.graphs)
