"""From claims to steps: what arrives at each home, as one scale and one shift for each cell of its grid.

Labels name the cells and are carried forward, from the home to the node that went. There, the affine is read off at
every place that a label has come to; all places of one cell have to agree. Carried along is the gain, the product
of the factors passed: behind a gain g, a shift s is one of s/g at the home. A home on the path takes the whole shift,
and those farther on get the scale alone. Where channels go to positions, labels and gains are taken apart: each cell is
in one of several arrays, which together say where it may have come to (equality/pass_repeating.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnfold.equality.claim import (
    Beside,
    Chain,
    DeviationError,
    Link,
    Part,
    Skipped,
    UncertainError,
)
from bnfold.equality.constants import Constants, Float64, product
from bnfold.equality.layout import Labels
from bnfold.equality.linear import sees_own_place
from bnfold.equality.meeting import Known, Meeting, Way, meeting_at
from bnfold.equality.passes import cuts_away, gain_of, parts_beside, summed_sign
from bnfold.equality.reference import (
    Affine,
    affine_of,
    follow,
    is_bounded,
    is_factor,
    is_normalization,
    is_term,
    part_of,
    passing_of,
    reads_form_alone,
)
from bnfold.graph import Graph

UNKNOWN_SIZES = (2, 3)
MOST_WAYS = 1 << 10
"""Arrays of labels that share the places of one value."""

Shape = tuple[int, ...]
_Labelled = tuple[Labels, Float64]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One affine as a home sees it: for each cell, scale, shift and the sizes of the shift's terms.

    `unread` marks cells that are cut away on the way, where nobody reads them: whatever these hold is right. `stops`
    says that the scale went on from here. `channels` is the size of the output's axis 1 where the step tells.
    `tap` is by what the data of each channel are multiplied and added to the output.
    """

    scale: Float64
    shift: Float64
    magnitude: Float64
    unread: NDArray[np.bool_]
    terms: int
    stops: bool
    channels: int | None
    tap: Float64 | None = None


def tap_of(constants: Constants, beside: Beside, gone: Set[int], taken: Sequence[Step]) -> Step:
    """What an affine beside a convolution is to it: a tap and a shift, with the signs by which one sum adds both up.

    `taken` is what the affine has taken over itself.
    """
    shape = constants.shape(beside.home.inputs[1]) if beside.home.inputs[1] is not None else None
    if shape is None or not sees_own_place(beside.home, shape):
        raise DeviationError(f"{beside.home.site} has no tap by which its outputs see the data of their own place")
    if beside.left is not None and summed_sign(beside.left) < 0:
        raise DeviationError(f"{beside.joint.node.site} takes what is left of it with the other sign")
    between = (link for link in (*beside.links, *beside.climb) if link.node.id not in gone)
    sign = float(np.prod([summed_sign(link) for link in (beside.joint, *between, beside.end)]))
    affine = affine_of(constants, beside.site, len(shape))
    whole = np.broadcast_shapes(affine.scale.shape, affine.shift.shape)
    if any(size != 1 for axis, size in enumerate(whole) if axis != 1) or whole[1] not in {1, shape[0]}:
        raise DeviationError(f"the numbers of {beside.site.node.site} are not one for each channel")
    scale, shift, size = (
        np.broadcast_to(part.reshape(-1), (shape[0],)) for part in (affine.scale, affine.shift, affine.magnitude)
    )
    for step in taken:
        if step.stops or step.tap is not None or np.any(step.unread):
            raise UncertainError(f"{beside.site.node.site} goes, and has taken over a part of something")
        scale, shift = scale * step.scale, shift * step.scale + step.shift
        size = size * np.abs(step.scale) + step.magnitude
    one, none, terms = np.ones(shape[0]), np.zeros(shape[0], bool), 2 + sum(step.terms for step in taken)
    return Step(one, sign * shift, size, none, terms=terms, stops=False, channels=None, tap=sign * scale)


def tap_for_skip(constants: Constants, skipped: Skipped, step: Step, gone: Set[int]) -> Float64:
    """The tap by which a convolution makes up for data that are added to its output unscaled: a - 1, by the signs.

    a*(c + x) = (a*c + (a - 1)*x) + x
    """
    weight = skipped.home.input(1)
    shape = None if weight is None else constants.shape(weight)
    if shape is None or not sees_own_place(skipped.home, shape):
        raise DeviationError(f"{skipped.home.site} has no tap by which its outputs see the data of their own place")
    if np.any(step.unread) or step.scale.size != shape[0]:
        raise UncertainError(f"not every channel of {skipped.home.site} is read by {skipped.joint.node.site}")
    signs = [summed_sign(link) for link in (*skipped.links, skipped.joint) if link.node.id not in gone]
    return np.asarray((step.scale - 1.0) * float(np.prod(signs)))


def undisturbed(constants: Constants, chain: Chain, gone: Set[int], known: Known) -> None:
    """Nothing else reads what changes, and no affine is passed that stays one."""
    for link in known.fresh(chain.links, known.undisturbed):
        reads_alone(constants.graph, link)
        if is_normalization(link.node) and link.node.id not in gone:
            raise DeviationError(f"a claim passes {link.node.site}, which stays")
    for place in chain.stops:
        node = chain.links[place].node
        if node.id in gone or not (is_term(node) or is_bounded(node)):
            raise DeviationError(f"a claim leaves a shift at {node.site}, which is no sum with a constant, or goes")


def reads_alone(graph: Graph, link: Link) -> None:
    """Raise `DeviationError` where something else reads what a link reads, which changes."""
    value = link.source
    others = [r.node for r in graph.readers(value) if r.node is not link.node and not reads_form_alone(r)]
    if others or graph.is_graph_output(value):
        raise DeviationError(f"{value.name!r} changes, and something else reads it")


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """The way from one home of a claim to the node that went."""

    constants: Constants
    between: tuple[Link, ...]
    site: Link
    gone: Set[int]
    """The nodes that went before the claim is made."""
    stops: frozenset[int]
    grown: Mapping[int, Float64]
    """What the factors that are homes of affines before this one have been multiplied by."""
    takes_shift: bool
    part: Part
    known: Known = field(default_factory=Known)

    def step(self, grid: Shape, *, stops: bool) -> Step:
        """What the affine is at a home with this grid."""
        found = [self.at_home(grid, unknown) for unknown in UNKNOWN_SIZES]
        if not all(np.array_equal(one, other) for one, other in zip(*found, strict=True)):
            raise UncertainError("which channel goes where depends on a size that is not known")
        return Step(*found[0], terms=2 + self.factors(), stops=stops, channels=self.channels())

    def channels(self) -> int | None:
        """A normalization right behind a home has as many parameters as there are channels."""
        alone = all(link.node.id in self.gone for link in self.between)
        if not alone or not is_normalization(self.site.node):
            return None
        return int(self.constants.vector(self.site.node.input(1)).size)

    def at_home(self, grid: Shape, unknown: int) -> tuple[Float64, Float64, Float64, NDArray[np.bool_]]:
        """Scale, shift, magnitude and whether it is unread, of each cell; `unknown` is for sizes that are not known."""
        ways, unread = self.carried(np.arange(product(grid)).reshape(grid), unknown)
        size = product(grid)
        affines = [self.affine(labels.ndim) for labels, _ in ways]
        for (labels, _), affine in zip(ways, affines, strict=True):
            self.check_sizes(labels, affine)
        found = list(zip(ways, affines, strict=True))
        scale = _by_cell([(labels, affine.scale) for (labels, _), affine in found], size, unreached=1.0)
        self.check_sign(scale)
        if not self.takes_shift:
            return scale, np.zeros(size), np.zeros(size), unread
        shifts = [(labels, self.divided(affine.shift, gain)) for (labels, gain), affine in found]
        sizes = [(labels, self.divided(affine.magnitude, np.abs(gain))) for (labels, gain), affine in found]
        return scale, _by_cell(shifts, size, unreached=0.0), _largest_by_cell(sizes, size), unread

    def carried(self, labels: Labels, unknown: int) -> tuple[list[Way], NDArray[np.bool_]]:
        """Labels and gain at the node that went, by every way there, and which labels were cut away.

        Where the ways of two homes meet and carry the same, the rest of the way is gone once.
        """
        ways, unread = [(labels, np.ones([1] * labels.ndim))], np.zeros(labels.size, np.bool_)
        met: list[Meeting] = []
        for link in self.between:
            meeting = meeting_at(link, ways, unknown)
            if meeting is not None and meeting in self.known.ends:
                ways = self.known.ends[meeting]
                break
            met += () if meeting is None else (meeting,)
            before = ways
            ways = [way for labels, gain in ways for way in self.through(link, labels, gain, unknown)]
            if len(ways) > MOST_WAYS:
                raise UncertainError(f"behind {link.node.site}, the channels go too many ways to follow")
            self.check_parts(link, before, _reached(ways), unknown)
            if cuts_away(self.constants, link.node):
                unread[np.setdiff1d(_reached(before), _reached(ways))] = True
                met.clear()  # who comes here later has to see what is cut
        self.known.ends.update(dict.fromkeys(met, ways))
        return ways, unread

    def check_parts(self, link: Link, before: Sequence[Way], reached: Labels, unknown: int) -> None:
        """What else a node gives out of the same value must not come from the same cells, if anybody reads it."""
        graph = self.constants.graph
        for other in parts_beside(link):
            value = other.target
            if value is None or not (graph.readers(value) or graph.is_graph_output(value)):
                continue
            ways = [way for labels, gain in before for way in self.through(other, labels, gain, unknown)]
            if np.intersect1d(_reached(ways), reached).size:
                raise DeviationError(
                    f"a claim passes one part of {link.node.site}, and {value.name!r} would change too"
                )

    def affine(self, rank: int) -> Affine:
        """What went, or the part of it that went this way, for a value of that rank."""
        if rank not in self.known.affines:
            self.known.affines[rank] = part_of(affine_of(self.constants, self.site, rank), self.part)
        return self.known.affines[rank]

    def factors(self) -> int:
        """How many factors stand on the way."""
        known, counted = self.known.factors, []
        count = 0
        for link in self.between:
            if (link.node.id, link.data) in known:
                count = known[link.node.id, link.data]
                break
            counted.append(link)
        for link in reversed(counted):
            count += is_factor(link.node) and link.node.id not in self.gone
            known[link.node.id, link.data] = count
        return count

    def check_sign(self, scale: Float64) -> None:
        """Some operators let only a scale pass that is nowhere negative."""
        if np.all(scale >= 0):
            return
        passed = self.gone | self.stops
        for link in (
            link for link in self.known.fresh(self.between, self.known.negative) if link.node.id not in passed
        ):
            if not passing_of(self.constants, link.node).negative:
                raise DeviationError(f"a negative scale passes {link.node.site}")

    def through(self, link: Link, labels: Labels, gain: Float64, unknown: int) -> list[_Labelled]:
        """Labels and gain behind a node of the path: one pair of them, or several that share the places."""
        node = link.node
        if node.id in self.gone:
            return [(labels, gain)]
        has_constant = self.constant_beside(link)
        if is_term(node) and has_constant and node.id not in self.stops:
            raise UncertainError(f"a claim passes {node.site}, which is none of its homes")
        if not has_constant or not (is_term(node) or is_factor(node)):
            return self.through_layout(link, labels, gain * gain_of(self.constants, link), unknown)
        rank = max(labels.ndim, self.rank_of_operand(link))
        labels = labels.reshape((1,) * (rank - labels.ndim) + labels.shape)
        gain = gain.reshape((1,) * (rank - gain.ndim) + gain.shape)
        if is_term(node):
            return [(labels, gain)]
        return [(labels, gain * affine_of(self.constants, link, rank).scale * self.grown.get(node.id, 1.0))]

    def through_layout(self, link: Link, labels: Labels, gain: Float64, unknown: int) -> list[_Labelled]:
        """Both moved alike: where the gain differs, places are carried, and each tells its label and its gain."""
        if gain.size == 1:
            moved = (np.asarray(part, np.int64) for part in follow(self.constants, link, labels, unknown))
            return [(part, gain.reshape([1] * part.ndim)) for part in moved]
        labels, gain = np.broadcast_arrays(labels, gain)
        places = np.arange(labels.size).reshape(labels.shape)
        found: list[_Labelled] = []
        for part in follow(self.constants, link, places, unknown):
            place = np.asarray(part, np.int64)
            none = place < 0
            found.append((np.where(none, -1, labels.reshape(-1)[place]), np.where(none, 1.0, gain.reshape(-1)[place])))
        return found

    def constant_beside(self, link: Link) -> bool:
        """Whether what stands beside the data is constant, or nothing."""
        others = [value for i, value in enumerate(link.node.inputs) if value is not None and i != link.data]
        return all(self.constants.shape(value) is not None for value in others)

    def rank_of_operand(self, link: Link) -> int:
        """How many dimensions the constant of an elementwise operator has."""
        others = [value for value in link.node.inputs if value is not None and value is not link.source]
        return max((len(self.constants.shape(value) or ()) for value in others), default=0)

    def divided(self, part: Float64, gain: Float64) -> Float64:
        """A shift before the factors that stand between it and the home."""
        part, gain = np.broadcast_arrays(part, gain)
        if np.any((gain == 0) & (part != 0)):
            raise DeviationError(f"the shift of {self.site.node.site} passes a factor of zero")
        if np.any(np.isnan(gain) & (part != 0)):
            raise UncertainError(f"the shift of {self.site.node.site} passes a sum of unknown length, or a product")
        return np.divide(part, gain, out=np.zeros(part.shape), where=(gain != 0) & (part != 0))

    def check_sizes(self, labels: Labels, affine: Affine) -> None:
        """The parameters of the node that went fit its data, which they neither enlarge nor miss."""
        sizes = self.constants.sizes(self.site.source) or (None,) * labels.ndim
        parameters = np.broadcast_shapes(affine.scale.shape, affine.shift.shape)
        if len(sizes) != labels.ndim:
            raise UncertainError(f"the rank before {self.site.node.site} is not what its producers make it")
        for ours, wanted, size in zip(labels.shape, parameters, sizes, strict=True):
            if wanted in {1, ours}:
                continue
            if size is None and not is_normalization(self.site.node):
                raise UncertainError(f"the sizes before {self.site.node.site} are not known")
            if ours != 1 or size not in {None, wanted}:
                raise DeviationError(f"{list(parameters)} numbers of {self.site.node.site} do not fit its data")


def _reached(ways: Sequence[_Labelled]) -> Labels:
    """The labels that are still carried."""
    labels = np.concatenate([np.unique(labels) for labels, _ in ways])
    return labels[labels >= 0]


def _flat(parts: Sequence[_Labelled]) -> _Labelled:
    """Every label that stands anywhere, with the value there."""
    pairs = [np.broadcast_arrays(labels, values) for labels, values in parts]
    labels, values = (np.concatenate([pair[i].reshape(-1) for pair in pairs]) for i in (0, 1))
    return labels[labels >= 0], values[labels >= 0]


def _by_cell(parts: Sequence[_Labelled], size: int, *, unreached: float) -> Float64:
    """The value at the places of each label, which have to agree; `unreached` for what the node never sees."""
    labels, values = _flat(parts)
    found = np.full(size, unreached)
    found[labels] = values
    if not np.array_equal(found[labels], values):
        raise DeviationError("a number of a home serves places where what settled in it differs")
    return found


def _largest_by_cell(parts: Sequence[_Labelled], size: int) -> Float64:
    """The largest value at the places of each label."""
    labels, values = _flat(parts)
    found = np.zeros(size)
    np.maximum.at(found, labels, values)
    return found
