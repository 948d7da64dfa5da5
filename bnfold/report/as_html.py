"""A document as one HTML file that needs nothing beside it, for light and dark screens, and for paper.

It is built as a tree of elements, never as text, so that the serialiser of the standard library does all escaping; the
policy in its head forbids whatever it would load or run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree as ET

from bnfold import __version__
from bnfold.report.document import Block, Document, Line, Section, by_code
from bnfold.report.escape import shown

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #667; --good: #17692c; --bad: #b3261e; --warn: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --quiet: #99a; --good: #6fd68a; --bad: #ff8a80; --warn: #f0c060; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.15rem; overflow-wrap: anywhere; } h3 { font-size: 1rem; }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 500; white-space: nowrap; } th + td { width: 100%; }
td { overflow-wrap: anywhere; } td.code { white-space: nowrap; } a { color: inherit; }
code { font: .9em ui-monospace, monospace; } .quiet { color: var(--quiet); } .good { color: var(--good); }
.bad, .error { color: var(--bad); } .warning { color: var(--warn); } .note { color: var(--quiet); }
"""


def written(document: Document) -> str:
    """The answer as HTML."""
    title = f"bnfold {document.command}"
    root = ET.Element("html", lang="en")
    head = ET.SubElement(root, "head")
    ET.SubElement(head, "meta", charset="utf-8")
    ET.SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY})
    ET.SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    _add(head, "title", title)
    ET.SubElement(head, "style").text = _STYLE
    body = ET.SubElement(root, "body")
    _add(body, "h1", title)
    _add(body, "p", f"{document.sums}. Exit code {document.exit_code}." if document.sums else "", "quiet")
    for block in document.blocks:
        _block(ET.SubElement(body, "section"), block, document)
    _pages(body, document)
    _add(body, "p", f"bnfold {__version__}", "quiet")
    return "<!DOCTYPE html>\n" + ET.tostring(root, encoding="unicode", method="html")


def _add(parent: ET.Element, tag: str, text: str, style: str = "") -> ET.Element:
    element = ET.SubElement(parent, tag, {"class": style} if style else {})
    element.text = shown(text)
    return element


def _block(parent: ET.Element, block: Block, document: Document) -> None:
    if block.title:
        _add(parent, "h2", block.title)
    if block.failure is not None:
        where = f"{block.failure.place}: " if block.failure.place else ""
        _add(parent, "p", f"{block.failure.code}: {where}{block.failure.sentence}", "error")
    if block.facts:
        rows = ET.SubElement(parent, "table")
        for name, value, tone in block.facts:
            row = ET.SubElement(rows, "tr")
            _add(row, "th", name)
            _add(row, "td", value, tone)
    for section in block.sections:
        if section.lines:
            _section(parent, section, document)
    for paragraph in (*block.prose, *block.closing):
        _add(parent, "p", paragraph)


def _section(parent: ET.Element, section: Section, document: Document) -> None:
    _add(parent, "h3", f"{section.title} ({len(section.lines)})")
    if section.layout == "table":
        rows = _table(parent, ("code", "severity", "node", "finding"))
        for line in section.lines:
            row = ET.SubElement(rows, "tr")
            _linked(ET.SubElement(row, "td", {"class": "code"}), line.code, document)
            _add(row, "td", line.level or "", line.level or "")
            _place(row, line)
        return
    if section.layout == "list":
        _places(parent, section.lines)
        return
    for code, lines in by_code(section.lines):
        heading = _add(parent, "p", f"{len(lines)} x ")
        _linked(heading, code, document)
        _add(heading, "span", f": {document.pages[code].title}" if code in document.pages else "")
        _places(parent, lines)
        _add(parent, "p", f"Remedy: {lines[0].remedy}." if lines[0].remedy else "", "quiet")


def _linked(parent: ET.Element, code: str, document: Document) -> None:
    """A code, which leads to its page if there is one."""
    _add(ET.SubElement(parent, "a", href=f"#{code}") if code in document.pages else parent, "code", code)


def _table(parent: ET.Element, names: Iterable[str]) -> ET.Element:
    rows = ET.SubElement(parent, "table")
    head = ET.SubElement(rows, "tr")
    for name in names:
        _add(head, "th", name)
    return rows


def _places(parent: ET.Element, lines: Sequence[Line]) -> None:
    rows = _table(parent, ("node", ""))
    for line in lines:
        _place(ET.SubElement(rows, "tr"), line)


def _place(row: ET.Element, line: Line) -> None:
    _add(ET.SubElement(row, "td"), "code", line.place)
    _add(row, "td", line.sentence)


def _pages(parent: ET.Element, document: Document) -> None:
    """The pages of the codes that were told, each once."""
    told = {line.code for block in document.blocks for section in block.sections for line in section.lines}
    pages = [page for code, page in sorted(document.pages.items()) if code in told]
    if pages:
        _add(ET.SubElement(parent, "section"), "h2", "What the codes mean")
    for page in pages:
        heading = _add(parent, "h3", f"{page.code}: {page.title}")
        heading.set("id", page.code)
        for paragraph in (*page.why, *([f"What to do: {page.remedy}."] if page.remedy else ())):
            _add(parent, "p", paragraph)
