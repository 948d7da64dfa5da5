"""Write docs/rules.md anew, from the docstrings of the rules.

python tests/commands/rules_document.py
"""

from __future__ import annotations

from pathlib import Path

from bnfold.report.reference import rules_document
from bnfold.rules.rule import every_rule

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "rules.md"

if __name__ == "__main__":
    DOCUMENT.write_text(rules_document(every_rule()))
