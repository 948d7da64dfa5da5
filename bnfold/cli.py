"""The command line as a process: runs a command, and ends with the right code and in one line whatever goes wrong."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from bnfold.commands.app import app
from bnfold.errors import BUG_EXIT_CODE, BnfoldError, CannotWrite, UsageError, bug
from bnfold.terminal import complain, mute, stop_logging

__all__ = ["app", "main"]

SIGNALLED, INTERRUPTED, PIPE_CLOSED = 128, 130, 141


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: whatever goes wrong ends in one line on stderr and the right code."""
    signal.signal(signal.SIGTERM, _terminate)
    hung_up = getattr(signal, "SIGHUP", None)  # there is none on Windows
    if hung_up is not None and signal.getsignal(hung_up) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(hung_up, _terminate)
    # A model is many small objects that stay; by default they are all looked through again and again.
    gc.set_threshold(100_000)
    try:
        code = _run(None if arguments is None else list(arguments))
        if code == INTERRUPTED:
            _keep_code()
        sys.exit(code)
    finally:
        stop_logging()


def _run(arguments: list[str] | None) -> int:
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="bnfold", standalone_mode=False)
    except BnfoldError as error:
        return complain(str(error), error.exit_code)
    except typer.TyperException as error:
        return complain(_sentence(error), UsageError.exit_code)
    except (KeyboardInterrupt, typer.Abort):  # before typer has begun, or at its own question
        return complain("interrupted", INTERRUPTED)
    except SystemExit as stop:
        # typer makes exit code 1 of a closed pipe, which here means a finding.
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        return mute(PIPE_CLOSED)
    except Exception as error:  # noqa: BLE001  # the last resort: a bug must not look like a finding
        if isinstance(error, OSError) and error.filename is None:  # typer writing to stdout itself: help, completion
            return mute(complain(f"the answer cannot be written: {error.strerror}", CannotWrite.exit_code))
        return complain(str(bug(error)), BUG_EXIT_CODE)
    if code == INTERRUPTED:  # what typer makes of Ctrl-C
        return complain("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _keep_code() -> None:
    """Let the process end by its exit code, and not by SIGINT itself.

    Python does the latter where the interrupt came while it ran code that was given as text (as each dataclass is made,
    in a module that is just being imported), whoever caught it then. What it keeps of that is gone with the next text.
    """
    exec("")  # noqa: S102  # nothing is run


def _sentence(error: typer.TyperException) -> str:
    """A mistake on the command line in one line, with the names that come close to one that there is not."""
    near = getattr(error, "possibilities", None) or ()
    near = [name for name in near if not (name.startswith("--no-") and f"--{name[5:]}" in near)]
    if near:
        return f"{error.message}; did you mean {' or '.join(near)}?"
    # "Value error" is how pydantic speaks to programmers.
    said = error.format_message().replace(". Did you mean '", "; did you mean '").replace("Value error, ", "")
    if not said.startswith("No such command") or "did you mean" in said:
        return said
    return f"{said.removesuffix('.')}; bnfold --help lists them"


def _terminate(signum: int, frame: object) -> NoReturn:
    """SIGTERM, and the end of the terminal, unwind the stack, so that temporary files go and the child ends."""
    del frame
    raise SystemExit(SIGNALLED + signum)
