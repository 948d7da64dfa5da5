"""A spinner on stderr that names the stage, on a terminal only; a pipe or a log file sees nothing of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bnfold.report.escape import shown


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
        yield lambda stage: status.update(f"{title}: {stage}")


def _untold(stage: str) -> None:
    del stage
