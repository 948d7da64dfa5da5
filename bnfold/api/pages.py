"""`operators` and `explain`: what bnfold knows, as pages."""

from __future__ import annotations

from difflib import get_close_matches

from bnfold.errors import UsageError
from bnfold.ops import TABLE
from bnfold.ops.reasons import REASONS, Reason
from bnfold.ops.table import Row
from bnfold.rules import RULES, Rule


def operators() -> tuple[Row, ...]:
    """The support matrix: every operator of the op table, what it does with an affine, and under which conditions."""
    return tuple(TABLE)


def explain(code: str) -> Reason | Rule:
    """The page of a reason that a refusal bears, or of a rule that a finding bears; raises UsageError for no code."""
    page = REASONS.get(code) or RULES.get(code)
    if page is None:
        near = get_close_matches(code, [*REASONS, *RULES], n=3) or get_close_matches(code.upper(), RULES, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        known = f"{', '.join(sorted(REASONS))}, and the rules {min(RULES)} to {max(RULES)}"
        raise UsageError(f"there is no reason or rule {code!r}{hint or f'; there are: {known}'}")
    return page
