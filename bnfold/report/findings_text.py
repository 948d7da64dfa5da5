"""What `validate` found, in aligned lines, and the pages of its rules: for a terminal, and for docs/rules.md."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator

from bnfold.report.escape import shown
from bnfold.rules.rule import SEVERITIES, Finding, Findings, Rule

WIDTH = 100
FEW = 3
"""Notes shown per code, unless all are asked for."""


def findings_text(name: str, findings: Findings, *, verbose: bool = False) -> str:
    """The answer of `bnfold validate`: one line per finding, then the counts; `verbose` has remedies and every note."""
    lines = [shown(name), *_table(_few(findings, verbose=verbose), verbose=verbose)]
    if not verbose:
        lines += _left_out(findings)
    return "\n".join(
        [*lines, *(f"  remark: {shown(remark)}" for remark in findings.remarks), f"  {_summary(findings)}"]
    )


def _few(findings: Findings, *, verbose: bool) -> list[Finding]:
    """All errors and warnings, and of each kind of note a few."""
    seen: Counter[str] = Counter()
    kept = []
    for finding in findings:
        seen[finding.code] += 1
        if verbose or finding.severity != "note" or seen[finding.code] <= FEW:
            kept.append(finding)
    return kept


def _left_out(findings: Findings) -> Iterator[str]:
    for code, count in sorted(Counter(finding.code for finding in findings.notes).items()):
        if count > FEW:
            yield f"  {code}  and {count - FEW} more like that (-v names them)"


def _table(findings: Iterable[Finding], *, verbose: bool) -> Iterator[str]:
    rows = [(f.code, f.severity, shown(f.site), shown(f.sentence), f.remedy) for f in findings]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for *cells, sentence, remedy in rows:
        head = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield f"  {head}  {sentence}"
        if verbose:
            indent = " " * 6
            yield textwrap.fill(f"remedy: {remedy}", WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")


def _summary(findings: Findings) -> str:
    counts = Counter(finding.severity for finding in findings)
    found = [f"{counts[word]} {word}{'s' if counts[word] > 1 else ''}" for word in SEVERITIES if counts[word]]
    looked = f"{findings.looked_at} BatchNormalization{'s' if findings.looked_at != 1 else ''} looked at"
    suppressed = f"; {findings.suppressed} suppressed by site" if findings.suppressed else ""
    if not findings.looked_at:
        return "there is no BatchNormalization"
    return f"{looked}: {', '.join(found) if found else 'clean, nothing was found'}{suppressed}"


def rule_text(rule: Rule) -> str:
    """The answer of `bnfold explain BN005`: the page of one rule."""
    needs = "It needs data (--data)." if rule.needs_data else ""
    paragraphs = [f"{rule.code}: {rule.title} ({rule.severity})", *rule.why, needs, f"What to do: {rule.remedy}."]
    return "\n\n".join(textwrap.fill(paragraph, WIDTH) for paragraph in paragraphs if paragraph)


def rules_text(rules: Iterable[Rule]) -> str:
    """The codes of all rules, each with its title."""
    return "\n".join(f"{rule.code}  {rule.severity:7}  {rule.title}" for rule in rules)


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
    pages = (line for rule in every for line in ("", f"## {rule.code}", "", "```text", rule_text(rule), "```"))
    return "\n".join([*head, *pages]) + "\n"
