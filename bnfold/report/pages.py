"""The pages of `bnfold explain`: of one reason or rule, or the list of them all."""

from __future__ import annotations

from dataclasses import asdict

from bnfold.moves import Json
from bnfold.ops.reasons import REASONS, Reason
from bnfold.report.envelope import written
from bnfold.report.findings_text import rule_text, rules_text
from bnfold.report.text import reason_text, reasons_text
from bnfold.rules.rule import Rule, every_rule


def pages_text(page: Reason | Rule | None) -> str:
    """One page, or, of none, the list of them."""
    if page is None:
        return f"{reasons_text(REASONS.values())}\n\n{rules_text(every_rule())}"
    return reason_text(page) if isinstance(page, Reason) else rule_text(page)


def pages_json(page: Reason | Rule | None) -> str:
    """The same as JSON: `reasons` and `rules` have the pages."""
    reasons = [page] if isinstance(page, Reason) else list(REASONS.values()) if page is None else []
    rules = [page] if isinstance(page, Rule) else list(every_rule()) if page is None else []
    return written("explain", reasons=[asdict(reason) for reason in reasons], rules=[_rule(rule) for rule in rules])


def _rule(rule: Rule) -> Json:
    return {
        "code": rule.code,
        "severity": rule.severity,
        "title": rule.title,
        "needs_data": rule.needs_data,
        "why": list(rule.why),
        "remedy": rule.remedy,
    }
