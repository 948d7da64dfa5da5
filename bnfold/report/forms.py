"""The formats of an answer: each by its name, by the suffix of a report's file, and by the module that writes it.

Nothing heavy is imported here: a name that is no format's is told before any work is done.
"""

from __future__ import annotations

import enum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.errors import UsageError

if TYPE_CHECKING:
    from bnfold.report.document import Document


class Format(enum.StrEnum):
    """How an answer is written."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    JUNIT = "junit"
    SARIF = "sarif"
    MARKDOWN = "markdown"
    HTML = "html"


SUFFIXES = {
    ".json": Format.JSON,
    ".txt": Format.TEXT,
    ".xml": Format.JUNIT,
    ".sarif": Format.SARIF,
    ".md": Format.MARKDOWN,
    ".html": Format.HTML,
}
OF_PAGES = (Format.TEXT, Format.JSON, Format.MARKDOWN, Format.HTML)
"""What suits an answer that is about no model."""


def form_of(path: Path) -> Format:
    """The format that a report's name asks for, in whatever case; raises UsageError for a name that asks for none."""
    name = path.name.lower()
    if name.endswith(".sarif.json"):  # as the standard has it, beside .sarif
        return Format.SARIF
    form = SUFFIXES.get(Path(name).suffix)
    if form is None:
        *first, last = SUFFIXES
        raise UsageError(f"--report {str(path)!r}: the name must end in {', '.join(first)} or {last}")
    return form


def written(document: Document, form: Format) -> str:
    """The document in a format."""
    text: str = import_module(f"bnfold.report.as_{form.value}").written(document)
    return text
