"""What arrives at the data of each home of a claim that leads forward, as one scale and one shift for each channel.

The affine is carried along with the values, from the node that went: y = a*x + s at its output becomes, behind

    a layout operator        the same, moved as the values are (what comes in beside it has scale 1 and shift 0)
    another affine (b, t)    (a, b*s + (1 - a)*t), for b*(a*x + s) + t = a*(b*x + t) + that
    a product with a value   (a, 0), if there is no shift

and at a home it has to differ along the channels of the data alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from bnfold.equality.claim import DeviationError, Link, Tree, UncertainError
from bnfold.equality.constants import Constants, Float64, product
from bnfold.equality.linear import DataSide
from bnfold.equality.pass_joining import bearing_inputs
from bnfold.equality.passes import gain_of, summed_sign
from bnfold.equality.passing import Passing
from bnfold.equality.reference import (
    affine_of,
    follow,
    is_bounded,
    is_factor,
    is_normalization,
    is_term,
    linear_map,
    negates,
    part_of,
    passing_of,
    rank_behind,
    stated_sizes,
)
from bnfold.equality.steps import UNKNOWN_SIZES
from bnfold.nodes import Node, Value


@dataclass(frozen=True, slots=True, eq=False)
class DataStep:
    """One affine as the data of a home bear it: for each channel scale, shift and the sizes of the shift's terms."""

    scale: Float64
    shift: Float64
    magnitude: Float64
    terms: int
    index: int = 0
    """The input of the home at which they are read."""

    def equals(self, other: DataStep) -> bool:
        """Whether both say the same of every channel."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.shift, other.shift)


@dataclass(frozen=True, slots=True, eq=False)
class _Borne:
    """What a value bears, as arrays that broadcast against it, and how many operations made the shift."""

    scale: Float64
    shift: Float64
    magnitude: Float64
    terms: int

    def moved(self, labels: np.ndarray) -> _Borne:
        """The same where each element came from a place of this (-1: from none)."""
        whole = np.broadcast_shapes(self.scale.shape, self.shift.shape)
        scale, shift, size = (
            np.broadcast_to(part, whole).reshape(-1) for part in (self.scale, self.shift, self.magnitude)
        )
        labels = _compressed(labels)
        none = labels < 0
        return _Borne(
            np.where(none, 1.0, scale[labels]),
            np.where(none, 0.0, shift[labels]),
            np.where(none, 0.0, size[labels]),
            self.terms,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(self.scale.shape, self.shift.shape)


def data_steps_of(
    constants: Constants, tree: Tree, weights: Mapping[int, int | None], changed: Set[int]
) -> dict[int, DataStep]:
    """What one claim brings to the data of each home (by node id); it acts before what others brought until now.

    `weights` has the input of each home that is its weight; the numbers of `changed` bear something already.
    """
    first, *others = (_Carry(constants, tree, weights, changed, unknown).arriving() for unknown in UNKNOWN_SIZES)
    if not all(step.equals(found[id_]) for found in others for id_, step in first.items()):
        raise UncertainError("which channel goes where depends on a size that is not known")
    return first


@dataclass(frozen=True, slots=True, eq=False)
class _Carry:
    """One claim's affine on its way."""

    constants: Constants
    tree: Tree
    weights: Mapping[int, int | None]
    changed: Set[int]
    unknown: int

    def arriving(self) -> dict[int, DataStep]:
        """What arrives at each home."""
        ahead = self.tree.ahead
        if ahead is None:
            return {}
        borne = {self.output(ahead.site).id: self.begun(ahead.site)}
        for _, together in groupby(ahead.passed, lambda link: (link.node.id, link.output)):
            links = tuple(together)
            each = [borne[link.source.id] for link in links]
            behind = self.behind(links[0], each[0]) if len(links) == 1 else self.joined(links, each)
            borne[self.target(links[0]).id] = behind
        on_way = {link.node.id: self.at_stop(link, borne[link.source.id]) for link in ahead.stops}
        return on_way | {link.node.id: self.at_home(link, borne[link.source.id]) for link in ahead.homes}

    def at_stop(self, link: Link, borne: _Borne) -> DataStep:
        """What the numbers of a node on the way have to undo."""
        if not is_bounded(link.node) or link.data:
            raise DeviationError(f"a claim passes {link.node.site}, and settles there too")
        return DataStep(borne.scale, borne.shift, borne.magnitude, borne.terms)

    def output(self, link: Link) -> Value:
        value = link.node.output(0)
        if value is None:
            raise DeviationError(f"the output of {link.node.site} is missing")
        return value

    def target(self, link: Link) -> Value:
        """The output that a link leads by; of several, each is a part."""
        value = link.target
        if value is None or (link.output and link.node.op != "Split"):
            raise DeviationError(f"what {link.node.site} puts out is no part of what it reads")
        return value

    def begun(self, site: Link) -> _Borne:
        """The affine of the node that went, which has to fit its data."""
        sizes = self.constants.sizes(site.source) or stated_sizes(self.constants, site.source)
        if sizes is None:
            raise UncertainError(f"the rank before {site.node.site} is not known")
        affine = part_of(affine_of(self.constants, site, len(sizes)), self.tree.claim.part)
        shape = np.broadcast_shapes(affine.scale.shape, affine.shift.shape)
        for axis, (size, parameters) in enumerate(zip(sizes, shape, strict=True)):
            if parameters not in {1, size} and (size is not None or not is_normalization(site.node)):
                raise DeviationError(f"{parameters} numbers of {site.node.site} do not fit axis {axis} of its data")
        if is_normalization(site.node) and shape[1] == 1 and sizes[1] != 1:
            raise DeviationError(f"the parameters of {site.node.site} do not fit its data")
        return _Borne(affine.scale, affine.shift, affine.magnitude, 2)

    def behind(self, link: Link, borne: _Borne) -> _Borne:
        """What the output of a node of the way bears."""
        if self.tree.ahead is not None and link.node.id in self.tree.ahead.gone:
            return borne
        if self.is_affine(link, borne):
            return self.past_affine(link, borne)
        ahead = self.tree.ahead
        stays = ahead is not None and any(link.node is stop.node for stop in ahead.stops)
        passing = Passing() if stays else passing_of(self.constants, link.node)
        if np.any(borne.shift) and not passing.shift:
            raise DeviationError(f"{link.node.site} lets no shift pass")
        if passing.absolute:
            borne = replace(borne, scale=np.abs(borne.scale))
        elif np.any(borne.scale < 0) and not passing.negative:
            raise DeviationError(f"a negative scale passes {link.node.site}")
        if passing.joins == "sum" and np.all(borne.scale == 1):
            return self.added(link, borne)
        if passing.joins == "sum" or (passing.joins == "all" and link.node.op != "Concat"):
            raise DeviationError(f"{link.node.site} joins what it reads, and a claim passes one of it")
        gain = gain_of(self.constants, link) if np.any(borne.shift) else 1.0
        if np.isnan(gain):
            raise UncertainError(f"how many elements {link.node.site} sums is not known")
        shape = borne.shape
        labels = np.arange(product(shape)).reshape(shape)
        first, *others = (
            borne.moved(np.asarray(part, np.int64)) for part in follow(self.constants, link, labels, self.unknown)
        )
        if not all(np.array_equal(first.scale, one.scale) and np.array_equal(first.shift, one.shift) for one in others):
            raise DeviationError(f"behind {link.node.site}, what arrives differs between positions")
        return replace(first, shift=first.shift * gain, magnitude=first.magnitude * np.abs(gain))

    def joined(self, links: Sequence[Link], each: Sequence[_Borne]) -> _Borne:
        """What the output of a node bears that joins several values which bear something."""
        node = links[0].node
        passing = passing_of(self.constants, node)
        moved = [self.moved(link, borne) for link, borne in zip(links, each, strict=True)]
        is_all = {link.data for link in links} == set(bearing_inputs(node)) - self.tree.lost.get(node.id, frozenset())
        if passing.joins == "sum":
            return _sum(links, moved, is_all=is_all)
        if passing.joins == "all" and node.op == "Concat":
            return _side_by_side(moved)
        if passing.joins == "all":
            return _choice(node, moved, passing, is_all=is_all)
        if passing.joins != "one" or any(np.any(one.shift) for one in moved):
            raise DeviationError(f"a claim comes to {node.site} by {len(links)} of its inputs")
        whole = moved[0]
        for one in moved[1:]:
            whole = replace(whole, scale=whole.scale * one.scale, terms=whole.terms + one.terms)
        return whole

    def moved(self, link: Link, borne: _Borne) -> _Borne:
        """What a value bears, where its elements are in what joins it with others."""
        labels = np.arange(product(borne.shape)).reshape(borne.shape)
        parts = follow(self.constants, link, labels, self.unknown)
        if len(parts) != 1:
            raise DeviationError(f"behind {link.node.site}, what arrives differs between positions")
        return borne.moved(np.asarray(parts[0], np.int64))

    def added(self, link: Link, borne: _Borne) -> _Borne:
        """A shift passes a sum of values, whatever the others are; it broadcasts as its value does."""
        output = link.node.output(0)
        sizes = None if output is None else self.constants.sizes(output)
        if sizes is None or len(sizes) < len(borne.shape):
            raise UncertainError(f"the rank of what {link.node.site} puts out is not known")
        form = (1,) * (len(sizes) - len(borne.shape))
        scale, shift, size = (part.reshape(form + part.shape) for part in (borne.scale, borne.shift, borne.magnitude))
        return _Borne(scale, summed_sign(link) * shift, size, borne.terms + 1)

    def is_affine(self, link: Link, borne: _Borne) -> bool:
        """Whether a node is passed as another affine: a factor of a scale alone is any other factor, of any shape."""
        if is_normalization(link.node):
            return True
        has_constant = is_term(link.node) or (is_factor(link.node) and bool(np.any(borne.shift)))
        return (has_constant or negates(link.node)) and self.alone(link)

    def alone(self, link: Link) -> bool:
        """Whether all that stands beside the data is constant."""
        others = [value for i, value in enumerate(link.node.inputs) if value is not None and i != link.data]
        return all(self.constants.shape(value) is not None for value in others)

    def past_affine(self, link: Link, borne: _Borne) -> _Borne:
        rank = len(borne.shape)
        other = affine_of(self.constants, link, rank)
        sizes = self.constants.sizes(link.source) or (None,) * rank
        shape = np.broadcast_shapes(other.scale.shape, other.shift.shape)
        if is_term(link.node) and np.all(borne.scale == 1):  # a shift beside any other, of any shape
            return replace(borne, shift=other.scale * borne.shift, terms=borne.terms + 1)
        if link.node.id in self.changed:
            raise UncertainError(f"a claim passes {link.node.site}, whose numbers bear another affine by then")
        for known, ours, theirs in zip(sizes, borne.shape, shape, strict=True):
            if theirs not in {1, known, ours} and not is_normalization(link.node):
                raise UncertainError(f"whether {link.node.site} enlarges its value is not known")
        shift = other.scale * borne.shift + (1 - borne.scale) * other.shift
        magnitude = np.abs(other.scale) * borne.magnitude + (1 + np.abs(borne.scale)) * other.magnitude
        return _Borne(borne.scale, shift, magnitude, borne.terms + 3)

    def at_home(self, link: Link, borne: _Borne) -> DataStep:
        """What the channels of a home's data bear."""
        rank, weight = len(borne.shape), self.weights.get(link.node.id)
        home = linear_map(self.constants, link.node, rank_behind(self.constants, link, rank), weight)
        if home.common is not None:
            return _lost(link, borne, home.common)
        data = home.data_at(link.data)
        if data is None:
            raise UncertainError(f"{link.node.site} is no home for its input {link.data} that the certificate knows")
        axes = _axes(data, rank, link.node)
        if any(size != 1 for place, size in enumerate(borne.shape) if place not in axes):
            raise DeviationError(f"what arrives at {link.node.site} differs along others than its channels")
        if any(borne.shape[axis] not in {1, size} for axis, size in zip(axes, data.sizes, strict=True)):
            found = " by ".join(str(borne.shape[axis]) for axis in axes)
            known = " by ".join(map(str, data.sizes))
            raise DeviationError(f"{found} channels arrive at {link.node.site}, which has {known}")
        if np.any(borne.shift) and not data.sees_all:
            raise DeviationError(f"a shift arrives at {link.node.site}, of which not every output sees every tap")
        parts = (np.broadcast_to(part, borne.shape) for part in (borne.scale, borne.shift, borne.magnitude))
        by_axes = (part.reshape([borne.shape[axis] for axis in axes]) for part in parts)
        scale, shift, size = (np.broadcast_to(part, data.sizes).reshape(-1) for part in by_axes)
        return DataStep(scale, shift, size, borne.terms, link.data)


def _alike(one: Float64, other: Float64) -> bool:
    """Whether two arrays that broadcast say the same everywhere."""
    first, second = np.broadcast_arrays(one, other)
    return np.array_equal(first, second)


def _sum(links: Sequence[Link], moved: Sequence[_Borne], *, is_all: bool) -> _Borne:
    """Values added up: all bear one scale, or none bears any; their shifts are added up too."""
    first, node = moved[0], links[0].node
    scaled = any(np.any(one.scale != 1) for one in moved)
    if scaled and not (is_all and all(_alike(first.scale, one.scale) for one in moved)):
        raise DeviationError(f"the values that {node.site} adds bear different scales")
    shift = sum(summed_sign(link) * one.shift for link, one in zip(links, moved, strict=True))
    size = sum(one.magnitude for one in moved)
    return _Borne(first.scale, np.asarray(shift), np.asarray(size), sum(one.terms for one in moved) + 1)


def _side_by_side(moved: Sequence[_Borne]) -> _Borne:
    """Each where its value is: elsewhere it is (1, 0)."""
    scale, shift, size = moved[0].scale, moved[0].shift, moved[0].magnitude
    for one in moved[1:]:
        scale, shift, size = scale * one.scale, shift + one.shift, size + one.magnitude
    terms = max(one.terms for one in moved)
    return _Borne(_compressed(scale), _compressed(shift), _compressed(size), terms)


def _choice(node: Node, moved: Sequence[_Borne], passing: Passing, *, is_all: bool) -> _Borne:
    """One of several values at each place: all bear the same."""
    first = moved[0]
    same = all(_alike(first.scale, one.scale) and _alike(first.shift, one.shift) for one in moved)
    if not is_all or not same:
        raise DeviationError(f"the values that {node.site} chooses from do not all bear the same")
    if np.any(first.scale < 0) and not passing.negative:
        raise DeviationError(f"a negative scale passes {node.site}")
    return first


def _lost(link: Link, borne: _Borne, common: tuple[int, ...]) -> DataStep:
    """A shift that a node subtracts with all that is common to its data: nothing of it arrives."""
    if link.data or np.any(borne.scale != 1):
        raise DeviationError(f"a scale arrives at {link.node.site}, which takes none over")
    if any(not axis < len(borne.shape) or borne.shape[axis] != 1 for axis in common):
        raise DeviationError(f"what arrives at {link.node.site} differs along the axes on which it acts")
    return DataStep(np.ones(1), np.zeros(1), np.zeros(1), borne.terms)


def _compressed(labels: np.ndarray) -> np.ndarray:
    """The same with every axis cut to 1 along which all is alike."""
    for axis, size in enumerate(labels.shape):
        if size > 1 and np.array_equal(np.broadcast_to(labels.take([0], axis), labels.shape), labels):
            labels = labels.take([0], axis)
    return labels


def _axes(data: DataSide, rank: int, node: Node) -> tuple[int, ...]:
    axes = tuple(axis + rank if axis < 0 else axis for axis in data.axes)
    if data.rank not in {None, rank} or any(not 0 <= axis < rank for axis in axes):
        raise DeviationError(f"the data of {node.site} have {rank} dimension(s)")
    return axes


def composed(steps: Sequence[DataStep]) -> DataStep | None:
    """All steps on the data of a home together: the last one acts first."""
    if not steps:
        return None
    whole = steps[0]
    for step in steps[1:]:
        if step.index != whole.index:
            raise UncertainError("what one home takes over is of two of its inputs")
        whole = DataStep(
            whole.scale * step.scale,
            whole.scale * step.shift + whole.shift,
            np.abs(whole.scale) * step.magnitude + whole.magnitude,
            whole.terms + step.terms,
            whole.index,
        )
    return whole
