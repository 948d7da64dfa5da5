"""A document as a few aligned lines for people: plain for files and pipes, or coloured and wrapped for a terminal.

Both are made of the same rows. A row is its parts, each with a style, and how far in its further lines begin.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnfold.report.document import Block, Document, Fact, Line, Section, by_code
from bnfold.report.escape import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

WIDTH = 100
FEW = 3
"""Lines shown per code, unless all are asked for."""

_STYLES = {"good": "green", "bad": "red", "error": "bold red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True, slots=True)
class _Row:
    """One line, or, if it is prose, a paragraph."""

    parts: tuple[tuple[str, str], ...]
    hang: int = 0
    is_prose: bool = False

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.parts).rstrip()


def written(document: Document) -> str:
    """The answer as plain text."""
    return "\n".join(line for row in _rows(document) for line in _plain(row))


def _plain(row: _Row) -> list[str]:
    if not row.is_prose:
        return [row.text]
    indent = row.text[: len(row.text) - len(row.text.lstrip())]
    further = " " * row.hang
    return textwrap.wrap(
        row.text.strip(), WIDTH, initial_indent=indent, subsequent_indent=further, break_on_hyphens=False
    )


def on_terminal(document: Document, *, stderr: bool = False) -> str:
    """The answer with colours, which NO_COLOR takes away, and wrapped where the terminal ends."""
    from rich.console import Console  # noqa: PLC0415  # comes with typer; only where there is a terminal

    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for row in _rows(document, console.width):
            for piece in _wrapped(row, console):
                console.print(piece, no_wrap=True, overflow="ignore", crop=False)
    return captured.get().removesuffix("\n")


def _wrapped(row: _Row, console: Console) -> Iterator[Text]:
    """A row as lines that fit, the further ones moved in."""
    from rich.text import Text  # noqa: PLC0415  # likewise

    line = Text.assemble(*row.parts)
    line.rstrip()
    first, *further = line.wrap(console, console.width) or [line]
    yield first
    if further:
        rest = line[len(first.plain) :]
        rest = rest[len(rest.plain) - len(rest.plain.lstrip()) :]
        hang = min(row.hang, console.width // 2)
        yield from (Text(" " * hang) + piece for piece in rest.wrap(console, console.width - hang))


def _rows(document: Document, width: int | None = None) -> Iterator[_Row]:
    """A block after the other, with an empty line between, and sums if there are several models.

    `width`: where the terminal ends; without one no line is too long.
    """
    for number, block in enumerate(document.blocks):
        if number:
            yield _Row(())
        yield from _block(block, document, width)
    if len(document.blocks) > 1 and document.sums:
        yield _Row(())
        yield _Row(((shown(document.sums), "bold"),))


def _block(block: Block, document: Document, width: int | None) -> Iterator[_Row]:
    if block.title:
        yield _Row(((shown(block.title), "bold"),))
    yield from _facts(block.facts, indent="  " if block.title else "", is_prose=block.is_reference)
    for section in block.sections:
        if document.verbose or not section.is_detail:
            yield from _section(section, document, width)
        elif section.instead and section.lines:
            yield _Row(((f"  {shown(section.instead)}", "dim"),), hang=4)
    for paragraph in block.prose:
        yield _Row(())
        yield _Row(((shown(paragraph), ""),), is_prose=True)
    for line in block.closing:
        yield _Row(((f"  {shown(line)}", ""),), hang=4)


def _facts(facts: Sequence[Fact], *, indent: str, is_prose: bool) -> Iterator[_Row]:
    width = max((len(fact.name) for fact in facts), default=0)
    for name, value, tone in facts:
        head = f"{indent}{shown(name):<{width}}  "
        yield _Row(((head, "dim"), (shown(value), _STYLES.get(tone, ""))), len(head) + 2, is_prose)


def _section(section: Section, document: Document, width: int | None) -> Iterator[_Row]:
    if section.layout == "table":
        yield from _table(section.lines, width, verbose=document.verbose)
        return
    if not section.lines:
        return
    yield _Row(((f"  {shown(section.title)}", "bold"),))
    if section.layout == "list":
        yield from _some(section.lines, "    ", section.joint, verbose=document.verbose)
        return
    for code, lines in by_code(section.lines):
        title = f": {shown(document.pages[code].title)}" if code in document.pages else ""
        yield _Row(((f"    {len(lines)} x ", ""), (shown(code), "cyan"), (title, "")), hang=6)
        yield from _some(lines, "      ", ": ", verbose=document.verbose)
        if lines[0].remedy:
            yield _Row(((f"      remedy: {shown(lines[0].remedy)}", "dim"),), hang=8, is_prose=True)


def _some(lines: Sequence[Line], indent: str, joint: str, *, verbose: bool) -> Iterator[_Row]:
    for line in lines if verbose else lines[:FEW]:
        yield _Row(((f"{indent}{shown(line.place)}", "bold"), (f"{joint}{shown(line.sentence)}", "")), len(indent) + 2)
    if len(lines) > FEW and not verbose:
        yield _Row(((f"{indent}and {len(lines) - FEW} more (-v shows all)", "dim"),))


def _table(lines: Sequence[Line], width: int | None, *, verbose: bool) -> Iterator[_Row]:
    """Code, level, place and sentence; of each kind of note a few, unless all are asked for.

    Where one line would not fit, all sentences stand below their places.
    """
    some = lines if verbose else _few(lines)
    rows = [(shown(line.code), line.level or "", shown(line.place)) for line in some]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    longest = sum(widths) + 8 + max((len(shown(line.sentence)) for line in some), default=0)
    is_broken = width is not None and longest > width
    for line, cells in zip(some, rows, strict=True):
        code, level, place = (cell.ljust(size) for cell, size in zip(cells, widths, strict=True))
        head = (f"  {code}  {level}  ", _STYLES.get(line.level or "", "")), (f"{place}  ", "bold")
        if is_broken:
            yield _Row(head, hang=6)
            yield _Row(((f"      {shown(line.sentence)}", ""),), hang=8)
        else:
            yield _Row((*head, (shown(line.sentence), "")))
        if verbose:
            yield _Row(((f"      remedy: {shown(line.remedy)}", "dim"),), hang=8, is_prose=True)
    left_out = Counter(line.code for line in lines) - Counter(line.code for line in some)
    for code, count in sorted(left_out.items()):
        yield _Row(((f"  {shown(code)}  and {count} more like that (-v names them)", "dim"),))


def _few(lines: Sequence[Line]) -> list[Line]:
    """All errors and warnings, and of each kind of note a few."""
    seen: Counter[str] = Counter()
    kept = []
    for line in lines:
        seen[line.code] += 1
        if line.level != "note" or seen[line.code] <= FEW:
            kept.append(line)
    return kept
