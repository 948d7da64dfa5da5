"""Findings as Markdown tables."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from cases import Finding
from faults import KINDS
from nets import FAMILIES

ASIDE = ("peer", "not drawn")
PLAIN = ("same", "unknown", "differs")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; numbers and words alike."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def caught_table(findings: Sequence[Finding]) -> str:
    """Kinds by families, `caught/cases` in each cell, `-` where the family cannot have the kind."""
    cells: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for finding in findings:
        for row in (finding.kind, "all kinds"):
            for column in (finding.family, "all"):
                cells[row, column].append(finding.word == "differs")
    kinds = [kind for kind in KINDS if (kind, "all") in cells]
    columns = [family for family in FAMILIES if ("all kinds", family) in cells]
    rows = [[kind, *(share(cells[kind, column]) for column in (*columns, "all"))] for kind in (*kinds, "all kinds")]
    return table(["caught / cases", *columns, "all"], rows)


def share(caught: Sequence[bool]) -> str:
    if not caught:
        return "-"
    return f"{sum(caught)}/{len(caught)}" if all(caught) else f"**{sum(caught)}/{len(caught)}**"


def trait_table(findings: Sequence[Finding]) -> str:
    """The same by the other traits: extent, type, statistics, depth, names."""
    seen: dict[tuple[int, str], list[bool]] = defaultdict(list)
    for finding in findings:
        for place, trait in enumerate(finding.traits[:5]):
            seen[place, trait].append(finding.word == "differs")
    return table(["trait", "caught / cases"], [[trait, share(seen[place, trait])] for place, trait in sorted(seen)])


def correct_table(findings: Sequence[Finding], column: Callable[[Finding], str]) -> str:
    """For each way of rewriting: how many are the same, undecided, rejected, and the other tools' failures apart."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for finding in findings:
        for row in (column(finding), "all"):
            counts[row][finding.word] += 1
            counts[row]["wrong"] += finding.word.startswith("peer wrong")
    head = [
        "rewritten by",
        "cases",
        "same",
        "undecided",
        "rejected",
        "tool failed",
        "tool folded wrongly",
        "of it caught",
    ]
    rows = [
        [
            row, sum(one.values()) - one["wrong"], one["same"], one["unknown"], one["differs"] + one["error"],
            one["peer failed"], one["wrong"], one["peer wrong: differs"],
        ]
        for row, one in counts.items() if row != "all"
    ]  # fmt: skip
    total = ["all", *(sum(numbers) for numbers in zip(*(row[1:] for row in rows), strict=True))] if rows else ["all"]
    return table(head, [*rows, total])


def listed(findings: Sequence[Finding]) -> str:
    """One line for each, to be run again by its seed."""
    return "".join(
        f"- {finding.seed} ({finding.kind}, {finding.family}; {', '.join(finding.traits)}): {finding.word}"
        f"{', ' + finding.sentence if finding.sentence else ''}\n"
        for finding in findings
    )
