"""How each value of a main graph is computed, as a digest: equal digests are equal computations, to the last bit.

    digest(input) = its name        digest(constant) = type, shape, content
    digest(output i of a node) = operator, version, attributes, bodies, digests of all that it reads, i

Names of nodes and values do not enter, but for what a body captures, which is found by its name. onnxruntime is
deterministic with optimisations off, so what is computed alike need not be run to be compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

from onnx import AttributeProto, TensorProto

from bnfold.equality.messages import bare, digest_of, tensors
from bnfold.equality.outline import Outline
from bnfold.model import ModelFile
from bnfold.nodes import Node, Value, nested_graphs

Digest = bytes

_LARGE = 1 << 16
_END = 512
_MOST_ALIKE = 4


class Contents:
    """Digests of constants, equal if and only if type, shape and bytes are.

    A large one is not hashed: it is compared with those of its form that begin and end like it. So what differs is
    hardly read, and what is the same is read once, which is several times as fast.
    """

    def __init__(self) -> None:
        self._large: dict[Digest, list[tuple[ModelFile, TensorProto, Digest]]] = defaultdict(list)

    def of(self, model: ModelFile, tensor: TensorProto) -> Digest:
        """The digest of one constant of a model."""
        form = f"{tensor.data_type} {list(tensor.dims)}".encode()
        span = model.span(tensor)
        if span is None or span.length < _LARGE:
            return digest_of(b"constant", form, model.sha256_of(tensor).encode())
        ends = [model.storage.view(replace(span, offset=span.offset + at, length=_END)) for at in _ends(span.length)]
        key = digest_of(b"large", form, *map(bytes, ends))
        known = self._large[key]
        found = next((digest for holder, other, digest in known if holder.same_data(other, model, tensor)), None)
        if found is None and len(known) == _MOST_ALIKE:
            return digest_of(key, model.sha256_of(tensor).encode())
        if found is None:
            found = digest_of(key, str(len(known)).encode())
            known.append((model, tensor, found))
        return found


def _ends(length: int) -> tuple[int, int, int]:
    return 0, (length - _END) // 2, length - _END


class Fingerprints:
    """Digests of one model's constants and nodes; what stands for the values read is for the caller to say.

    Digests of another model can be compared with those of its `original`.
    """

    def __init__(self, outline: Outline, original: Fingerprints | None = None) -> None:
        self._outline = outline
        self._graph = outline.graph
        self._contents: Contents = Contents() if original is None else original._contents
        self._sources: dict[int, Digest] = {}
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
            return digest_of(b"sparse", *map(self._of_tensor, (found.values, found.indices)), str(found.dims).encode())
        return digest_of(b"input", value.name.encode())

    def of_node(self, node: Node, known: Mapping[int, Digest]) -> Digest:
        """The digest of what a node computes out of values with these digests."""
        operands = [known[v.id] if v is not None else b"" for v in node.inputs]
        while operands and not operands[-1]:
            operands.pop()
        inside = {v.id for v in node.inputs if v is not None}
        captured = [v for v in self._outline.needs[node.id] if v.id not in inside]
        named = [part for v in sorted(captured, key=lambda v: v.name) for part in (v.name.encode(), known[v.id])]
        constant = self._of_constant(node)
        return constant or digest_of(self._of_operator(node), *operands, b"captured", *named)

    def of_output(self, node: Digest, index: int) -> Digest:
        """The digest of one output of a node."""
        return node if index == 0 else digest_of(node, str(index).encode())

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
            self._nodes[node.id] = digest_of(*parts)
        return self._nodes[node.id]

    def _of_tensor(self, tensor: TensorProto) -> Digest:
        return self._contents.of(self._graph.model, tensor)

    @cached_property
    def _functions(self) -> Digest:
        """All functions of the model: which of them a node reaches matters little."""
        found = self._graph.model.proto.functions
        return digest_of(*(part for f in found for part in (bare(f), *map(self._of_tensor, tensors(f)))))
