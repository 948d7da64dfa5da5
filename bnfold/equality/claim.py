"""What a fold says it did, and the two ways in which the certificate does not follow it.

A claim names the node that went, the nodes on the way and the homes. The way is a tree: from the node that went towards
the producers, it parts where a node has several values to bring the affine to. A chain is one branch of it, in the
direction of the values: from a home by the nodes passed to the node that went. Each of its links reads the one before
at exactly one input, its data input; what stands at the others is constant, or belongs to another branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from bnfold.nodes import Node, Reader, Site, Value

_FORM_ALONE = frozenset(
    {("Shape", 0), ("Size", 0), ("CastLike", 1), ("EyeLike", 0), ("RandomNormalLike", 0), ("RandomUniformLike", 0)}
)


def reads_form_alone(reader: Reader) -> bool:
    """Whether a node looks only at the shape or the type of what it reads."""
    return (reader.node.op, reader.index) in _FORM_ALONE


class DeviationError(Exception):
    """The rewritten model changes something that no claim covers; the message says what, as one sentence.

    `site` is the home, or the node that went by the claim, of which that was found, where it is known.
    """

    site: Site | None = None


class UncertainError(Exception):
    """Something that the certificate cannot follow; the message says what, as one sentence. `site`: as above."""

    site: Site | None = None


@contextmanager
def of_site(site: Site) -> Iterator[None]:
    """What is found here is found of this home, or of the claim by which this node went."""
    try:
        yield
    except (DeviationError, UncertainError) as error:
        error.site = error.site or site
        raise


Part = Literal["", "scale", "shift"]
"""What of an affine a claim is about: all of it, or one of its two halves."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A sum on the way that takes the data of a home as they are: the home gets a tap that makes up for it."""

    joint: Site
    home: Site


@dataclass(frozen=True, slots=True)
class Claim:
    """What a fold says it did with one affine: the node that went, the nodes it passed, and its homes.

    The affine is a BatchNormalization or an elementwise operator with one constant. `path` and `homes` have the nearest
    node first. A home on the path takes the whole shift there, and leaves the scale to those farther on; `unshifted`
    are the homes that take the scale alone, because a shift was left on the way, or went to another branch. With
    `ahead` the affine went to all that read it, and the homes take it over on their data. `data` is the input of the
    node that went which has its own. With `joint`, of one site, it became a tap of its only home, a convolution of the
    same data, and that sum lost it, and went too if one value was left. The convolution is added there, or further on:
    `path` leads from the sum to where it is, and on to the home. `skips` are sums on the way of which one value does
    not bear the scale.
    `part` says that only its scale, or its shift, went this way: another claim has the rest.
    Claims stand in an order: each speaks of the graph that those before it have left. All sites are of the original.
    """

    site: Site
    path: tuple[Site, ...]
    homes: tuple[Site, ...]
    unshifted: tuple[Site, ...] = ()
    ahead: bool = False
    data: int = 0
    joint: tuple[Site, ...] = ()
    skips: tuple[Skip, ...] = ()
    part: Part = ""


@dataclass(frozen=True, slots=True)
class Merging:
    """What a fold says it merged: the convolution that went, the one that took it over, and the sum that lost it."""

    site: Site
    home: Site
    joint: Site


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """A node of a chain, which of its inputs reads the link before, and which of its outputs the next one reads."""

    node: Node
    data: int
    output: int = 0

    @property
    def source(self) -> Value:
        """What the link reads from the one before."""
        value = self.node.inputs[self.data]
        if value is None:
            raise DeviationError(f"the data of {self.node.site} are missing")
        return value

    @property
    def target(self) -> Value | None:
        """What the next link reads."""
        return self.node.output(self.output)


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """A branch of a claim as nodes: `home` is its farthest, `links` lead from it to the node that went.

    `stops` says for each home on the way, nearest to the node that went first, its place in `links`.
    """

    claim: Claim
    home: Node
    links: tuple[Link, ...]
    stops: tuple[int, ...]

    @property
    def site(self) -> Link:
        """The node that went."""
        return self.links[-1]

    @property
    def homes(self) -> list[tuple[Node, tuple[Link, ...]]]:
        """Each home, nearest first, and the links behind it, up to the one before the node that went."""
        stops = [(self.links[place].node, self.links[place + 1 : -1]) for place in self.stops]
        return [*stops, (self.home, self.links[:-1])]


@dataclass(frozen=True, slots=True, eq=False)
class Ahead:
    """A claim that leads to the readers: the node that went, each node on the way, producers first, and each home.

    A link's data is the input at which the affine arrives; a node on the way to which it comes at several has as many
    links, one behind the other. `stops` are homes on the way, which it passes too; `gone` are the nodes on the way (by
    id) that went before it.
    """

    site: Link
    passed: tuple[Link, ...]
    homes: tuple[Link, ...]
    stops: tuple[Link, ...] = ()
    gone: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """A claim that leads into a convolution beside: the node that went, the sum that lost it, and what stands between.

    The data of `joint` are what that sum lost; `left` is the only value that is left of it, if it went. `end` is the
    sum that adds the convolution, whose data are what that has become there: `joint` itself, or the last one of
    `climb`, which leads there. `links` lead from the home to `end`. `branch` are the values from the node that went to
    the sum, which no longer are.
    """

    site: Link
    joint: Link
    left: Link | None
    climb: tuple[Link, ...]
    end: Link
    links: tuple[Link, ...]
    home: Node
    branch: tuple[Value, ...]

    @property
    def climbed(self) -> tuple[Link, ...]:
        """What puts out something else than before, because what it lost is added further on."""
        return (self.joint, *self.climb[:-1]) if self.climb else ()


@dataclass(frozen=True, slots=True, eq=False)
class Skipped:
    """A skip connection: the sum and its input that does not bear the scale, and how the convolution comes there.

    `links` lead from the home, which reads the same data, to `joint`, of which the last one's data is what it became.
    """

    joint: Link
    links: tuple[Link, ...]
    home: Node


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """A claim as nodes: its branches, and which nodes each node of the way (and the one that went) is fed by.

    `feeds` has, for the id of a node, its inputs at which something arrived, each with the node that made it so;
    `order` has the nodes that have feeds, each before those that feed it; `lost` are the inputs (by the node's id) that
    sums had lost by then.
    """

    claim: Claim
    site: Node
    chains: tuple[Chain, ...]
    order: tuple[Node, ...]
    feeds: Mapping[int, tuple[tuple[int, Node], ...]]
    ahead: Ahead | None = None
    beside: Beside | None = None
    skipped: tuple[Skipped, ...] = ()
    lost: Mapping[int, frozenset[int]] = field(default_factory=dict)

    @property
    def link(self) -> Link:
        """The node that went, and what it was fed."""
        if self.beside is not None:
            return self.beside.site
        return self.chains[0].site if self.ahead is None else self.ahead.site

    @property
    def acts(self) -> Node:
        """The node where it acted: the one that went, or the sum beside it."""
        return self.site if self.beside is None else self.beside.joint.node

    @property
    def merged(self) -> Link | None:
        """The node that goes and whose output is what it was fed: the one that went, or the sum beside it."""
        return self.link if self.beside is None else self.beside.left

    @property
    def gone(self) -> tuple[Node, ...]:
        """All that goes."""
        return (self.site,) if self.beside is None or self.beside.left is None else (self.site, self.acts)


def handed_on(trees: Iterable[Tree]) -> frozenset[int]:
    """The homes that go themselves, with all that settled in them."""
    trees = tuple(trees)
    homes = {home.id for tree in trees for home in homes_of(tree)}
    return frozenset(tree.site.id for tree in trees) & homes


def lost_by(trees: Iterable[Tree]) -> dict[int, frozenset[int]]:
    """The inputs that sums lost, by the node's id."""
    lost: dict[int, frozenset[int]] = {}
    for link in (tree.beside.joint for tree in trees if tree.beside is not None):
        lost[link.node.id] = lost.get(link.node.id, frozenset()) | {link.data}
    return lost


def homes_of(tree: Tree) -> tuple[Node, ...]:
    """Every home of a claim."""
    if tree.beside is not None:
        return (tree.beside.home,)
    if tree.ahead is not None:
        return tuple(link.node for link in (*tree.ahead.homes, *tree.ahead.stops))
    return tuple(home for chain in tree.chains for home, _ in chain.homes)
