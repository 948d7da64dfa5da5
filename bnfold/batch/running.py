"""Every job in turn, or several at a time: the outcomes in the order of the jobs either way."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from bnfold.batch.work import Job, Work, attempt, lost
from bnfold.batch.workers import Ways, side_by_side
from bnfold.errors import Bug, bug
from bnfold.result import Outcome

T = TypeVar("T")


class Watch(Protocol):
    """What shows how far things are."""

    def on(self, name: str) -> AbstractContextManager[Callable[[str], None]]:
        """While one model is worked on: a function that is told each stage."""

    def done(self, name: str) -> None:
        """One model more is done."""


def run(work: Work[T], jobs: Sequence[Job], ways: Ways, watch: Watch) -> list[Outcome[T]]:
    """What became of each job, in their order; a deadline is kept by a process that can be ended."""
    processes = min(ways.processes or processors(), len(jobs))
    if processes <= 1 and ways.deadline is None:
        return [_alone(work, job, watch) for job in jobs]
    outcomes: dict[int, Outcome[T]] = {}
    why = Bug("this is a bug in bnfold: its process ended without a word")
    try:
        for place, outcome in side_by_side(work, jobs, Ways(max(1, processes), ways.deadline, ways.prepare)):
            outcomes[place] = outcome
            watch.done(outcome.source)
    except Exception as error:  # noqa: BLE001  # a bug between the models costs those that were not done, and no report
        why = bug(error)
    return [outcomes.get(place) or lost(job, why) for place, job in enumerate(jobs)]


def _alone(work: Work[T], job: Job, watch: Watch) -> Outcome[T]:
    try:
        with watch.on(job.name) as tell:
            outcome = attempt(work, job, tell)
        watch.done(job.name)
    except Exception as error:  # noqa: BLE001  # what shows how far things are is no reason to lose a model, and the others
        return lost(job, bug(error))
    return outcome


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
