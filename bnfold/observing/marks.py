"""Marks: nodes whose doc_string says which value they read. Inlining renames everything else and keeps that.

A mark is an Identity that nobody reads, put behind the node that makes the value; or any other node of which input 0
is to be watched, such as a BatchNormalization that was just inserted. A function that is called twice makes two marks
of one: both are found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from onnx import NodeProto, helper

from bnfold.affine import Float64
from bnfold.graph import Graph
from bnfold.model import Edits, GraphEdit
from bnfold.nodes import Node, Scope, Value

_MARK = "bnfold watches "


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """A value to observe: the key to call it by, how many channels it has, and on which axis, 1 or the last (-1).

    `centre`: one number per channel, about which squares are taken as well (`Observed.sample_squares`).
    """

    key: int
    value: Value
    channels: int
    axis: int = 1
    centre: Float64 | None = None


def mark_of(key: int) -> str:
    """The doc_string of a node whose input 0 is the value `key`."""
    return f"{_MARK}{key}"


def marked(graph: Graph, watches: Iterable[Watch]) -> Edits:
    """The edits that mark values of a model."""
    inserted: dict[Scope, dict[int, list[NodeProto]]] = defaultdict(lambda: defaultdict(list))
    for watch in watches:
        producer = graph.producer(watch.value)
        name = f"{watch.value.name}/{_MARK}{watch.key}"
        mark = helper.make_node("Identity", [watch.value.name], [name], doc_string=mark_of(watch.key))
        place = 0 if producer is None else producer.index + 1
        inserted[watch.value.scope][place].append(mark)
    return {
        scope.address: GraphEdit(inserted={place: tuple(nodes) for place, nodes in marks.items()})
        for scope, marks in inserted.items()
    }


def marks_in(graph: Graph) -> Iterator[tuple[int, Node]]:
    """Every mark of a model, with its key."""
    for node in graph.nodes:
        text = node.proto.doc_string
        if text.startswith(_MARK) and text.removeprefix(_MARK).isdecimal():
            yield int(text.removeprefix(_MARK)), node
