"""Whether what a claim brings to its homes is all of its affine: every branch has its part, and none has it twice.

What the homes of a claim take over goes forward with the values. A value is then

    untouched     nothing of the affine has been applied to what it holds
    scaled        its scale has
    whole         its scale and its shift have

and the rules below say what a node of the way makes of what it reads. At the node that went, the value has to be whole;
scaled is enough where the shift is zero, and untouched counts as scaled where the scale is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bnfold.equality.claim import DeviationError, Tree
from bnfold.equality.constants import Constants
from bnfold.equality.pass_joining import bearing_inputs
from bnfold.equality.passing import Passing
from bnfold.equality.reference import affine_of, is_bounded, is_factor, is_normalization, is_term, part_of, passing_of
from bnfold.nodes import Node

State = Literal["untouched", "scaled", "whole"]


def covers(constants: Constants, tree: Tree) -> None:
    """Raise `DeviationError` unless all of the affine arrives at the node that went, once."""
    scale, shift = _parts(constants, tree)
    states: dict[int, State] = {chain.home.id: _taken(tree, chain.home, shift) for chain in tree.chains}
    for node in reversed(tree.order):
        found = {index: states[producer.id] for index, producer in tree.feeds[node.id]}
        if node is not tree.site:
            states[node.id] = _Join(constants, tree, node, found, scale=scale, shift=shift).state()
        elif shift and set(found.values()) != {"whole"}:
            raise DeviationError(f"the shift of {node.site} is left at no home")


def _parts(constants: Constants, tree: Tree) -> tuple[bool, bool]:
    """Whether the affine of the node that went has a scale, and whether it has a shift."""
    link = tree.chains[0].site
    sizes = constants.sizes(link.source)
    if sizes is None and not is_normalization(link.node):
        return tree.claim.part != "shift", tree.claim.part != "scale"
    affine = part_of(affine_of(constants, link, 2 if sizes is None else max(len(sizes), 2)), tree.claim.part)
    return bool(np.any(affine.scale != 1)), bool(np.any(affine.shift))


def _taken(tree: Tree, home: Node, shift: bool) -> State:
    return "whole" if shift and home.site not in tree.claim.unshifted else "scaled"


@dataclass(frozen=True, slots=True, eq=False)
class _Join:
    """A node of the way, and what it reads at the inputs that the claim leads to."""

    constants: Constants
    tree: Tree
    node: Node
    found: Mapping[int, State]
    scale: bool
    shift: bool

    def state(self) -> State:
        """What the node puts out."""
        if self.node.site in self.tree.claim.homes:
            return self.behind_stop()
        joined = self.with_constant() or passing_of(self.constants, self.node)
        lost = self.tree.lost.get(self.node.id, frozenset())
        bearing = tuple(index for index in bearing_inputs(self.node) if index not in lost)
        if joined.joins == "alone":
            state = self.alone()
        elif joined.joins == "all":
            state = self.all_alike(bearing)
        elif joined.joins == "sum":
            state = self.summed(bearing)
        else:
            state = self.alone()
        if state == "whole" and not joined.shift:
            raise DeviationError(f"{self.node.site} lets no shift pass")
        return state

    def with_constant(self) -> Passing | None:
        """A factor with a constant is one of a single value (steps.py follows it)."""
        others = [v for i, v in enumerate(self.node.inputs) if v is not None and i not in self.found]
        constant = others and all(self.constants.shape(value) is not None for value in others)
        return Passing() if constant and (is_factor(self.node) or is_term(self.node)) else None

    def behind_stop(self) -> State:
        """A sum with a constant, which takes the shift: what comes to it bears the scale alone."""
        if is_bounded(self.node):
            return self.bounded()
        if not is_term(self.node):
            raise DeviationError(f"a claim leaves a shift at {self.node.site}, which is no sum with a constant")
        if self.shift and set(self.found.values()) != {"scaled"}:
            raise DeviationError(f"{self.node.site} takes a shift that went on already")
        return _taken(self.tree, self.node, self.shift)

    def bounded(self) -> State:
        """A node whose numbers bear what the value bears, which goes on."""
        state = self.alone()
        if self.shift and state != _taken(self.tree, self.node, self.shift):
            raise DeviationError(f"the numbers of {self.node.site} take another part than its value")
        return state

    def alone(self) -> State:
        if len(self.found) != 1:
            raise DeviationError(f"a claim passes {self.node.site} by {len(self.found)} of its inputs")
        return next(iter(self.found.values()))

    def all_alike(self, bearing: tuple[int, ...]) -> State:
        """Every input bears the same part."""
        states = set(self.found.values())
        if set(self.found) != set(bearing) or len(states) != 1:
            raise DeviationError(f"not every value that {self.node.site} reads bears its part")
        return states.pop()

    def summed(self, bearing: tuple[int, ...]) -> State:
        """Every input bears the scale (if there is one), and at most one of them the shift.

        One that does not is made up for by a tap (steps.py).
        """
        skipped = {each.joint.data for each in self.tree.skipped if each.joint.node is self.node}
        if self.scale and set(self.found) != set(bearing) - skipped:
            raise DeviationError(f"not every value that {self.node.site} adds bears the scale")
        whole = sum(state == "whole" for state in self.found.values())
        if whole > 1:
            raise DeviationError(f"{self.node.site} adds a shift more than once")
        return "whole" if whole else "scaled"
