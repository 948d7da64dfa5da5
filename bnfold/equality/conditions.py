"""The conditions of the If nodes of the main graph, and a model that computes them and nothing else.

The copy holds the nodes that a condition hangs on, with what they read; its outputs are the conditions. It computes
them from the same bits as the original does, so which branch an input takes is known without touching the original. An
If inside another graph is not watched: whether it runs at all hangs on what surrounds it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from bnfold.equality.inputs import fed_inputs
from bnfold.equality.nested import bodies_of, nodes_of
from bnfold.model.datatypes import raw_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

MOST_BYTES: Final = (1 << 31) - 1
# What gives nothing of its operand but its size.
_OF_SIZE: Final = frozenset({"Shape", "Size"})


class CannotWatch(Exception):
    """A model of whose conditions no copy can be made; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Fork:
    """An If of the main graph whose condition hangs on an input.

    `condition` is the name of its condition, `by_value` whether that hangs on values and not on sizes alone, and
    `constants` are the single numbers that it is computed from.
    """

    title: str
    condition: str
    by_value: bool
    constants: tuple[float, ...]


def is_forked(model: onnx.ModelProto) -> bool:
    """Whether a model holds an If anywhere."""
    return any(node.op_type == "If" for node in nodes_of(model))


def forks_of(model: onnx.ModelProto) -> tuple[tuple[Fork, ...], int]:
    """The Ifs of the main graph that an input decides, and how many Ifs stand inside other graphs."""
    history = _History(model)
    ifs = [node for node in model.graph.node if node.op_type == "If" and node.input]
    nested = sum(node.op_type == "If" for node in nodes_of(model)) - len(ifs)
    found = (history.fork(node) for node in ifs)
    return tuple(fork for fork in found if fork is not None), nested


def watching(model: onnx.ModelProto, forks: Sequence[Fork], folder: Path) -> bytes:
    """A serialised model whose outputs are the conditions that are not inputs, its external data loaded from `folder`.

    It takes the inputs that the model must be fed. Raises `CannotWatch`.
    """
    history = _History(model)
    fed = {port.name for port in fed_inputs(model)}
    conditions = list(dict.fromkeys(fork.condition for fork in forks if fork.condition not in fed))
    read = history.before(conditions)
    copy = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions,
        graph=onnx.GraphProto(name="conditions"),
    )  # fmt: skip
    copy.graph.input.extend(port for port in model.graph.input if port.name in fed | read)
    copy.graph.node.extend(node for node in model.graph.node if read.intersection(node.output))
    copy.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    copy.graph.sparse_initializer.extend(one for one in model.graph.sparse_initializer if one.values.name in read)
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.BOOL, None) for name in conditions)
    _load(copy.graph.initializer, folder, copy.ByteSize())
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
    """Which names of the main graph a value is computed from."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._makers = {name: node for node in model.graph.node for name in node.output if name}
        self._fed = {port.name for port in fed_inputs(model)}
        self._single = {tensor.name: tensor for tensor in model.graph.initializer if math.prod(tensor.dims) == 1}

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

    def fork(self, node: onnx.NodeProto) -> Fork | None:
        """What is known of an If; None if no input decides it."""
        condition = node.input[0]
        behind = self.before([condition])
        if self._fed.isdisjoint(behind):
            return None
        return Fork(
            title=repr(node.name or condition),
            condition=condition,
            by_value=not self._fed.isdisjoint(self.before([condition], through_sizes=False)),
            constants=tuple(dict.fromkeys(self._constants(behind))),
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
