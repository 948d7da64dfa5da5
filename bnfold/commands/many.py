"""What the commands that take several models have in common: which models, how they are done, what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bnfold.errors import UsageError, bug
from bnfold.terminal import complain, listed_names, log_to_stderr, stdin_bytes, stdout_kept

if TYPE_CHECKING:
    from bnfold.batch.sources import Sources
    from bnfold.batch.work import Work
    from bnfold.report.document import Document
    from bnfold.result import Outcome

T = TypeVar("T")


def found(models: Sequence[str] | None, files_from: str | None, *, output: str | None = None) -> Sources:
    """The models that were asked for; raises UsageError where there is none."""
    from bnfold.batch.sources import sources  # noqa: PLC0415  # only once the options are known to be sound

    if not models and files_from is None:
        raise UsageError("Missing argument 'MODEL...': name a model, a folder, - for stdin, or --files-from FILE")
    return sources(models or (), None if files_from is None else listed_names(files_from), output=output)


def threads_of(threads: int, jobs: int) -> int:
    """One thread per model where there may be several at a time, unless more are asked for."""
    return 1 if jobs != 1 and not threads else threads


def targets_of(models: Sources, output: str | None, *, in_place: bool) -> Sequence[Path | None] | None:
    """Where each model goes; None where nothing is written, or in place."""
    from bnfold.batch import targets  # noqa: PLC0415  # only once the options are known to be sound

    if in_place:
        targets.in_place(models)
    nothing_to_write = all(one.trouble for one in models.models)
    return None if output in {None, "-"} or nothing_to_write else targets.targets(models, str(output))


def run(  # noqa: PLR0913  # one parameter per option
    work: Work[T],
    models: Sources,
    targets: Sequence[Path | None] | None = None,
    *,
    jobs: int,
    deadline: float | None,
    max_bytes: int | None,
    verbose: bool,
) -> list[Outcome[T]]:
    """What became of each model, in the order in which they were named."""
    from bnfold.batch import running  # noqa: PLC0415  # heavy: only once the options are known to be sound
    from bnfold.batch.sources import STDIN  # noqa: PLC0415  # likewise
    from bnfold.batch.work import Job  # noqa: PLC0415  # likewise
    from bnfold.batch.workers import Ways  # noqa: PLC0415  # likewise
    from bnfold.report.progress import watching  # noqa: PLC0415  # likewise

    places = targets or [None] * len(models.models)
    given = [stdin_bytes(max_bytes) if one.name == STDIN else one.name for one in models.models]
    todo = [Job(m.name, what, p, m.trouble) for m, what, p in zip(models.models, given, places, strict=True)]
    prepare = log_to_stderr if verbose else None
    with watching(len(todo)) as watch, stdout_kept():
        return running.run(work, todo, Ways(jobs, deadline, prepare), watch)


def told(  # noqa: PLR0913  # what a document is made of
    command: str,
    outcomes: Sequence[Outcome[T]],
    one: Callable[[str, T], Document],
    *,
    is_one: bool,
    name: str = "model",
    written: Callable[[T], object] | None = None,
) -> Document:
    """The answer, of which `one` gives that about each model; an error that has no result has its line on stderr too.

    Of one model that was asked for by itself (`is_one`) it is about that alone, which JSON then calls by `name`.
    `written`: what was written of a result, where the command writes models.
    """
    from bnfold.report.failing import failed  # noqa: PLC0415  # heavy
    from bnfold.report.several import several  # noqa: PLC0415  # likewise

    able = tellable(outcomes, lambda outcome, result: one(outcome.source, result))
    complain_of(able)
    if not is_one:
        return several(command, able, one, written=written)
    (only,) = able
    if only.result is not None:
        return one(only.source, only.result)
    return failed(command, {name: only.source}, only.error or UsageError("nothing was done"))


def tellable(outcomes: Sequence[Outcome[T]], tell: Callable[[Outcome[T], T], object]) -> list[Outcome[T]]:
    """The outcomes; one that cannot be told because of a bug is that bug's, so that the others are told."""
    return [outcome if outcome.result is None else _tellable(outcome, outcome.result, tell) for outcome in outcomes]


def _tellable(outcome: Outcome[T], result: T, tell: Callable[[Outcome[T], T], object]) -> Outcome[T]:
    try:
        tell(outcome, result)
    except Exception as error:  # noqa: BLE001  # a bug, in whatever is told
        return replace(outcome, result=None, error=bug(error))
    return outcome


def complain_of(outcomes: Sequence[Outcome[T]]) -> None:
    """A line on stderr for each model that there is no result of."""
    for one in outcomes:
        if one.error is not None and one.result is None:
            complain(f"{one.source}: {one.error}" if len(outcomes) > 1 else str(one.error))
