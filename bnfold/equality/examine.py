"""Both models run, and what that means: end to end, then site by site, and a verdict out of the two.

    end to end      site by site    verdict
    differs         any             Differs, at the first site if it is known
    any other       differs         Differs, at that site
    equal           any other       Same
    within          same            Same
    within          undecided       Unknown, for one site says neither; Same where sites could not be compared at all
    floor, discrete same            Same
    floor, discrete any other       Unknown

Where every site agrees, a ratio up to 10 counts as within, and nothing is drawn for it.

Where a branch of an If differs between the two files and no input tried takes it, Same is Unknown.

A certificate decides there, and instead of an Unknown of the last row, where no output is a number, and where a value
came near to what it stands for and nothing behind it shows whether that is undone: it has recomputed every number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from bnfold.equality.data import Data
from bnfold.equality.end_to_end import compare
from bnfold.equality.gate_sums import Gates, with_gate_sums
from bnfold.equality.inputs import Batch
from bnfold.equality.pair import Outcome, upgrade_of
from bnfold.equality.pieces import Source, light
from bnfold.equality.runner import CannotRun, Runner
from bnfold.equality.site_runs import Side
from bnfold.equality.sites import Comparison, Divergence, SiteOutcome
from bnfold.equality.tally import DIFFERS
from bnfold.equality.unreached import unlike
from bnfold.equality.verdict import Counterexample, Differs, EndToEnd, Same, SiteBySite, Unknown, Verdict
from bnfold.graph import Graph
from bnfold.model import ModelFile

_CONVERTED = "sites are not compared below opset 7, where both models are run as conversions"


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model to run: what was read, and where its file lies."""

    file: ModelFile
    path: Path


@dataclass(frozen=True, slots=True)
class Examination:
    """What running both models showed; `sites` is None where they were not compared, and `why_not` says why.

    `unseen` says which branch differs between the two files and never ran, if one does.
    """

    outcome: Outcome
    sites: SiteOutcome | None
    why_not: str = ""
    unseen: str = ""

    @property
    def end_to_end(self) -> EndToEnd | None:
        """The figures of end to end, with remarks on the sites."""
        evidence = self.outcome.end_to_end
        return evidence if not self.why_not or evidence is None else noted(evidence, self.why_not)

    @property
    def site_by_site(self) -> SiteBySite | None:
        """The figures of the sites."""
        if self.sites is None:
            return None
        return SiteBySite(self.sites.compared, self.sites.identical, self.sites.worst, self.sites.worst_at)


def examine(  # noqa: PLR0913  # two models, how to run them, and each of the user's wishes by its own name
    before: Subject,
    after: Subject,
    *,
    runner: Runner,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    data: Data | None = None,
    assume_inference: bool = False,
) -> Examination:
    """Run both models end to end, and compare them site by site. Raises `UsageError` as `compare` does."""
    sites = _Sites(before, after, runner, seed, assume_inference)
    outcome = compare(
        before.path,
        after.path,
        runner=runner,
        proto=before.file.proto,
        seed=seed,
        dims=dims,
        data=data,
        assume_inference=assume_inference,
        light=light(Source(Graph.of(before.file), before.path)),
        sites=sites,
    )
    if not outcome.batches:
        return Examination(outcome, None)
    unseen = unlike(before.file, after.file, outcome.unreached)
    return Examination(outcome, sites.outcome, sites.why_not, unseen)


@dataclass(eq=False)
class _Sites:
    """The comparison site by site, which is made in the middle of the one end to end: what it showed, or why not."""

    before: Subject
    after: Subject
    runner: Runner
    seed: int
    assume_inference: bool
    outcome: SiteOutcome | None = None
    why_not: str = ""

    def again(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """The original's outputs, run once more with all that its sites will need; none where that is not possible."""
        if self._are_converted:
            return {}
        try:
            return self._comparison[0].again(batch)
        except CannotRun:
            return {}

    def agree(self, batches: tuple[Batch, ...]) -> bool:
        """Whether every site was compared on these batches, and agrees."""
        if self._are_converted:
            self.why_not = _CONVERTED
            return False
        try:
            comparison, gates = self._comparison
            self.outcome = _of_gates(comparison.over(batches), gates)
        except CannotRun as error:
            self.why_not = f"the sites could not be compared: {error.sentence}"
        return self.outcome is not None and self.outcome.is_same

    @cached_property
    def _comparison(self) -> tuple[Comparison, Mapping[str, Gates]]:
        plain = (Source(Graph.of(one.file), one.path) for one in (self.before, self.after))
        ours, theirs, gates = with_gate_sums(*plain)
        return Comparison(Side.of(ours), Side.of(theirs), self.runner, self.seed), gates

    @property
    def _are_converted(self) -> bool:
        return upgrade_of(self.before.file.proto, assume_inference=self.assume_inference) != "none"


def _of_gates(outcome: SiteOutcome, gates: Mapping[str, Gates]) -> SiteOutcome:
    """What was found at sums that were laid open, said of the nodes whose they are."""
    places = {one.made_at: one.node for one in gates.values()}
    outcome = replace(outcome, worst_at=places.get(outcome.worst_at, outcome.worst_at))
    found = outcome.divergence
    if found is None or found.value not in gates:
        return outcome
    whose = gates[found.value]
    return replace(outcome, divergence=replace(found, node=whose.node, within=whose.output))


def judged(found: Examination, *, is_certified: bool = False, offer: str = "") -> Verdict:
    """The verdict of an examination. `offer` says what else could decide where running cannot."""
    verdict = _by_running(found, is_certified=is_certified, offer=offer)
    if isinstance(verdict, Same) and found.unseen and not is_certified:
        return Unknown(found.unseen, found.end_to_end)
    return verdict


def _by_running(found: Examination, *, is_certified: bool, offer: str) -> Verdict:
    outcome, sites = found.outcome, found.sites
    apart = None if sites is None else sites.divergence
    if apart is not None and (apart.is_seen or not is_certified):
        return _diverging(found, apart)
    if outcome.word == "differs":
        return Differs(outcome.sentence, outcome.counterexample, found.end_to_end)
    same = Same(found.end_to_end, certified=is_certified, executed=True, sites=found.site_by_site)
    is_shown = sites is not None and sites.is_same
    if outcome.word == "equal" or (is_shown and outcome.word == "within"):
        return same
    if outcome.word == "within":
        return same if is_certified or sites is None else Unknown(sites.why, found.end_to_end)
    if is_certified and outcome.reason == "nothing":
        return same
    worst = None if outcome.end_to_end is None else outcome.end_to_end.worst
    is_open = outcome.reason == "discrete" or (
        outcome.reason == "floor" and worst is not None and worst.ratio <= DIFFERS
    )
    if is_open and (is_shown or is_certified):
        by = "every site was compared, and agrees" if is_shown else "the certificate does"
        note = f"{outcome.sentence}: that decides nothing, and {by}"
        return (
            same
            if outcome.reason == "discrete" or same.end_to_end is None
            else replace(same, end_to_end=noted(same.end_to_end, note))
        )
    return Unknown(f"{outcome.sentence}; {offer}" if offer else outcome.sentence, found.end_to_end)


def noted(evidence: EndToEnd, note: str) -> EndToEnd:
    """The same figures with one more remark."""
    return replace(evidence, notes=(*evidence.notes, note))


def _diverging(found: Examination, at: Divergence) -> Differs:
    """The first site that differs, and what was found at the outputs."""
    excess = at.excess
    place = f"{at.value!r}{list(excess.index)}" if excess.index else repr(at.value)
    called = f", which stands for {at.stands_for!r} of the original," if at.stands_for not in {"", at.value} else ""
    what = {"gain": f"the scale of channel {excess.channel}", "offset": f"the shift of channel {excess.channel}"}
    is_alone = not excess.index and excess.after == excess.before  # no value to hold it against: no figures either
    told = "is no value of the original" if is_alone else f"is {excess.after:.9g} and was {excess.before:.9g}"
    sentence = (
        f"the first site that differs is {at.node}: {place}{called} {told} "
        f"on the same inputs (batch {at.batch.label!r})"
    )
    if excess.kind in what:
        sentence += f"; {what[excess.kind]} is off by {excess.share:.3g} times what rounding explains"
    elif excess.bound:
        sentence += f"; rounding explains {excess.bound:.3g}"
    if found.outcome.word == "differs":
        sentence += f"; {found.outcome.sentence}"
    shown = Counterexample(
        at.value, excess.index, excess.before, excess.after, excess.bound, at.batch.label, at.batch.feeds
    )
    if is_alone and found.outcome.counterexample is not None:
        shown = found.outcome.counterexample
    original = at.within or at.stands_for or None
    return Differs(sentence, shown, found.end_to_end, site=at.node, value=at.value, original=original)
