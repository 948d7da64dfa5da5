"""What `validate` found as JSON."""

from __future__ import annotations

from dataclasses import asdict

from bnfold.report.envelope import written
from bnfold.rules.rule import Findings


def findings_json(name: str, findings: Findings) -> str:
    """The answer of `bnfold validate`; `fails` is whether its exit code is 1 (without --exit-zero)."""
    return written(
        "validate",
        model=name,
        looked_at=findings.looked_at,
        counts={
            "errors": len(findings.errors),
            "warnings": len(findings.warnings),
            "notes": len(findings.notes),
            "suppressed": findings.suppressed,
        },
        fails=findings.fails,
        findings=[asdict(finding) for finding in findings],
        remarks=list(findings.remarks),
    )
