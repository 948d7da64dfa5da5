"""All that a node takes over, on both of its sides, and whether its operator and its numbers allow that."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bnfold.affine import Affine, Float64
from bnfold.nodes import Node
from bnfold.ops.absorb import Linear
from bnfold.ops.facts import Facts
from bnfold.ops.home import Home
from bnfold.ops.linear import home_for, ways_before, ways_of
from bnfold.ops.quantized import Dequantized
from bnfold.ops.reasons import AXIS, BLOCKED, Obstacle
from bnfold.ops.vanishing import Indifferent

CHANNELS = 1
"""The axis of a convolution's channels."""


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """All that a node takes over: an affine of its output, and one of its data, at the input `data_input`."""

    after: Affine | None = None
    before: Affine | None = None
    data_input: int = 0
    tap: Float64 | None = None
    """By what its data are multiplied and added to its output, per channel."""

    @property
    def is_nothing(self) -> bool:
        """Whether it takes over nothing at all."""
        return self.after is None and self.before is None and self.tap is None

    @property
    def has_shift(self) -> bool:
        """Whether a shift is part of it."""
        return self.tap is not None or any(each is not None and each.has_shift for each in (self.after, self.before))

    def and_tap(self, affine: Affine) -> Taken:
        """With an affine of its data added to its output, which is one more tap and a shift."""
        shift = Affine(np.ones_like(affine.shift), affine.shift)
        tap = affine.scale.reshape(-1)
        return replace(self.and_then(shift, None), tap=tap if self.tap is None else self.tap + tap)

    def and_then(self, affine: Affine, data_input: int | None) -> Taken:
        """What it is with one more: of the output, which acts after those before, or of the data, which acts first."""
        if data_input is None:
            same_rank = self.after is not None and self.after.rank == affine.rank
            tap = None if self.tap is None else self.tap * affine.scale.reshape(-1)
            after = affine @ self.after if same_rank and self.after is not None else affine
            return Taken(after, self.before, self.data_input, tap)
        earlier = self.before
        whole = affine if earlier is None or earlier.rank != affine.rank else earlier @ affine
        return replace(self._seen_by_taps(affine), before=whole, data_input=data_input)

    def fits_taps(self, affine: Affine) -> bool:
        """Whether an affine of the data is one for each channel, as taps are; where there are none, anything fits."""
        if self.tap is None:
            return True
        return affine.varies_only_along((CHANNELS,)) and len({1, self.tap.size, *affine.shape}) <= 2

    def _seen_by_taps(self, affine: Affine) -> Taken:
        """Taps see the data too: t*(a*x + s) is a tap of t*a, and a shift."""
        if self.tap is None:
            return self
        if not self.fits_taps(affine):
            raise ValueError(f"an affine of shape {affine.shape} arrives where there are {self.tap.size} taps")
        scale, shift = (self.tap * part.reshape(-1) for part in (affine.scale, affine.shift))
        moved = Affine.per_channel(np.ones_like(shift), shift, rank=affine.rank, axis=CHANNELS)
        return replace(self.and_then(moved, None) if np.any(shift) else self, tap=scale)


NOTHING = Taken()


def home_with(facts: Facts, node: Node, taken: Taken) -> tuple[Home, Affine] | Obstacle | None:
    """The way in which a node takes over affines on both sides, with the one behind it; or what keeps it from that."""
    if taken.tap is not None:
        return _tapped(facts, node, taken)
    if taken.before is None:
        if taken.after is None:
            raise ValueError(f"{node.site} takes over nothing")
        home = home_for(facts, node, taken.after)
        return home if home is None or isinstance(home, Obstacle) else (home, taken.after)
    ways = ways_before(facts, node, after=taken.after is not None)
    if ways is None or isinstance(ways, Obstacle):
        return ways
    obstacles: list[Obstacle] = []
    for way in ways:
        if not isinstance(way, Linear | Indifferent):
            obstacles.append(Obstacle(BLOCKED, f"{node.op} takes over no affine of its data", node))
            continue
        fed = way.fed_by(taken.before, taken.data_input)
        if isinstance(fed, Obstacle):
            obstacles.append(fed)
            continue
        after = taken.after or Affine.identity(way.output_rank(taken.before))
        obstacle = fed.obstacle_to(after)
        if obstacle is None:
            return fed, after
        obstacles.append(obstacle)
    # Another operand may be the one that has the channels.
    return next((found for found in obstacles if found.reason is not AXIS), obstacles[0])


def _with_tap(ways: tuple[Home, ...]) -> Linear | None:
    return next((way for way in ways if isinstance(way, Linear) and way.center is not None), None)


def _tapped(facts: Facts, node: Node, taken: Taken) -> tuple[Home, Affine] | Obstacle | None:
    """A convolution that gets one more tap, and takes over an affine of its output, and one of its data."""
    ways = ways_of(facts, node)
    if ways is None or isinstance(ways, Obstacle):
        return ways
    way = _with_tap(ways)
    if way is None or taken.tap is None or isinstance(way.weight, Dequantized):
        return Obstacle(BLOCKED, f"{node.op} has no tap by which its outputs see the data of their own place", node)
    if taken.tap.size not in {1, way.channels} or way.rank is None:
        return Obstacle(AXIS, f"{taken.tap.size} channels beside {way.channels} outputs", node)
    tapped = replace(way, tap=np.broadcast_to(taken.tap, (way.channels,)))
    fed = tapped if taken.before is None else tapped.fed_by(taken.before, taken.data_input)
    if isinstance(fed, Obstacle):
        return fed
    after = taken.after or Affine.identity(way.rank)
    return fed.obstacle_to(after) or (fed, after)
