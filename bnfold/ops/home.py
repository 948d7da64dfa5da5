"""What a home is: a node whose constants take over an affine of its output, and what is then to be written.

    node'(x) = after(node(x))        for every x, in real arithmetic

A home says what stands in the way of one affine, and what it needs to take it over: new constants for some of its
inputs, a copy of the node that makes its weight (a dequantisation, with another scale), or, where the operator has no
bias of its own, an Add behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from onnx import AttributeProto, TensorProto, helper

from bnfold.affine import Affine
from bnfold.nodes import Node
from bnfold.ops.facts import Array, Constant
from bnfold.ops.reasons import Obstacle


@dataclass(frozen=True, slots=True, eq=False)
class NewConstant:
    """A constant for input `index` of a node: it replaces `beside`, or (`replaces` False) comes to lie next to it.

    `content` computes it when it is written, and not before; `hint` is the name that it would like to bear.
    """

    index: int
    beside: Constant
    hint: str
    header: TensorProto
    content: Callable[[], Array] = field(repr=False)
    replaces: bool = field(kw_only=True)
    parts: Callable[[], Iterable[Array]] | None = field(default=None, repr=False, kw_only=True)
    """The same in the order of the file, part by part, where that needs less memory."""

    @classmethod
    def now(cls, index: int, beside: Constant, hint: str, array: Array, *, replaces: bool) -> NewConstant:
        """A small one, whose content is held."""
        header = TensorProto(data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        return cls(index, beside, hint, header, lambda: array, replaces=replaces)


@dataclass(frozen=True, slots=True, eq=False)
class NewNode:
    """A copy of `like`, in front of the home that reads its output as input `index`, with constants of its own."""

    index: int
    like: Node
    constants: tuple[NewConstant, ...]
    attributes: tuple[AttributeProto, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Furnishing:
    """All that a home needs; `added` is input 1 of an Add that comes behind it.

    Of its attributes, those of `attributes` come, or replace the one of the same name; `dropped` go.
    """

    constants: tuple[NewConstant, ...]
    nodes: tuple[NewNode, ...] = ()
    attributes: tuple[AttributeProto, ...] = ()
    dropped: frozenset[str] = frozenset()
    added: NewConstant | None = None


class Home(Protocol):
    """One way in which a node can take over an affine of its output 0."""

    @property
    def node(self) -> Node:
        """The node."""

    def obstacle_to(self, after: Affine) -> Obstacle | None:
        """What keeps it from taking over `after`: the axes, the operator, or a number."""

    def furnishing(self, after: Affine) -> Furnishing:
        """What it needs to take over `after`; requires that no obstacle stands."""

    def needs_add(self, after: Affine) -> bool:
        """Whether an Add has to come behind it."""

    def is_idle(self, after: Affine) -> bool:
        """Whether a node would be left that does nothing: its constant and `after` cancel."""
