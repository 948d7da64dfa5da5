"""What may be wrong with a BatchNormalization: findings BN001..., one small function each.

A rule looks at one BatchNormalization and answers with a sentence about that very case, or with nothing. Its docstring
is its page: what it says and why it matters, and a last paragraph that begins with "Remedy:".
"""

from __future__ import annotations

from bnfold.rules import drift, folding, parameters, running, structure
from bnfold.rules.rule import RULES, Finding, Findings, Rule, Severity, every_rule

__all__ = [
    "RULES",
    "Finding",
    "Findings",
    "Rule",
    "Severity",
    "drift",
    "every_rule",
    "folding",
    "parameters",
    "running",
    "structure",
]
