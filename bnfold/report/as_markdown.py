"""A document as Markdown, as GitHub and GitLab read it.

Every text is escaped so that it shows as it stands, whatever is in it: what Markdown could take for its own becomes an
entity, which is never part of a construct. Places stand in spans of code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bnfold.report.document import Block, Document, Line, Section, by_code
from bnfold.report.escape import shown

_SPECIAL = re.compile(
    r"[\\`*\[\]<>|~$&]"  # what begins or ends a construct anywhere
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis, but for between letters
    r"|(?<=\w):(?=//)|(?<=www)\."  # what would become a link
    r"|^(?:[ #+=-]|\d(?=\d*[.)]))"  # what begins a block at the start of a line
)
_IN_CODE = re.compile(r"[^`|\\]+")

CUT = "\n\n*cut here: there is no room for more; the other reports have all of it*\n"


def written(document: Document) -> str:
    """The answer as Markdown."""
    lines = [line for block in document.blocks for line in _block(block, document)]
    if len(document.blocks) > 1 and document.sums:
        lines += ["", escaped(document.sums)]
    return "\n".join(lines).rstrip("\n")


def cut(text: str, room: int) -> bytes:
    """The text in UTF-8 with an empty line after it, at most `room` bytes of it, cut after a whole line."""
    whole = f"{text}\n\n".encode()
    if len(whole) <= room:
        return whole
    mark = CUT.encode()
    kept, newline, _ = whole[: max(0, room - len(mark))].rpartition(b"\n")
    return kept + mark if newline else b""


def escaped(text: str) -> str:
    """Text that shows as it stands."""
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", shown(text))


def code(name: str) -> str:
    """A name as a span of code, or, if it has what ends one, as HTML that shows the same."""
    text = shown(name)
    if not text.strip():
        return ""
    if _IN_CODE.fullmatch(text) and text.strip() == text:
        return f"`{text}`"
    return f"<code>{escaped(text)}</code>"


def _block(block: Block, document: Document) -> Iterator[str]:
    yield f"## {escaped(block.title)}" if block.title else f"## {document.command}"
    yield ""
    if block.failure is not None:
        where = f"{code(block.failure.place)}: " if block.failure.place else ""
        yield f"**{escaped(block.failure.code)}**: {where}{escaped(block.failure.sentence)}"
        yield ""
    if block.facts:
        yield from _table(("", ""), [(escaped(fact.name), escaped(fact.value)) for fact in block.facts])
    for section in block.sections:
        if section.lines:
            yield from _section(section, document)
    for paragraph in (*block.prose, *block.closing):
        yield escaped(paragraph)
        yield ""


def _section(section: Section, document: Document) -> Iterator[str]:
    yield f"### {escaped(section.title)}"
    yield ""
    if section.layout == "table":
        rows = [(escaped(x.code), x.level or "", code(x.place), escaped(x.sentence)) for x in section.lines]
        yield from _table(("code", "severity", "node", "finding"), rows)
        return
    if section.layout == "list":
        yield from _places(section.lines)
        return
    for reason, lines in by_code(section.lines):
        page = document.pages.get(reason)
        yield f"{len(lines)} x **{escaped(reason)}**{': ' + escaped(page.title) if page else ''}"
        yield ""
        yield from _places(lines)
        if lines[0].remedy:
            yield f"Remedy: {escaped(lines[0].remedy)}"
            yield ""


def _places(lines: Sequence[Line]) -> Iterator[str]:
    yield from _table(("node", ""), [(code(line.place), escaped(line.sentence)) for line in lines])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""
