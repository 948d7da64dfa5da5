"""Where BatchNormalizations go: values that a user named, each legal or with a sentence that says why not.

A place is a value and the axis of its channels. It is legal if the value is a float tensor of at least two dimensions,
that depends on the model's input, with a known number of channels, in a scope whose opset is 7 or later. What was named
exactly must be legal; of what only a wildcard named, the illegal is left out and told, unless nothing else is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import TensorProto

from bnfold.affine import Dim
from bnfold.errors import InputRefused, UsageError
from bnfold.inserting.types import Form, forms_in_functions
from bnfold.nodes import Node, Site, Value
from bnfold.ops.affine import FIRST_OPSET_WITH_TRAINING_MODE
from bnfold.ops.facts import Facts
from bnfold.ops.layers import (
    activation_after,
    batch_norm_after,
    batch_norm_before,
    channel_axis,
    channels_of,
    depending_on_data,
)
from bnfold.selecting import matched, near

FLOATS = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE})
OLDEST_OPSET = 7
_WILDCARD = re.compile(r"[*?\[]")
_MOST_TOLD = 4


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a BatchNormalization goes: behind `node` (None for an input of the graph), at its value `tensor`.

    `shape` has sizes, symbols and None; `axis` is that of the channels; `element_type` is TensorProto's.
    """

    node: Node | None
    value: Value
    shape: tuple[Dim, ...]
    element_type: int
    axis: int
    channels: int

    @property
    def tensor(self) -> str:
        """The name of the value."""
        return self.value.name

    @property
    def op(self) -> str:
        """The operator that makes the value, "" for an input."""
        return "" if self.node is None else self.node.op

    @property
    def site(self) -> Site:
        """Where the node stands; for an input, the input itself."""
        return Site(self.value.scope.path, 0, "input", self.value.name) if self.node is None else self.node.site

    @property
    def rank(self) -> int:
        """How many dimensions the value has."""
        return len(self.shape)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A value that was named and gets no BatchNormalization, with the reason's code and a sentence."""

    site: Site
    tensor: str
    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Where:
    """What a user asked for: operators, globs of nodes and tensors, what to leave out, and which axis has the channels.

    `choose` is asked of every legal place, and says yes or no.
    """

    after: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    choose: Callable[[Place], bool] | None = None
    axis: int | None = None
    past_activation: bool = False
    training: bool = False


@dataclass(frozen=True, slots=True)
class _Named:
    """A value that was named, whether exactly, and the node that says where its channels are: the layer's own."""

    value: Value
    layer: Node | None
    exactly: bool


def chosen(facts: Facts, where: Where) -> tuple[tuple[Place, ...], tuple[Skipped, ...]]:
    """The places that a user asked for, producers first, and what was named and is left out.

    Raises `UsageError` for what names nothing and for places that must be legal and are not, and `InputRefused` where
    the model's opset is too old.
    """
    named = _named(facts, where)
    judge = _Judge(facts, where, forms_in_functions(facts, [one.value for one in named.values()]))
    places: list[Place] = []
    skipped: list[Skipped] = []
    illegal: list[tuple[_Named, Skipped]] = []
    for one in named.values():
        found = judge.place(one.value, one.layer)
        if isinstance(found, Place):
            places.append(found)
        elif found.code in {"has-batch-norm", "skipped"}:
            skipped.append(found)
        else:
            illegal.append((one, found))
    if where.choose is None:
        _check_legal(illegal, nothing_else=not places and not skipped)
    elif not places:
        _check_opset(found for _, found in illegal)
    places = [place for place in places if where.choose is None or _says_yes(where.choose, place)]
    return tuple(places), (*skipped, *(found for _, found in illegal))


def _says_yes(choose: Callable[[Place], bool], place: Place) -> bool:
    answer = choose(place)
    if not isinstance(answer, bool | np.bool_):
        raise UsageError(f"choose gives something of the type {type(answer).__name__}, and must say True or False")
    return bool(answer)


def _check_legal(illegal: Sequence[tuple[_Named, Skipped]], *, nothing_else: bool) -> None:
    told = [found for one, found in illegal if one.exactly or nothing_else]
    if not told:
        return
    _check_opset(told)
    listed = "; ".join(f"{found.site} ({found.tensor!r}): {found.sentence}" for found in told[:_MOST_TOLD])
    further = f"; and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
    raise UsageError(f"no BatchNormalization can stand at {listed}{further} (skip leaves a place out)")


def _check_opset(told: Iterable[Skipped]) -> None:
    for found in told:
        if found.code == "opset":
            raise InputRefused(found.sentence)


def _named(facts: Facts, where: Where) -> Mapping[int, _Named]:
    """The values that were named, by id, in the order of the graph."""
    if not (where.after or where.at or where.choose):
        raise UsageError("insert needs places: after operators (--after Conv), or at names (--at 'layer*')")
    found: dict[int, _Named] = {}
    for one in (*_after(facts, where), *_at(facts, where), *_everywhere(facts, where)):
        value = one.value
        if where.past_activation:
            value = activation_after(facts, value) or value
        if value.id not in found or one.exactly:
            found[value.id] = replace(one, value=value)
    order = {node.id: i for i, node in enumerate(facts.order)}

    def place(id_: int) -> tuple[int, int]:
        producer = facts.graph.producer(found[id_].value)
        return (-1 if producer is None else order[producer.id], id_)

    return {id_: found[id_] for id_ in sorted(found, key=place)}


def _after(facts: Facts, where: Where) -> Iterator[_Named]:
    ops = {node.op for node in facts.graph.nodes}
    for op in where.after:
        if op not in ops:
            raise UsageError(f"--after {op!r}: the model has no such operator{near(op, ops)}")
    for node in facts.graph.nodes:
        output = node.output(0)
        if node.op in where.after and output is not None:
            yield _Named(output, node, exactly=True)


def _at(facts: Facts, where: Where) -> Iterator[_Named]:
    nodes = [node for node in facts.graph.nodes if node.output(0) is not None]
    values = [v for v in facts.graph.values if facts.graph.producer(v) is not None or facts.graph.is_graph_input(v)]
    names = {name for node in nodes for name in (node.proto.name, str(node.site))} | {v.name for v in values}
    for glob in where.at:
        exactly = not _WILDCARD.search(glob) or glob in names
        globs = [glob]
        found = [v for v in values if v.name == glob or matched(globs, [v.name])]
        found += [
            output
            for node in nodes
            if (glob in {node.proto.name, str(node.site)} or matched(globs, [node.proto.name, str(node.site)]))
            and (output := node.output(0)) is not None
        ]
        found = found or [v for v in facts.graph.values if v.name == glob]  # a weight: told why it is no place
        if not found:
            raise UsageError(f"--at {glob!r} names no node and no tensor{near(glob, names)}")
        for value in found:
            yield _Named(value, facts.graph.producer(value), exactly)


def _everywhere(facts: Facts, where: Where) -> Iterator[_Named]:
    if where.choose is not None and not (where.after or where.at):
        for node in facts.graph.nodes:
            for value in node.outputs:
                if value is not None:
                    yield _Named(value, node, exactly=False)


@dataclass(slots=True)
class _Judge:
    """Says of a value whether a BatchNormalization may stand there."""

    facts: Facts
    where: Where
    in_functions: Mapping[int, Form | str]
    depending: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self.depending = depending_on_data(self.facts)
        self._check_skip()

    def place(self, value: Value, layer: Node | None) -> Place | Skipped:
        """The place that a value is, its channels where its layer has them."""
        node = self.facts.graph.producer(value)
        for check in (self._unwanted, self._scope, self._role, self._followed):
            found = check(value, node)
            if found is not None:
                return self._left(value, node, *found)
        form = self._form(value)
        if isinstance(form, str):
            return self._left(value, node, "type", form)
        axis = self._axis(layer, form)
        trouble = self._trouble(value, form, axis)
        if trouble is not None:
            return self._left(value, node, *trouble)
        channels = channels_of(form.shape, axis)
        if form.shape is None or channels is None:
            size = "not known" if form.shape is None else str(form.shape[axis])
            return self._left(
                value,
                node,
                "channels",
                f"the size of its axis {axis}, the channels, is {size}, and has to be a number",
            )
        return Place(node, value, form.shape, form.element_type, axis, channels)

    def _left(self, value: Value, node: Node | None, code: str, sentence: str) -> Skipped:
        site = Site(value.scope.path, 0, "input", value.name) if node is None else node.site
        return Skipped(site, value.name, code, sentence)

    def _check_skip(self) -> None:
        names = [name for value in self.facts.graph.values for name in self._names(value)]
        for glob in self.where.skip:
            if not matched([glob], names):
                raise UsageError(f"--skip {glob!r} names no node and no tensor{near(glob, names)}")

    def _names(self, value: Value) -> Iterable[str]:
        node = self.facts.graph.producer(value)
        return (value.name,) if node is None else (value.name, node.proto.name, str(node.site), node.scope.path)

    def _unwanted(self, value: Value, node: Node | None) -> tuple[str, str] | None:
        del node
        if self.where.skip and matched(self.where.skip, self._names(value)):
            return "skipped", "a --skip glob names it"
        return None

    def _scope(self, value: Value, node: Node | None) -> tuple[str, str] | None:
        del node
        scope = value.scope
        if scope.opset < OLDEST_OPSET:
            what = "the model" if scope.kind == "graph" else f"the {scope.path}"
            return "opset", (
                f"{what} has opset {scope.opset}, and onnxruntime runs BatchNormalization from opset {OLDEST_OPSET} "
                "on: convert it first (onnx.version_converter.convert_version(model, 13))"
            )
        if self.where.training and scope.parent is not None:
            return "training", "running statistics cannot leave a nested graph as graph outputs (--training)"
        if self.where.training and scope.kind == "function":
            return "training", "running statistics cannot leave a function as graph outputs; inline it first"
        return None

    def _role(self, value: Value, node: Node | None) -> tuple[str, str] | None:
        """What a value is for: some are constants, some shapes, some promises."""
        graph = self.facts.graph
        if graph.is_overridable(value):
            return "constant", "it is an initializer, a weight and no activation"
        form = self.in_functions.get(value.id)
        if value.id not in self.depending or (isinstance(form, Form) and not form.depends):
            if self.facts.is_constant(value):
                return "constant", "it is a constant, a weight and no activation"
            return "shape", "it depends on nothing that an input holds: a weight, or computed from shapes alone"
        if node is None and graph.is_graph_output(value):
            return "output", "an input that is an output at once cannot be given another value"
        if not graph.readers(value) and not graph.is_graph_output(value):
            return "unread", "nothing reads it"
        return None

    def _followed(self, value: Value, node: Node | None) -> tuple[str, str] | None:
        del node
        after = batch_norm_after(self.facts, value)
        if after is not None:
            return "has-batch-norm", f"it is followed by {after.site} already"
        before = batch_norm_before(self.facts, value)
        if before is not None:
            return "has-batch-norm", f"it is what {before.site} puts out already"
        return None

    def _form(self, value: Value) -> Form | str:
        if value.id in self.in_functions:
            return self.in_functions[value.id]
        element = self.facts.shapes.element_type(value)
        if element is None:
            return "its type is not known (onnx's shape inference does not say)"
        return Form(element, self.facts.shape(value))

    def _axis(self, layer: Node | None, form: Form) -> int:
        rank = 0 if form.shape is None else len(form.shape)
        if self.where.axis is None:
            return channel_axis(layer, rank) if rank > 1 else 1
        return self.where.axis + rank if self.where.axis < 0 else self.where.axis

    def _trouble(self, value: Value, form: Form, axis: int) -> tuple[str, str] | None:
        if form.element_type not in FLOATS:
            kind = TensorProto.DataType.Name(form.element_type).lower()
            return "type", f"it holds {kind}, and BatchNormalization takes floats"
        if form.element_type == TensorProto.BFLOAT16 and value.scope.opset < FIRST_OPSET_WITH_TRAINING_MODE:
            return "type", f"BatchNormalization takes bfloat16 from opset {FIRST_OPSET_WITH_TRAINING_MODE} on"
        if form.shape is None:
            return "rank", "its number of dimensions is not known"
        if len(form.shape) < 2:
            return "rank", f"it has {len(form.shape)} dimension(s), and channels are the second one"
        if axis not in {1, len(form.shape) - 1}:
            return "axis", f"channels can be on axis 1 or on the last one, {len(form.shape) - 1}, and not on {axis}"
        return None
