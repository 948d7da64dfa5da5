"""What a fold says it did, and the two ways in which the certificate does not follow it.

A chain leads in the direction of the values: the last home, the nodes passed, the node that went. Each of its links
reads the one before at exactly one input, its data input; what stands at the others is constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from bnfold.graph import Graph
from bnfold.nodes import Node, Site, Value


class DeviationError(Exception):
    """The rewritten model changes something that no claim covers; the message says what, as one sentence."""


class UncertainError(Exception):
    """Something that the certificate cannot follow; the message says what, as one sentence."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a fold says it did with one affine: the node that went, the nodes it passed, and its homes.

    The affine is a BatchNormalization or an elementwise operator with one constant. `path` and `homes` have the nearest
    node first. All homes but the last stand on the path and take the whole shift there; the last one takes what is
    left. All sites are of the original model.
    """

    site: Site
    path: tuple[Site, ...]
    homes: tuple[Site, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """A node of a chain, and which of its inputs reads the link before."""

    node: Node
    data: int

    @property
    def source(self) -> Value:
        """What the link reads from the one before."""
        value = self.node.inputs[self.data]
        if value is None:
            raise DeviationError(f"the data of {self.node.site} are missing")
        return value


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """A claim as nodes: `home` is the last home, `links` lead from it to the node that went, `stops` lie between.

    `stops` says for each home but the last, nearest to the node that went first, its place in `links`.
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


def chains_of(graph: Graph, claims: Iterable[Claim]) -> tuple[Chain, ...]:
    """The chains of all claims in the order in which the values run through them; each node goes once.

    Raises DeviationError where the nodes of a claim are none, or do not follow each other. Nodes that go themselves
    stand in the way of nothing: a claim need not name those that it passes.
    """
    order = {node.id: place for place, node in enumerate(graph.producers_first())}
    sites = {claim: _found(graph, claim.site) for claim in claims}
    gone: dict[int, _Gone] = {}
    chains: list[Chain] = []
    for claim in sorted(claims, key=lambda claim: order[sites[claim].id]):
        if sites[claim].id in gone:
            raise DeviationError(f"{claim.site} is claimed twice")
        chains.append(_chain(graph, claim, gone))
        link = chains[-1].site
        before = _gone_before(graph, link.source, gone)
        gone[sites[claim].id] = _Gone(link, link.source if before is None else before.root)
    return tuple(chains)


@dataclass(frozen=True, slots=True, eq=False)
class _Gone:
    """A node that goes, and what stands for its output then: what the first of those right before it was fed."""

    link: Link
    root: Value


def _gone_before(graph: Graph, value: Value, gone: Mapping[int, _Gone]) -> _Gone | None:
    producer = graph.producer(value)
    return None if producer is None else gone.get(producer.id)


def _chain(graph: Graph, claim: Claim, gone: Mapping[int, _Gone]) -> Chain:
    if not claim.homes:
        raise UncertainError(f"{claim.site} has 0 homes, which the certificate cannot follow")
    nodes = {site: _found(graph, site) for site in (claim.site, *claim.path, *claim.homes)}
    *stops, home = claim.homes
    passed = tuple(reversed(claim.path))
    if len({claim.site, *passed, home}) < len(passed) + 2 or len(set(stops)) < len(stops):
        raise DeviationError(f"the claim of {claim.site} names a node twice")
    if not set(stops) <= set(passed):
        raise DeviationError(f"the claim of {claim.site} names a home that is neither on its path nor its last")
    order = {site: place for place, site in enumerate(passed)}
    if any(order[nearer] < order[farther] for nearer, farther in pairwise(stops)):
        raise DeviationError(f"the homes of {claim.site} are not in the order in which it comes to them")
    pairs = pairwise((home, *passed, claim.site))
    links = tuple(link for a, b in pairs for link in _links(graph, nodes[a], nodes[b], gone))
    places = {link.node.id: place for place, link in enumerate(links)}
    return Chain(claim, nodes[home], links, tuple(places[nodes[stop].id] for stop in stops))


def _found(graph: Graph, site: Site) -> Node:
    try:
        return graph.at(site)
    except KeyError as error:
        raise DeviationError(f"a claim names {site}, which the original has not") from error


def _links(graph: Graph, earlier: Node, later: Node, gone: Mapping[int, _Gone]) -> tuple[Link, ...]:
    """The link to a node from another one, behind that of the last node between them that goes, if any does.

    Those before that one change nothing that its own claim does not say.
    """
    start = earlier.output(0)
    found: list[tuple[Link, ...]] = []
    for i, value in enumerate(later.inputs):
        between = None if value is None else _gone_before(graph, value, gone)
        if value is not None and value is start:
            found.append((Link(later, i),))
        elif between is not None and between.root is start:
            found.append((between.link, Link(later, i)))
    if len(found) != 1:
        raise DeviationError(f"{later.site} does not read from {earlier.site} (once), as a claim says")
    return found[0]
