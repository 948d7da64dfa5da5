"""What `ops` and `explain` have to say, and the pages that other reports quote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

from bnfold.moves import Json
from bnfold.ops.reasons import REASONS, Reason
from bnfold.ops.table import TITLES, Row
from bnfold.report import as_text
from bnfold.report.document import Block, Document, Fact, Page

if TYPE_CHECKING:
    from bnfold.rules.rule import Rule


def supported(rows: Iterable[Row]) -> Document:
    """The answer of `bnfold ops`: the support matrix, a block per kind."""
    table = list(rows)
    blocks = tuple(
        Block("", TITLES[kind], tuple(fact for row in group for fact in _row(row)), is_reference=True)
        for kind, group in groupby(table, key=lambda row: row.kind)
    )
    return Document("ops", blocks, lambda: {"rows": [asdict(row) | {"direction": row.direction} for row in table]})


def _row(row: Row) -> list[Fact]:
    return [Fact(row.op, row.rule), *([Fact("", row.unless)] if row.unless else [])]


def explained(page: Reason | Rule | None) -> Document:
    """The answer of `bnfold explain`: one page, or, of none, the list of them."""
    reasons = [page] if isinstance(page, Reason) else list(REASONS.values()) if page is None else []
    rules = [] if isinstance(page, Reason) else list(_every_rule()) if page is None else [page]
    fields: dict[str, Json] = {
        "reasons": [asdict(reason) for reason in reasons],
        "rules": [_rule_fields(rule) for rule in rules],
    }
    return Document("explain", _listed() if page is None else (page_block(page),), lambda: fields)


def _listed() -> tuple[Block, ...]:
    reasons = tuple(Fact(reason.code, reason.summary) for reason in REASONS.values())
    rules = tuple(Fact(rule.code, f"{rule.severity:7}  {rule.title}") for rule in _every_rule())
    return Block("", "why a BatchNormalization stays", reasons), Block("", "what validate finds", rules)


def _every_rule() -> tuple[Rule, ...]:
    from bnfold.rules import every_rule  # noqa: PLC0415  # heavy, and most reports quote no rule

    return every_rule()


def page_block(page: Reason | Rule) -> Block:
    """The page of one reason or rule."""
    remedy = f"What to do: {page.remedy}."
    if isinstance(page, Reason):
        return Block("", f"{page.code}: {page.summary}", prose=(*_why(page), remedy))
    needs = ("It needs data (--data).",) if page.needs_data else ()
    return Block("", f"{page.code}: {page.title} ({page.severity})", prose=(*page.why, *needs, remedy))


def _why(reason: Reason) -> tuple[str, ...]:
    return (reason.why, f"In algebra: {reason.algebra}.") if reason.algebra else (reason.why,)


def reason_pages(reasons: Iterable[Reason]) -> dict[str, Page]:
    """The pages of the reasons that are given, by code."""
    return {one.code: Page(one.code, one.summary, _why(one), one.remedy) for one in reasons}


def rule_pages(rules: Iterable[Rule]) -> dict[str, Page]:
    """The pages of the rules, by code."""
    return {one.code: Page(one.code, one.title, one.why, one.remedy, one.severity) for one in rules}


def _rule_fields(rule: Rule) -> Json:
    return {
        "code": rule.code,
        "severity": rule.severity,
        "title": rule.title,
        "needs_data": rule.needs_data,
        "why": list(rule.why),
        "remedy": rule.remedy,
    }


def rules_document(rules: Iterable[Rule]) -> str:
    """docs/rules.md: a table of all rules, and the page of each, as `bnfold explain` prints it."""
    every = list(rules)
    head = [
        "# Rules of `bnfold validate`",
        "",
        "`python -m bnfold explain CODE` prints the same pages. Errors and warnings end the command with 1; notes only",
        "where `--select` names their code in full. BN1.. need `--data`.",
        "",
        "| code | severity | what it finds |",
        "|---|---|---|",
        *(f"| [{rule.code}](#{rule.code.lower()}) | {rule.severity} | {rule.title} |" for rule in every),
    ]
    pages = (line for rule in every for line in ("", f"## {rule.code}", "", "```text", page_text(rule), "```"))
    return "\n".join([*head, *pages]) + "\n"


def page_text(page: Reason | Rule) -> str:
    """What `bnfold explain CODE` prints."""
    return as_text.written(explained(page))
