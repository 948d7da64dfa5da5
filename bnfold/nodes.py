"""What a graph is made of: scopes, values, nodes, and who reads what, as frozen values over the protobuf.

A value is identified by the scope that defines it and its name, a node by its scope and its place there. Nothing
here knows an operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto

from bnfold.model import Address

ScopeKind = Literal["graph", "function"]


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """Where in the model a node stands. Names may be empty or repeated; `scope` and `index` never are."""

    scope: str
    index: int
    op: str
    name: str = ""

    def __str__(self) -> str:
        label = f"{self.op}#{self.index}" + (f" {self.name!r}" if self.name else "")
        return f"{self.scope}/{label}" if self.scope else label


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """One graph or function body. `path` is empty for the main graph, else names the nodes that lead to it."""

    path: str
    address: Address
    kind: ScopeKind
    proto: GraphProto | onnx.FunctionProto
    parent: Scope | None
    opsets: Mapping[str, int]

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators that this scope's nodes mean."""
        return self.opsets.get("", 1)


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A name in a scope. `id` is its place in the index's tables."""

    id: int
    name: str
    scope: Scope


class _Attributes(NamedTuple):
    by_name: Mapping[str, AttributeProto]
    refers: bool


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A node with its values: `inputs[i]` is None where the optional input i is absent ("" or cut off).

    `op` is the operator; of another domain than ONNX's own it bears the domain (`com.microsoft.FusedConv`), and a call
    of one of the model's own functions says so, for a function may bear the name of an operator.
    """

    id: int
    scope: Scope
    index: int
    op: str
    proto: NodeProto
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    site: Site = field(init=False)
    """Where this node stands."""
    _read: list[_Attributes] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        """Say where it stands."""
        object.__setattr__(self, "site", Site(self.scope.path, self.index, self.op, self.proto.name))

    def input(self, index: int) -> Value | None:
        """Input `index`, or None where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def output(self, index: int) -> Value | None:
        """Output `index`, or None where it is absent."""
        return self.outputs[index] if index < len(self.outputs) else None

    @property
    def refers_to_attributes(self) -> bool:
        """Whether an attribute is a function's parameter, whose value only a call site knows."""
        return self._attributes().refers

    def _find(self, name: str) -> AttributeProto | None:
        return self._attributes().by_name.get(name)

    def _attributes(self) -> _Attributes:
        """Read when they are first asked for; of several that bear one name the first counts."""
        if not self._read:
            listed = tuple(self.proto.attribute)
            by_name = {attribute.name: attribute for attribute in reversed(listed)}
            self._read.append(_Attributes(by_name, any(attribute.ref_attr_name for attribute in listed)))
        return self._read[0]

    def int_attribute(self, name: str, default: int) -> int:
        """An integer attribute, or `default` where it is absent."""
        found = self._find(name)
        return default if found is None else found.i

    def float_attribute(self, name: str, default: float) -> float:
        """A float attribute as float64(float32), or float64(float32(default)) where it is absent."""
        found = self._find(name)
        return float(np.float32(default)) if found is None else found.f

    def ints_attribute(self, name: str) -> tuple[int, ...] | None:
        """A list of integers, or None where it is absent."""
        found = self._find(name)
        return None if found is None else tuple(found.ints)

    def floats_attribute(self, name: str) -> tuple[float, ...] | None:
        """A list of floats, or None where it is absent."""
        found = self._find(name)
        return None if found is None else tuple(found.floats)

    def string_attribute(self, name: str, default: str) -> str:
        """A string attribute, or `default` where it is absent."""
        found = self._find(name)
        return default if found is None else found.s.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Reader:
    """A node that reads a value as its input `index`."""

    node: Node
    index: int


@dataclass(frozen=True, slots=True)
class Initializer:
    """An initializer: the tensor, the scope that holds it, its place there, and the graph input that shadows it."""

    tensor: TensorProto
    scope: Scope
    index: int
    input_index: int | None


def value_infos(graph: GraphProto) -> Iterator[ValueInfoProto]:
    """Everything a graph says of its values: inputs, outputs, and what lies between."""
    yield from graph.input
    yield from graph.output
    yield from graph.value_info


def nested_graphs(node: NodeProto) -> Iterator[tuple[int, int, str, GraphProto]]:
    """The graphs in a node's attributes: (attribute index, index in `graphs` or -1 for `g`, name, graph)."""
    for position, attribute in enumerate(node.attribute):
        if attribute.type == AttributeProto.GRAPH:
            yield position, -1, attribute.name, attribute.g
        for k, graph in enumerate(attribute.graphs):
            yield position, k, attribute.name, graph


def operator_name(domain: str, name: str) -> str:
    """What the `op` of a node is that runs an operator of a domain."""
    return name if domain in {"", "ai.onnx"} else f"{domain}.{name}"


CALL = "function "
"""How the `op` of a node begins that calls one of the model's own functions."""


def call_name(domain: str, name: str) -> str:
    """What the `op` of a node is that calls one of the model's own functions."""
    return f"{CALL}{operator_name(domain, name)}"
