"""What can go wrong, as exceptions that carry the exit code of the command line.

BnfoldError
├── Flagged             1    the answer is one that the caller asked to be told as a failure
│   ├── WouldFold            fold(check=True), and something would fold: nothing was written
│   └── BatchNormsLeft       fold(strict=True) or max_left: more stayed than allowed; the result is there
├── NotClean            1    validate(...).raise_if_failing(), and there are findings
├── UsageError          2    an option or a configuration that cannot be meant
├── InputRefused        3    a file that is not a model bnfold reads: missing, not ONNX, truncated, broken
├── NotVerified         4    rewritten, and shown to differ from the original: nothing was written
│   └── Undecided       6    rewritten, and neither shown equal nor different: nothing was written
└── CannotWrite         5    the target cannot be written; the input is untouched

Whatever else escapes is a bug in bnfold and ends the command with 70; in a batch it becomes a `Bug` of one model.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from bnfold.equality.verdict import Verdict
    from bnfold.result import FoldResult
    from bnfold.rules.rule import Findings

BUG_EXIT_CODE = 70


class BnfoldError(Exception):
    """The base of every error that bnfold raises on purpose; `exit_code` is what the command ends with."""

    exit_code: ClassVar[int] = BUG_EXIT_CODE

    def __reduce__(self) -> tuple[object, ...]:
        """What an error carries beside its sentence goes with it to another process."""
        return _rebuilt, (type(self), self.args, self.__dict__)


class Bug(BnfoldError):
    """Something that bnfold did not expect; in a batch, so that the other models go on."""


class Flagged(BnfoldError):
    """An answer that the caller asked to be told as a failure; `result` is what the call would have returned."""

    exit_code = 1

    def __init__(self, sentence: str, result: FoldResult) -> None:
        super().__init__(sentence)
        self.result = result


class WouldFold(Flagged):
    """`fold(check=True)`, and something would fold. Nothing was written."""


class BatchNormsLeft(Flagged):
    """More BatchNormalizations stay than `strict` or `max_left` allow. The result stands, written if it was to be."""


class NotClean(BnfoldError):
    """Findings of `validate` that the caller asked to be told as a failure; `findings` holds all of them."""

    exit_code = 1

    def __init__(self, sentence: str, findings: Findings) -> None:
        super().__init__(sentence)
        self.findings = findings


class UsageError(BnfoldError):
    """An option, an argument or a configuration that cannot be meant."""

    exit_code = 2


class InputRefused(BnfoldError):
    """A file that cannot be read as an ONNX model, or that is broken; one sentence says why."""

    exit_code = 3


class CannotWrite(BnfoldError):
    """The target cannot be written. The input is untouched and no temporary file is left."""

    exit_code = 5


class NotVerified(BnfoldError):
    """A rewritten model that differs from its original. `verdict` holds the evidence."""

    exit_code = 4

    def __init__(self, sentence: str, verdict: Verdict) -> None:
        super().__init__(sentence)
        self.verdict = verdict


class Undecided(NotVerified):
    """A rewritten model that was neither shown equal to its original nor different from it."""

    exit_code = 6


def _rebuilt(kind: type[BnfoldError], arguments: tuple[object, ...], carried: dict[str, object]) -> BnfoldError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(carried)
    return error


def bug(error: Exception) -> Bug:
    """The one line that a bug is told in; -v shows where it came from."""
    logging.getLogger("bnfold").debug("the traceback of the bug", exc_info=error)
    return Bug(f"this is a bug in bnfold ({type(error).__name__}: {error}); -v prints the traceback")
