"""What a parsed model must satisfy to be read at all: versions, names, the sizes of its tensors.

Invariant: after these checks every name is defined once per scope, no node depends on itself, and the data of
every tensor fill its shape exactly. No operator is known here; a model that onnx's checker accepts is refused only
for what the checker overlooks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto

from bnfold.errors import InputRefused
from bnfold.model.datatypes import ITEM_BITS, TYPED_FIELDS, raw_bytes, typed_entries, typed_field
from bnfold.model.external import Locations, check_extent
from bnfold.model.tensors import external_entries, nested_graphs
from bnfold.model.walk import DEEPEST, too_deep

_DEFAULT_DOMAINS = frozenset({"", "ai.onnx"})


def check_versions(model: ModelProto) -> None:
    """Refuse a model without a graph, of an unknown IR version, or of an unknown opset of the default domain."""
    if not model.HasField("graph"):
        raise InputRefused("it holds no graph")
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        raise InputRefused(
            f"its IR version is {model.ir_version}; known are 1 to {onnx.IR_VERSION} (onnx {onnx.__version__})"
        )
    versions = _default_versions(model.opset_import)
    if not versions and model.ir_version >= 3 and any(n.domain in _DEFAULT_DOMAINS for n in model.graph.node):
        raise InputRefused("it names no opset for the operators of ONNX's own domain")
    if len(versions) > 1:
        raise InputRefused(f"it names several opsets of ONNX's own domain: {sorted(versions)}")
    for function in model.functions:
        _default_versions(function.opset_import)


def _default_versions(imports: Iterable[OperatorSetIdProto]) -> frozenset[int]:
    versions = frozenset(entry.version for entry in imports if entry.domain in _DEFAULT_DOMAINS)
    newest = onnx.defs.onnx_opset_version()
    for version in versions:
        if not 1 <= version <= newest:
            raise InputRefused(f"its opset is {version}; known are 1 to {newest} (onnx {onnx.__version__})")
    return versions


def check_tensors(tensors: Iterable[TensorProto], left_out: Mapping[int, int], locations: Locations) -> None:
    """Refuse tensors of an unknown type, with a negative dimension, or whose data do not fill their shape.

    `left_out` are the payloads that the skeleton marks as external data without a location.
    """
    for tensor in tensors:
        count = _count(tensor)
        if tensor.data_location != TensorProto.EXTERNAL:
            _check_stored(tensor, count)
            continue
        _check_has_raw_form(tensor)
        expected = raw_bytes(tensor.data_type, count)
        entries = external_entries(tensor)
        if entries.get("location"):
            check_extent(tensor, expected, locations)
            continue
        _check_length(tensor, left_out[int(entries["offset"])], expected)


def _count(tensor: TensorProto) -> int:
    dims = tuple(tensor.dims)
    if dims and min(dims) < 0:
        raise InputRefused(f"tensor {tensor.name!r} has a negative dimension: {list(dims)}")
    if tensor.data_type not in ITEM_BITS and tensor.data_type != TensorProto.STRING:
        raise InputRefused(f"tensor {tensor.name!r} has the unknown data type {tensor.data_type}")
    return math.prod(dims)


def _check_stored(tensor: TensorProto, count: int) -> None:
    entries = {name: found for name in TYPED_FIELDS if (found := len(getattr(tensor, name)))}
    if tensor.HasField("raw_data"):
        _check_has_raw_form(tensor)
        if entries:
            raise InputRefused(f"tensor {tensor.name!r} stores its data twice: raw_data and {', '.join(entries)}")
        _check_length(tensor, len(tensor.raw_data), raw_bytes(tensor.data_type, count))
        return
    name = typed_field(tensor.data_type)
    expected = typed_entries(tensor.data_type, count)
    found = entries.pop(name, 0)
    if found != expected:
        raise InputRefused(f"tensor {tensor.name!r} has {found} entries in {name}, its shape needs {expected}")
    if entries:
        raise InputRefused(f"tensor {tensor.name!r} stores data in {', '.join(entries)}, its type uses {name}")


def _check_has_raw_form(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.STRING:
        raise InputRefused(f"tensor {tensor.name!r} holds strings as raw or external data")


def _check_length(tensor: TensorProto, found: int, expected: int) -> None:
    if found != expected:
        raise InputRefused(f"the data of tensor {tensor.name!r} have {found} bytes, its shape needs {expected}")


def check_names(model: ModelProto) -> None:
    """Refuse names that nothing defines, or that are defined twice in one scope, and cycles.

    A graph need not be sorted: onnxruntime sorts it itself, and such files are about.
    """
    _check_graph(model.graph, None, 0)
    for function in model.functions:
        scope = _Scope(None, f"function {function.name!r}")
        for name in function.input:
            scope.define(name)
        _check_nodes(function, scope, 0)
        scope.check_outputs(function.output)


class _Scope:
    """The names defined so far in one graph, those that its further nodes will define, and the scopes around it."""

    def __init__(self, outer: _Scope | None, title: str) -> None:
        self.outer = outer
        self.title = title
        self.names: set[str] = set()
        self.coming: set[str] = set()
        self.is_sorted = True

    def define(self, name: str) -> None:
        if not name:
            return
        _check_text(name)
        if name in self.names:
            raise InputRefused(f"{self.title} defines {name!r} twice")
        self.names.add(name)

    def knows(self, name: str) -> bool:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return True
            if name in scope.coming:
                scope.is_sorted = False
                return True
            scope = scope.outer
        return False

    def check_outputs(self, names: Iterable[str]) -> None:
        for name in names:
            if name and not self.knows(name):
                raise InputRefused(f"nothing defines the output {name!r} of {self.title}")


def _check_graph(graph: GraphProto, outer: _Scope | None, depth: int) -> None:
    if depth > DEEPEST:
        raise too_deep()
    scope = _Scope(outer, f"graph {graph.name!r}")
    for value in graph.input:
        scope.define(value.name)
    # An initializer may have the name of an input: it is that input's default.
    scope.names |= _initializer_names(graph, scope.title)
    _check_nodes(graph, scope, depth)
    scope.check_outputs(value.name for value in graph.output)


def _initializer_names(graph: GraphProto, title: str) -> set[str]:
    names: set[str] = set()
    dense = (tensor.name for tensor in graph.initializer)
    sparse = (tensor.values.name for tensor in graph.sparse_initializer)
    for name in (*dense, *sparse):
        _check_text(name)
        if name and name in names:
            raise InputRefused(f"{title} has two initializers {name!r}")
        names.add(name)
    return names


def _check_nodes(graph: GraphProto | FunctionProto, scope: _Scope, depth: int) -> None:
    scope.coming = {name for node in graph.node for name in node.output if name}
    for index, node in enumerate(graph.node):
        _check_node_texts(node, index)
        for name in node.input:
            if name and not scope.knows(name):
                raise InputRefused(f"{_called(node, index)} uses {name!r}, which nothing defines")
        for attribute in node.attribute:
            for nested in nested_graphs(attribute):
                _check_graph(nested, scope, depth + 1)
        for name in node.output:
            scope.define(name)
    if not scope.is_sorted:
        _check_sortable(graph, scope.title)


def _check_sortable(graph: GraphProto | FunctionProto, title: str) -> None:
    """Refuse a graph in which a node depends on itself; what a nested graph reads counts for the node that holds it."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    sorter = TopologicalSorter[int]()
    for index, node in enumerate(graph.node):
        sorter.add(index, *(makers[name] for name in _names_read(node) if name in makers))
    try:
        sorter.prepare()
    except CycleError as error:
        first = error.args[1][0]
        raise InputRefused(f"{title} has a cycle through {_called(graph.node[first], first)}") from error


def _names_read(node: NodeProto) -> Iterator[str]:
    pending = [node]
    while pending:
        current = pending.pop()
        yield from current.input
        for nested in (graph for attribute in current.attribute for graph in nested_graphs(attribute)):
            pending += nested.node
            yield from (value.name for value in nested.output)


def _check_node_texts(node: NodeProto, index: int) -> None:
    if not node.op_type:
        raise InputRefused(f"{_called(node, index)} names no operator")
    for text in (node.name, node.op_type, node.domain):
        _check_text(text)


def _check_text(text: str | bytes) -> None:
    # protobuf hands out text that is not UTF-8 as bytes.
    if isinstance(text, bytes):
        raise InputRefused(f"the name {text!r} is not UTF-8")


def _called(node: NodeProto, index: int) -> str:
    return f"node {index} ({node.op_type} {node.name!r})"
