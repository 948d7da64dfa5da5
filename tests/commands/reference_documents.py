"""Write docs/operators.md and docs/reasons.md anew, from the op table and the pages of the reasons.

python tests/commands/reference_documents.py
"""

from __future__ import annotations

from pathlib import Path

from bnfold.ops import TABLE
from bnfold.ops.reasons import REASONS
from bnfold.report.documents import operators_document, reasons_document

DOCS = Path(__file__).resolve().parents[2] / "docs"

if __name__ == "__main__":
    (DOCS / "operators.md").write_text(operators_document(TABLE))
    (DOCS / "reasons.md").write_text(reasons_document(REASONS.values()))
