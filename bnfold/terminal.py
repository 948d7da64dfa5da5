"""What the command line says, and where: the answer on stdout, complaints on stderr, reports in files.

stdout may be closed, full, or a pipe that nobody reads any more: what becomes of that is decided here.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bnfold.errors import BUG_EXIT_CODE, BnfoldError, CannotWrite, UsageError, bug
from bnfold.report.forms import Format, form_of, written

if TYPE_CHECKING:
    from bnfold.report.document import Document
    from bnfold.result import Done

_HANDLER = "bnfold's own, for -v"

SUMMARY = "GITHUB_STEP_SUMMARY"
"""What GitHub calls the file that a step's summary goes to."""


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where the answer of a command goes: to stdout (or stderr) in one format, and to files in those of their names."""

    format_: Format
    reports: tuple[tuple[Path, Format], ...]
    quiet: bool
    to_stderr: bool


def prepare(  # noqa: PLR0913  # one parameter per option that it is about
    format_: Format,
    report: Sequence[Path] | None,
    *,
    quiet: bool = False,
    verbose: bool = False,
    to_stderr: bool = False,
    apart_from: Path | None = None,
    among: Sequence[Format] = tuple(Format),
) -> Outlet:
    """What is settled before anything heavy starts: the logging that was asked for, and where the answer goes.

    Raises UsageError for a format that is none, or not one `among` those, and for a report in place of `apart_from`.
    """
    if verbose:
        log_to_stderr()
    reports = tuple((path, form_of(path)) for path in report or ())
    options = {f"--format {format_}": format_, **{f"--report {str(path)!r}": form for path, form in reports}}
    for option, form in options.items():
        if form not in among:
            raise UsageError(f"{option}: this answer is about no model; it may be {', '.join(among)}")
    if apart_from is not None and any(path == apart_from for path, _ in reports):
        raise UsageError(f"--report {str(apart_from)!r}: that is the certificate")
    return Outlet(format_, reports, quiet, to_stderr)


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


@contextmanager
def told_everywhere(command: str, outlet: Outlet, **names: str) -> Iterator[None]:
    """An error within is told in each report too, and to who asked for another format than text.

    `names` are the models, as the command's answer in JSON calls them.
    """
    try:
        yield
    except Exception as caught:  # a bug, too, is told in the reports
        from bnfold.report.failing import failed  # noqa: PLC0415  # heavy, and rarely needed

        error = caught if isinstance(caught, BnfoldError) else bug(caught)
        complain(str(error))
        raise typer.Exit(answer(failed(command, names, error), outlet)) from caught


def answer(document: Document, outlet: Outlet) -> int:
    """Write the answer to each report in the format that its name asks for, and to stdout; returns the exit code.

    A report that cannot be written is one line, and 5 unless something is worse; the others are written all the same.
    So is a bug met in one of them, which is 70.
    An error that is all there is to say is complained of on stderr, so that text says nothing more.
    """
    from bnfold.result import most_severe  # noqa: PLC0415  # heavy; an answer is there by now

    codes = [document.exit_code, *(_keep(path, partial(_write, path, form), document) for path, form in outlet.reports)]
    summary = os.environ.get(SUMMARY)
    if outlet.format_ is Format.GITHUB and summary:
        codes.append(_keep(Path(summary), partial(_summarise, Path(summary)), document))
    if not outlet.quiet and not (outlet.format_ is Format.TEXT and document.is_failure):
        say(_shown(document, outlet), err=outlet.to_stderr)
    return most_severe(codes)


def _keep(path: Path, write: Callable[[Document], None], document: Document) -> int:
    """Write one report; the exit code of that."""
    outcome = f"; {document.outcome}" if document.outcome else ""
    try:
        write(document)
    except CannotWrite as error:
        return complain(f"the report {error}{outcome}", error.exit_code)
    except OSError as error:
        why = error.strerror or error
        return complain(f"the report {str(path)!r} cannot be written: {why}{outcome}", CannotWrite.exit_code)
    except Exception as error:  # noqa: BLE001  # a bug met in one report must not cost the others
        return complain(f"the report {str(path)!r}: {bug(error)}{outcome}", BUG_EXIT_CODE)
    return 0


def _write(path: Path, form: Format, document: Document) -> None:
    """Whole or not at all, by one rename; what is no file, such as a pipe, is written as it is."""
    from bnfold.model import staged  # noqa: PLC0415  # heavy; the work is done by now

    content = (written(document, form) + "\n").encode("utf-8", "backslashreplace")
    place = path.resolve() if path.is_symlink() else path
    if place.exists() and not place.is_file():
        place.write_bytes(content)
        return
    with staged(content, place) as made:
        made.publish()


def _summarise(path: Path, document: Document) -> None:
    """Add to the summary of a job on GitHub, as far as there is room."""
    from bnfold.report.as_github import summary  # noqa: PLC0415  # only where it is asked for

    with path.open("ab") as file:
        file.write(summary(document, file.tell()))


def _shown(document: Document, outlet: Outlet) -> str:
    """The answer as it goes to stdout or stderr: text on a terminal has colours."""
    stream = sys.stderr if outlet.to_stderr else sys.stdout
    if outlet.format_ is not Format.TEXT or stream is None or not (stream.isatty() or _wants_colours()):
        return written(document, outlet.format_)
    from bnfold.report.as_text import on_terminal  # noqa: PLC0415  # only where there is a terminal

    return on_terminal(document, stderr=outlet.to_stderr)


def _wants_colours() -> bool:
    """Whether text has colours where no terminal is, as in the log of a pipeline that shows them."""
    return bool(os.environ.get("FORCE_COLOR"))


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
        typer.echo(answer, err=err, nl=isinstance(answer, str), color=_wants_colours() or None)
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
