"""A document as workflow commands of GitHub Actions, which become annotations, and as the summary of a job.

GitHub shows 10 annotations of each kind per step: where there are more, the last one counts the rest. The summary is
Markdown, at most 1 MiB in a step, whatever else has been written to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bnfold.report import as_markdown
from bnfold.report.document import LEVELS, Document, Level, Line
from bnfold.report.escape import shown

MOST = 10
"""Annotations of one kind that GitHub takes from a step."""

MOST_BYTES = 1024 * 1024
"""What GitHub takes as the summary of a step; a longer one is not shown at all."""

_COMMANDS: dict[Level, str] = {"error": "error", "warning": "warning", "note": "notice"}


def written(document: Document) -> str:
    """The annotations, and last a line of sums, which has no names in it."""
    told = [(block.file, line) for block in document.blocks for line in block.told]
    annotations = [
        annotation
        for level in LEVELS
        for annotation in _annotations(level, [(file, line) for file, line in told if line.level == level])
    ]
    return "\n".join([*annotations, document.sums])


def _annotations(level: Level, told: list[tuple[str, Line]]) -> Iterator[str]:
    alone = told if len(told) <= MOST else told[: MOST - 1]
    for file, line in alone:
        where = f"{line.place}: " if line.place else ""
        remedy = f"\nremedy: {shown(line.remedy)}" if line.remedy else ""
        properties = {"file": in_repository(file), "title": f"bnfold {line.code}"}
        yield _command(_COMMANDS[level], f"{shown(where)}{shown(line.sentence)}{remedy}", properties)
    if len(told) > len(alone):
        rest = f"and {len(told) - len(alone)} more of {len(told)}; the job summary and the other reports have them all"
        yield _command(_COMMANDS[level], rest, {"title": "bnfold"})


def _command(name: str, message: str, properties: dict[str, str]) -> str:
    written = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {written}::{_data(message)}"


def _data(text: str) -> str:
    """A message, which ends at the end of the line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """The value of a property, which ends at a comma or at two colons too."""
    return _data(shown(text)).replace(":", "%3A").replace(",", "%2C")


def in_repository(file: str) -> str:
    """The path as GitHub has it: below the folder of the repository, if it is there."""
    root = os.environ.get("GITHUB_WORKSPACE")
    if not root:
        return Path(file).as_posix()
    whole, below = (Path(os.path.realpath(path)) for path in (file, root))
    return (whole.relative_to(below) if whole.is_relative_to(below) else Path(file)).as_posix()


def summary(document: Document, taken: int) -> bytes:
    """The summary of a job, as far as there is room beside the `taken` bytes that are in it already."""
    return as_markdown.cut(as_markdown.written(document), MOST_BYTES - taken)
