"""Every job in turn, or several at a time: the outcomes in the order of the jobs either way."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from bnfold.batch.work import Job, Work, attempt
from bnfold.batch.workers import Ways, side_by_side
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
    for place, outcome in side_by_side(work, jobs, Ways(max(1, processes), ways.deadline, ways.prepare)):
        outcomes[place] = outcome
        watch.done(outcome.source)
    return [outcomes[place] for place in range(len(jobs))]


def _alone(work: Work[T], job: Job, watch: Watch) -> Outcome[T]:
    with watch.on(job.name) as tell:
        outcome = attempt(work, job, tell)
    watch.done(job.name)
    return outcome


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
