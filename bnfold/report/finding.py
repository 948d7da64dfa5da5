"""What `validate` has to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

from bnfold.moves import Json
from bnfold.report.document import LEVELS, Block, Case, Document, Line, Section
from bnfold.report.reference import rule_pages
from bnfold.rules.rule import RULES, Finding, Findings


def found(name: str, findings: Findings, *, exit_zero: bool = False, verbose: bool = False) -> Document:
    """The answer of `bnfold validate`: a line per finding, then the counts. `exit_zero`: no finding is a failure."""
    lines = tuple(Line(str(one.site), one.sentence, one.code, one.severity, one.remedy) for one in findings)
    block = Block(
        name,
        name,
        sections=(Section("found", lines, "table"),),
        closing=(*(f"remark: {remark}" for remark in findings.remarks), _summary(findings)),
        cases=tuple(_cases(findings)),
    )
    return Document(
        "validate",
        (block,),
        lambda: _fields(name, findings),
        exit_code=1 if findings.fails and not exit_zero else 0,
        pages=rule_pages(RULES[code] for code in findings.rules),
        sums=f"1 model: {_summary(findings)}",
        verbose=verbose,
    )


def _cases(findings: Findings) -> Iterator[Case]:
    """A case per rule that looked at the model; what makes the command end with 1 makes the rule fail."""
    for code in findings.rules:
        ours = [finding for finding in findings if finding.code == code]
        failing = [finding for finding in ours if findings.counts(finding)]
        count = f"{len(ours)} BatchNormalization(s): {ours[0].sentence}" if ours else ""
        details = tuple(_told(finding) for finding in ours)
        yield Case(f"{code} {RULES[code].title}", "failed" if failing else "passed", count, details)


def _told(finding: Finding) -> str:
    return f"{finding.site}: {finding.sentence}"


def _summary(findings: Findings) -> str:
    counts = Counter(finding.severity for finding in findings)
    told = [f"{counts[word]} {word}{'s' if counts[word] > 1 else ''}" for word in LEVELS if counts[word]]
    looked = f"{findings.looked_at} BatchNormalization{'s' if findings.looked_at != 1 else ''} looked at"
    suppressed = f"; {findings.suppressed} suppressed by site" if findings.suppressed else ""
    if not findings.looked_at:
        return "there is no BatchNormalization"
    return f"{looked}: {', '.join(told) if told else 'clean, nothing was found'}{suppressed}"


def _fields(name: str, findings: Findings) -> dict[str, Json]:
    """`fails` is whether the exit code is 1 (without --exit-zero)."""
    return {
        "model": name,
        "looked_at": findings.looked_at,
        "counts": {
            "errors": len(findings.errors),
            "warnings": len(findings.warnings),
            "notes": len(findings.notes),
            "suppressed": findings.suppressed,
        },
        "fails": findings.fails,
        "rules": list(findings.rules),
        "findings": [asdict(finding) for finding in findings],
        "remarks": list(findings.remarks),
    }
