"""What is done with each model of several, as values that can be sent to another process, and what became of it.

A `Work` is a function of the API with all its options; of a result it keeps what reports need, and not the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from bnfold.errors import BnfoldError, Flagged, InputRefused, NotClean, bug
from bnfold.result import FoldResult, Outcome

if TYPE_CHECKING:
    from bnfold.batch.skipping import Ledger
    from bnfold.inserting.result import InsertResult
    from bnfold.moves import Plan
    from bnfold.proving import Progress
    from bnfold.rules.rule import Findings

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Work(Protocol[T_co]):
    """What is done with one model: raises BnfoldError, or gives a result."""

    @property
    def ledger(self) -> Ledger | None:
        """What knows whether a model was done before, if that is asked for."""

    def __call__(self, model: str | bytes, target: Path | None, tell: Progress) -> T_co:
        """Do it. `tell` is told each stage."""


@dataclass(frozen=True, slots=True)
class Job:
    """One model: its name, what the API takes, where it goes, and why there is nothing to read, if so."""

    name: str
    given: str | bytes
    target: Path | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Folding:
    """`call` is api.fold with its options. With `keeps_model` the result holds the model, for stdout."""

    call: Callable[..., FoldResult]
    keeps_model: bool = False
    ledger: Ledger | None = None

    def __call__(self, model: str | bytes, target: Path | None, tell: Progress) -> FoldResult:
        """Fold one model."""
        try:
            result = self.call(model, target, progress=tell)
        except Flagged as flagged:
            flagged.result = self._kept(flagged.result)
            raise
        return self._kept(result)

    def _kept(self, result: FoldResult) -> FoldResult:
        return result if self.keeps_model else result.without_model()


@dataclass(frozen=True, slots=True)
class Inserting:
    """`call` is api.insert with its options."""

    call: Callable[..., InsertResult]
    keeps_model: bool = False
    ledger: Ledger | None = None

    def __call__(self, model: str | bytes, target: Path | None, tell: Progress) -> InsertResult:
        """Insert into one model."""
        result = self.call(model, target, progress=tell)
        return result if self.keeps_model else result.without_model()


@dataclass(frozen=True, slots=True)
class Planning:
    """`call` is api.plan with its options."""

    call: Callable[..., Plan]
    ledger: Ledger | None = None

    def __call__(self, model: str | bytes, target: Path | None, tell: Progress) -> Plan:
        """Plan for one model."""
        del target
        tell("planning")
        return self.call(model)


@dataclass(frozen=True, slots=True)
class Validating:
    """`call` is api.validate with its options. With `exit_zero` findings are no failure."""

    call: Callable[..., Findings]
    exit_zero: bool = False
    ledger: Ledger | None = None

    def __call__(self, model: str | bytes, target: Path | None, tell: Progress) -> Findings:
        """Look at one model; raises NotClean for findings."""
        del target
        found = self.call(model, progress=tell)
        if not self.exit_zero:
            found.raise_if_failing()
        return found


def attempt(work: Work[T], job: Job, tell: Progress) -> Outcome[T]:
    """Do it with one model, whatever happens."""
    where = None if job.target is None else str(job.target)
    if job.trouble:
        return lost(job, InputRefused(job.trouble))
    try:
        return _done(work, job, where, tell)
    except (Flagged, NotClean) as flagged:
        found = flagged.result if isinstance(flagged, Flagged) else flagged.findings
        return Outcome(job.name, where, cast("T", found), flagged)
    except BnfoldError as error:
        return lost(job, error)
    except Exception as error:  # noqa: BLE001  # a bug met in one model must not cost the others
        return lost(job, bug(error))


def lost(job: Job, error: BnfoldError) -> Outcome[T]:
    """What became of a model that there is no result of."""
    return Outcome(job.name, None if job.target is None else str(job.target), None, error)


def _done(work: Work[T], job: Job, where: str | None, tell: Progress) -> Outcome[T]:
    if work.ledger is None or job.target is None or isinstance(job.given, bytes):
        return Outcome(job.name, where, work(job.given, job.target, tell), None)
    tell("looking for what was made before")
    entry = work.ledger.entry(Path(job.given))
    if entry.is_of(job.target):
        return Outcome(job.name, where, None, None, skipped=True)
    outcome = Outcome(job.name, where, work(job.given, job.target, tell), None)
    entry.note(job.target)
    return outcome
