"""The answers about several models as one: each as it would be alone, and one line of sums or one list of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from bnfold.moves import Json
from bnfold.report.envelope import written
from bnfold.report.escape import shown
from bnfold.result import Outcome, exit_code

T = TypeVar("T")

_HEAD = ("schema", "bnfold", "command", "model", "source")


def several_text(outcomes: Sequence[Outcome[T]], one: Callable[[str, T], str]) -> str:
    """`one` is the answer about one model, by its name."""
    blocks = [_block(outcome, one) for outcome in outcomes]
    failed = sum(outcome.result is None for outcome in outcomes)
    sums = f"{len(outcomes)} model{'s' if len(outcomes) != 1 else ''}" + (f", {failed} failed" if failed else "")
    return "\n\n".join([*blocks, sums])


def several_json(command: str, outcomes: Sequence[Outcome[T]], one: Callable[[str, T], str]) -> str:
    """The same as JSON: `models` has of each what it has alone, with its own exit code and error."""
    return written(command, models=[_fields(outcome, one) for outcome in outcomes], exit_code=exit_code(outcomes))


def _block(outcome: Outcome[T], one: Callable[[str, T], str]) -> str:
    if outcome.result is None:
        return f"{shown(outcome.source)}\n  error  {shown(outcome.error)}"
    return one(outcome.source, outcome.result)


def _fields(outcome: Outcome[T], one: Callable[[str, T], str]) -> Json:
    error = outcome.error
    head: dict[str, Json] = {
        "source": outcome.source,
        "target": outcome.target,
        "exit_code": outcome.exit_code,
        "error": None if error is None else {"kind": type(error).__name__, "sentence": str(error)},
    }
    if outcome.result is None:
        return {**head, "result": None}
    said = json.loads(one(outcome.source, outcome.result))
    return {**head, "result": {name: value for name, value in said.items() if name not in _HEAD}}
