"""Several models at a time, each in a process of its own; a process that dies costs its model alone.

A worker takes one model after the other through its own pipe. It ends when the pipe does, when it is told to, and when
the process that started it is gone; Ctrl-C, which reaches the whole group, means something to that process alone.

What kills a worker from outside (SIGKILL, as for want of memory) leaves its model undecided, exit code 6; a crash is a
bug of bnfold, 70.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from bnfold.batch.work import Job, Work, attempt, lost
from bnfold.equality.verdict import Unknown
from bnfold.errors import BnfoldError, Bug, Undecided, bug
from bnfold.model.publish import OWNER
from bnfold.result import Outcome

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

T = TypeVar("T")

GRACE = 10.0
"""Seconds in which a worker that is told to end removes its files."""

_SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGXCPU", "SIGQUIT")
"""What ends a process without its doing."""


@dataclass(frozen=True, slots=True)
class Ways:
    """How many processes, how long one model may take in all (seconds), and what each process does first."""

    processes: int
    deadline: float | None = None
    prepare: Callable[[], None] | None = None


@dataclass(slots=True)
class _Worker(Generic[T]):
    """A process, the parent's end of its pipe, and the model that it is busy with."""

    process: SpawnProcess
    pipe: connection.Connection
    owner: str = ""
    busy: tuple[int, Job] | None = None
    since: float = field(default=0.0)

    def give(self, place: int, job: Job) -> None:
        self.busy, self.since = (place, job), time.monotonic()
        with suppress(OSError):  # it has died: its end of the pipe will say so
            self.pipe.send(job)

    def left(self, deadline: float) -> float | None:
        """Seconds until its time is over; None while it is idle, or has not started yet, which is no model's fault."""
        return None if self.busy is None or not self.owner else self.since + deadline - time.monotonic()

    def overdue(self, deadline: float | None) -> bool:
        left = None if deadline is None else self.left(deadline)
        return left is not None and left <= 0


def side_by_side(work: Work[T], jobs: Sequence[Job], ways: Ways) -> Iterator[tuple[int, Outcome[T]]]:
    """The outcome of each job with its place, as they come."""
    waiting = deque(enumerate(jobs))
    pool: list[_Worker[T]] = []
    with tempfile.TemporaryDirectory(prefix="bnfold-", ignore_cleanup_errors=True) as scratch:
        try:
            while waiting or any(worker.busy for worker in pool):
                yield from _occupied(pool, waiting, work, ways, scratch)
                yield from _heard(pool, ways.deadline)
        finally:
            # Idle ones end with their pipe; whoever is busy now is so because of Ctrl-C, or of a bug.
            _end(pool)


def _occupied(
    pool: list[_Worker[T]], waiting: deque[tuple[int, Job]], work: Work[T], ways: Ways, scratch: str
) -> Iterator[tuple[int, Outcome[T]]]:
    """Give a model to each worker that has none, and to new ones; where none can be started, few have to do."""
    while waiting:
        idle = next((worker for worker in pool if worker.busy is None), None)
        if idle is None and len(pool) >= ways.processes:
            return
        try:
            idle = idle or _started(work, ways, scratch)
        except OSError as error:
            if pool:
                return
            place, job = waiting.popleft()
            yield place, lost(job, _undecided(f"no process can be started for it: {error.strerror or error}"))
            continue
        if idle not in pool:
            pool.append(idle)
        idle.give(*waiting.popleft())


def _heard(pool: list[_Worker[T]], deadline: float | None) -> Iterator[tuple[int, Outcome[T]]]:
    """What the workers have to say, once there is something, or one is overdue."""
    if not pool:  # none could be started, and nobody will say a word
        return
    by_pipe = {worker.pipe: worker for worker in pool}
    times = [None if deadline is None else worker.left(deadline) for worker in pool]
    soonest = min((left for left in times if left is not None), default=None)
    for pipe in connection.wait(list(by_pipe), None if soonest is None else max(0.0, soonest)):
        worker = by_pipe[pipe]  # type: ignore[index]  # only pipes were given
        try:
            said = worker.pipe.recv()
        except (EOFError, OSError):
            yield from _buried(pool, worker)
            continue
        except Exception as error:  # noqa: BLE001  # what cannot be unpickled costs its model alone
            said = None if worker.busy is None else lost(worker.busy[1], bug(error))
        if isinstance(said, str):
            worker.owner, worker.since = said, time.monotonic()
        elif worker.busy is not None:
            place, worker.busy = worker.busy[0], None
            yield place, said
    for worker in [worker for worker in pool if worker.overdue(deadline)]:
        yield from _buried(pool, worker, f"it took longer than {deadline:g} s in all (--deadline)")


def _buried(pool: list[_Worker[T]], worker: _Worker[T], why: str = "") -> Iterator[tuple[int, Outcome[T]]]:
    """The outcome of a model whose worker has died, or is to; the worker and its files are gone."""
    pool.remove(worker)
    if not why:
        worker.process.join(GRACE)
    _end([worker])
    if worker.busy is not None:
        place, job = worker.busy
        yield place, lost(job, _undecided(why) if why else _death(worker.process.exitcode))


def _death(code: int | None) -> BnfoldError:
    name = f"exit status {code}"
    if code is not None and code < 0:
        with suppress(ValueError):
            name = signal.Signals(-code).name
    if name in _OUTSIDE:
        return _undecided(f"the process that worked on it was ended from outside ({name}), as for want of memory")
    return Bug(f"this is a bug in bnfold: the process that worked on it crashed ({name})")


def _undecided(why: str) -> Undecided:
    return Undecided(why, Unknown(why))


def _end(workers: Sequence[_Worker[T]]) -> None:
    """End all: who is idle by the end of its pipe, who is busy by SIGTERM, who does not listen by SIGKILL."""
    for worker in workers:
        worker.pipe.close()
        if worker.busy is not None:
            worker.process.terminate()
    until = time.monotonic() + GRACE
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        _sweep(worker)


def _sweep(worker: _Worker[T]) -> None:
    """Remove what a worker that died at its work could not."""
    if worker.busy is None or not worker.owner:
        return
    job = worker.busy[1]
    beside = job.target or (Path(job.given) if isinstance(job.given, str) else None)
    if beside is None:
        return
    for path in beside.parent.glob(f".bnfold-{worker.owner}-*.tmp"):
        with suppress(OSError):
            path.unlink()


def _started(work: Work[T], ways: Ways, scratch: str) -> _Worker[T]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work, ways.prepare), daemon=True)
    # Its own folder for temporary files: what is left there when it is killed goes at the end.
    single = {name: os.environ.get(name, one) for name, one in _SINGLE.items()}
    with _environment(TMPDIR=scratch, **single), _uninterrupted():
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """What is started here never hears of Ctrl-C, not even while it imports; here it waits until this is over."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# In the worker.


def _serve(pipe: connection.Connection, work: Work[T], prepare: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate)
    threading.Thread(target=_watch, daemon=True).start()
    if prepare is not None:
        prepare()
    with suppress(OSError):
        os.dup2(2, 1)  # stdout carries the answer alone
    with suppress(EOFError, OSError):
        pipe.send(OWNER)
        while True:
            job = pipe.recv()
            outcome = attempt(work, job, _silent)
            try:
                pipe.send(outcome)
            except OSError:
                return
            except Exception as error:  # noqa: BLE001  # what cannot be pickled
                pipe.send(lost(job, bug(error)))


def _watch() -> None:
    """End this process when the one that started it is gone, as by SIGKILL."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _terminate(signum: int, frame: object) -> NoReturn:
    del frame
    raise SystemExit(128 + signum)


def _silent(stage: str) -> None:
    del stage
