"""Judges sites on one batch: which candidate a value agrees with, if any, and by how much of what rounding allows.

A value is what it stands for if it has the same bits; if it is floating point and within the bounds of
site_figures.py; or, where no S is known or so much lies between that S says nothing, if it is no further away than the
region's own jitter, which says nothing of a region that rounds to steps. Where a channel has few elements, both sides
are run again on the bounds with noise added.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bnfold.equality.counterparts import Site
from bnfold.equality.discrete import coarsest_half_unit, is_discrete
from bnfold.equality.measure import DRAWS, ROUNDING_FLOOR, UNITS, is_float, relative, same_bits
from bnfold.equality.plateaus import like_terms
from bnfold.equality.runner import CannotRun, Runner
from bnfold.equality.site_figures import NOTHING, Excess, Figures, specially_different
from bnfold.equality.site_noise import Layout, noisy_values, stride_of_maps
from bnfold.equality.site_runs import Array, Region, Side, SiteRuns, Sized, Values
from bnfold.nodes import Value

_ENOUGH = 256
_MOST_COPIES = 256
_MOST_RUNS = 64
_GROUP_BYTES = 1 << 28
_UNKNOWN_BYTES = 1 << 22
_KEPT_BYTES = 1 << 29
_HOPELESS = 0.5
_PASSES, _DIFFERS = 4.0, 10.0
_UNEXPLAINED = replace(NOTHING, share=math.inf)
_NEAR = 0.02
"""Relative L2 up to which a value that fails is taken for a faulty copy of its candidate, or a channel for one."""

_MOST = 0.5
"""As many of the channels are near, where some of a copy are wrong, by however much."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What was found at one site: the candidate that is nearest, how near in relative L2, and the worst excess.

    `decided` is False where only jitter could say, and says neither: then nothing is held against the site, and the
    comparison as a whole is undecided. `after` is kept where the site fails.
    """

    site: Site
    candidate: Value | None
    distance: float
    excess: Excess
    decided: bool = True
    after: Array | None = field(default=None, repr=False)
    is_near: bool = False
    """Whether a value that fails is taken for a faulty copy of its candidate: all of it, or most channels, are near."""

    @property
    def passes(self) -> bool:
        """Whether the value is what it stands for, up to rounding."""
        return self.candidate is not None and (self.excess.share <= 1.0 or not self.decided)

    @property
    def agrees(self) -> bool:
        """Whether it is what it was taken for."""
        return self.passes and self.candidate is self.site.assumed


class SiteJudge:
    """Judges sites of one pair of models on one batch after another."""

    def __init__(self, before: Side, after: Side, runner: Runner, seed: int) -> None:
        self._runs = SiteRuns(before, after, runner)
        self._after = after.source
        self._before = before
        self._theirs = after
        self._seed = seed
        self._is_half = coarsest_half_unit(before.source.file.proto) > UNITS["float32"]
        self._feeds: Mapping[str, Array] = {}
        self._kept: Values = {}
        self._regions: dict[tuple[int, int], Region] = {}
        self._random = np.random.default_rng(seed)

    def on(self, feeds: Mapping[str, Array]) -> None:
        """From now on, compare on these inputs."""
        if feeds is not self._feeds:
            self._feeds, self._kept = feeds, {}
        self._random = np.random.default_rng(self._seed)

    def judged(self, sites: Sequence[Site]) -> list[Judged]:
        """One verdict per site, in order."""
        self.originals(sites)
        return [verdict for group in self._groups(sites) for verdict in self._group(group)]

    def originals(self, sites: Sequence[Site], others: Sequence[Value] = ()) -> Values:
        """What the original has at some sites, for all groups of them at once, and other values of its own.

        Nothing where that is too much to keep, or where what else is asked for would change what is computed.
        """
        self._regions = {(s.value.id, c.id): self._runs.region(s, c) for s in sites for c in s.candidates}
        wanted = {v.id: v for v in (*others, *(v for site in sites for v in self._compared_with(site)))}
        if (others and self._is_half) or sum(map(self._bytes, wanted.values())) > _KEPT_BYTES:
            return {}
        return self._values(tuple(wanted.values()))

    def deviation(self, failed: Judged, site: Site, cause: Value, target: Value) -> tuple[Array, Array] | None:
        """What a faulty value would do at a later site if nothing undid it, and what is found there.

        The value is taken for `cause`, the later site for `target`. Both come as differences from what the original has
        there, empty where the values cannot be subtracted or no more arrives than rounding; None where the target does
        not depend on the cause.
        """
        if failed.after is None:
            return None
        stops = {v.id for v in site.feeds} | {cause.id}
        region = Region.behind(self._before.outline, target, stops - {target.id})
        if all(bound is not cause for bound in region.bounds):
            return None
        values = dict(self._values([*region.bounds, *site.feeds, target]))
        if any(value.id not in values for value in (*region.bounds, *site.feeds, target)):  # a sequence, say
            return np.zeros(0), np.zeros(0)
        plain, found = values[target.id], self._runs.rewritten([site], values).get(site.value.id)
        forms = (values[cause.id].shape, values[cause.id].dtype), (failed.after.shape, failed.after.dtype)
        if found is None or forms[0] != forms[1] or found.shape != plain.shape or plain.dtype.kind in "OUSc":
            return np.zeros(0), np.zeros(0)
        moved = self._runs.recomputed([region], values | {cause.id: failed.after})[target.id]
        wide = plain.astype(np.float64)
        expected = moved.astype(np.float64) - wide
        rounding = _PASSES * UNITS.get(plain.dtype.name, 0.0) * float(np.linalg.norm(wide))
        if float(np.linalg.norm(expected)) <= rounding:  # it is about what does not arrive here
            return np.zeros(0), np.zeros(0)
        return expected, found.astype(np.float64) - wide

    def against(self, failed: Judged, candidate: Value) -> Judged:
        """The same failure, held against another candidate."""
        before = self._values([candidate])[candidate.id]
        if failed.after is None or candidate is failed.candidate or before.shape != failed.after.shape:
            return failed
        return replace(failed, candidate=candidate, excess=_unequal(before, failed.after))

    def _groups(self, sites: Sequence[Site]) -> Iterator[list[Site]]:
        """Sites in order, as many at once as their values and weights may take memory."""
        group: list[Site] = []
        room = _GROUP_BYTES
        for site in sites:
            needed = sum(map(self._bytes, self._compared_with(site))) + self._weights(site)
            if group and needed > room:
                yield group
                group, room = [], _GROUP_BYTES
            group.append(site)
            room -= needed
        if group:
            yield group

    def _compared_with(self, site: Site) -> list[Value]:
        """The values of the original that a site needs."""
        bounds = [v for candidate in site.candidates for v in self._regions[site.value.id, candidate.id].bounds]
        return [*site.feeds, *site.candidates, *bounds]

    def _weights(self, site: Site) -> int:
        """How many bytes the constants take that a site's nodes read."""
        held = [self._after.graph.initializer(v) for node in site.nodes for v in node.inputs if v is not None]
        return sum(4 * math.prod(one.tensor.dims) for one in held if one is not None)

    def _bytes(self, value: Value) -> int:
        """About how large a value is; symbolic sizes are taken for small."""
        dims = self._before.shapes.shape(value)
        return _UNKNOWN_BYTES if dims is None else 4 * math.prod(d for d in dims if isinstance(d, int))

    def _values(self, wanted: Sequence[Value]) -> Values:
        """Values of the original on this batch; those asked for before are kept, up to a limit.

        Not in half precision: onnxruntime computes it in float32, and rounds in between only what is asked for, so
        that values of two runs do not belong together.
        """
        missing = [value for value in wanted if value.id not in self._kept]
        if missing:
            if self._is_half or sum(array.nbytes for array in self._kept.values()) > _KEPT_BYTES:
                self._kept, missing = {}, list(wanted)
            self._kept |= self._runs.values(missing, self._feeds)
        return self._kept

    def _group(self, sites: Sequence[Site]) -> list[Judged]:
        values = self._values([value for site in sites for value in self._compared_with(site)])
        runnable = [site for site in sites if all(feed.id in values for feed in site.feeds)]
        found = self._runs.rewritten(runnable, values)
        nearest = {s.value.id: _nearest(s, found[s.value.id], values) for s in runnable if s.value.id in found}
        asked = [
            (j, self._regions[j.site.value.id, j.candidate.id])
            for j in nearest.values()
            if j.candidate is not None and not j.passes and j.distance <= _HOPELESS and _may_round(j, values)
        ]
        for (judged, _), verdict in zip(asked, self._bounded(asked, values, found), strict=True):
            nearest[judged.site.value.id] = verdict
        nothing = {s.value.id: Judged(s, None, math.inf, _UNEXPLAINED) for s in sites}
        return [(nothing | nearest)[site.value.id] for site in sites]

    def _bounded(
        self, asked: Sequence[tuple[Judged, Region]], values: Values, found: Mapping[int, Array]
    ) -> list[Judged]:
        regions = [region for _, region in asked]
        sized = self._runs.sized(regions, values) if regions else []
        figures = self._figures(asked, sized, values, found)
        failed = [i for i, figure in enumerate(figures) if figure.worst.share > 1]
        like = {i: like_terms(regions[i].nodes, self._values) for i in failed}
        again = [i for i in failed if like[i]]
        if again:
            wider = [replace(sized[i], size=replace(sized[i].size, alike=like[i])) for i in again]
            mended = self._figures([asked[i] for i in again], wider, values, found)
            for i, figure in zip(again, mended, strict=True):
                figures[i] = figure
        verdicts = []
        for (judged, region), one, figure in zip(asked, sized, figures, strict=True):
            after = found[judged.site.value.id]
            if _is_bounded(one):
                passes = figure.worst.share <= 1
                verdicts.append(replace(judged, excess=figure.worst, after=None if passes else after))
            else:
                verdicts.append(self._drawn(judged, region, figure.unit, values, after))
        return verdicts

    def _figures(
        self, asked: Sequence[tuple[Judged, Region]], sized: Sequence[Sized], values: Values, found: Mapping[int, Array]
    ) -> list[Figures]:
        """What is measured at sites that have an S, with noise where that is needed; nothing at the others."""
        figures = [
            Figures(self._runs.unit(region, values, UNITS), one.size)
            for (_, region), one in zip(asked, sized, strict=True)
        ]
        for (judged, region), one, figure in zip(asked, sized, figures, strict=True):
            if one.magnitude is not None:
                figure.add(values[region.target.id], found[judged.site.value.id], one.magnitude)
        few = [
            i for i, ((judged, region), one, figure) in enumerate(zip(asked, sized, figures, strict=True))
            if _is_bounded(one) and figure.fewest < _ENOUGH and figure.worst.share <= 1
            and _is_made_of_feeds(judged, region)
        ]  # fmt: skip
        if few:
            self._repeat([asked[i] for i in few], [figures[i] for i in few], values)
        return figures

    def _repeat(self, asked: Sequence[tuple[Judged, Region]], figures: Sequence[Figures], values: Values) -> None:
        """Both sides on the bounds with noise, until each channel has enough elements to be judged as a whole.

        What does not take as many copies at once as that needs is run again and again.
        """
        by_layout: dict[Layout, list[int]] = defaultdict(list)
        for place, ((judged, region), figure) in enumerate(zip(asked, figures, strict=True)):
            copies = 1 << (-(-_ENOUGH // max(1, figure.fewest)) - 1).bit_length()
            by_layout[Layout(copies, self._stride(judged.site, region, values))].append(place)
        for layout, places in by_layout.items():
            pairs, ours = [asked[i] for i in places], [figures[i] for i in places]
            copies = min(layout.copies, _MOST_COPIES)
            left = list(range(len(places)))
            for attempt in [layout] * layout.is_map + [Layout(copies)] + [Layout(1)] * min(copies, _MOST_RUNS):
                if not left:
                    break
                ways = [(pairs[i][0].site, pairs[i][1]) for i in left] if attempt.is_stacked else []
                takes = self._runs.take_copies(ways, values) if ways else [True] * len(left)
                taken = [i for i, takes_them in zip(left, takes, strict=True) if takes_them]
                refused = self._add_noisy([pairs[i] for i in taken], [ours[i] for i in taken], values, attempt)
                left = sorted({*left} - {*taken} | {taken[i] for i in refused}) if attempt.copies > 1 else left

    def _stride(self, site: Site, region: Region, values: Values) -> int:
        """How noise may lie in maps for both sides of a site (see `stride_of_maps`), which must be of one size."""
        if len({values[v.id].shape[2:] for v in (*site.feeds, *region.bounds)} | {()}) != 2:
            return 0
        ours = stride_of_maps(region.nodes, [(self._before.shapes, v) for v in region.bounds])
        theirs = ours and stride_of_maps(site.nodes, [(self._theirs.shapes, v) for v in site.bounds])
        return max(ours, theirs) if theirs else 0

    def _add_noisy(
        self, asked: Sequence[tuple[Judged, Region]], figures: Sequence[Figures], values: Values, layout: Layout
    ) -> list[int]:
        """Add what both sides make of noisy copies; the places of those that did not take them, or need more."""
        sites, regions = [judged.site for judged, _ in asked], [region for _, region in asked]
        bounds = {v.id for site in sites for v in site.feeds} | {v.id for region in regions for v in region.bounds}
        sizes = {id_ for site, region in zip(sites, regions, strict=True) for id_ in self._runs.sizes(site, region)}
        noisy = noisy_values(values, bounds, {v.id for site in sites for v in site.taken}, self._random, layout)
        noisy |= {id_: values[id_] for id_ in sizes}
        try:
            after, sized = self._runs.rewritten(sites, noisy), self._runs.sized(regions, noisy, with_targets=True)
        except CannotRun as error:
            if error.kind != "refused":
                raise
            return list(range(len(asked)))
        left = []
        for place, ((judged, region), one) in enumerate(zip(asked, sized, strict=True)):
            ours, theirs = one.value, after.get(judged.site.value.id)
            if ours is None or theirs is None or one.magnitude is None:
                left.append(place)
                continue
            size = ours.size if layout.is_map else values[region.target.id].size * layout.copies
            if not ours.size == theirs.size == size:
                left.append(place)
                continue
            if ours.shape == theirs.shape:
                figures[place].add(ours, theirs, one.magnitude)
            if layout.is_map and figures[place].fewest < _ENOUGH:
                left.append(place)
        return left

    def _drawn(self, judged: Judged, region: Region, unit: float, values: Values, after: Array) -> Judged:
        """By the region's own jitter: how far it moves when what it reads and its constants are rounded otherwise."""
        y, z = (np.asarray(a, np.float64) for a in (values[region.target.id], after))
        special = specially_different(y, z)
        if special is not None:
            return replace(judged, excess=special, after=after)
        squares, sizes = 0.0, self._runs.sizes(judged.site, region)
        for draw in range(DRAWS):
            random = np.random.default_rng([self._seed, draw])
            moved = {v.id: _rounded_otherwise(values[v.id], unit, random) for v in region.bounds if v.id not in sizes}
            moved |= {id_: values[id_] for id_ in sizes}
            drawn = self._runs.jittered(region, moved, DRAWS * self._seed + draw).astype(np.float64)
            squares += float(np.nansum(np.square(drawn - y))) / DRAWS if drawn.shape == y.shape else 0.0
        d = np.where(np.isfinite(y), z - y, 0.0)
        floor = max(ROUNDING_FLOOR * unit * float(np.linalg.norm(np.where(np.isfinite(y), y, 0.0))), math.sqrt(squares))
        apart = float(np.linalg.norm(d))  # 0 and -0 are not the same bits, and not apart
        ratio = apart / floor if floor else math.inf if apart else 0.0
        place = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.abs(d))), d.shape))
        bound = _PASSES * floor / math.sqrt(max(1, d.size))
        excess = Excess(ratio / _PASSES, "jitter", place, float(y[place]), float(z[place]), bound)
        least = 0.0 if any(is_discrete(node.proto) for node in region.nodes) else _PASSES
        return replace(judged, excess=excess, decided=not least < ratio <= _DIFFERS, after=after)


def _is_bounded(one: Sized) -> bool:
    return one.magnitude is not None


def _nearest(site: Site, after: Array, values: Values) -> Judged:
    """The candidate that a value is nearest to: passed where the bits are the same, failed until more is known.

    The assumed one, if most of its channels are near, comes before one that is nearer by and large. Of others that says
    little: where most channels of a Relu are positive, they are those of what it reads.
    """
    best: tuple[bool, float, Value] | None = None
    for candidate in site.candidates:
        before = values.get(candidate.id)
        if before is None or (before.shape, before.dtype) != (after.shape, after.dtype):
            continue
        if same_bits(before, after):
            return Judged(site, candidate, 0.0, NOTHING)
        distance = relative(before, after) if is_float(before) else math.inf
        is_far = distance > _NEAR and (candidate is not site.assumed or not _most_channels_are_near(before, after))
        if best is None or (is_far, distance) < best[:2]:
            best = is_far, distance, candidate
    if best is None:
        return Judged(site, None, math.inf, _UNEXPLAINED, after=after)
    is_far, distance, candidate = best
    excess = _UNEXPLAINED if distance <= _HOPELESS else _unequal(values[candidate.id], after)
    return Judged(site, candidate, distance, excess, after=after, is_near=not is_far)


def _most_channels_are_near(before: Array, after: Array) -> bool:
    """Of those that are not zero throughout; channels lie on axis 1."""
    if not is_float(before) or before.dtype.kind == "c" or before.ndim < 2 or before.shape[1] < 2:
        return False
    y, z = (np.moveaxis(np.asarray(part, np.float64), 1, 0).reshape(before.shape[1], -1) for part in (before, after))
    with np.errstate(over="ignore", invalid="ignore"):
        power, apart = np.sum(y * y, axis=1), np.sum(np.square(z - y), axis=1)
        counted = (power > 0) | (apart > 0)
        near = counted & (apart <= _NEAR**2 * power)
    return bool(np.count_nonzero(near) >= max(1.0, _MOST * np.count_nonzero(counted)))


def _is_made_of_feeds(judged: Judged, region: Region) -> bool:
    """Whether noise on the feeds reaches both sides: not where a value stands for what it is fed, or for its like.

    An identity that was put behind a value does: the original makes that value of something else.
    """
    feeds = {feed.id for feed in judged.site.feeds}
    return region.target.id not in feeds and feeds.issuperset(bound.id for bound in region.bounds)


def _unequal(before: Array, after: Array) -> Excess:
    """Two arrays that are not the same, before anything is known of what rounding may do."""
    if before.dtype.kind in "OUS" or not before.size:
        return replace(NOTHING, share=math.inf, kind="special")
    y, z = before.astype(np.float64), after.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.nan_to_num(np.abs(z - y), nan=math.inf)
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(apart)), apart.shape))
    return Excess(math.inf, "special", place, float(y[place]), float(z[place]), 0.0)


def _may_round(judged: Judged, values: Values) -> bool:
    return judged.candidate is not None and is_float(values[judged.candidate.id])


def _rounded_otherwise(value: Array, unit: float, random: np.random.Generator) -> Array:
    if not is_float(value) or value.dtype.kind == "c":
        return value
    factors = 1.0 + random.uniform(-2.0, 2.0, value.shape) * unit
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray((value.astype(np.float64) * factors).astype(value.dtype))
