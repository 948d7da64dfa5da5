"""What a command has to say, as one value that every format is written from; nothing here knows a command or a format.

A document has a block per model; a block has facts, sections of lines, and cases. A line that has a level is something
to be told: an annotation, a result in SARIF. A case is something that was looked at, with how that ended.
All text is raw, as it stands in the model: each format escapes what it must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, NamedTuple

from bnfold.moves import Json

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
"""The most severe first."""

Tone = Literal["", "good", "bad"]
Outcome = Literal["passed", "skipped", "failed", "error"]
Layout = Literal["list", "groups", "table"]


class Fact(NamedTuple):
    """A name and what it comes to; a name that is "" goes on with the one before. `tone` is whether that is good."""

    name: str
    value: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Line:
    """What is said of one `place` of a model (a node; "" for the model as a whole).

    `code` is that of a reason or rule; `level` is None where there is nothing to be told beyond the report itself.
    """

    place: str
    sentence: str
    code: str = ""
    level: Level | None = None
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Lines under a title: as a `list`, in `groups` by code, the largest first, or as a `table` in their own order.

    Of a section that `is_detail` text shows nothing unless all is asked for, or only `instead`. `joint` stands in text
    between a place and its sentence.
    """

    title: str
    lines: tuple[Line, ...]
    layout: Layout
    is_detail: bool = False
    joint: str = ": "
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """Something that was looked at, and how that ended: `sentence` says why it did not pass, `details` all of it."""

    name: str
    outcome: Outcome = "passed"
    sentence: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """What is said of one model, `file`, or of a pair of which it is the later ("" for what is of no model).

    `prose` are paragraphs, `closing` the last lines. `failure` is what is wrong with the model as a whole.
    `is_reference`: its facts are prose too.
    """

    file: str
    title: str
    facts: tuple[Fact, ...] = ()
    sections: tuple[Section, ...] = ()
    prose: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()
    failure: Line | None = None
    cases: tuple[Case, ...] = ()
    is_reference: bool = False

    @property
    def told(self) -> Iterator[Line]:
        """The failure and every line that has a level, in the order of the block."""
        if self.failure is not None:
            yield self.failure
        yield from (line for section in self.sections for line in section.lines if line.level is not None)


@dataclass(frozen=True, slots=True)
class Page:
    """What a code means: one line, paragraphs, what to do about it, and how bad it is."""

    code: str
    title: str
    why: tuple[str, ...]
    remedy: str
    level: Level = "note"


@dataclass(frozen=True, slots=True)
class Document:
    """The answer of one command.

    `data` are the fields of the answer in JSON, made only where that is asked for. `sums` is one sentence of numbers
    and no names. `outcome` says what became of the models, where some are written ("" where none ever is).
    `is_failure`: there is nothing to show but an error. `verbose`: text names everything.
    """

    command: str
    blocks: tuple[Block, ...]
    data: Callable[[], Mapping[str, Json]]
    exit_code: int = 0
    pages: Mapping[str, Page] = field(default_factory=dict)
    sums: str = ""
    outcome: str = ""
    is_failure: bool = False
    verbose: bool = False


def by_code(lines: Iterable[Line]) -> list[tuple[str, tuple[Line, ...]]]:
    """The lines of each code, the largest group first."""
    ordered = sorted(lines, key=lambda line: line.code)
    groups = [(code, tuple(group)) for code, group in groupby(ordered, key=lambda line: line.code)]
    return sorted(groups, key=lambda entry: (-len(entry[1]), entry[0]))
