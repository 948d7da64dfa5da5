"""How operators register, so that planner, apply, `bnfold ops`, the docs and the tests read one table.

Adding an operator is one decorated function in affine.py, linear.py or passing.py, whose docstring's first line is
its row in the support matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

Kind = Literal["affine", "linear", "passing"]
Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the support matrix."""

    op: str
    kind: Kind
    rule: str


class Table:
    """op -> function, for each of the three kinds; an operator stands in it at most once per kind."""

    def __init__(self) -> None:
        self._rows: dict[tuple[Kind, str], Row] = {}

    def add(self, kind: Kind, op: str, function: Callable[..., object]) -> None:
        """Register a function; its docstring's first line says the rule."""
        if (kind, op) in self._rows or not function.__doc__:
            raise ValueError(f"{op} stands in the table twice as {kind}, or has no docstring")
        self._rows[kind, op] = Row(op, kind, function.__doc__.strip().splitlines()[0])

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
