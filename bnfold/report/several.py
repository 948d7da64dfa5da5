"""The answers about several models as one: a block for each, as it would be alone, and one line of sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from bnfold.errors import BnfoldError
from bnfold.moves import Json
from bnfold.report.document import Document
from bnfold.report.failing import error_fields, failed
from bnfold.result import most_severe

T_co = TypeVar("T_co", covariant=True)
_NAMES = ("model", "source")


class Ended(Protocol[T_co]):
    """What became of one model: a result, an error, or both."""

    @property
    def source(self) -> str:
        """What the model is called."""

    @property
    def target(self) -> str | None:
        """Where it was to go."""

    @property
    def result(self) -> T_co | None:
        """The result, if there is one."""

    @property
    def error(self) -> BnfoldError | None:
        """The error, if there is one."""

    @property
    def exit_code(self) -> int:
        """What the command would have ended with for this model alone."""


def several(command: str, ended: Sequence[Ended[T_co]], one: Callable[[str, T_co], Document]) -> Document:
    """The answer about several models, of which `one` gives the answer about each, by its name."""
    told = [(each, _alone(command, each, one)) for each in ended]
    failures = sum(document.is_failure for _, document in told)
    return Document(
        command,
        tuple(block for _, document in told for block in document.blocks),
        lambda: {"models": [_fields(each, document) for each, document in told]},
        exit_code=most_severe(code for each, document in told for code in (each.exit_code, document.exit_code)),
        pages={code: page for _, document in told for code, page in document.pages.items()},
        sums=f"{len(told)} models" + (f", {failures} failed" if failures else ""),
        verbose=any(document.verbose for _, document in told),
    )


def _alone(command: str, ended: Ended[T_co], one: Callable[[str, T_co], Document]) -> Document:
    if ended.result is not None:
        return one(ended.source, ended.result)
    if ended.error is not None:
        return failed(command, {"model": ended.source}, ended.error)
    return Document(command, (), dict)


def _fields(ended: Ended[object], document: Document) -> Json:
    said: Mapping[str, Json] = {} if ended.result is None else document.data()
    return {
        "source": ended.source,
        "target": ended.target,
        "exit_code": most_severe((ended.exit_code, document.exit_code)),
        "error": error_fields(ended.error),
        "result": {name: value for name, value in said.items() if name not in _NAMES} if said else None,
    }
