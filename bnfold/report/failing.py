"""What is said where a command ends in an error: the same in every format, so that no pipeline waits for a report."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bnfold.errors import BnfoldError
from bnfold.moves import Json
from bnfold.report.document import Block, Case, Document, Fact, Line, Page

_WRITING = frozenset({"fold", "insert"})
"""Commands that write models, which they do last: where they fail, nothing was written."""

_ANSWERS = frozenset({1, 4})
"""Exit codes of errors that are answers: bnfold came to one, and it was no."""


def failed(command: str, names: Mapping[str, str], error: BnfoldError) -> Document:
    """The answer of a command that can say nothing else; `names` are the models as the answer has them, in order."""
    return Document(
        command,
        (failed_block(list(names.values())[-1], error),),
        lambda: {**names, "error": error_fields(error)},
        exit_code=error.exit_code,
        pages=page_of(error),
        sums=f"failed: exit code {error.exit_code}",
        outcome="no model was written" if command in _WRITING else "",
        is_failure=True,
    )


def failed_block(file: str, error: BnfoldError) -> Block:
    """The block of a model that came to an error."""
    sentence = str(error)
    case = Case("the model", "failed" if error.exit_code in _ANSWERS else "error", sentence)
    return Block(file, file, (Fact("error", sentence, "bad"),), failure=failure_of(error), cases=(case,))


def failure_of(error: BnfoldError) -> Line:
    """The error as a line about the whole model."""
    return Line("", str(error), code_of(error), "error")


def code_of(error: BnfoldError) -> str:
    """The code of an error: the name of its class, as codes are written (`input-refused`)."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()


def page_of(error: BnfoldError) -> dict[str, Page]:
    """The page of an error, which is the docstring of its class."""
    sentence, *more = re.split(r"(?<=\.)\s+", " ".join((type(error).__doc__ or "").split()))
    code = code_of(error)
    return {code: Page(code, sentence.removesuffix("."), tuple(more), "", "error")}


def error_fields(error: BnfoldError | None) -> Json:
    """An error in JSON."""
    return None if error is None else {"kind": type(error).__name__, "sentence": str(error)}
