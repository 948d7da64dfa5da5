"""One search for a home: from an affine's input towards the nodes that make it.

A search carries an affine from value to value. At each it either settles (ops/linear.py), passes (ops/passing.py,
perhaps to several values: all of them must find a home, or none is used; a constant on the way may keep the shift), or
meets an obstacle, upon which it goes back to the last node that could have taken over everything, or where there was
another way.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from bnfold.adding import costs_an_add, is_shift_alone, one_add
from bnfold.affine import Affine
from bnfold.beside import convolution_beside
from bnfold.decided import Arrived, Decided, Route, fed_to, not_free
from bnfold.nodes import Node, Value
from bnfold.ops.absorb import Linear
from bnfold.ops.affine import AffineOp
from bnfold.ops.bounding import has_numbers
from bnfold.ops.exact import sizes_of_rows
from bnfold.ops.facts import Facts
from bnfold.ops.home import Home
from bnfold.ops.joining import is_sum, sign_of
from bnfold.ops.passing import Passage, Passed, backward
from bnfold.ops.reasons import (
    NO_GAIN,
    NO_HOME,
    PRECISION,
    SEVERAL,
    SHIFT,
    Obstacle,
)
from bnfold.ops.standing import lets_none_pass, was_kept
from bnfold.ops.taking import home_with


@dataclass(frozen=True, slots=True)
class _Fallback:
    """A node that could take over all that a search carried when it passed there, and what was found until then.

    `instead` is another way on from there, if it is not to settle.
    """

    step: _Step
    pending: tuple[_Step, ...]
    arrivals: int
    path: int
    skips: int
    may_stay: bool
    instead: Passed | None


MOST_MADE_UP = 4.0
"""How much larger than a*(c + x) the terms (a - 1)*x and x may be: beyond, the sum would be rounded to their size."""


@dataclass(frozen=True, slots=True)
class _Skip:
    """A value that a sum reads and that something else reads too, at `index`: it was to bear a scale, and cannot."""

    joint: Node
    index: int
    value: Value
    affine: Affine
    obstacle: Obstacle


_Step = tuple[Node, Value, Affine, bool]
"""A node, the value that it reads, the affine which that value must bear, and whether a shift comes with it."""


@dataclass(slots=True)
class Backward:
    """One search from an affine's input towards its producers."""

    facts: Facts
    decided: Decided
    affine: AffineOp
    may_idle: bool = False
    """Whether it may leave a home that does nothing, for something else to settle there."""
    cancelled: Node | None = None
    """The home that would have done nothing."""
    arrivals: list[Arrived] = field(default_factory=list)
    totals: list[tuple[Node, Affine]] = field(default_factory=list)
    path: list[Node] = field(default_factory=list)
    fallbacks: list[_Fallback] = field(default_factory=list)
    skips: list[_Skip] = field(default_factory=list)
    products: list[tuple[int, Obstacle]] = field(default_factory=list)
    """What kept nodes that were passed from taking it over themselves, and their places in the path."""
    seen: set[int] = field(default_factory=set)
    """The nodes that were looked at: as long as nothing of them changes, so does nothing of what was found."""

    def search(self, affine: Affine) -> Route | Obstacle:
        """The homes that were found for it, or what stands in the way."""
        start = fed_to(self.affine)
        pending: list[_Step] = [(self.affine.node, start, affine, True)]
        while pending:
            step = self.step(pending.pop(), tuple(pending))
            if isinstance(step, Obstacle):
                own = self.products[0][1] if self.products else None
                retreat = self.retreat()
                if retreat is None:
                    return own or step
                step, pending = (), list(retreat)
            pending.extend(reversed(step))
        parted = self.parted()
        if parted is not None:
            return Obstacle(SEVERAL, f"another output of {parted.op} is read on the way too", parted)
        taps = [self.tap_for(skip) for skip in self.skips]
        refused = next((tap for tap in taps if isinstance(tap, Obstacle)), None)
        if refused is not None or len(taps) > 1:
            return refused or self.skips[1].obstacle
        made = tuple(tap for tap in taps if not isinstance(tap, Obstacle))
        return one_add(self.arrivals) or Route(tuple(self.arrivals), tuple(self.totals), tuple(self.path), made)

    def tap_for(self, skip: _Skip) -> tuple[Node, Node, Affine] | Obstacle:
        """The tap of a convolution that makes up for a skip connection: a*(c + x) is (a*c + (a - 1)*x) + x.

        The convolution has to read what the skip connection reads, and stand in the same sum, with sums alone between.
        """
        data = self.decided.root(self.facts.graph, skip.value)
        for index in (i for i in range(len(skip.joint.inputs)) if i != skip.index):
            found = convolution_beside(self.facts, self.decided, skip.joint, index, data)
            if found is None or not any(each.node is found.home for each in self.arrivals):
                continue
            arrived = next(each for each in self.arrivals if each.node is found.home)
            sign = found.sign * sign_of(skip.joint, skip.index)
            tap = Affine((skip.affine.scale - 1) * sign, np.zeros_like(skip.affine.shift))
            total = self.decided.taken(found.home).and_then(arrived.affine, None).and_tap(tap)
            home = home_with(self.facts, found.home, total)
            if isinstance(home, tuple):
                return self.too_small(skip, home[0], arrived.affine) or (skip.joint, found.home, tap)
        return skip.obstacle

    def too_small(self, skip: _Skip, home: Home, after: Affine) -> Obstacle | None:
        """A scale beside which the rounding of (a - 1)*x and x would be seen.

        The original rounds to the size of a*(c + x), which is about |a|*(1 + |W|) times that of x, with |W| the root of
        the sum of the squares of an output's weights as they have become by then.
        """
        if not isinstance(home, Linear):
            return skip.obstacle
        scale, _ = home.outputs_of(after)
        taken = self.decided.taken(home.node)
        found = None if taken.is_nothing else home_with(self.facts, home.node, taken)
        until_now = found if isinstance(found, tuple) else (replace(home, tap=None), Affine.identity(after.rank))
        if not isinstance(until_now[0], Linear):
            return skip.obstacle
        sizes = sizes_of_rows(until_now[0], until_now[1])
        lost = np.abs(scale - 1) + 1 > MOST_MADE_UP * np.abs(scale) * (1 + sizes)
        if not np.any(lost):
            return None
        detail = f"a skip connection that is to bear {scale[lost][0]:.3g} would cost more rounding than it may"
        return Obstacle(PRECISION, detail, skip.joint)

    def parted(self) -> Node | None:
        """A node of several outputs, of which more than one is read on the way: which of them changes is not plain."""
        on_the_way = {self.affine.node.id, *(node.id for node in self.path)}
        readers = self.facts.graph.readers
        for node in self.path:
            outputs = [value for value in node.outputs if value is not None]
            if len(outputs) > 1 and sum(any(r.node.id in on_the_way for r in readers(value)) for value in outputs) > 1:
                return node
        return None

    def step(self, step: _Step, rest: tuple[_Step, ...]) -> tuple[_Step, ...] | Obstacle:
        """Bring an affine of a value, read by a node, to the node that produces it."""
        reader, value, affine, takes_shift = step
        obstacle = not_free(self.facts.graph, value, reader)
        if obstacle is not None:
            return self.skipped(step, obstacle)
        node = self.facts.graph.producer(value)
        if node is None:
            return Obstacle(NO_HOME, f"{value.name!r} is no node's output")
        self.seen.add(node.id)
        if node.id in self.decided.kept:
            return was_kept(node, "before")
        if node.id in self.decided.gone:
            self.path.append(node)
            return ((*self.decided.gone[node.id], affine, takes_shift),)
        output = node.outputs.index(value)
        if len(node.outputs) > 1 and any(node is passed for passed in self.path):
            return Obstacle(SEVERAL, f"two ways lead back to {node.op}", node)
        node = self.decided.left(node)
        passed = backward(self.facts, node, affine, output)
        if isinstance(passed, Passed) and not self.decided.taken(node).is_nothing:
            passed = self.past_a_home(node, affine, passed)
        if passed is None and output:
            return Obstacle(NO_HOME, f"{value.name!r} is a further output of {node.op}", node)
        if passed is None:
            return self.settle(node, affine, takes_shift) or ()
        if isinstance(passed, Obstacle):
            return passed
        return self.onward((node, value, affine, takes_shift), passed, rest)

    def skipped(self, step: _Step, obstacle: Obstacle) -> tuple[_Step, ...] | Obstacle:
        """Leave a value as it is that a sum reads besides others, if it was to bear a scale alone."""
        reader, value, affine, _ = step
        if not is_sum(reader) or affine.has_shift or self.skips:
            return obstacle
        index = reader.inputs.index(value)
        self.skips.append(_Skip(reader, index, value, affine, obstacle))
        return ()

    def past_a_home(self, node: Node, affine: Affine, passed: Passed) -> Passed | Obstacle | None:
        """How a factor is passed that has grown: behind r*p*x, (a, s) is what (a, s/r) is behind p*x, times r."""
        if has_numbers(node):
            return replace(passed, keeps=True)  # they are no longer what the file says
        if not passed.keeps and not passed.may_stay:  # a layer, between whose weight and this a shift acts
            return None if self.decided.taken(node).has_shift else passed
        earlier = self.decided.homes.get(node.id)
        if earlier is None or not passed.may_stay or not affine.has_shift:
            return passed
        if not np.all(earlier.scale):
            return Obstacle(SHIFT, "its constant has become zero somewhere, and lets no shift pass", node)
        return backward(self.facts, node, Affine(affine.scale, affine.shift / earlier.scale))

    def onward(self, step: _Step, passed: Passed, rest: tuple[_Step, ...]) -> tuple[_Step, ...] | Obstacle:
        """The steps to the inputs that passages lead to (`step` has the node); a missing one would lose an affine."""
        node, _, affine, takes_shift = step
        passed = self.shift_elsewhere(node, passed)
        steps: list[_Step] = []
        for passage in passed.passages:
            operand = node.input(passage.index)
            if operand is None:
                return Obstacle(NO_HOME, f"an input of {node.op} is missing", node)
            steps.append((node, operand, passage.affine, takes_shift and passage.takes_shift))
        if passed.keeps:
            obstacle = self.settle(node, affine, takes_shift)
            if obstacle is not None:
                return obstacle
        elif passed.may_stay or passed.instead is not None:
            places = len(self.arrivals), len(self.path), len(self.skips)
            self.fallbacks.append(_Fallback(step, rest, *places, passed.may_stay, passed.instead))
        if passed.own is not None:
            self.products.append((len(self.path), passed.own))
        if steps:
            self.path.append(node)
        return tuple(steps)

    def shift_elsewhere(self, node: Node, passed: Passed) -> Passed:
        """Of a sum, the shift goes to the first value that may change: a skip connection takes none."""
        first, *others = passed.passages or (None,)
        if first is None or not others or not is_sum(node) or self.may_change(node, first) or not first.takes_shift:
            return passed
        other = next((each for each in others if self.may_change(node, each)), None)
        if other is None or other.affine.shape != first.affine.shape or sign_of(node, other.index) < 0:
            return passed
        scale = replace(first, affine=other.affine, takes_shift=False)
        whole = replace(other, affine=first.affine, takes_shift=True)
        return replace(passed, passages=tuple(whole if each is other else each for each in (scale, *others)))

    def may_change(self, node: Node, passage: Passage) -> bool:
        """Whether nothing else reads the value that a passage leads to."""
        value = node.input(passage.index)
        return value is not None and not_free(self.facts.graph, value, node) is None

    def retreat(self) -> tuple[_Step, ...] | None:
        """Settle, or go another way, where that was possible last, and what then is still pending; None if nowhere."""
        while self.fallbacks:
            last = self.fallbacks.pop()
            node, _, affine, takes_shift = last.step
            del self.arrivals[last.arrivals :], self.totals[last.arrivals :], self.path[last.path :]
            del self.skips[last.skips :]
            self.products = [each for each in self.products if each[0] < last.path]
            if last.may_stay and self.settle(node, affine, takes_shift) is None:
                return last.pending
            if last.instead is not None:
                steps = self.onward(last.step, last.instead, last.pending)
                if not isinstance(steps, Obstacle):
                    return (*last.pending, *reversed(steps))
        return None

    def settle(self, node: Node, affine: Affine, takes_shift: bool) -> Obstacle | None:
        """Let a home take over an affine besides what it has already, if its operator and its numbers allow that."""
        earlier = self.decided.homes.get(node.id)
        # Of two ranks one is not the home's: that is for the home to say.
        total = affine if earlier is None or earlier.rank != affine.rank else affine @ earlier
        found = home_with(self.facts, node, self.decided.taken(node).and_then(affine, None))
        if found is None:
            return lets_none_pass(node)
        if isinstance(found, Obstacle):
            return found
        home, _ = found
        if home.is_idle(total) and not self.may_idle:
            self.cancelled = node
            return Obstacle(NO_GAIN, "the two cancel: a node would be left that does nothing", node)
        adds = home.needs_add(total) and costs_an_add(
            self.facts, self.decided, self.affine, node, self.decided.taken(node)
        )
        if adds and is_shift_alone(self.affine):
            return Obstacle(NO_GAIN, f"{node.op} has no bias, so that its shift would become another Add", node)
        self.arrivals.append(Arrived(node, affine, takes_shift, adds))
        self.totals.append((node, total))
        return None
