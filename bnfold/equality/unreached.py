"""Whether a branch that no input tried takes is the same in both files: then nothing has to run it.

It is if its graph has the same bytes, tensors by content, and so have the constants that it captures from around it,
however they are computed. What it captures that hangs on an input is compared where it is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import onnx

from bnfold.equality.conditions import Place
from bnfold.equality.messages import bare, digest_of, tensors
from bnfold.equality.nested import bodies_of, without_functions
from bnfold.model import ModelFile


def unlike(before: ModelFile, after: ModelFile, branches: Sequence[Place]) -> str:
    """A sentence about the first of these branches that is not the same in both; empty where all are."""
    if not branches:
        return ""
    try:
        sides = [_Side(file, without_functions(file.proto)) for file in (before, after)]
    except Exception:  # noqa: BLE001  # onnx's inliner raises what it likes
        return "which branches of If nodes ran is not known, and they cannot be compared"
    for place in branches:
        ours, theirs = (side.content(place) for side in sides)
        if ours is None or ours != theirs:
            output, attribute = place[-1]
            return (
                f"no input tried takes the {attribute.removesuffix('_branch')} branch of the If that gives {output!r}, "
                "which is not the same in both files, so that nothing shows whether it gives the same; "
                "data that take it would (--data)"
            )
    return ""


@dataclass(frozen=True, slots=True)
class _Side:
    """One model; its functions stand where they are called."""

    file: ModelFile
    proto: onnx.ModelProto
    known: dict[tuple[int, str], bytes | None] = field(default_factory=dict)

    def content(self, place: Place) -> bytes | None:
        """All that decides what a branch computes of what it is given; None where there is no such branch."""
        around = [self.proto.graph]
        for output, attribute in place:
            holder = next((n for n in around[-1].node if output in n.output), None)
            body = next((a.g for a in holder.attribute if a.name == attribute), None) if holder is not None else None
            if body is None:
                return None
            around.append(body)
        *outer, branch = around
        named = sorted(set(_captured(branch)))
        held = (part for name in named for part in (name.encode(), self._constant(name, outer)))
        functions = (part for one in self.proto.functions for part in self._parts(one))
        return digest_of(*self._parts(branch), *held, *functions)

    def _constant(self, name: str, around: Sequence[onnx.GraphProto]) -> bytes:
        """The content of a constant that these graphs define, the inner one first; empty for what is none."""
        for depth in range(len(around), 0, -1):
            key = id(around[depth - 1]), name
            if key not in self.known:
                self.known[key] = b""  # a circle is no constant
                self.known[key] = self._defined(name, around[:depth])
            found = self.known[key]
            if found is not None:
                return found
        return b""

    def _defined(self, name: str, around: Sequence[onnx.GraphProto]) -> bytes | None:
        """What the innermost of some graphs says of a name: None where it defines none, empty for no constant."""
        graph = around[-1]
        tensor = next((tensor for tensor in graph.initializer if tensor.name == name), None)
        if tensor is not None:
            return digest_of(*self._parts(tensor))
        if any(one.values.name == name for one in graph.sparse_initializer):
            one = next(one for one in graph.sparse_initializer if one.values.name == name)
            return digest_of(*self._parts(one.values), *self._parts(one.indices), str(one.dims).encode())
        if any(port.name == name for port in graph.input):
            return b""
        node = next((node for node in graph.node if name in node.output), None)
        if node is None:
            return None
        reads = [read for read in node.input if read] + [read for body in bodies_of(node) for read in _captured(body)]
        behind = [self._constant(read, around) for read in reads]
        if not all(behind):
            return b""
        return digest_of(*self._parts(node), *behind)

    def _parts(
        self, message: onnx.GraphProto | onnx.NodeProto | onnx.TensorProto | onnx.FunctionProto
    ) -> Iterator[bytes]:
        yield bare(message)
        for tensor in tensors(message):
            yield self.file.sha256_of(tensor).encode()


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    """The names that a graph reads and does not define."""
    own = {port.name for port in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {one.values.name for one in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        yield from (name for name in node.input if name and name not in own)
        for body in bodies_of(node):
            yield from (name for name in _captured(body) if name not in own)
