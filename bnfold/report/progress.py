"""How far things are, on stderr, on a terminal only; a pipe or a log file sees nothing of it.

One model has a spinner that names the stage; several have a bar, with the time that the rest will take.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from bnfold.report.escape import shown

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LONGEST = 40
"""Characters of a name beside the bar."""


@contextmanager
def progress(name: str) -> Iterator[Callable[[str], None]]:
    """A function that is told each stage of the work on `name`, and shows it while the context lasts."""
    if not sys.stderr.isatty():
        yield _untold
        return
    from rich.console import Console  # noqa: PLC0415  # comes with typer; only where there is a terminal
    from rich.markup import escape  # noqa: PLC0415  # likewise

    title = escape(shown(name))
    with Console(stderr=True).status(title) as status:
        yield lambda stage: status.update(f"{title}: {escape(stage)}")


class Spinner:
    """What is shown of one model."""

    def on(self, name: str) -> AbstractContextManager[Callable[[str], None]]:
        """While the model is worked on: a function that is told each stage."""
        return progress(name)

    def done(self, name: str) -> None:
        """The spinner has gone by then."""


class Bar:
    """What is shown of several models."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    @contextmanager
    def on(self, name: str) -> Iterator[Callable[[str], None]]:
        """While one model is worked on: a function that is told each stage."""
        title = _short(name)
        yield lambda stage: self._bar.update(self._task, description=f"{title}: {_short(stage)}")

    def done(self, name: str) -> None:
        """One model more is done."""
        self._bar.update(self._task, advance=1, description=_short(name))


@contextmanager
def watching(count: int) -> Iterator[Spinner | Bar]:
    """What shows how far `count` models are, while the context lasts."""
    if count == 1 or not sys.stderr.isatty():
        yield Spinner()
        return
    from rich.console import Console  # noqa: PLC0415  # comes with typer; only where there is a terminal
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Bar(bar, bar.add_task("", total=count))


def _short(text: str) -> str:
    """Escaped for a terminal and for rich; the end of a long path is what tells it from others."""
    from rich.markup import escape  # noqa: PLC0415  # only where there is a terminal

    line = shown(text)
    return escape(line if len(line) <= LONGEST else "..." + line[-LONGEST:])


def _untold(stage: str) -> None:
    del stage
