"""What a graph input's numbers mean to the operators that read them: an index, a shape, axes, a length, a divisor.

A number whose meaning is known can be made up so that the model accepts it: an index stays below the dimension that it
indexes, a shape is the one that the file declares for the result, axes differ from one another. Readers are followed
through operators that hand integers on, and into nested graphs (a shadowed name is taken for the outer one). Where
several readers see different meanings, an index wins, then whichever comes first in the file.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from bnfold.equality.nested import graphs_of
from bnfold.equality.stated_sizes import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import onnx

Kind = Literal["index", "dims", "lengths", "axes", "parts", "ones", "zeros", "count", "positive", "spread", "ends"]
Dim = int | str | None
"""A length, the name of a symbolic one (see `name_of`), or None if nothing is known."""

# Operators behind which a value is still the same number, read at the first place.
_CARRIERS: Final = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand"})
_JOINING: Final = "Concat"
_KINDS: Final[Mapping[tuple[str, int], Kind]] = {
    ("Gather", 1): "index",
    ("GatherElements", 1): "index",
    ("GatherND", 1): "index",
    ("ArrayFeatureExtractor", 1): "index",
    ("Scatter", 1): "index",
    ("ScatterElements", 1): "index",
    ("ScatterND", 1): "index",
    ("RoiAlign", 2): "index",
    ("Reshape", 1): "dims",
    ("Expand", 1): "dims",
    ("ConstantOfShape", 0): "dims",
    ("MaxUnpool", 2): "dims",
    ("Resize", 3): "dims",
    ("Resize", 1): "ones",
    ("Resize", 2): "ones",
    ("Upsample", 1): "ones",
    ("Tile", 1): "ones",
    ("TopK", 1): "ones",
    ("OneHot", 1): "ones",
    ("Slice", 1): "zeros",
    ("Slice", 2): "ends",
    ("Slice", 3): "axes",
    ("Slice", 4): "ones",
    ("Unsqueeze", 1): "axes",
    ("Squeeze", 1): "axes",
    ("CumSum", 1): "axes",
    ("Split", 1): "parts",
    ("SplitToSequence", 1): "parts",
    ("LSTM", 4): "lengths",
    ("GRU", 4): "lengths",
    ("RNN", 4): "lengths",
    ("ReverseSequence", 1): "lengths",
    ("Loop", 0): "count",
    ("Range", 0): "zeros",
    ("Range", 1): "count",
    ("Range", 2): "ones",
    ("Div", 1): "positive",
    ("Mod", 1): "positive",
    ("NonMaxSuppression", 2): "positive",
    ("BatchNormalization", 4): "spread",
    # Dropout with a ratio and in training mode is random: no two runs of it could be compared.
    ("Dropout", 1): "zeros",
    ("Dropout", 2): "zeros",
}


@dataclass(frozen=True, slots=True)
class Use:
    """What the readers of an input make of its numbers.

    `numbers`, by kind. index: the smallest dimension that is indexed. dims: the dims of the result, with -1 for what is
    left; none if any dims will do that hold all elements. lengths: the longest. axes: which ones; none if they begin at
    0. parts: the length that is split, if it is known. The other kinds have none.
    """

    kind: Kind
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Reader:
    """A node that reads a number at a place; `joined`: other numbers stand beside it there."""

    node: onnx.NodeProto
    place: int
    joined: bool

    def kind(self) -> Kind | None:
        if self.node.op_type.startswith("Reduce") and self.place == 1:
            return "axes"
        return _KINDS.get((self.node.op_type, self.place))


class Readers:
    """Who reads each name of a model, in all graphs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        self._shapes: dict[str, tuple[Dim, ...]] = {}
        for place, graph in enumerate(graphs_of(model)):
            self._note_shapes(graph, is_main=place == 0)
            for node in graph.node:
                for position, name in enumerate(node.input):
                    self._readers[name].append((node, position))

    def use(self, name: str, lengths: Mapping[str, int]) -> Use | None:
        """What is known of an input's meaning, where symbolic dimensions have these lengths; None if nothing is."""
        uses = [use for reader in self._reading(name) for use in self._uses(reader, lengths)]
        below = [number for use in uses if use.kind == "index" for number in use.numbers]
        if below:
            return Use("index", (min(below),))
        return next((use for use in uses if use.kind != "index"), None)

    def _note_shapes(self, graph: onnx.GraphProto, *, is_main: bool) -> None:
        self._shapes.update((tensor.name, tuple(tensor.dims)) for tensor in graph.initializer)
        fed = {port.name for port in graph.input} if is_main else set()
        for port in (*graph.input, *graph.output, *graph.value_info):
            if port.name not in self._shapes and port.type.tensor_type.HasField("shape"):
                self._shapes[port.name] = tuple(_dims(port, is_fed=port.name in fed))
        self._shapes.update(entry for node in graph.node for entry in _constant_shapes(node))

    def _reading(self, name: str) -> Iterator[_Reader]:
        """Each reader of an input, also behind operators that hand its numbers on."""
        seen: set[tuple[str, bool]] = set()
        pending = [(name, False)]
        while pending:
            current, joined = pending.pop(0)
            if (current, joined) in seen:
                continue
            seen.add((current, joined))
            for node, place in self._readers.get(current, ()):
                yield _Reader(node, place, joined)
                if node.op_type == _JOINING:
                    pending.extend((output, True) for output in node.output)
                elif node.op_type in _CARRIERS and place == 0:
                    pending.extend((output, joined) for output in node.output)

    def _uses(self, reader: _Reader, lengths: Mapping[str, int]) -> Iterator[Use]:
        kind = reader.kind()
        if kind is None:
            return
        if reader.joined:  # one of several numbers: a length, if they make a shape
            if kind == "dims":
                yield Use("ones")
            return
        numbers = tuple(self._numbers(kind, reader.node, lengths))
        if kind == "dims" and not numbers and reader.node.op_type != "Reshape":
            yield Use("ones")
        elif kind != "index" or numbers:
            yield Use(kind, numbers)

    def _numbers(self, kind: Kind, node: onnx.NodeProto, lengths: Mapping[str, int]) -> Iterable[int]:
        first = self._known(node.input[0], lengths)
        if kind == "index":
            return _indexed(node, first)
        if kind == "dims":
            return _result(node, self._known(node.output[0], lengths), first)
        if kind == "lengths":
            return _at(first, _attribute(node, "time_axis", _attribute(node, "layout", 0)))
        if kind == "parts":
            return _at(first, _attribute(node, "axis", 0))
        if node.op_type == "Squeeze":
            return [axis for axis, length in enumerate(first) if length == 1]
        return ()

    def _known(self, name: str, lengths: Mapping[str, int]) -> tuple[int | None, ...]:
        return tuple(lengths.get(dim) if isinstance(dim, str) else dim for dim in self._shapes.get(name, ()))


def _indexed(node: onnx.NodeProto, dims: tuple[int | None, ...]) -> list[int]:
    """The dimensions that an index may reach."""
    if node.op_type in {"GatherND", "ScatterND"}:
        return [length for length in dims[_attribute(node, "batch_dims", 0) :] if length]
    axis = -1 if node.op_type == "ArrayFeatureExtractor" else _attribute(node, "axis", 0)
    return [length for length in _at(dims, axis) if length]


def _at(dims: tuple[int | None, ...], axis: int) -> list[int]:
    length = dims[axis] if -len(dims) <= axis < len(dims) else None
    return [] if length is None else [length]


def _result(node: onnx.NodeProto, declared: tuple[int | None, ...], first: tuple[int | None, ...]) -> tuple[int, ...]:
    """The dims that are wanted of a node's result: the declared ones, and where they are unknown what suits most."""
    if node.op_type == "Resize":  # to what it is already
        known = [after or before or 1 for after, before in zip(declared, first, strict=False)]
        axes = next((tuple(attribute.ints) for attribute in node.attribute if attribute.name == "axes"), ())
        return tuple(known[axis] for axis in axes if axis < len(known)) if axes else tuple(known)
    if node.op_type == "Reshape" and None in declared:
        rest = declared.index(None)
        return tuple(-1 if axis == rest else 1 if length is None else length for axis, length in enumerate(declared))
    return tuple(1 if length is None else length for length in declared)


def _attribute(node: onnx.NodeProto, name: str, otherwise: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), otherwise)


def _dims(port: onnx.ValueInfoProto, *, is_fed: bool) -> Iterator[Dim]:
    for axis, dim in enumerate(port.type.tensor_type.shape.dim):
        if dim.HasField("dim_value"):
            yield dim.dim_value if dim.dim_value >= 0 else None
        else:
            yield dim.dim_param or (name_of(port, axis) if is_fed else None)


def _constant_shapes(node: onnx.NodeProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    if node.op_type != "Constant" or not node.output:
        return
    for attribute in node.attribute:
        if attribute.name == "value":
            yield node.output[0], tuple(attribute.t.dims)
        elif attribute.name in {"value_ints", "value_floats"}:
            yield node.output[0], (len(attribute.ints) or len(attribute.floats),)
