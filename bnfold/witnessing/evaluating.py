"""A few nodes, evaluated in float64 on drawn values by onnx's reference evaluator: an operator at its place, alone.

What is float in the model is float64 here, so that a difference is one of the functions and not one of rounding.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from bnfold.affine import Float64
from bnfold.nodes import Node, Value, nested_graphs
from bnfold.ops.facts import Array, Constant, Facts, cannot_be_evaluated
from bnfold.ops.rounding import FLOAT_TYPES
from bnfold.ops.standing import rounds

DEEPEST = 3
"""How many nodes are put before one that reads integers, until what is read is float."""

BATCH, WINDOW = 2, 8
"""Sizes drawn for the first dimension and for those from the third on, where the operator takes any."""

FIRST_OPSET_OF_ROUNDING = 19
"""From which on the evaluator has these operators; for float data they meant the same before."""

LARGEST = 1 << 20
"""Elements of a value that is drawn."""

Changed = Mapping[tuple[int, int], Array]
"""New constants, by the id of the node and the place of the input."""


class CannotEvaluate(Exception):
    """These nodes cannot be evaluated; the sentence says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A node, and before it those that make integers of floats; `data` are the float values that it is fed."""

    facts: Facts
    nodes: tuple[Node, ...]
    data: tuple[Value, ...]
    target: Value
    constants: Mapping[int, Array] = field(repr=False)

    @classmethod
    def at(cls, facts: Facts, node: Node, output: int = 0) -> Region:
        """The region of a node's output; raises CannotEvaluate."""
        target = node.output(output)
        if target is None:
            raise CannotEvaluate("its output is missing")
        nodes, data, constants = [node], list[Value](), dict[int, Array]()
        pending = [(value, 0) for value in node.inputs if value is not None]
        while pending:
            value, depth = pending.pop(0)
            held = facts.constant(value) if facts.is_constant(value) else None
            made_by = facts.graph.producer(value)
            if isinstance(held, Constant):
                constants[value.id] = _widened(held.array())
            elif _is_float(facts, value):
                data += [value] if value not in data else []
            elif made_by is None or depth == DEEPEST:
                raise CannotEvaluate(f"{value.name!r} is no float, and is not drawn")
            else:
                nodes += [made_by] if made_by not in nodes else []
                pending += [(operand, depth + 1) for operand in made_by.inputs if operand is not None]
        for each in nodes:
            _check(each)
        return cls(facts, tuple(reversed(nodes)), tuple(data), target, constants)

    def drawn(self, random: np.random.Generator, size: float, kept: Container[int] | None) -> dict[int, Float64]:
        """Random values for the data, by value id: of the model's sizes, or smaller along axes that are not `kept`."""
        return {value.id: size * random.standard_normal(self._shape(value, kept)) for value in self.data}

    def run(
        self, values: Mapping[int, Array], changed: Changed | None = None, dropped: frozenset[str] = frozenset()
    ) -> Float64:
        """What comes out; `changed` are other constants for inputs, `dropped` attributes that go."""
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415  # slow to import, and only witnesses need it

        feeds = {f"v{id_}": array for id_, array in (*self.constants.items(), *values.items())}
        feeds |= {f"new{node}.{index}": array for (node, index), array in (changed or {}).items()}
        protos = [_proto(node, changed or {}, dropped) for node in self.nodes]
        named = {name for proto in protos for name in proto.input}
        ports = [(name, array) for name, array in feeds.items() if name in named]
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
            for name, array in ports
        ]
        graph = helper.make_graph(protos, "region", inputs, [ValueInfoProto(name=f"v{self.target.id}")])
        known = dict(self.target.scope.opsets)
        if all(rounds(node) for node in self.nodes):
            known[""] = max(known.get("", 1), FIRST_OPSET_OF_ROUNDING)
        opsets = [helper.make_opsetid(domain, version) for domain, version in known.items()]
        functions = list(self.facts.graph.model.proto.functions)
        try:
            model = helper.make_model(graph, opset_imports=opsets, functions=functions)
            (result,) = ReferenceEvaluator(model).run([f"v{self.target.id}"], dict(ports))
            return np.asarray(result).astype(np.float64)
        except Exception as error:  # it raises anything for what it cannot run
            raise CannotEvaluate("it cannot be evaluated alone") from error

    def _shape(self, value: Value, kept: Container[int] | None) -> tuple[int, ...]:
        shape = self.facts.shape(value)
        if shape is None:
            raise CannotEvaluate(f"the shape of {value.name!r} is not known")
        sizes = list(_sizes(shape, kept))
        if np.prod(sizes, dtype=np.float64) > LARGEST:
            raise CannotEvaluate(f"{value.name!r} is too large to be drawn")
        return tuple(sizes)


def _sizes(shape: tuple[int | str | None, ...], kept: Container[int] | None) -> Iterator[int]:
    for axis, size in enumerate(shape):
        most = BATCH if axis == 0 else WINDOW
        if not isinstance(size, int):
            yield most
        else:
            yield size if kept is None or axis in kept else min(size, most)


def _widened(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype in FLOAT_TYPES else array


def _is_float(facts: Facts, value: Value) -> bool:
    element = facts.shapes.element_type(value)
    if element is None:  # most values are, and what is none is found out by running
        return True
    return element in {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


def _check(node: Node) -> None:
    if cannot_be_evaluated(node) or any(nested_graphs(node.proto)) or node.refers_to_attributes:
        raise CannotEvaluate(f"{node.op} is not evaluated alone")


def _proto(node: Node, changed: Changed, dropped: frozenset[str]) -> NodeProto:
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    names = ["" if value is None else f"v{value.id}" for value in node.inputs]
    for id_, index in changed:
        if id_ == node.id:
            names += [""] * (index + 1 - len(names))
            names[index] = f"new{id_}.{index}"
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.extend("" if value is None else f"v{value.id}" for value in node.outputs)
    kept = [attribute for attribute in proto.attribute if attribute.name not in dropped]
    del proto.attribute[:]
    proto.attribute.extend(kept)
    return proto


def element_type(facts: Facts, value: Value) -> np.dtype[np.generic]:
    """The float type that a value has in the model, float32 where that is not known."""
    element = facts.shapes.element_type(value)
    dtype = np.dtype(np.float32) if element is None else helper.tensor_dtype_to_np_dtype(element)
    return dtype if dtype in FLOAT_TYPES else np.dtype(np.float32)
