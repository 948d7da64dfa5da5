"""The reference pages of the docs, made of the same values as the answers of `bnfold ops` and `bnfold explain`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from bnfold.ops.reasons import Reason
from bnfold.ops.table import TITLES, Row
from bnfold.report.reference import page_text


def operators_document(rows: Iterable[Row]) -> str:
    """docs/operators.md: the support matrix, one table per kind, and a table of which way each operator is met."""
    every = list(rows)
    head = [
        "# What may move where",
        "",
        "The support matrix, as `bnfold ops` prints it: made of the op table, the functions that planner and tests",
        "read. `python tests/commands/reference_documents.py` writes this page anew. An operator that does not stand",
        "here lets nothing pass (`blocked`).",
        "",
        "| operator | is one | backward | forward | sideways |",
        "|---|---|---|---|---|",
        *_overview(every),
    ]
    tables = [line for kind, group in groupby(every, key=lambda row: row.kind) for line in _table(TITLES[kind], group)]
    return "\n".join([*head, *tables]) + "\n"


def _overview(rows: list[Row]) -> Iterator[str]:
    words = {"linear": "absorbs", "passing": "passes", "feeding": "absorbs", "forward": "passes"}
    by_operator = sorted(rows, key=lambda row: row.op)
    for op, group in groupby(by_operator, key=lambda row: row.op):
        own, cells = list(group), []
        for direction in ("", "backward", "forward", "sideways"):
            found = dict.fromkeys(words.get(row.kind, "yes") for row in own if row.direction == direction)
            cells.append(", ".join(found))
        yield f"| {op} | {' | '.join(cells)} |"


def _table(title: str, rows: Iterable[Row]) -> Iterator[str]:
    yield from ("", f"## {title[0].upper()}{title[1:]}", "", "| operator | what | not |", "|---|---|---|")
    for row in rows:
        unless = row.unless.removeprefix("Not: ")
        yield f"| {row.op} | {_cell(row.rule)} | {_cell(unless)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def reasons_document(reasons: Iterable[Reason]) -> str:
    """docs/reasons.md: a table of all reasons, and the page of each, as `bnfold explain` prints it."""
    every = list(reasons)
    head = [
        "# Why a BatchNormalization stays",
        "",
        "Each that stays bears one of these codes, a sentence about its case, and the node to blame.",
        "`bnfold explain CODE` prints the same pages, and `bnfold witness MODEL` what shows it in a model. Each has a",
        "minimal model in the tests, and each remedy is followed there. A remedy leaves the function what it is, or",
        "makes another one (a network to train anew, a model that is repaired), or there is none.",
        "`python tests/commands/reference_documents.py` writes this page anew.",
        "",
        "| code | what it means | with the remedy |",
        "|---|---|---|",
        *(f"| [{r.code}](#{r.code}) | {r.summary} | {_with_remedy(r)} |" for r in every),
    ]
    pages = (line for r in every for line in ("", f"## {r.code}", "", "```text", page_text(r), "```"))
    return "\n".join([*head, *pages]) + "\n"


def _with_remedy(reason: Reason) -> str:
    if not reason.can_be_remedied:
        return "none"
    return "another function" if reason.changes_function else "the same function"
