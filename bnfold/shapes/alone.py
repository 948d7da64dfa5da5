"""One node in a model of its own, so that onnx infers its outputs from all that is known of its operands.

What onnx is told of an operand's content, and why that is the same:

    all known      an initializer that holds it
    partly known   the Shape of an input that has those dimensions
    a target       (of a Reshape, whose zeros copy) 0 for a symbol that the input has in the same place: 0 copies it.
                   -1 for the one element that is not known, where the input and the others are positive numbers:
                   element counts agree, or nothing runs

A symbol that onnx invents here is unknown: nodes that are inferred apart would be given the same one.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

from bnfold.affine import Dim
from bnfold.nodes import Node, nested_graphs
from bnfold.shapes.operators import Array, opset_for_inference, reshaped
from bnfold.shapes.types import dims_of, tensor_type

LARGEST_OPERAND = 1024
"""Elements of an operand that says something of shapes: a few for each dimension, or the sizes of a split."""

logger = logging.getLogger("bnfold")


@dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """What is known of a value that a node reads: its type, its content, or the sizes that its elements are."""

    name: str
    type: TypeProto
    content: Array | None = None
    sizes: tuple[Dim, ...] | None = None


def inferred(node: Node, proto: NodeProto, operands: Iterable[Operand], prefix: str) -> Iterator[tuple[int, TypeProto]]:
    """The types of a node's outputs, by their places, where they are tensors of known rank.

    `proto` is the node, its bodies completed; no name of the model begins with `prefix`.
    """
    told = _told(node, {operand.name: operand for operand in operands})
    model = _model(node, proto, told.values(), prefix)
    try:
        answer = onnx.shape_inference.infer_shapes(model, data_prop=_propagates(proto, told.values()))
    except Exception as error:  # noqa: BLE001  # inference is a source of facts, no check: without it less is known
        logger.debug("shape inference of %s failed, fewer shapes are known: %s", node.site, error)
        return
    meant = {d for operand in told.values() for d in (*(dims_of(operand.type) or ()), *(operand.sizes or ()))}
    types = {info.name: info.type for info in answer.graph.output}
    for i, name in enumerate(proto.output):
        dims = dims_of(types[name]) if name in types else None
        if dims is not None:
            known = (d if isinstance(d, int) or d in meant else None for d in dims)
            yield i, tensor_type(types[name].tensor_type.elem_type, known)


def _propagates(proto: NodeProto, operands: Collection[Operand]) -> bool:
    """Whether onnx is to follow the sizes that it is told, and may: it writes every vector out, however long."""
    if all(operand.sizes is None for operand in operands) or any(nested_graphs(proto)):
        return False
    shapes = [dims_of(operand.type) for operand in operands]
    lengths = [dims[0] for dims in shapes if dims is not None and len(dims) == 1]
    return all(not isinstance(length, int) or length <= LARGEST_OPERAND for length in lengths)


def _told(node: Node, operands: dict[str, Operand]) -> dict[str, Operand]:
    """The operands, in the form that onnx infers most from; sizes that it would misread are left out."""
    told = {
        name: operand if _are_sizes(operand) else replace(operand, sizes=None) for name, operand in operands.items()
    }
    copying = reshaped(node)
    if copying is None or any(value.name not in operands for value in copying):
        return told
    source, target = (operands[value.name] for value in copying)
    before = dims_of(source.type)
    if before is None or target.sizes is None:
        return told
    completed = _completed(target.sizes, before)
    if completed is not None:
        return told | {target.name: replace(target, content=np.array(completed, np.int64), sizes=None)}
    return told | {target.name: target}


def _are_sizes(operand: Operand) -> bool:
    return operand.sizes is None or not any(isinstance(size, int) and size < 0 for size in operand.sizes)


def _completed(sizes: tuple[Dim, ...], source: tuple[Dim, ...]) -> list[int] | None:
    """A Reshape's target of which not all is known, as numbers that mean the same; None where there are none."""
    copied = [0 if isinstance(s, str) and i < len(source) and source[i] == s else s for i, s in enumerate(sizes)]
    numbers = [size for size in copied if isinstance(size, int)]
    if len(numbers) == len(copied):
        return numbers
    counted = all(isinstance(size, int) for size in source)
    if len(numbers) < len(copied) - 1 or not counted or any(number <= 0 for number in numbers):
        return None
    return [size if isinstance(size, int) else -1 for size in copied]


def _model(node: Node, proto: NodeProto, operands: Iterable[Operand], prefix: str) -> ModelProto:
    inputs: list[ValueInfoProto] = []
    initializers: list[TensorProto] = []
    nodes: list[NodeProto] = []
    for operand in operands:
        if operand.content is not None:
            initializers.append(numpy_helper.from_array(operand.content, operand.name))
        elif operand.sizes is not None:
            sized = prefix + operand.name
            inputs.append(ValueInfoProto(name=sized, type=tensor_type(TensorProto.FLOAT, operand.sizes)))
            nodes.append(helper.make_node("Shape", [sized], [operand.name]))
        else:
            inputs.append(ValueInfoProto(name=operand.name, type=operand.type))
    outputs = [ValueInfoProto(name=name) for name in proto.output if name]
    graph = helper.make_graph([*nodes, proto], "alone", inputs, outputs, initializers)
    opsets = {**node.scope.opsets, "": opset_for_inference(node)}
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*entry) for entry in opsets.items()])
