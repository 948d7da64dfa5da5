"""A graph that breaks a law, made smaller: blocks are left out one by one, as long as it still breaks the same law."""

from __future__ import annotations

from graph_drawn import Drawn, drawn
from graph_judge import Finding, Judge


def shrunk(judge: Judge, finding: Finding) -> tuple[Drawn, Finding]:
    """The smallest graph of that seed that was found to break the same law, and how it breaks it."""
    without: frozenset[int] = frozenset()
    smallest = drawn(finding.seed)
    again = True
    while again:
        again = False
        for number, _ in smallest.blocks:
            tried = judge.seed(finding.seed, without | {number})
            if tried.broken == finding.broken:
                without, finding, again = without | {number}, tried, True
                smallest = drawn(finding.seed, without)
                break
    return smallest, finding
