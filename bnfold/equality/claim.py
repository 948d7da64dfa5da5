"""What a fold says it did, and the two ways in which the certificate does not follow it.

A claim names the node that went, the nodes on the way and the homes. The way is a tree: from the node that went towards
the producers, it parts where a node has several values to bring the affine to. A chain is one branch of it, in the
direction of the values: from a home by the nodes passed to the node that went. Each of its links reads the one before
at exactly one input, its data input; what stands at the others is constant, or belongs to another branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bnfold.graph import Graph
from bnfold.nodes import Node, Reader, Site, Value

_FORM_ALONE = frozenset(
    {("Shape", 0), ("Size", 0), ("CastLike", 1), ("EyeLike", 0), ("RandomNormalLike", 0), ("RandomUniformLike", 0)}
)


def reads_form_alone(reader: Reader) -> bool:
    """Whether a node looks only at the shape or the type of what it reads."""
    return (reader.node.op, reader.index) in _FORM_ALONE


class DeviationError(Exception):
    """The rewritten model changes something that no claim covers; the message says what, as one sentence."""


class UncertainError(Exception):
    """Something that the certificate cannot follow; the message says what, as one sentence."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a fold says it did with one affine: the node that went, the nodes it passed, and its homes.

    The affine is a BatchNormalization or an elementwise operator with one constant. `path` and `homes` have the nearest
    node first. A home on the path takes the whole shift there, and leaves the scale to those farther on; `unshifted`
    are the homes that take the scale alone, because a shift was left on the way, or went to another branch. With
    `ahead` the affine went to all that read it, and the homes take it over on their data. `data` is the input of the
    node that went which has its own. All sites are of the original model.
    """

    site: Site
    path: tuple[Site, ...]
    homes: tuple[Site, ...]
    unshifted: tuple[Site, ...] = ()
    ahead: bool = False
    data: int = 0


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

    def takes_shift(self, home: Node) -> bool:
        """Whether a home takes the shift besides the scale."""
        return home.site not in self.claim.unshifted


@dataclass(frozen=True, slots=True, eq=False)
class Ahead:
    """A claim that leads to the readers: the node that went, each node on the way, producers first, and each home.

    A link's data is the input at which the affine arrives.
    """

    site: Link
    passed: tuple[Link, ...]
    homes: tuple[Link, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """A claim as nodes: its branches, and which nodes each node of the way (and the one that went) is fed by.

    `feeds` has, for the id of a node, its inputs at which something arrived, each with the node that made it so;
    `order` has the nodes that have feeds, each before those that feed it.
    """

    claim: Claim
    site: Node
    chains: tuple[Chain, ...]
    order: tuple[Node, ...]
    feeds: Mapping[int, tuple[tuple[int, Node], ...]]
    ahead: Ahead | None = None

    @property
    def link(self) -> Link:
        """The node that went, and what it was fed."""
        return self.chains[0].site if self.ahead is None else self.ahead.site


def homes_of(tree: Tree) -> tuple[Node, ...]:
    """Every home of a claim."""
    if tree.ahead is not None:
        return tuple(link.node for link in tree.ahead.homes)
    return tuple(home for chain in tree.chains for home, _ in chain.homes)


def trees_of(graph: Graph, claims: Iterable[Claim]) -> tuple[Tree, ...]:
    """The trees of all claims in the order in which the values run through them; each node goes once.

    Raises DeviationError where the nodes of a claim are none, or do not follow each other. Nodes that go themselves
    stand in the way of nothing: a claim need not name those that it passes.
    """
    order = {node.id: place for place, node in enumerate(graph.producers_first())}
    sites = {claim: _found(graph, claim.site) for claim in claims}
    gone: dict[int, _Gone] = {}
    trees: list[Tree] = []
    for claim in sorted(claims, key=lambda claim: order[sites[claim].id]):
        if sites[claim].id in gone:
            raise DeviationError(f"{claim.site} is claimed twice")
        trees.append(_Way.of(graph, claim, gone).tree() if not claim.ahead else _ahead(graph, claim))
        link = trees[-1].link
        if claim.data != link.data:
            raise DeviationError(f"the data of {claim.site} are its input {link.data}, not {claim.data}")
        before = _gone_before(graph, link.source, gone)
        gone[sites[claim].id] = _Gone(link, link.source if before is None else before.root)
    return tuple(trees)


def crossed_by(graph: Graph, trees: Iterable[Tree]) -> tuple[Link, ...]:
    """The nodes that went and through which a claim leads back, given the trees in the order of the values.

    Of a row of them, a branch names the last one alone. They may have gone forward themselves, each with its readers.
    """
    gone = {tree.site.id: tree.link for tree in trees}
    crossed = {link.node.id for tree in trees for chain in tree.chains for link in chain.links[:-1]} & gone.keys()
    for id_, link in reversed(gone.items()):
        before = graph.producer(link.source)
        if id_ in crossed and before is not None and before.id in gone:
            crossed.add(before.id)
    return tuple(link for id_, link in gone.items() if id_ in crossed)


@dataclass(frozen=True, slots=True, eq=False)
class _Gone:
    """A node that goes, and what stands for its output then: what the first of those right before it was fed."""

    link: Link
    root: Value


def _gone_before(graph: Graph, value: Value, gone: Mapping[int, _Gone]) -> _Gone | None:
    producer = graph.producer(value)
    return None if producer is None else gone.get(producer.id)


@dataclass(slots=True, eq=False)
class _Way:
    """The search from the node that went towards the homes of its claim."""

    graph: Graph
    claim: Claim
    gone: Mapping[int, _Gone]
    passed: dict[int, Node]
    ends: dict[int, Node]
    chains: list[Chain] = field(default_factory=list)
    order: list[Node] = field(default_factory=list)
    feeds: dict[int, tuple[tuple[int, Node], ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, claim: Claim, gone: Mapping[int, _Gone]) -> _Way:
        """Raises where the claim names what is not there, or a node twice."""
        if not claim.homes:
            raise UncertainError(f"{claim.site} has 0 homes, which the certificate cannot follow")
        nodes = {site: _found(graph, site) for site in (claim.site, *claim.path, *claim.homes)}
        on_path = set(claim.path)
        ends = [site for site in claim.homes if site not in on_path]
        named = [claim.site, *claim.path, *ends]
        if len(set(named)) < len(named) or len(set(claim.homes)) < len(claim.homes):
            raise DeviationError(f"the claim of {claim.site} names a node twice")
        if not ends:
            raise DeviationError(f"the claim of {claim.site} names no home but those on its path")
        if not set(claim.unshifted) <= set(claim.homes):
            raise DeviationError(f"the claim of {claim.site} names a home that takes no shift, and is none")
        passed = {nodes[site].id: nodes[site] for site in claim.path}
        return cls(graph, claim, gone, passed, {nodes[site].id: nodes[site] for site in ends})

    def tree(self) -> Tree:
        """Every branch, from the node that went to a home."""
        site = _found(self.graph, self.claim.site)
        pending: list[tuple[Node, int, tuple[Link, ...]]] = [(site, 0, ())]
        while pending:
            node, output, behind = pending.pop()
            if node.id in self.feeds:
                raise DeviationError(f"what {node.site} puts out goes two ways in the claim of {self.claim.site}")
            self.order.append(node)
            found = list(self._feeding(node))
            self._check_fed(node, found)
            self.feeds[node.id] = tuple((index, producer) for index, producer, _, _ in found)
            for index, producer, root, between in reversed(found):
                link = (Link(node, index, output), *behind)
                links = link if between is None else (between.link, *link)
                if producer.id in self.ends:
                    self._add(producer, root, links)
                else:
                    pending.append((producer, producer.outputs.index(root), links))
        named = (*self.passed.values(), *self.ends.values())
        missed = [n for n in named if n.id not in self.gone and not self._is_reached(n)]
        if missed:
            raise DeviationError(f"{missed[0].site} does not stand before {self.claim.site}, as its claim says")
        return Tree(self.claim, site, tuple(self.chains), tuple(self.order), self.feeds)

    def _feeding(self, node: Node) -> Iterable[tuple[int, Node, Value, _Gone | None]]:
        """The inputs of a node that the claim leads to: the node there, its value, and the last one gone between."""
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            between = _gone_before(self.graph, value, self.gone)
            root = value if between is None else between.root
            producer = self.graph.producer(root)
            if producer is not None and (producer.id in self.passed or producer.id in self.ends):
                yield index, producer, root, between

    def _check_fed(self, node: Node, found: list[tuple[int, Node, Value, _Gone | None]]) -> None:
        if not found or (node.site == self.claim.site and len(found) > 1):
            raise DeviationError(f"{node.site} does not read from what the claim of {self.claim.site} names (once)")
        roots = [root.id for _, _, root, _ in found]
        if len(set(roots)) < len(roots):
            raise DeviationError(f"{node.site} reads {found[0][2].name!r} twice, and a claim passes it")

    def _add(self, home: Node, root: Value, links: tuple[Link, ...]) -> None:
        if home.output(0) is not root:
            raise DeviationError(f"{root.name!r} is a further output of {home.site}, which is no home for it")
        stops = {site for site in self.claim.homes if site in self.claim.path}
        places = [place for place, link in enumerate(links) if link.node.site in stops]
        self.chains.append(Chain(self.claim, home, links, tuple(reversed(places))))

    def _is_reached(self, node: Node) -> bool:
        return node.id in self.feeds or any(chain.home is node for chain in self.chains)


def _ahead(graph: Graph, claim: Claim) -> Tree:
    """Every way from the node that went to its readers; all of them have to be on the way, or homes."""
    site = _found(graph, claim.site)
    if not claim.homes:
        raise UncertainError(f"{claim.site} has 0 homes, which the certificate cannot follow")
    named = [claim.site, *claim.path, *claim.homes]
    if len(set(named)) < len(named) or claim.data >= len(site.inputs):
        raise DeviationError(f"the claim of {claim.site} names a node twice, or an input that there is not")
    passed, homes = ({_found(graph, each).id for each in sites} for sites in (claim.path, claim.homes))
    pending, found = [site], dict[int, Link]()
    while pending:
        for link in _reading(graph, pending.pop()):
            if link.node.id not in passed | homes:
                raise DeviationError(f"{link.source.name!r} changes, and {link.node.site} reads it")
            if link.node.id in found:
                raise DeviationError(f"{link.node.site} is come to by two ways in the claim of {claim.site}")
            found[link.node.id] = link
            pending += [link.node] if link.node.id in passed else []
    if found.keys() != passed | homes:
        raise DeviationError(f"a node of the claim of {claim.site} does not stand behind it")
    order = {node.id: place for place, node in enumerate(graph.producers_first())}
    ways = sorted((found[id_] for id_ in passed), key=lambda link: order[link.node.id])
    return Tree(claim, site, (), (), {}, Ahead(Link(site, claim.data), tuple(ways), tuple(found[id_] for id_ in homes)))


def _reading(graph: Graph, node: Node) -> Iterator[Link]:
    """Everything that reads what a node puts out, which must be one value that is promised to nobody."""
    value = node.output(0)
    if value is None or graph.is_graph_output(value) or any(further is not None for further in node.outputs[1:]):
        raise DeviationError(f"what {node.site} puts out changes, and is promised to somebody, or not all there is")
    for reader in (reader for reader in graph.readers(value) if not reads_form_alone(reader)):
        if reader.node.scope is not value.scope:
            raise DeviationError(f"{value.name!r} changes, and a nested graph reads it")
        yield Link(reader.node, reader.index)


def _found(graph: Graph, site: Site) -> Node:
    try:
        return graph.at(site)
    except KeyError as error:
        raise DeviationError(f"a claim names {site}, which the original has not") from error
