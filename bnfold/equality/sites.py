"""Tier 1: every place where two models compute something otherwise, compared on the values that the original has there.

    correspond    which value of the original each value of the rewritten model may stand for (counterparts.py)
    run           each site is fed what the original has at its bounds, and must give what the original has there
    judge         by the bounds of rounding (site_figures.py), or by the region's own jitter where it has no S

A value that agrees with none of its candidates is wrong, or stands for nothing: a rewriting may scale a value here and
undo it behind. So it is passed over, and the region grows to the next value that agrees; what reaches an output
without agreeing differs. Growing dilutes a fault, so a value that came near must be shown to be undone: with e what
its deviation would do further on if nothing undid it, and d what is found there, d must not hold e,

    b = <d, e>/<e, e>      undone: b < 1/2      not undone: b >= 1/2      standard error ||d - b*e||/(||e||*sqrt(n))

which finds an e far below the rounding of any one element. A value that is far from its candidate is no copy of it, and
is only held against the model where d is e as a whole: where what follows was made to undo nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bnfold.equality.counterparts import Correspondence, Counterparts, Site
from bnfold.equality.inputs import Batch
from bnfold.equality.layout import moves_alone
from bnfold.equality.runner import CannotRun, Runner
from bnfold.equality.site_figures import Excess
from bnfold.equality.site_judge import Judged, SiteJudge
from bnfold.equality.site_runs import Array, Side
from bnfold.nodes import Value

_LEAST_ROUNDS, _MOST_ROUNDS = 200, 2000
"""Each round settles at least one value; where all are mistaken that may be one for every node."""

_CERTAIN = 0.1
_HELD = 0.5


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first site that differs: the rewritten model's node and value, the original's value, and what was found.

    `within` is what the node puts out, where the value is none of the model's own (gate_sums.py). `is_seen` is False
    where nothing behind it moves, or nothing that can be compared: then it may as well be undone there.
    """

    node: str
    value: str
    stands_for: str
    excess: Excess
    batch: Batch = field(compare=False, repr=False)
    within: str = ""
    is_seen: bool = True


@dataclass(frozen=True, slots=True)
class SiteOutcome:
    """What comparing site by site showed.

    `divergence` is None where nothing differs; `why` says what could not be decided. `compared` counts the sites,
    `identical` the values that both models compute alike, `grown` those that stand for nothing in the original;
    `worst` is the largest share of a bound, found at the node `worst_at`.
    """

    divergence: Divergence | None
    why: str
    compared: int
    identical: int
    grown: int
    worst: float
    worst_at: str

    @property
    def is_same(self) -> bool:
        """Whether every site was compared and none differs."""
        return self.divergence is None and not self.why


def compare_sites(before: Side, after: Side, batches: Sequence[Batch], runner: Runner, *, seed: int = 0) -> SiteOutcome:
    """Compare two models site by site on some batches; the first decides what corresponds to what.

    Raises `CannotRun`.
    """
    return Comparison(before, after, runner, seed).over(batches)


class Comparison:
    """One comparison: decisions grow, and what was judged under the same circumstances is not judged again."""

    def __init__(self, before: Side, after: Side, runner: Runner, seed: int, *, by_name: bool = True) -> None:
        self._sides = before, after, runner, seed
        self._by_name = by_name
        self._after = after
        self._outputs = [v for v in before.outline.names.values() if before.source.graph.is_graph_output(v)]
        self._counterparts = Counterparts(before.outline, after.outline, by_name=by_name)
        self._judge = SiteJudge(before, after, runner, seed)
        self._decided: dict[int, Value | None] = {}
        self._failed: dict[int, Judged] = {}
        self._unseen: list[Judged] = []
        self._judged: dict[object, Judged] = {}
        self._held: dict[tuple[int, object], bool | None] = {}
        self._found = self._counterparts.under({})
        self._altered = frozenset(site.value.id for site in self._found.sites)

    def again(self, batch: Batch) -> Mapping[str, Array]:
        """The original's outputs on a batch that will be compared, run once more, with all that will be needed of it.

        Those that are tensors, and none where one run is not enough. Raises `CannotRun`.
        """
        self._judge.on(batch.feeds)
        values = self._judge.originals(self._found.sites, self._outputs)
        return {value.name: values[value.id] for value in self._outputs if value.id in values}

    def over(self, batches: Sequence[Batch]) -> SiteOutcome:
        """Settle what corresponds on the first batch, and compare on all of them. Raises `CannotRun`.

        Where it differs and names do not stand in the order of the original, it is done once more without them: any
        correspondence by which every site agrees shows that both are the same function.
        """
        outcome = self._over(batches)
        if outcome.divergence is None or not self._by_name or not self._counterparts.names_are_mixed:
            return outcome
        try:
            nameless = Comparison(*self._sides, by_name=False)._over(batches)
        except CannotRun:  # what was found by name stands
            return outcome
        return nameless if nameless.is_same else outcome

    def _over(self, batches: Sequence[Batch]) -> SiteOutcome:
        worst: list[Judged] = []
        unseen: Divergence | None = None
        for batch in batches:
            self._judge.on(batch.feeds)
            for known in (self._judged, self._held, self._failed, self._unseen):
                known.clear()
            failed = self._settled()
            worst += [self._judged[site.key] for site in self._found.sites]
            if failed is not None:
                return self._outcome(self._found, worst, self._divergence(failed, batch), "")
            if self._unseen and unseen is None:
                unseen = replace(self._divergence(self._unseen[0], batch), is_seen=False)
        why = "" if unseen is not None else self._undecided(self._found, worst)
        return self._outcome(self._found, worst, unseen, why)

    def _settled(self) -> Judged | None:
        """Rounds of judging and deciding until all that is compared agrees; or what differs."""
        rounds = min(_MOST_ROUNDS, max(_LEAST_ROUNDS, 2 * len(self._after.outline.nodes)))
        for _ in range(rounds):
            found = self._found
            fresh = [site for site in found.sites if site.key not in self._judged]
            self._judged.update(
                (site.key, judged) for site, judged in zip(fresh, self._judge.judged(fresh), strict=True)
            )
            first = self._first_mistaken(found)
            failed = self._beyond_growing(first) or self._not_undone(found, settled=False)
            if failed is None and not first:
                self._look_between(found)
                failed = self._not_undone(found, settled=True)
            if failed is not None or not first:
                return failed
            for judged in first:
                self._settle(judged)
            self._found = self._counterparts.under(self._decided)
        raise CannotRun("timeout", f"what corresponds to what did not settle in {rounds} rounds")

    def _of(self, site: Site) -> Judged:
        return self._judged[site.key]

    def _first_mistaken(self, found: Correspondence) -> list[Judged]:
        """The sites that are not what they were taken for, and are not fed by any such value.

        What a mistaken value feeds is judged again before it is settled, unless it agrees all the same with something
        that it is not fed itself (a Relu of a Relu is the same), and is more than what it is fed in another layout. An
        output is settled once nothing before it is open.
        """
        first: list[Judged] = []
        mistaken: set[int] = set()
        open_: set[int] = set()
        sites = {site.value.id: site for site in found.sites}
        for node in self._after.outline.nodes:
            needs = {value.id for value in self._after.outline.needs[node.id]}
            is_misled, is_open = not needs.isdisjoint(mistaken), not needs.isdisjoint(open_)
            for value in (v for v in node.outputs if v is not None):
                judged = self._of(sites[value.id]) if value.id in sites else None
                open_ |= {value.id} if is_open or (judged is not None and not judged.agrees) else set()
                if not is_misled and (judged is None or judged.agrees):
                    continue
                if judged is not None and judged.agrees and _is_more_than_it_is_fed(judged):
                    continue
                mistaken.add(value.id)
                waits = is_open and self._after.source.graph.is_graph_output(value)
                if judged is not None and not is_misled and not waits:
                    first.append(judged)
        return first

    def _look_between(self, found: Correspondence) -> None:
        """Values between the sites that come near to one of the original, and differ: they, too, have to be undone."""
        inside = self._counterparts.inside(found, self._decided)
        for site, judged in zip(inside, self._judge.judged(inside), strict=True):
            if not judged.passes and judged.is_near:
                self._failed.setdefault(site.value.id, judged)

    def _settle(self, judged: Judged) -> None:
        value = judged.site.value
        self._decided[value.id] = judged.candidate if judged.passes else None
        if not judged.passes:
            self._failed.setdefault(value.id, judged)

    def _beyond_growing(self, first: Sequence[Judged]) -> Judged | None:
        """An output that does not agree: the first value behind it that failed."""
        outputs = [j for j in first if self._after.source.graph.is_graph_output(j.site.value) and not j.passes]
        if not outputs:
            return None
        inside = _made_by(outputs[0].site)
        return next((j for id_, j in self._failed.items() if id_ in inside), outputs[0])

    def _not_undone(self, found: Correspondence, *, settled: bool) -> Judged | None:
        """A value that failed and is not undone further on; once all is settled, those of which nothing shows are kept.

        One whose own region holds another that failed may only pass that one on, until that one is shown to be undone.
        """
        undone: set[int] = set()
        for id_, failed in self._failed.items():
            if not self._failed.keys() & _made_by(failed.site) - {id_} <= undone:
                continue
            covering = [site for site in found.sites if id_ in _made_by(site)]
            held = [self._is_held(failed, s) for s in covering if s.value.id in self._altered or settled]
            if True in held:
                return self._failed[id_]
            is_unseen = settled and False not in held and failed.is_near
            if is_unseen:
                self._unseen.append(self._failed[id_])
            if is_unseen or False in held:
                undone.add(id_)
        return None

    def _is_held(self, failed: Judged, site: Site) -> bool | None:
        """Whether a deviation is still there at a later site, whole; None where it would not be seen.

        What is far from all its candidates may be a faulty copy of any of them.
        """
        key = failed.site.value.id, site.key
        judged = self._of(site)
        if judged.candidate is failed.candidate:  # what it was taken for itself is right, further on
            return False if judged.passes else None
        if not judged.passes and failed.is_near == judged.is_near:
            return None  # near or far, both may be scaled alike: what undoes both may stand behind them
        if key not in self._held:
            is_near = failed.is_near
            causes = [failed.candidate] if is_near else failed.site.candidates
            targets = [judged.candidate] if judged.passes else [judged.candidate, site.assumed]
            pairs = {(c.id, t.id): (c, t) for c in causes for t in targets if c is not None and t is not None}
            found = [(c, self._judge.deviation(failed, site, c, t)) for c, t in pairs.values()]
            held = [(c, _holds(*pair, is_near=is_near)) for c, pair in found if pair is not None]
            copied = next((c for c, holds in held if holds), None)
            if copied is not None:
                self._failed[failed.site.value.id] = self._judge.against(failed, copied)
            # Where what the later site stands for depends on no candidate, it was none.
            elsewhere = False if judged.passes and not held else None
            said = {holds for _, holds in held}
            self._held[key] = True if True in said else False if False in said else elsewhere
        return self._held[key]

    def _divergence(self, failed: Judged, batch: Batch) -> Divergence:
        stands_for = "" if failed.candidate is None else failed.candidate.name
        site = failed.site
        return Divergence(str(site.node.site), site.value.name, stands_for, failed.excess, batch)

    def _undecided(self, found: Correspondence, all_judged: Sequence[Judged]) -> str:
        doubtful = next((judged for judged in all_judged if not judged.decided), None)
        if doubtful is not None:
            return f"{doubtful.site.node.site} is apart by more than its own jitter mostly explains"
        outputs = {v.name: v for v in self._after.outline.names.values() if self._after.source.graph.is_graph_output(v)}
        lost = [n for n, v in outputs.items() if v.id in self._after.outline.varying and v.id not in found.stands_for]
        return f"nothing in the original corresponds to the output {lost[0]!r}" if lost else ""

    def _outcome(
        self, found: Correspondence, judged: Sequence[Judged], divergence: Divergence | None, why: str
    ) -> SiteOutcome:
        passed = [j for j in judged if j.passes]
        worst = max(passed, key=lambda j: j.excess.share, default=None)
        return SiteOutcome(
            divergence=divergence,
            why=why,
            compared=len(found.sites),
            identical=len(found.identical),
            grown=sum(decided is None for decided in self._decided.values()),
            worst=0.0 if worst is None else worst.excess.share,
            worst_at="" if worst is None else str(worst.site.node.site),
        )


def _is_more_than_it_is_fed(judged: Judged) -> bool:
    return judged.candidate not in judged.site.feeds and not all(map(moves_alone, judged.site.nodes))


def _made_by(site: Site) -> set[int]:
    """The values that a site's nodes put out, by id."""
    return {value.id for node in site.nodes for value in node.outputs if value is not None}


def _holds(expected: np.ndarray, found: np.ndarray, *, is_near: bool) -> bool | None:
    """Whether `found` holds `expected`: True, False, or None where that cannot be told.

    What is far from its candidate may well be another value, scaled: then it has to be nothing but `expected`.
    """
    usual = np.isfinite(expected) & np.isfinite(found)
    e, d = expected[usual], found[usual]
    power = float(np.dot(e, e))
    if not power:
        return None
    share = float(np.dot(d, e)) / power
    if not is_near:
        return float(np.linalg.norm(d - e)) <= _CERTAIN * math.sqrt(power)
    error = float(np.linalg.norm(d - share * e)) / math.sqrt(power * e.size)
    return None if error > _CERTAIN else share >= _HELD
