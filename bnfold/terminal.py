"""What the command line says, and where: the answer on stdout, complaints on stderr, reports in files.

stdout may be closed, full, or a pipe that nobody reads any more: what becomes of that is decided here.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bnfold.errors import CannotWrite, UsageError
from bnfold.options import Format

if TYPE_CHECKING:
    from bnfold.result import Done, Outcome

_HANDLER = "bnfold's own, for -v"


def prepare(report: Sequence[Path] | None, *, verbose: bool) -> None:
    """What is settled before anything heavy starts: the logging that was asked for, and files for reports."""
    if verbose:
        log_to_stderr()
    for path in report or ():
        if path.suffix not in {".json", ".txt"}:
            raise UsageError(f"--report {str(path)!r}: the name must end in .json or .txt")


def log_to_stderr() -> None:
    """What -v asks for; the library itself touches nobody's logging."""
    logger = logging.getLogger("bnfold")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("bnfold: %(message)s"))
    handler.set_name(_HANDLER)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


def stop_logging() -> None:
    """Undo that, for whoever calls the command line as a function."""
    logger = logging.getLogger("bnfold")
    for handler in [handler for handler in logger.handlers if handler.get_name() == _HANDLER]:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def stdin_bytes(max_bytes: int | None) -> bytes:
    """A model that comes by stdin, as far as it may be large. Raises UsageError where nobody sends one."""
    if sys.stdin is None:
        raise UsageError("- is stdin, which is closed")
    if sys.stdin.isatty():
        raise UsageError("- is stdin, which is a terminal: pipe a model into it")
    try:
        return sys.stdin.buffer.read(-1 if max_bytes is None else max_bytes + 1)
    except OSError as error:
        raise UsageError(f"- is stdin, which cannot be read: {error.strerror or error}") from error


def listed_names(files_from: str) -> list[str]:
    """The names that a file lists, or stdin; raises UsageError for a list that cannot be read."""
    from bnfold.batch.sources import names_in  # noqa: PLC0415  # only where it is asked for

    if files_from == "-" and sys.stdin is None:
        raise UsageError("--files-from -: stdin is closed")
    try:
        content = sys.stdin.buffer.read() if files_from == "-" else Path(files_from).read_bytes()
        return names_in(os.fsdecode(content))
    except OSError as error:
        raise UsageError(f"--files-from {files_from!r} cannot be read: {error.strerror or error}") from error


def dims_of(entries: Sequence[str] | None) -> dict[str, int]:
    """Sizes by name, from NAME=SIZE each; raises UsageError."""
    dims: dict[str, int] = {}
    for entry in entries or ():
        name, _, size = entry.rpartition("=")
        if not name or not size.isdecimal() or int(size) < 1:
            raise UsageError(f"--dim {entry!r}: it must be NAME=SIZE, with a size of 1 or more")
        dims[name] = int(size)
    return dims


def listed(entries: Sequence[str] | None) -> tuple[str, ...]:
    """The parts of options that may be repeated and may hold several, with commas between."""
    return tuple(part.strip() for entry in entries or () for part in entry.split(",") if part.strip())


def answer(
    writers: Mapping[str, Callable[[], str]],
    format_: Format,
    report: Sequence[Path] | None,
    *,
    quiet: bool,
    to_stderr: bool = False,
) -> None:
    """Write the answer to stdout in one format, and to each report in the one that its name asks for."""
    if not quiet:
        say(writers["json" if format_ is Format.JSON else "txt"](), err=to_stderr)
    for path in report or ():
        try:
            path.write_text(writers[path.suffix[1:]]() + "\n", encoding="utf-8")
        except OSError as error:
            raise CannotWrite(f"the report {str(path)!r} cannot be written: {error.strerror or error}") from error


def nothing_to_say(done: Sequence[Outcome[object]], format_: Format) -> bool:
    """One model that failed has been complained about already; JSON says it all the same."""
    return format_ is Format.TEXT and len(done) == 1 and done[0].error is not None and done[0].result is None


def to_stdout(done: Sequence[Done]) -> None:
    """The models themselves, of what succeeded."""
    for one in done:
        if one.result is not None:
            say(one.result.to_bytes())


def complain(sentence: str, code: int = 0) -> int:
    """One line on stderr; returns the code."""
    from bnfold.report.escape import shown  # noqa: PLC0415  # with it comes nothing heavy, but --help needs none of it

    with suppress(OSError):  # nobody listens; the exit code says it still
        typer.echo(f"bnfold: {shown(sentence)}", err=True)
    return code


def say(answer: str | bytes, *, err: bool = False) -> None:
    """Write an answer, and find out here whether that goes well: echo flushes."""
    if sys.stdout is None and isinstance(answer, bytes):
        raise CannotWrite("the model cannot be written to stdout: it is closed")
    try:
        typer.echo(answer, err=err, nl=isinstance(answer, str))
    except BrokenPipeError:
        raise
    except OSError as error:
        mute()
        raise CannotWrite(f"the answer cannot be written: {error.strerror or error}") from error


def stdout_kept() -> AbstractContextManager[object]:
    """stdout carries the answer alone: what a user's function of --data prints goes to stderr."""
    return redirect_stdout(sys.stderr)


def mute(code: int = 0) -> int:
    """What is left for stdout goes nowhere, so that the interpreter's last flush does not fail on it."""
    if sys.__stdout__ is not None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.__stdout__.fileno())
        os.close(nothing)
    return code
