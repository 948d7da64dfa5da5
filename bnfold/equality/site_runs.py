"""Running a model's values out of it, and both sides of a site on the same values.

Invariant: the bounds of a site are fed what the original has there (teacher forcing), so that a difference at a site
arises at that site. Of the values nothing is kept beyond one group of sites.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from bnfold.equality.counterparts import Site
from bnfold.equality.magnitudes import Magnitudes, NoMagnitude, Size
from bnfold.equality.measure import is_float
from bnfold.equality.outline import Outline
from bnfold.equality.pieces import Part, Piece, Source, holds_graphs
from bnfold.equality.prepare import Copy
from bnfold.equality.runner import CannotRun, Runner
from bnfold.equality.site_copies import COPIES, never_parts, sizes_among, stay_apart
from bnfold.nodes import Node, Value
from bnfold.shapes import Shapes

Array = NDArray[np.generic]
Values = dict[int, Array]
"""By id of a value of the original."""

DEEPEST = 3
"""Sums behind each other up to which S bounds what rounding does; beyond, it would allow anything."""

_FED = "fed "


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One of the two models: where pieces are cut from, what needs what, and how large things are."""

    source: Source
    outline: Outline
    shapes: Shapes = field(repr=False)

    @classmethod
    def of(cls, source: Source) -> Side:
        """Index one model."""
        return cls(source, Outline.of(source.graph), Shapes(source.graph))


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """What makes a value of one model out of others: nodes, fed at their bounds with values of the original."""

    target: Value
    nodes: tuple[Node, ...]
    bounds: tuple[Value, ...]
    feeds: tuple[Value, ...]

    @classmethod
    def of(cls, site: Site) -> Region:
        """The rewritten model's side of a site."""
        return cls(site.value, site.nodes, site.bounds, site.feeds)

    @classmethod
    def behind(cls, outline: Outline, target: Value, stops: Container[int]) -> Region:
        """What makes a value of the original out of `stops`, which are ids of other values."""
        nodes, bounds = outline.behind([target], stops)
        return cls(target, nodes, bounds, bounds)


@dataclass(frozen=True, slots=True, eq=False)
class Sized:
    """S of a region's target and how much arithmetic there is; or, as `why`, what stands in the way of an S.

    `value` is the target itself, where there is an S and it was asked for.
    """

    magnitude: Array | None
    size: Size
    why: str = ""
    value: Array | None = None


class SiteRuns:
    """Runs sites of one pair of models. Raises `CannotRun` where onnxruntime does not run a piece."""

    def __init__(self, before: Side, after: Side, runner: Runner) -> None:
        self._before = before
        self._after = after
        self._runner = runner

    def values(self, wanted: Iterable[Value], feeds: Mapping[str, Array]) -> Values:
        """Values of the original on these inputs, those that are no tensor left out."""
        targets = {value.id: value for value in wanted}
        found: Values = {v.id: feeds[v.name] for v in targets.values() if self._is_input(v) and v.name in feeds}
        targets = {id_: value for id_, value in targets.items() if id_ not in found}
        if not targets:
            return found
        nodes, bounds = self._before.outline.behind(targets.values(), ())
        piece = Piece(self._before.source)
        part = piece.part(nodes, {}, "")
        part.captured(value for node in nodes for value in self._before.outline.needs[node.id])
        part.captured(targets.values())  # an initializer may be all that an output is
        given = {v.name: feeds[v.name] for v in bounds if v.name in feeds}
        for name, array in given.items():
            piece.feed(name, _element_type(array))
        piece.outputs = [value.name for value in targets.values()]
        outputs = self._run(self._before, piece, given)
        return found | {v.id: outputs[v.name] for v in targets.values() if v.name in outputs}

    def rewritten(self, sites: Sequence[Site], values: Values) -> dict[int, Array]:
        """The value at each site (by id), fed what the original has at its bounds."""
        return self._computed(self._after, [Region.of(site) for site in sites], values)

    def recomputed(self, regions: Sequence[Region], values: Values) -> dict[int, Array]:
        """The targets of regions of the original, fed these values at their bounds."""
        return self._computed(self._before, regions, values)

    def jittered(self, region: Region, values: Values, seed: int) -> Array:
        """The target of a region whose constants were multiplied by 1 + xi*2u*U[0,1], xi = +-1."""
        return self._computed(self._before, [region], values, perturb=seed)[region.target.id]

    def region(self, site: Site, candidate: Value) -> Region:
        """What makes a candidate of a site out of what the site is fed."""
        return Region.behind(self._before.outline, candidate, {value.id for value in site.feeds} - {candidate.id})

    def sized(self, regions: Sequence[Region], values: Values, *, with_targets: bool = False) -> list[Sized]:
        """S of each region's target, and the target if asked for, fed these values at the bounds."""
        piece = Piece(self._before.source)
        names: list[str] = []
        sizes: list[Sized] = []
        for place, region in enumerate(regions):
            part = _part(piece, region, f"{place}:", values)
            magnitudes = Magnitudes(self._before.outline, self._before.shapes, part)
            kept = len(piece.nodes)
            try:
                if holds_graphs(region.nodes):
                    raise NoMagnitude("a nested graph")  # noqa: TRY301  # one way to say that there is none
                (name,) = magnitudes.of(region.nodes, [region.target])
                size = magnitudes.size(region.nodes, region.target)
                if size.depth > DEEPEST:
                    raise NoMagnitude(f"{size.depth} sums behind each other")  # noqa: TRY301  # likewise
                sizes.append(Sized(None, size))
            except NoMagnitude as error:
                del piece.nodes[kept - len(region.nodes) :]
                sizes.append(Sized(None, Size(1, len(region.nodes), 1), str(error)))
                name = ""
            names.append(name)
        if not any(names):
            return sizes
        targets = [f"{place}:{region.target.name}" for place, region in enumerate(regions)]
        asked = [names, targets] if with_targets else [names]
        piece.outputs = [one for group in zip(names, *asked, strict=True) if group[0] for one in group[1:]]
        piece.prune()
        found = self._run(self._before, piece, _fed(piece, values))
        return [
            Sized(found[name], sized.size, value=found.get(target)) if name else sized
            for name, target, sized in zip(names, targets, sizes, strict=True)
        ]

    def take_copies(self, asked: Sequence[tuple[Site, Region]], values: Values) -> list[bool]:
        """By site: whether copies of what both its sides are fed stay apart in all that they make of them."""
        sizes = [self.sizes(*pair) for pair in asked]
        told = {id_ for each in sizes for id_ in each}
        takes: dict[int, bool] = {}
        for place, (site, region) in enumerate(asked):
            nodes = (*site.nodes, *region.nodes)
            bounds = {value.id for value in (*site.feeds, *region.bounds)}
            if bounds & (told - sizes[place]) or holds_graphs(nodes):  # a size elsewhere, and so no copies here
                takes[place] = False
            elif never_parts(nodes):
                takes[place] = True
        tried = [place for place in range(len(asked)) if place not in takes]
        takes.update(zip(tried, self._stay_apart([asked[i] for i in tried], values, told), strict=True))
        return [takes[place] for place in range(len(asked))]

    def _stay_apart(self, asked: Sequence[tuple[Site, Region]], values: Values, kept: Container[int]) -> list[bool]:
        """What running sites on copies shows, all at once; one by one where not all of them run."""
        if not asked:
            return []
        sides = (
            (self._after, [Region.of(site) for site, _ in asked]),
            (self._before, [region for _, region in asked]),
        )
        fed = {value.id for _, regions in sides for region in regions for value in region.feeds}
        copied = {id_: values[id_] if id_ in kept else _copied(values[id_]) for id_ in fed}
        try:
            found = [
                zip(regions, *(self._forms(side, regions, given) for given in (values, copied)), strict=True)
                for side, regions in sides
            ]
        except CannotRun as error:
            if error.kind != "refused":
                raise
            return [False] if len(asked) == 1 else [self._stay_apart([one], values, kept)[0] for one in asked]
        ours, theirs = ([stay_apart(region.nodes, *forms) for region, *forms in side] for side in found)
        return [one and other for one, other in zip(ours, theirs, strict=True)]

    def sizes(self, site: Site, region: Region) -> set[int]:
        """The values of the original (by id) fed to either side of a site that sizes are computed from."""
        feeds = {bound.id: feed.id for bound, feed in zip(site.bounds, site.feeds, strict=True)}
        theirs = sizes_among(site.nodes, site.bounds)
        return {feeds[id_] for id_ in theirs} | sizes_among(region.nodes, region.bounds)

    def _forms(self, side: Side, regions: Sequence[Region], values: Values) -> list[dict[int, tuple[int, ...]]]:
        """By region: the shapes of what it is fed and of what its nodes make that is needed, by id."""
        piece = Piece(side.source)
        names: list[dict[int, str]] = []
        for place, region in enumerate(regions):
            part = _part(piece, region, f"{place}:", values)
            needed = {value.id for node in region.nodes for value in side.outline.needs[node.id]} | {region.target.id}
            made = [v for node in region.nodes for v in node.outputs if v is not None and v.id in needed]
            names.append({v.id: piece.add("Shape", [part.made(v)], f"shape {place} {v.id}") for v in made})
        piece.outputs = [name for each in names for name in each.values()]
        found = self._run(side, piece, _fed(piece, values))
        forms = []
        for region, each in zip(regions, names, strict=True):
            fed = {b.id: values[f.id].shape for b, f in zip(region.bounds, region.feeds, strict=True)}
            forms.append(fed | {id_: tuple(map(int, found[name])) for id_, name in each.items()})
        return forms

    def unit(self, region: Region, values: Values, units: Mapping[str, float]) -> float:
        """Half a unit of the coarsest float type that the original computes a region in."""
        types = {values[v.id].dtype.name for v in (region.target, *region.bounds) if v.id in values}
        for node in region.nodes:
            for value in (v for v in node.outputs if v is not None):
                kind = self._before.shapes.element_type(value)
                if kind:
                    types.add(helper.tensor_dtype_to_np_dtype(kind).name)
        return max((units[name] for name in types if name in units), default=2.0**-53)

    def _computed(
        self, side: Side, regions: Sequence[Region], values: Values, perturb: int | None = None
    ) -> dict[int, Array]:
        """Targets by id: those whose nodes hold graphs in pieces of their own, all others in one."""
        found: dict[int, Array] = {}
        together = Piece(side.source)
        names: dict[str, int] = {}
        for place, region in enumerate(regions):
            if holds_graphs(region.nodes):
                found[region.target.id] = self._computed_alone(side, region, values, perturb)
                continue
            name = f"{place}:{region.target.name}"
            _part(together, region, f"{place}:", values)
            together.outputs.append(name)
            names[name] = region.target.id
        if not names:
            return found
        try:
            outputs = self._run(side, together, _fed(together, values), perturb)
        except CannotRun as error:
            if error.kind != "refused" or len(names) == 1:
                raise
            return found | self._computed_one_by_one(side, regions, values, perturb)
        return found | {names[name]: array for name, array in outputs.items() if name in names}

    def _computed_one_by_one(
        self, side: Side, regions: Sequence[Region], values: Values, perturb: int | None
    ) -> dict[int, Array]:
        """Those that run: a site may be taken for a value of another shape, which its readers do not accept."""
        found: dict[int, Array] = {}
        for region in regions:
            with suppress(CannotRun):
                found |= self._computed(side, [region], values, perturb)
        return found

    def _computed_alone(self, side: Side, region: Region, values: Values, perturb: int | None) -> Array:
        """A target in a piece where every value keeps its name."""
        piece = Piece(side.source)
        part = _part(piece, region, "", values)
        part.captured(value for node in region.nodes for value in side.outline.needs[node.id])
        piece.outputs.append(region.target.name)
        feeds = {b.name: values[f.id] for b, f in zip(region.bounds, region.feeds, strict=True)}
        return self._run(side, piece, feeds, perturb)[region.target.name]

    def _run(
        self, side: Side, piece: Piece, feeds: Mapping[str, Array], perturb: int | None = None
    ) -> dict[str, Array]:
        copy = Copy(piece.to_bytes(), side.source.held_at.parent)
        return dict(self._runner.run_piece(copy, feeds, perturb=perturb))

    def _is_input(self, value: Value) -> bool:
        return self._before.source.graph.producer(value) is None


def _part(piece: Piece, region: Region, prefix: str, values: Values) -> Part:
    """A region in a piece; without a prefix bounds keep their names, else they are named after what feeds them."""
    fed: dict[int, str] = {}
    for bound, feed in zip(region.bounds, region.feeds, strict=True):
        fed[bound.id] = f"{_FED}{feed.id}" if prefix else bound.name
        piece.feed(fed[bound.id], _element_type(values[feed.id]))
    return piece.part(region.nodes, fed, prefix)


def _copied(array: Array) -> Array:
    """Copies behind each other along the first axis, of what gets copies at all."""
    has_noise = is_float(array) and array.dtype.kind != "c" and array.ndim
    return np.concatenate([array] * COPIES) if has_noise else array


def _fed(piece: Piece, values: Values) -> dict[str, Array]:
    return {name: values[int(name.removeprefix(_FED))] for name in piece.bounds}


def _element_type(array: Array) -> int:
    if array.dtype.kind in "OUS":
        return int(TensorProto.STRING)
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))
