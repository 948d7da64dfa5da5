"""`operators` and `explain`: what bnfold knows, as pages."""

from __future__ import annotations

from bnfold.errors import UsageError
from bnfold.ops import TABLE
from bnfold.ops.reasons import REASONS, Reason
from bnfold.ops.table import Row


def operators() -> tuple[Row, ...]:
    """The support matrix: every operator of the op table, what it does with an affine, and under which conditions."""
    return tuple(TABLE)


def explain(code: str) -> Reason:
    """The page of a reason that a refusal bears; raises UsageError for a code that there is none of."""
    if code not in REASONS:
        raise UsageError(f"there is no reason {code!r}; there are: {', '.join(sorted(REASONS))}")
    return REASONS[code]
