"""Where tensors and graphs lie inside the messages of a model file.

Invariant: one table says which fields lead to a tensor; whoever rewrites tensors goes through `patched_tensors`, so
that what is found on reading and what is found on writing are the same tensors in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import TypeVar

from onnx import ModelProto

from bnfold.errors import InputRefused
from bnfold.model.content import Content, Held
from bnfold.model.wire import LENGTH, Field, Patch, UnsureError, enclosed, fields, patched

DEEPEST = 30

_Made = TypeVar("_Made")


class Kind(Enum):
    """The messages on the way to a tensor."""

    MODEL = auto()
    TRAINING = auto()
    FUNCTION = auto()
    GRAPH = auto()
    NODE = auto()
    ATTRIBUTE = auto()
    SPARSE = auto()
    TENSOR = auto()


MODEL_GRAPH, MODEL_FUNCTIONS = 7, 25
GRAPH_INITIALIZER = 5
NODE_INPUT, NODE_OUTPUT, NODE_ATTRIBUTE = 1, 2, 5
ATTRIBUTE_G, ATTRIBUTE_GRAPHS = 6, 11
TENSOR_RAW, TENSOR_EXTERNAL, TENSOR_LOCATION = 9, 13, 14

# Field number -> what lies there, and whether the field is singular (several chunks of it would be merged).
CHILDREN: dict[Kind, dict[int, tuple[Kind, bool]]] = {
    Kind.MODEL: {
        MODEL_GRAPH: (Kind.GRAPH, True),
        20: (Kind.TRAINING, False),
        MODEL_FUNCTIONS: (Kind.FUNCTION, False),
    },
    Kind.TRAINING: {1: (Kind.GRAPH, True), 2: (Kind.GRAPH, True)},
    Kind.FUNCTION: {7: (Kind.NODE, False), 11: (Kind.ATTRIBUTE, False)},
    Kind.GRAPH: {1: (Kind.NODE, False), GRAPH_INITIALIZER: (Kind.TENSOR, False), 15: (Kind.SPARSE, False)},
    Kind.NODE: {NODE_ATTRIBUTE: (Kind.ATTRIBUTE, False)},
    Kind.ATTRIBUTE: {
        5: (Kind.TENSOR, True),
        ATTRIBUTE_G: (Kind.GRAPH, True),
        10: (Kind.TENSOR, False),
        ATTRIBUTE_GRAPHS: (Kind.GRAPH, False),
        22: (Kind.SPARSE, True),
        23: (Kind.SPARSE, False),
    },
    Kind.SPARSE: {1: (Kind.TENSOR, True), 2: (Kind.TENSOR, True)},
    Kind.TENSOR: {},
}

Visit = Callable[[Field], Patch | None]


def patched_tensors(data: Content, whole: Field, kind: Kind, visit: Visit, least: int) -> list[Patch]:
    """Patches of the message `whole` that put what `visit` gives for its tensors in their place, in file order.

    Messages shorter than `least` bytes are not entered. Raises UnsureError where protobuf would merge several chunks
    of one message, InputRefused where graphs lie deeper than DEEPEST.
    """
    return _Walk(data, visit, least).patches(whole, kind, 0)


class _Walk:
    def __init__(self, data: Content, visit: Visit, least: int) -> None:
        self.data = data
        self.visit = visit
        self.least = least

    def patches(self, whole: Field, kind: Kind, depth: int) -> list[Patch]:
        children = CHILDREN[kind]
        seen: set[int] = set()
        found: list[Patch] = []
        for field in fields(self.data, whole.body, whole.end):
            if field.number not in children or field.wire != LENGTH:
                continue
            child, singular = children[field.number]
            if singular and field.number in seen:
                raise UnsureError
            seen.add(field.number)
            if field.end - field.body < self.least:
                continue
            patch = self.visit(field) if child is Kind.TENSOR else self.inside(field, child, depth)
            if patch is not None:
                found.append(patch)
        return found

    def inside(self, field: Field, kind: Kind, depth: int) -> Patch | None:
        deeper = depth + (kind is Kind.GRAPH)
        if deeper > DEEPEST + 1:
            raise too_deep()
        patches = self.patches(field, kind, deeper)
        if not patches:
            return None
        return enclosed(self.data, field, patched(self.data, field.body, field.end, patches))


def surely(data: Content, make: Callable[[Content], _Made]) -> _Made:
    """What `make` makes of these bytes, or of protobuf's own encoding of them when it raises UnsureError."""
    try:
        return make(data)
    except UnsureError:
        model = ModelProto.FromString(bytes(data.read(0, len(data))))
        return make(Held(model.SerializeToString(deterministic=True)))


def too_deep() -> InputRefused:
    """The refusal of a model whose graphs are nested too deep."""
    return InputRefused(f"graphs are nested more than {DEEPEST} deep")


def whole(data: Content) -> Field:
    """All of the bytes, as if they were the content of one field."""
    return Field(0, LENGTH, 0, 0, len(data))
