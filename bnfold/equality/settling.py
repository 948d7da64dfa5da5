"""Claim by claim: all that each home has taken over, in the order of the claims.

What acts on the output of a home acts behind all that it has taken over until then, and what acts on its data before
all that. A tap t of a convolution sees the data as well: behind (a, s), t*x is t*a*x + t*s, a tap of t*a and a shift.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bnfold.equality.ahead import DataStep, data_steps_of
from bnfold.equality.claim import DeviationError, Link, Tree, UncertainError, handed_on, homes_of, of_site
from bnfold.equality.constants import Constants, Float64
from bnfold.equality.meeting import Known
from bnfold.equality.reference import is_bounded, is_factor, is_term
from bnfold.equality.references import taps_of
from bnfold.equality.steps import Shape, Step, Walk, tap_for_skip, tap_of, undisturbed
from bnfold.nodes import Node

Grids = Mapping[int, Shape]
Weights = Mapping[int, int | None]


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """The steps of each home (by node id), of its output and of its data, each in the order of the claims."""

    steps: dict[int, list[Step]] = field(default_factory=lambda: defaultdict(list))
    data: dict[int, list[DataStep]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, constants: Constants, trees: Sequence[Tree], grids: Grids, weights: Weights) -> Settled:
        """All that the claims bring; `grids` are the cells of each home, `weights` the input that is its weight."""
        settled = cls()
        reading = _Reading(constants, grids, weights, settled)
        for tree in trees:
            with of_site(tree.claim.site):
                reading.read(tree)
        return settled


@dataclass(slots=True, eq=False)
class _Reading:
    """The claims that were read until now."""

    constants: Constants
    grids: Grids
    weights: Weights
    settled: Settled
    gone: set[int] = field(default_factory=set)
    grown: dict[int, Float64] = field(default_factory=dict)
    """What the factors that are homes have been multiplied by."""

    def read(self, tree: Tree) -> None:
        """One claim more."""
        self.gone.update(node.id for node in tree.gone)
        self.sideways(tree)
        self.backward(tree)
        self.forward(tree)
        steps, data = self.settled.steps, self.settled.data
        kept = next((node for node in tree.gone if steps.get(node.id) or data.get(node.id)), None)
        if kept is not None:
            raise UncertainError(f"{kept.site} goes, and what it has taken over goes another way")

    def sideways(self, tree: Tree) -> None:
        """What an affine beside a convolution brings to that, with all that it has taken over itself."""
        if tree.beside is None:
            return
        home = tree.beside.home
        if self.settled.data.get(home.id):
            raise UncertainError(f"{home.site} gets a further tap, and its data bear something already")
        taken = self.settled.steps.pop(tree.site.id, [])
        self.settled.steps[home.id].append(tap_of(self.constants, tree.beside, self.gone, taken))

    def backward(self, tree: Tree) -> None:
        """What an affine brings to the outputs of those before it."""
        told: set[int] = set()
        known, unshifted = Known(), frozenset(tree.claim.unshifted)
        for chain in tree.chains:
            undisturbed(self.constants, chain, self.gone, known)
            self.passes_no_layer(chain.links[:-1])
            stops = frozenset(chain.links[place].node.id for place in chain.stops)
            for home, between in chain.homes:
                if home.id in told:  # a home before which the way parts
                    continue
                told.add(home.id)
                takes_shift, part = home.site not in unshifted, tree.claim.part
                walk = Walk(self.constants, between, chain.site, self.gone, stops, self.grown, takes_shift, part, known)
                self._settle(tree, home, walk.step(self.grids[home.id], stops=home.id in stops), known)

    def passes_no_layer(self, links: Iterable[Link]) -> None:
        """A shift that a layer has taken over acts between its weight and what passes it."""
        for link in links:
            known = is_factor(link.node) or is_term(link.node) or is_bounded(link.node)
            taken = (*self.settled.steps.get(link.node.id, ()), *self.settled.data.get(link.node.id, ()))
            if any(np.any(each.shift) for each in taken) and not known and link.node.id not in self.gone:
                raise UncertainError(f"a claim passes {link.node.site}, which has taken over something")

    def _settle(self, tree: Tree, home: Node, step: Step, known: Known) -> None:
        steps = self.settled.steps
        for skipped in (each for each in tree.skipped if each.home is home):
            step = replace(step, tap=tap_for_skip(self.constants, skipped, step, self.gone))
        if step.tap is not None and self.settled.data.get(home.id):
            raise UncertainError(f"{home.site} gets a further tap, and its data bear something already")
        step = _with_taken(tree, step, steps.pop(tree.site.id, []))
        steps[home.id].append(step)
        if is_factor(home):
            self.grown[home.id] = self.grown.get(home.id, np.ones(())) * step.scale.reshape(self.grids[home.id])
            known.ends.clear()  # it is a factor on the way of others

    def forward(self, tree: Tree) -> None:
        """What an affine brings to the data of those behind it."""
        if tree.ahead is None:
            return
        self.passes_no_layer(tree.ahead.passed)
        for id_, step in data_steps_of(self.constants, tree, self.weights, self.settled.steps.keys()).items():
            self.settled.data[id_].append(step)
            self._see_too(id_, step)

    def _see_too(self, home: int, step: DataStep) -> None:
        """The taps of a convolution see its data too."""
        steps = self.settled.steps.get(home, [])
        taps = taps_of(steps)
        if taps is None:
            return
        if step.scale.size != taps.size:
            raise UncertainError(f"{step.scale.size} channels arrive at a convolution with {taps.size} further taps")
        steps[:] = [one if one.tap is None else replace(one, tap=one.tap * step.scale) for one in steps]
        if np.any(step.shift):
            one, none = np.ones(taps.size), np.zeros(taps.size, bool)
            shift, size = taps * step.shift, np.abs(taps) * step.magnitude
            steps.append(Step(one, shift, size, none, terms=step.terms + 1, stops=False, channels=None))


def _with_taken(tree: Tree, step: Step, taken: Sequence[Step]) -> Step:
    """What a node that goes brings to its only home, right before it, with what it has taken over itself.

    Of what left its scale to others farther on, it brings the shift alone.
    """
    if taken and (tree.claim.path or len(tree.claim.homes) > 1):
        raise UncertainError(f"{tree.claim.site} goes another way than right before it, and has taken over something")
    if any(one.tap is not None or np.any(one.unread) or one.scale.size != step.scale.size for one in taken):
        raise UncertainError(f"{tree.claim.site} goes, and has taken over a part of something")
    for one in taken:
        step = replace(
            step,
            scale=step.scale if one.stops else step.scale * one.scale,
            shift=step.shift * one.scale + one.shift,
            magnitude=step.magnitude * np.abs(one.scale) + one.magnitude,
            terms=step.terms + one.terms,
        )
    return step


def with_those_that_go(constants: Constants, trees: Sequence[Tree], grids: Grids) -> Grids:
    """The cells of homes, those that go themselves included: they have the cells of the home that they go into."""
    found, went = dict(grids), handed_on(trees)
    for tree in reversed(trees):
        if tree.beside is not None:
            found[tree.site.id] = _grid_of_outputs(constants, tree.beside.home)
        elif tree.site.id in went:
            own = (found[home.id] for home in homes_of(tree) if home.id in found)
            found[tree.site.id] = next(own, ())
    return found


def _grid_of_outputs(constants: Constants, conv: Node) -> Shape:
    weight = conv.inputs[1]
    shape = None if weight is None else constants.shape(weight)
    if shape is None:
        raise DeviationError(f"the weight of {conv.site} is not constant")
    return (1, shape[0], *[1] * (len(shape) - 2))
