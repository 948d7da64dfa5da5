"""A model below opset 7 as one of opset 7, of the same meaning, so that onnxruntime has kernels for it.

onnx's converter does most of it. Where it stops or changes the meaning, this module takes the node out of its hands:

    BatchNormalization   the converter takes a missing is_test for 1, though it means 0, and keeps the five outputs
                         of an inference node, which from opset 7 on mean training: the outputs are made to say the mode
    Dropout              a missing is_test likewise; in training mode it is random, and there is nothing to run
    Add, Mul, ...        broadcast=1 with an axis: the second operand gets trailing dimensions of 1 (PRelu's slope too)
    Gemm, Cast           the converter wants shapes that nobody knows, and has no rule for a type's name

To the converter such a node is of a domain of its own, which it hands through; afterwards it becomes what it was.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, version_converter

from bnfold.equality.nested import graphs_of, nodes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPSET: Final = 7
_HELD: Final = "bnfold.held"
_STANDARD: Final = frozenset({"", "ai.onnx"})
_ALL_OUTPUTS: Final = 5
_FIRST_IR_WITH_FREE_INITIALIZERS: Final = 4
_BEYOND: Final = (1 << 31) - 1
_OLD_ATTRIBUTES: Final = frozenset({"is_test", "consumed_inputs", "broadcast", "axis"})


class CannotUpgrade(ValueError):
    """A model whose meaning has no counterpart at opset 7, or none that is known; one sentence."""


def upgraded(model: ModelProto, *, assume_inference: bool) -> ModelProto:
    """The model at opset 7, or itself where it is there already; `model` is changed and must not be used again.

    `assume_inference`: a BatchNormalization or Dropout of one output is inference, whatever its is_test says. Without
    it, is_test is obeyed: a BatchNormalization in training mode is one at opset 7 too. Raises `CannotUpgrade`, and
    what onnx's converter raises for what it cannot convert.
    """
    if max((entry.version for entry in model.opset_import if entry.domain in _STANDARD), default=0) >= OPSET:
        return model
    for node in nodes_of(model):
        if node.domain in _STANDARD and node.op_type in _ADAPTERS:
            node.domain = _HELD
    model.opset_import.add(domain=_HELD, version=1)
    ranks = _ranks(model)
    _free_initializers(model)
    converted = version_converter.convert_version(model, OPSET)
    # The converter annotates the values that it adds with no type, which onnxruntime then refuses to read.
    del converted.graph.value_info[:]
    _release(converted, _Context(ranks, _read(converted), assume_inference, _fresh(converted)))
    del converted.opset_import[[entry.domain for entry in converted.opset_import].index(_HELD)]
    return converted


@dataclass(frozen=True, slots=True)
class _Context:
    """What adapters ask: ranks of values, which values anything reads, the user's word, and names for new values.

    A rank is None where a name has several: it is told apart by name alone, in whatever graph.
    """

    ranks: dict[str, int | None]
    read: frozenset[str]
    assume_inference: bool
    fresh: Iterator[str]


def _free_initializers(model: ModelProto) -> None:
    """Below IR 4 every initializer should be an input, and the converter refuses files in which one is not.

    Such files are about, and onnxruntime runs them: at IR 4 none needs to be, and all stay the constants they were.
    """
    if model.ir_version >= _FIRST_IR_WITH_FREE_INITIALIZERS:
        return
    model.ir_version = _FIRST_IR_WITH_FREE_INITIALIZERS
    held = {tensor.name for tensor in model.graph.initializer}
    kept = [ValueInfoProto.FromString(e.SerializeToString()) for e in model.graph.input if e.name not in held]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _release(model: ModelProto, context: _Context) -> None:
    for graph in list(graphs_of(model)):
        if not any(node.domain == _HELD for node in graph.node):
            continue
        nodes: list[NodeProto] = []
        for node in graph.node:
            nodes += _ADAPTERS[node.op_type](node, context) if node.domain == _HELD else [node]
        # Copies first: extending from what is being deleted would read freed memory.
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _ranks(model: ModelProto) -> dict[str, int | None]:
    """The ranks that the file itself states: of initializers, constants, and values with a declared shape."""
    found: dict[str, set[int]] = defaultdict(set)
    for graph in graphs_of(model):
        for tensor in graph.initializer:
            found[tensor.name].add(len(tensor.dims))
        for entry in (*graph.input, *graph.value_info):
            if entry.type.tensor_type.HasField("shape"):
                found[entry.name].add(len(entry.type.tensor_type.shape.dim))
        for node in graph.node:
            if node.op_type == "Constant":
                held = (attribute.t for attribute in node.attribute if attribute.HasField("t"))
                found[node.output[0]].update(len(tensor.dims) for tensor in held)
    return {name: ranks.pop() if len(ranks) == 1 else None for name, ranks in found.items()}


def _read(model: ModelProto) -> frozenset[str]:
    inputs = {name for node in nodes_of(model) for name in node.input}
    return frozenset(inputs | {entry.name for graph in graphs_of(model) for entry in graph.output})


def _fresh(model: ModelProto) -> Iterator[str]:
    taken = {name for node in nodes_of(model) for name in (*node.input, *node.output)}
    taken.update(tensor.name for graph in graphs_of(model) for tensor in graph.initializer)
    return (name for name in map("upgraded_{}".format, itertools.count()) if name not in taken)


def _batch_normalization(node: NodeProto, context: _Context) -> list[NodeProto]:
    outputs = list(node.output)
    further = [name for name in outputs[1:] if name]
    if _is_inference(node, context, further):
        told = next((name for name in further if name in context.read), None)
        if told is not None:
            raise CannotUpgrade(f"{_called(node)} has is_test=1, and something reads {told!r} of it")
        return [_plain(node, outputs=outputs[:1])]
    outputs += [""] * (_ALL_OUTPUTS - len(outputs))
    return [_plain(node, outputs=[name or next(context.fresh) for name in outputs])]


def _dropout(node: NodeProto, context: _Context) -> list[NodeProto]:
    further = [name for name in node.output[1:] if name in context.read]
    if _is_inference(node, context, further):
        return [_plain(node)]
    raise CannotUpgrade(
        f"{_called(node)} is in training mode (is_test is 0), and random; --assume-inference takes it for inference"
    )


def _is_inference(node: NodeProto, context: _Context, further: list[str]) -> bool:
    return _integer(node, "is_test", 0) != 0 or (context.assume_inference and not further)


def _elementwise(node: NodeProto, context: _Context) -> list[NodeProto]:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
    if not _integer(node, "broadcast", 0) or axis is None:
        return [_plain(node)]  # the same shapes, or aligned at the end as numpy has it
    return _aligned(node, axis, context)


def _prelu(node: NodeProto, context: _Context) -> list[NodeProto]:
    """One slope per channel is a vector at any rank of the value."""
    return _aligned(node, 1, context) if context.ranks.get(node.input[1]) == 1 else [_plain(node)]


def _aligned(node: NodeProto, axis: int, context: _Context) -> list[NodeProto]:
    """The node with its second operand's dimensions at `axis` of the first: as many 1s follow as there are dims left.

    Their number is found at run time: shape(second) + 0*shape(first)[axis + rank(second):] + 1.
    """
    first, second = node.input[0], node.input[1]
    rank = context.ranks.get(second)
    if rank is None:
        raise CannotUpgrade(f"{_called(node)} aligns {second!r} at an axis, and its rank is not known")
    if axis < 0 <= axis + rank:
        return [_plain(node)]  # it ends where the first operand ends
    shape, left, zeros, zero, ones, one, own, target, reshaped = itertools.islice(context.fresh, 9)
    return [
        helper.make_node("Shape", [first], [shape]),
        helper.make_node("Slice", [shape], [left], axes=[0], starts=[axis + rank], ends=[_BEYOND]),
        _constant(zero, 0),
        helper.make_node("Mul", [left, zero], [zeros]),
        _constant(one, 1),
        helper.make_node("Add", [zeros, one], [ones]),
        helper.make_node("Shape", [second], [own]),
        helper.make_node("Concat", [own, ones], [target], axis=0),
        helper.make_node("Reshape", [second, target], [reshaped]),
        _plain(node, inputs=[first, reshaped]),
    ]


def _gemm(node: NodeProto, context: _Context) -> list[NodeProto]:
    del context  # broadcast=1 is numpy's own for a matrix
    return [_plain(node)]


def _cast(node: NodeProto, context: _Context) -> list[NodeProto]:
    """Below opset 6 the type is told by its name."""
    del context
    plain = _plain(node)
    for attribute in plain.attribute:
        if attribute.name == "to" and attribute.type == AttributeProto.STRING:
            name = attribute.s.decode(errors="replace").upper()
            if name not in TensorProto.DataType.keys():  # noqa: SIM118  # protobuf's enumeration is no mapping
                raise CannotUpgrade(f"{_called(node)} casts to {name!r}, which is no type")
            attribute.CopyFrom(helper.make_attribute("to", TensorProto.DataType.Value(name)))
    return [plain]


def _plain(node: NodeProto, *, inputs: list[str] | None = None, outputs: list[str] | None = None) -> NodeProto:
    """The node in ONNX's own domain, without the attributes that opset 7 no longer has."""
    plain = NodeProto(op_type=node.op_type, name=node.name)
    plain.input.extend(node.input if inputs is None else inputs)
    plain.output.extend(node.output if outputs is None else outputs)
    plain.attribute.extend(attribute for attribute in node.attribute if attribute.name not in _OLD_ATTRIBUTES)
    return plain


def _constant(name: str, number: int) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, TensorProto.INT64, [1], [number]))


def _integer(node: NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _called(node: NodeProto) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else f"the {node.op_type} that makes {node.output[0]!r}"


_ADAPTERS: Final[dict[str, Callable[[NodeProto, _Context], list[NodeProto]]]] = {
    "BatchNormalization": _batch_normalization,
    "Dropout": _dropout,
    "PRelu": _prelu,
    "Gemm": _gemm,
    "Cast": _cast,
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less"),
        _elementwise,
    ),
}
