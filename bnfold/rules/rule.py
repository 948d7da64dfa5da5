"""The table of rules, and what a rule finds.

    @rule("BN006", "warning", "a variance is negative")
    def negative_variance(norm: Norm) -> str | None: ...

A code is never given to another rule. BN0.. look at the file alone, BN1.. at the model over data.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, overload

from bnfold.errors import NotClean
from bnfold.nodes import Site

if TYPE_CHECKING:
    from bnfold.rules.subject import Norm

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

Check = Callable[["Norm"], str | None]
REMEDY = "Remedy:"
DATA_PREFIX = "BN1"
"""How the codes of rules begin that need data."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its `code`, how bad what it finds is, a `title` of one line, and its page (`why`, then `remedy`)."""

    code: str
    severity: Severity
    title: str
    why: tuple[str, ...]
    remedy: str
    check: Check = field(repr=False, compare=False)

    @property
    def needs_data(self) -> bool:
        """Whether it can say nothing without data."""
        return self.code.startswith(DATA_PREFIX)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule says of one BatchNormalization: `sentence` is about this very case, `remedy` what to do."""

    code: str
    severity: Severity
    site: Site
    sentence: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Findings:
    """All findings of one model, in the order of its nodes; a sequence of `Finding`.

    `looked_at`: how many BatchNormalizations there are. `suppressed`: findings left out because of their site.
    `remarks`: what could not be looked at, and why. `named`: codes that were selected by name, whose notes count.
    `rules`: the codes of all rules that looked at the model.
    """

    found: tuple[Finding, ...]
    looked_at: int
    suppressed: int = 0
    remarks: tuple[str, ...] = ()
    named: frozenset[str] = frozenset()
    rules: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What is broken, or computes something else than meant."""
        return self._of("error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is very likely a mistake, or dangerous."""
        return self._of("warning")

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What is worth knowing."""
        return self._of("note")

    @property
    def fails(self) -> bool:
        """Whether the command ends with 1: for errors and warnings, and for notes that were selected by their code."""
        return any(self.counts(one) for one in self.found)

    def counts(self, finding: Finding) -> bool:
        """Whether a finding makes the command end with 1."""
        return finding.severity != "note" or finding.code in self.named

    def raise_if_failing(self) -> None:
        """Raise NotClean if the command would end with 1."""
        if self.fails:
            first = next(one for one in self.found if self.counts(one))
            raise NotClean(f"{first.code} at {first.site}: {first.sentence}", self)

    def _of(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(one for one in self.found if one.severity == severity)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Finding, ...]: ...
    def __getitem__(self, index: int | slice) -> Finding | tuple[Finding, ...]:
        return self.found[index]


RULES: dict[str, Rule] = {}


def every_rule() -> tuple[Rule, ...]:
    """All rules, by code."""
    return tuple(RULES[code] for code in sorted(RULES))


def rule(code: str, severity: Severity, title: str) -> Callable[[Check], Check]:
    """A decorator that puts a check into the table, its docstring as its page."""

    def decorate(check: Check) -> Check:
        *why, remedy = (" ".join(text.split()) for text in inspect.cleandoc(check.__doc__ or "").split("\n\n"))
        if code in RULES or not why or not remedy.startswith(REMEDY):
            raise ValueError(f"{code} stands in the table twice, or its docstring is no page")
        page = remedy.removeprefix(REMEDY).strip().removesuffix(".")
        RULES[code] = Rule(code, severity, title, tuple(why), page, check)
        return check

    return decorate
