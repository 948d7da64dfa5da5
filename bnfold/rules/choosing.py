"""Which rules speak, and where: --select, --ignore, and rules that are silent at some sites.

A word of either option is a code (BN005) or how codes begin (BN0). What is ignored is not selected, whatever --select
says. A word that no code begins with is an error, for a typo would otherwise select nothing, or ignore nothing, in
silence. A glob of per_site_ignores that matches no site is none: what it was to suppress is still reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from bnfold.errors import UsageError
from bnfold.nodes import Node
from bnfold.rules.rule import RULES, Rule
from bnfold.selecting import names_of


@dataclass(frozen=True, slots=True)
class Choice:
    """The codes that were chosen, those of them that were `named` in full, and the codes ignored by glob of sites."""

    codes: frozenset[str]
    named: frozenset[str]
    per_site: tuple[tuple[str, frozenset[str]], ...] = ()

    @classmethod
    def of(
        cls,
        select: str | Sequence[str] = (),
        ignore: str | Sequence[str] = (),
        per_site_ignores: Mapping[str, Sequence[str]] | None = None,
    ) -> Choice:
        """What words from a user choose; no `select` means all. Raises UsageError for a word that is no code."""
        wanted, unwanted = words(select), words(ignore)
        selected = codes_of("--select", wanted) if wanted else frozenset(RULES)
        codes = selected - codes_of("--ignore", unwanted)
        per_site = tuple(
            (glob, codes_of("per_site_ignores", words(those))) for glob, those in (per_site_ignores or {}).items()
        )
        return cls(codes, codes & frozenset(wanted), per_site)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that were chosen, by code."""
        return tuple(RULES[code] for code in sorted(self.codes))

    def is_suppressed(self, code: str, node: Node) -> bool:
        """Whether a rule is to be silent about a node, which a glob names as those of --only and --skip do."""
        names = [name for name in names_of(node) if name]
        return any(code in codes and any(fnmatchcase(name, glob) for name in names) for glob, codes in self.per_site)


def check_settings(file: str, table: Mapping[str, object], per_site: Mapping[str, Sequence[str]]) -> None:
    """Raise UsageError, with the name of the file, for a code in its settings that there is none of."""
    own = table.get("validate")
    tables = {"tool.bnfold": table, "tool.bnfold.validate": own if isinstance(own, Mapping) else {}}
    lists = {f"{where}.{key}": those.get(key) for where, those in tables.items() for key in ("select", "ignore")}
    given = {where: those for where, those in lists.items() if isinstance(those, list)}
    for where, codes in {
        **given,
        **{f"tool.bnfold.per-site-ignores.{glob}": c for glob, c in per_site.items()},
    }.items():
        try:
            codes_of(where, words(codes))
        except UsageError as error:
            raise UsageError(f"{file}: {error}") from None


def words(given: str | Sequence[str]) -> tuple[str, ...]:
    """The words of an option that may be repeated, and separated by commas."""
    entries = (given,) if isinstance(given, str) else given
    return tuple(word.strip() for entry in entries for word in entry.split(",") if word.strip())


def codes_of(option: str, given: Sequence[str]) -> frozenset[str]:
    """The codes that words name in full or by their beginning; raises UsageError for a word that names none."""
    return frozenset(code for word in given for code in _named(option, word))


def _named(option: str, word: str) -> Iterator[str]:
    found = [code for code in RULES if code.startswith(word)] if word.startswith("BN") else []
    if not found:
        near = get_close_matches(word.upper(), RULES, n=3, cutoff=0.6)
        hint = f"; near codes are {', '.join(near)}" if near else f"; the codes are {min(RULES)} to {max(RULES)}"
        raise UsageError(f"{option} {word!r} names no rule{hint}")
    yield from found
