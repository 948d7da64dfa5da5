"""Observing marked values of a model over data: pieces that end at the values, run batch by batch.

Invariant: between batches only `Observed` is kept. A piece holds nothing that the values it ends at do not need, and
its weights are the file's own bytes; constants that were measured meanwhile may be put in place of others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto

from bnfold.affine import Float64
from bnfold.equality.inputs import Batch
from bnfold.equality.outline import Outline
from bnfold.equality.pieces import Piece, Source
from bnfold.equality.prepare import Copy
from bnfold.equality.runner import CannotRun, Runner
from bnfold.graph import Graph
from bnfold.model import ModelFile, candidate, edited, read, without_functions
from bnfold.nodes import Node
from bnfold.observing.lifting import CannotLift, body_at, lifted
from bnfold.observing.marks import Watch, marked, marks_in
from bnfold.observing.reducing import Reduction, reduction
from bnfold.statistics import Observed


class CannotObserve(Exception):
    """A value that could not be observed; the sentence says why, `kind` is that of `CannotRun`, if it was one."""

    def __init__(self, sentence: str, kind: str = "") -> None:
        super().__init__(sentence)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Shape:
    """What has to be known of a marked value before anything runs: its channels, their axis (1 or -1), a centre."""

    channels: int
    axis: int = 1
    centre: Float64 | None = None

    def of_nothing(self) -> Observed:
        """Nothing seen of such a value."""
        return Observed.none(self.channels, self.centre)


@dataclass(frozen=True, slots=True, eq=False)
class Observer:
    """Observes the marked values of one model without functions. `shapes` says what each is like, by key."""

    source: Source
    outline: Outline
    shapes: Mapping[int, Shape]
    runner: Runner

    @classmethod
    @contextmanager
    def of(cls, model: ModelFile, shapes: Mapping[int, Shape], runner: Runner) -> Iterator[Observer]:
        """The observer of a model that holds marks, which is written to a temporary folder meanwhile."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bnfold-")))
            plain = without_functions(model)
            made = stack.enter_context(candidate(plain, {}, folder / "observed.onnx"))
            graph = Graph.of(read(made.path))
            yield cls(Source(graph, made.path), Outline.of(graph), shapes, runner)

    def observe(
        self, keys: Iterable[int], batches: Iterable[Batch], constants: Mapping[str, TensorProto] | None = None
    ) -> dict[int, Observed]:
        """What the values with these keys are over all batches; of a value that never arises, nothing.

        `constants` take the place of what Constant nodes of that doc_string hold. Raises `CannotObserve`.
        """
        wanted = frozenset(keys)
        piece, reductions = self._piece(wanted, constants or {})
        copy = Copy(piece.to_bytes(), self.source.held_at.parent)
        seen = {key: self.shapes[key].of_nothing() for key in wanted}
        for batch in batches:
            feeds = {name: batch.feeds[name] for name in piece.bounds}
            try:
                outputs = self.runner.run_piece(copy, feeds)
            except CannotRun as error:
                sentence = f"onnxruntime cannot run the model on {batch.label!r}: {error.sentence}"
                raise CannotObserve(sentence, error.kind) from error
            for key, found in reductions:
                seen[key] = seen[key].merged(_observed(found, self.shapes[key], outputs))
        return seen

    def _piece(
        self, keys: frozenset[int], constants: Mapping[str, TensorProto]
    ) -> tuple[Piece, list[tuple[int, Reduction]]]:
        marks = [(key, node) for key, node in marks_in(self.source.graph) if key in keys]
        holders = {node.id: self._in_main_graph(node) for _, node in marks}
        # A mark in the main graph is not run itself: what it reads is. A body is run where it stands.
        whole = {holder.id: holder for id_, holder in holders.items() if holder.id != id_}
        reads = [value for node in whole.values() for value in self.outline.needs[node.id]]
        reads += [v for _, node in marks if holders[node.id] is node and (v := node.inputs[0]) is not None]
        nodes, bounds = self.outline.behind(reads, ())
        ids = {node.id for node in nodes} | whole.keys()
        ordered = [node for node in self.outline.nodes if node.id in ids]
        piece = Piece(self.source)
        part = piece.part(ordered, {}, "")
        part.captured(value for node in ordered for value in self.outline.needs[node.id])
        for value in bounds:
            if value.id in self.outline.varying:
                piece.feed(value.name, self._element_type(value.name))
        copies = {node.id: copy for node, copy in zip(ordered, piece.nodes, strict=True)}
        for copy in copies.values():
            _put(copy, constants)
        reductions = [(key, self._reduced(piece, place, key, node, copies)) for place, (key, node) in enumerate(marks)]
        return piece, reductions

    def _reduced(self, piece: Piece, place: int, key: int, mark: Node, copies: Mapping[int, NodeProto]) -> Reduction:
        """Reduce what a mark reads, where it stands, and bring that out."""
        shape, prefix = self.shapes[key], f"bnfold watches {place}"
        nodes, found = reduction(
            mark.proto.input[0], prefix, channels=shape.channels, axis=shape.axis, opset=mark.scope.opset
        )
        steps = mark.scope.address.nested
        if not steps:
            piece.nodes.extend(nodes)
        else:
            holder = copies[self._in_main_graph(mark).id]
            body_at(holder, steps).node.extend(nodes)
            try:
                found = lifted(piece.nodes, holder, steps, found, prefix)
            except CannotLift as error:
                raise CannotObserve(f"{mark.proto.input[0]!r}: {error}") from error
        piece.outputs.extend(found.names)
        return found

    def _in_main_graph(self, node: Node) -> Node:
        """The node itself, or the one of the main graph in whose body it stands."""
        steps = node.scope.address.nested
        return self.source.graph.nodes_of(self.source.graph.scopes[0])[steps[0][0]] if steps else node

    def _element_type(self, name: str) -> int:
        ports = self.source.file.proto.graph.input
        return next(int(port.type.tensor_type.elem_type) for port in ports if port.name == name)


def observe(
    model: ModelFile, watches: Sequence[Watch], batches: Iterable[Batch], runner: Runner
) -> dict[int, Observed]:
    """What values of a model are over data, by the keys of their watches. Raises `CannotObserve`, `UsageError`."""
    with_marks = edited(model, marked(Graph.of(model), watches))
    shapes = {watch.key: Shape(watch.channels, watch.axis, watch.centre) for watch in watches}
    with Observer.of(with_marks, shapes, runner) as observer:
        return observer.observe(shapes, batches)


def _observed(found: Reduction, shape: Shape, outputs: Mapping[str, np.ndarray]) -> Observed:
    """One batch's statistics, as they came out of the piece: of a loop's body, one form for each iteration."""
    means, variances = (outputs[name].reshape(-1, found.channels) for name in (found.means, found.variances))
    seen, start = shape.of_nothing(), 0
    for form in outputs[found.shape].reshape(-1, 3):
        samples, size = int(form[0]), int(form[2 if found.axis == 1 else 1])
        rows = slice(start, start + samples)
        start += samples
        if samples and size:
            seen = seen.merged(Observed.of_samples(size, means[rows], variances[rows], shape.centre))
    return seen


def _put(node: NodeProto, constants: Mapping[str, TensorProto]) -> None:
    """Put constants in place of those that a node, or its bodies, hold under the same doc_string."""
    if node.doc_string in constants:
        node.attribute[0].t.CopyFrom(constants[node.doc_string])
    for attribute in node.attribute:
        for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            for inner in body.node:
                _put(inner, constants)
