"""How each value of a main graph is computed, as a digest: equal digests are equal computations, to the last bit.

    digest(input) = its name        digest(constant) = type, shape, content
    digest(output i of a node) = operator, version, attributes, bodies, digests of all that it reads, i

Names of nodes and values do not enter, but for what a body captures, which is found by its name. onnxruntime is
deterministic with optimisations off, so what is computed alike need not be run to be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property

from onnx import AttributeProto, TensorProto

from bnfold.equality.messages import bare, tensors
from bnfold.equality.outline import Outline
from bnfold.model import ModelFile
from bnfold.nodes import Node, Value, nested_graphs

Digest = bytes

_LARGE = 1 << 20


class Fingerprints:
    """Digests of one model's constants and nodes; what stands for the values read is for the caller to say.

    With an `original`, a large constant is first compared with the one of its name there: that is several times as
    fast as to hash it too.
    """

    def __init__(self, outline: Outline, original: Fingerprints | None = None) -> None:
        self._outline = outline
        self._graph = outline.graph
        self._original = original
        self._sources: dict[int, Digest] = {}
        self._large: dict[tuple[str, str], tuple[TensorProto, Digest]] = {}
        self._nodes: dict[int, Digest] = {}

    def of_source(self, value: Value) -> Digest:
        """The digest of a value that no node computes."""
        if value.id not in self._sources:
            self._sources[value.id] = self._of_source(value)
        return self._sources[value.id]

    def _of_source(self, value: Value) -> Digest:
        initializer = self._graph.initializer(value)
        if initializer is not None and value.id not in self._outline.varying:
            return self._of_tensor(initializer.tensor)
        if self._graph.is_sparse(value):
            found = next(t for t in self._graph.model.proto.graph.sparse_initializer if t.values.name == value.name)
            return _digest(b"sparse", *map(self._of_tensor, (found.values, found.indices)), str(found.dims).encode())
        return _digest(b"input", value.name.encode())

    def of_node(self, node: Node, known: Mapping[int, Digest]) -> Digest:
        """The digest of what a node computes out of values with these digests."""
        operands = [known[v.id] if v is not None else b"" for v in node.inputs]
        while operands and not operands[-1]:
            operands.pop()
        inside = {v.id for v in node.inputs if v is not None}
        captured = [v for v in self._outline.needs[node.id] if v.id not in inside]
        named = [part for v in sorted(captured, key=lambda v: v.name) for part in (v.name.encode(), known[v.id])]
        constant = self._of_constant(node)
        return constant or _digest(self._of_operator(node), *operands, b"captured", *named)

    def of_output(self, node: Digest, index: int) -> Digest:
        """The digest of one output of a node."""
        return node if index == 0 else _digest(node, str(index).encode())

    def all_values(self) -> dict[int, Digest]:
        """The digest of every value of the main graph that can be computed, by id."""
        known = {v.id: self.of_source(v) for v in self._outline.names.values() if self._graph.producer(v) is None}
        for node in self._outline.nodes:
            digest = self.of_node(node, known)
            known.update((v.id, self.of_output(digest, i)) for i, v in enumerate(node.outputs) if v is not None)
        return known

    def _of_constant(self, node: Node) -> Digest:
        """A Constant that holds a tensor is what an initializer with it is."""
        if node.op != "Constant" or len(node.proto.attribute) != 1:
            return b""
        attribute = node.proto.attribute[0]
        return self._of_tensor(attribute.t) if attribute.type == AttributeProto.TENSOR else b""

    def _of_operator(self, node: Node) -> Digest:
        if node.id not in self._nodes:
            domain = "" if node.proto.domain == "ai.onnx" else node.proto.domain
            opset = node.scope.opsets.get(domain, 0)
            parts = [node.op.encode(), str(opset).encode()]
            for attribute in sorted(node.proto.attribute, key=lambda a: a.name):
                parts += [bare(attribute), *map(self._of_tensor, tensors(attribute))]
            if node.op.startswith("function ") or any(nested_graphs(node.proto)):
                parts.append(self._functions)
            self._nodes[node.id] = _digest(*parts)
        return self._nodes[node.id]

    def _of_tensor(self, tensor: TensorProto) -> Digest:
        form = f"{tensor.data_type} {list(tensor.dims)}"
        span = self._graph.model.span(tensor)
        if span is None or span.length < _LARGE:
            return self._of_content(tensor, form)
        known = None if self._original is None else self._original._of_same(tensor, form, self._graph.model)
        digest = known or self._of_content(tensor, form)
        self._large[tensor.name, form] = tensor, digest
        return digest

    def _of_content(self, tensor: TensorProto, form: str) -> Digest:
        return _digest(b"constant", form.encode(), self._graph.model.sha256_of(tensor).encode())

    def _of_same(self, theirs: TensorProto, form: str, model: ModelFile) -> Digest | None:
        """The digest of the constant with the name, the form and the data of one of another model, if there is one."""
        ours, digest = self._large.get((theirs.name, form), (None, None))
        return digest if ours is not None and self._graph.model.same_data(ours, model, theirs) else None

    @cached_property
    def _functions(self) -> Digest:
        """All functions of the model: which of them a node reaches matters little."""
        found = self._graph.model.proto.functions
        return _digest(*(part for f in found for part in (bare(f), *map(self._of_tensor, tensors(f)))))


def _digest(*parts: bytes) -> Digest:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
