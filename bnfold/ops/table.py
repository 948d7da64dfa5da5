"""How operators register, so that planner, apply, `bnfold ops`, the docs and the tests read one table.

Adding an operator is one decorated function in the module of its kind (affine.py, linear.py, elementwise.py,
passing.py, joining.py, positions.py, indexing.py, forward.py). Its docstring is its entry in the support matrix: the
first paragraph says the rule, the paragraph that begins with "Not" says when it refuses.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

Kind = Literal["affine", "linear", "passing"]
Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the support matrix: what an operator does with an affine, and when it refuses ("" for never)."""

    op: str
    kind: Kind
    rule: str
    unless: str


class Table:
    """op -> function, for each of the three kinds; an operator stands in it at most once per kind."""

    def __init__(self) -> None:
        self._rows: dict[tuple[Kind, str], Row] = {}

    def add(self, kind: Kind, op: str, function: Callable[..., object]) -> None:
        """Register a function under what its docstring says."""
        if (kind, op) in self._rows or not function.__doc__:
            raise ValueError(f"{op} stands in the table twice as {kind}, or has no docstring")
        rule, *paragraphs = inspect.cleandoc(function.__doc__).split("\n\n")
        unless = next((" ".join(text.split()) for text in paragraphs if text.startswith("Not")), "")
        self._rows[kind, op] = Row(op, kind, " ".join(rule.split()), unless.removesuffix("."))

    def __iter__(self) -> Iterator[Row]:
        return iter(sorted(self._rows.values(), key=lambda row: (row.kind, row.op)))


TABLE = Table()


def register(kind: Kind, functions: dict[str, Function], *ops: str) -> Callable[[Function], Function]:
    """A decorator that puts a function into the table and into `functions` under each of `ops`."""

    def decorate(function: Function) -> Function:
        for op in ops:
            TABLE.add(kind, op, function)
            functions[op] = function
        return function

    return decorate
