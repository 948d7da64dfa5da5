"""All rules on all BatchNormalizations of a model, in the order of the file."""

from __future__ import annotations

from bnfold.rules.choosing import Choice
from bnfold.rules.rule import Finding, Findings
from bnfold.rules.subject import Surroundings


def findings_of(
    around: Surroundings, choice: Choice, remarks: tuple[str, ...] = (), *, mute: frozenset[str] = frozenset()
) -> Findings:
    """What the chosen rules say; what was measured by running the model has been set on its BatchNormalizations.

    `mute`: codes of rules that can say nothing, because there are no data or too few.
    """
    found: list[Finding] = []
    suppressed = 0
    for norm in around.norms:
        for rule in choice.rules:
            sentence = rule.check(norm)
            if sentence is None:
                continue
            if choice.is_suppressed(rule.code, norm.node):
                suppressed += 1
                continue
            found.append(Finding(rule.code, rule.severity, norm.site, sentence, rule.remedy))
    looked = tuple(rule.code for rule in choice.rules if rule.code not in mute)
    return Findings(tuple(found), len(around.norms), suppressed, remarks, choice.named, looked)
