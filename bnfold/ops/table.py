"""How operators register, so that planner, apply, `bnfold ops`, the docs and the tests read one table.

Adding an operator is one decorated function in the module of its kind (affine.py, linear.py, elementwise.py,
passing.py, joining.py, positions.py, indexing.py, forward.py). Its docstring is its entry in the support matrix: the
first paragraph says the rule, the paragraph that begins with "Not" says when it refuses. What a layer takes over of its
data, and of what stands beside it, are entries of their own: the paragraphs "Ahead: rule. Not: when" and "Beside: ...".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

Kind = Literal["affine", "linear", "passing", "feeding", "forward", "sideways"]
Direction = Literal["", "backward", "forward", "sideways"]
Function = TypeVar("Function", bound=Callable[..., object])


DIRECTIONS: dict[Kind, Direction] = {
    "affine": "",
    "linear": "backward",
    "passing": "backward",
    "feeding": "forward",
    "forward": "forward",
    "sideways": "sideways",
}
"""Which way an affine goes: into what makes its value or past it, into what reads it or past that, or beside."""

TITLES: dict[Kind, str] = {
    "affine": "operators that are an affine",
    "linear": "backward: operators that absorb one, after them",
    "passing": "backward: operators that let one pass, from after them to before them",
    "feeding": "forward: operators that absorb one of their data",
    "forward": "forward: operators that let one pass, from before them to after them",
    "sideways": "sideways: operators that absorb one of the same data, added to what they make",
}
FURTHER: dict[str, Kind] = {"Ahead: ": "feeding", "Beside: ": "sideways"}
"""How a paragraph begins that is an entry of its own."""


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the support matrix: what an operator does with an affine, and when it refuses ("" for never)."""

    op: str
    kind: Kind
    rule: str
    unless: str

    @property
    def direction(self) -> Direction:
        """Which way an affine goes; empty for what is one."""
        return DIRECTIONS[self.kind]


class Table:
    """op -> function, for each kind; an operator stands in it at most once per kind."""

    def __init__(self) -> None:
        self._rows: dict[tuple[Kind, str], Row] = {}

    def add(self, kind: Kind, op: str, function: Callable[..., object]) -> None:
        """Register a function under what its docstring says."""
        if (kind, op) in self._rows or not function.__doc__:
            raise ValueError(f"{op} stands in the table twice as {kind}, or has no docstring")
        rule, *paragraphs = (" ".join(text.split()) for text in inspect.cleandoc(function.__doc__).split("\n\n"))
        unless = next((text for text in paragraphs if text.startswith("Not")), "")
        self._rows[kind, op] = Row(op, kind, rule, unless.removesuffix("."))
        for text in paragraphs:
            for begins, further in FURTHER.items():
                if text.startswith(begins):
                    rule, _, when = text.removeprefix(begins).removesuffix(".").partition(". Not: ")
                    self._rows[further, op] = Row(op, further, rule, f"Not: {when}" if when else "")

    def __iter__(self) -> Iterator[Row]:
        kinds = list(TITLES)
        return iter(sorted(self._rows.values(), key=lambda row: (kinds.index(row.kind), row.op)))


TABLE = Table()


def register(kind: Kind, functions: dict[str, Function], *ops: str) -> Callable[[Function], Function]:
    """A decorator that puts a function into the table and into `functions` under each of `ops`."""

    def decorate(function: Function) -> Function:
        for op in ops:
            TABLE.add(kind, op, function)
            functions[op] = function
        return function

    return decorate
