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


def several(
    command: str,
    ended: Sequence[Ended[T_co]],
    one: Callable[[str, T_co], Document],
    *,
    written: Callable[[T_co], object] | None = None,
) -> Document:
    """The answer about several models, of which `one` gives the answer about each, by its name.

    `written`: what was written of a result, where the command writes models.
    """
    told = [(each, _alone(command, each, one)) for each in ended]
    failures = sum(document.is_failure for _, document in told)
    return Document(
        command,
        tuple(block for _, document in told for block in document.blocks),
        lambda: {"models": [_fields(each, document) for each, document in told]},
        exit_code=most_severe(code for each, document in told for code in (each.exit_code, document.exit_code)),
        pages={code: page for _, document in told for code, page in document.pages.items()},
        sums=f"{len(told)} model{'s' if len(told) != 1 else ''}" + (f", {failures} failed" if failures else ""),
        outcome="" if written is None else _outcome(ended, written),
        is_failure=len(told) == failures == 1,
        verbose=any(document.verbose for _, document in told),
    )


def _outcome(ended: Sequence[Ended[T_co]], written: Callable[[T_co], object]) -> str:
    return outcome_of([None if each.result is None else written(each.result) for each in ended])


def outcome_of(written: Sequence[object]) -> str:
    """What became of the models, by the path that each was written to (None: it was not)."""
    paths = [str(path) for path in written if path is not None]
    if len(written) > 1:
        return f"{len(paths)} of {len(written)} models were written"
    return f"the model was written to {paths[0]!r}" if paths else "no model was written"


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
