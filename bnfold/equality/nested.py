"""Every graph and every node of a protobuf model, nested ones and those of functions too, in a fixed order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx


def graphs_of(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The model's graph and every nested one."""
    pending = [model.graph]
    pending.extend(graph for function in model.functions for node in function.node for graph in bodies_of(node))
    while pending:
        graph = pending.pop()
        yield graph
        pending.extend(body for node in graph.node for body in bodies_of(node))


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes of all graphs, then those of functions."""
    for graph in graphs_of(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """These nodes and all in their bodies."""
    for node in nodes:
        yield node
        for body in bodies_of(node):
            yield from all_nodes(body.node)


def without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, with its functions' nodes in the place of their calls if any of them holds a graph."""
    from onnx import inliner  # noqa: PLC0415  # most who walk a model need not import it

    held = (body for function in model.functions for node in function.node for body in bodies_of(node))
    return inliner.inline_local_functions(model) if any(True for _ in held) else model


def changes_its_constants(model: onnx.ModelProto) -> bool:
    """Whether a session may write into its constants: a BatchNormalization that trains has running statistics."""
    return any(len(node.output) > 1 for node in nodes_of(model) if node.op_type == "BatchNormalization")


def bodies_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def external_bytes(model: onnx.ModelProto) -> int:
    """How many bytes the initializers take whose data lie in another file, or elsewhere in their own."""
    from onnx import TensorProto, helper  # noqa: PLC0415  # most who walk a model need not import it

    return sum(
        math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for graph in graphs_of(model)
        for tensor in graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    )
