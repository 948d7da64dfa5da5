"""The conditions of all If nodes, and a model that computes them and nothing else.

The copy holds the nodes that a condition hangs on, with what they read; its outputs are the conditions. It computes
them from the same bits as the original does, so which branch an input takes is known without touching the original. An
If inside another graph says from within how often each branch ran (watching.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from bnfold.equality.inputs import fed_inputs
from bnfold.equality.nested import all_nodes, bodies_of, graphs_of, nodes_of
from bnfold.equality.watching import can_count, count_branches
from bnfold.model.datatypes import raw_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

MOST_BYTES: Final = (1 << 31) - 1
# What gives nothing of its operand but its size.
_OF_SIZE: Final = frozenset({"Shape", "Size"})


class CannotWatch(Exception):
    """A model of whose conditions no copy can be made; the sentence says why."""


Place = tuple[tuple[str, str], ...]
"""Where a graph stands: from the main graph inward, the first output of each node and its attribute."""


@dataclass(frozen=True, slots=True)
class Fork:
    """An If whose condition hangs on an input.

    `key` is the name of its condition, or, inside another graph, the output of the copy that counts its branches. `at`
    is the graph that it stands in and `output` its first output. `inputs` are those on whose values, and not on sizes
    alone, the condition hangs, and `constants` the single numbers that it is computed from.
    """

    title: str
    key: str
    inputs: frozenset[str]
    constants: tuple[float, ...]
    at: Place
    output: str

    @property
    def by_value(self) -> bool:
        """Whether values decide."""
        return bool(self.inputs)

    def branch(self, name: str) -> Place:
        """Where a branch stands."""
        return (*self.at, (self.output, name))


def is_forked(model: onnx.ModelProto) -> bool:
    """Whether a model holds an If anywhere."""
    return any(node.op_type == "If" for node in nodes_of(model))


def forks_of(model: onnx.ModelProto) -> tuple[tuple[Fork, ...], int]:
    """The Ifs that an input decides, and how many stand where they cannot be watched (in a function, say)."""
    history = _History(model)
    forks: list[Fork] = []
    hidden = sum(node.op_type == "If" for function in model.functions for node in all_nodes(function.node))
    for at, node, is_watchable in _ifs(model.graph, (), is_watchable=True):
        found = history.fork(node, at)
        if found is not None and is_watchable:
            forks.append(found)
        hidden += found is not None and not is_watchable
    return tuple(forks), hidden


def _ifs(graph: onnx.GraphProto, at: Place, *, is_watchable: bool) -> Iterator[tuple[Place, onnx.NodeProto, bool]]:
    for node in graph.node:
        if node.op_type == "If" and node.input:
            yield at, node, is_watchable
        inner = is_watchable and can_count(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                place = (*at, (next(iter(node.output), ""), attribute.name))
                yield from _ifs(attribute.g, place, is_watchable=inner)


def watching(model: onnx.ModelProto, forks: Sequence[Fork], folder: Path) -> bytes:
    """A serialised model whose outputs are the forks' keys that are not inputs, its external data loaded from `folder`.

    It takes the inputs that the model must be fed. A condition comes as it is; of an If inside another graph, how often
    its condition was true, and false. Raises `CannotWatch`.
    """
    history = _History(model)
    fed = {port.name for port in fed_inputs(model)}
    conditions = list(dict.fromkeys(fork.key for fork in forks if not fork.at and fork.key not in fed))
    inside = [fork for fork in forks if fork.at]
    holders = {fork.at[0][0] for fork in inside}
    read = history.before([*conditions, *holders])
    copy = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions,
        graph=onnx.GraphProto(name="conditions"),
    )  # fmt: skip
    copy.graph.input.extend(port for port in model.graph.input if port.name in fed | read)
    copy.graph.node.extend(node for node in model.graph.node if read.intersection(node.output))
    copy.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    copy.graph.sparse_initializer.extend(one for one in model.graph.sparse_initializer if one.values.name in read)
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.BOOL, None) for name in conditions)
    count_branches(copy.graph, {(fork.at, fork.output): fork.key for fork in inside})
    _load([tensor for graph in graphs_of(copy) for tensor in graph.initializer], folder, copy.ByteSize())
    serialised: bytes = copy.SerializeToString()
    return serialised


def _load(tensors: Iterable[TensorProto], folder: Path, size: int) -> None:
    outside = [tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL]
    size += sum(_bytes_of(tensor) for tensor in outside)
    if size > MOST_BYTES:
        raise CannotWatch("what they are computed from is too large to be copied (2 GiB)")
    for tensor in outside:
        load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = TensorProto.DEFAULT
        tensor.ClearField("external_data")


def _bytes_of(tensor: TensorProto) -> int:
    return raw_bytes(tensor.data_type, math.prod(tensor.dims))


class _History:
    """Which names a value is computed from; one that two graphs define is taken for the outer graph's."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._makers: dict[str, onnx.NodeProto] = {}
        self._single: dict[str, TensorProto] = {}
        self._fed = {port.name for port in fed_inputs(model)}
        for graph in graphs_of(model):
            for node in graph.node:
                inside = (port.name for body in bodies_of(node) for port in body.input)  # what it feeds its bodies
                for name in (*node.output, *inside):
                    self._makers.setdefault(name, node)
            for tensor in graph.initializer:
                if math.prod(tensor.dims) == 1:
                    self._single.setdefault(tensor.name, tensor)
        self._makers.pop("", None)

    def before(self, names: Iterable[str], *, through_sizes: bool = True) -> set[str]:
        """These names and all that they hang on; what only a size is taken of is left out unless `through_sizes`."""
        reached: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            if name in reached:
                continue
            reached.add(name)
            maker = self._makers.get(name)
            if maker is not None and (through_sizes or maker.op_type not in _OF_SIZE):
                pending.extend(_reads(maker))
        return reached

    def fork(self, node: onnx.NodeProto, at: Place) -> Fork | None:
        """What is known of an If; None if no input decides it."""
        condition, output = node.input[0], next(iter(node.output), "")
        behind = self.before([condition])
        if self._fed.isdisjoint(behind):
            return None
        return Fork(
            title=repr(node.name or condition),
            key=condition if not at else " ".join(("branches of", *(name for step in at for name in step), output)),
            inputs=frozenset(self._fed & self.before([condition], through_sizes=False)),
            constants=tuple(dict.fromkeys(self._constants(behind))),
            at=at,
            output=output,
        )

    def _constants(self, names: set[str]) -> Iterator[float]:
        for name in sorted(names):
            maker = self._makers.get(name)
            tensors = [self._single[name]] if name in self._single else []
            if maker is not None and maker.op_type == "Constant":
                tensors.extend(attribute.t for attribute in maker.attribute if attribute.name == "value")
                yield from (attribute.f for attribute in maker.attribute if attribute.name == "value_float")
                yield from (float(attribute.i) for attribute in maker.attribute if attribute.name == "value_int")
            yield from (number for tensor in tensors for number in _single_number(tensor))


def whole_numbers(graphs: Sequence[onnx.GraphProto]) -> list[int]:
    """The single whole numbers among the constants of graphs: what a round of a loop may be compared with."""
    found = [number for graph in graphs for tensor in graph.initializer for number in _single_number(tensor)]
    for graph in graphs:
        for node in (node for node in graph.node if node.op_type == "Constant"):
            found += [number for a in node.attribute if a.name == "value" for number in _single_number(a.t)]
            found += [float(a.i) for a in node.attribute if a.name == "value_int"]
    return [int(number) for number in found if number == int(number)]


def _single_number(tensor: TensorProto) -> Iterator[float]:
    if math.prod(tensor.dims) != 1 or tensor.data_location == TensorProto.EXTERNAL:
        return  # external ones are not worth a file
    values = numpy_helper.to_array(tensor)
    if values.dtype.kind in "iuf":
        number = float(values.reshape(-1)[0])
        if math.isfinite(number):
            yield number


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Every name that a node reads, also from within the graphs that it holds."""
    pending = [node]
    while pending:
        current = pending.pop()
        yield from (name for name in current.input if name)
        for body in bodies_of(current):
            pending.extend(body.node)
            yield from (port.name for port in body.output)
