"""From claims to trees: the nodes that a claim names, found in the graph, and whether they follow each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bnfold.equality.claim import Chain, Claim, DeviationError, Link, Part, Skip, Skipped, Tree, UncertainError, of_site
from bnfold.equality.trees_ahead import tree_ahead
from bnfold.equality.trees_beside import tree_beside
from bnfold.equality.went import Went
from bnfold.graph import Graph
from bnfold.nodes import Node, Site, Value


def trees_of(graph: Graph, claims: Iterable[Claim]) -> tuple[Tree, ...]:
    """The trees of all claims, in their order; each node goes once.

    Each claim is read in the graph that those before it have left. Raises DeviationError where the nodes of a claim are
    none, or do not follow each other there. What has gone stands in the way of nothing: a claim need not name it.
    """
    went, trees = Went(graph), list[Tree]()
    parted: dict[int, set[Part]] = defaultdict(set)
    for claim in claims:
        site = went.node(claim.site)
        acts = went.node(claim.joint[0]) if claim.joint else site
        again = claim.part != "" and claim.part not in parted[site.id] and parted[site.id]
        if not {site.id, acts.id}.isdisjoint(went.gone.keys() | went.ended) and not again:
            raise DeviationError(f"{claim.site} is claimed twice")
        parted[site.id].add(claim.part)
        with of_site(claim.site):
            tree = _tree(went, claim)
        if claim.data != tree.link.data:
            raise DeviationError(f"the data of {claim.site} are its input {tree.link.data}, not {claim.data}")
        went.note(tree)
        trees.append(tree)
    _check_parts(parted, trees)
    return tuple(trees)


def _check_parts(parted: Mapping[int, set[Part]], trees: Iterable[Tree]) -> None:
    """What went in two ways went back with its scale, and forward with its shift."""
    for tree in trees:
        part, parts = tree.claim.part, parted[tree.site.id]
        ways = {
            "": not parts - {""},
            "scale": tree.ahead is None and tree.beside is None,
            "shift": tree.ahead is not None,
        }
        if not ways[part] or (part and parts != {"scale", "shift"}):
            raise DeviationError(f"a part of {tree.site.site} is claimed, and not the other one as well")


def in_order(graph: Graph, trees: Iterable[Tree]) -> tuple[Tree, ...]:
    """Trees in the order in which the values run through the nodes whose output is what they were fed."""
    order = {node.id: place for place, node in enumerate(graph.producers_first())}
    return tuple(sorted(trees, key=lambda tree: order[tree.acts.id]))


def crossed_by(graph: Graph, trees: Iterable[Tree]) -> tuple[Link, ...]:
    """The nodes that went and through which a claim leads back, given the trees in the order of the values.

    Of a row of them, a branch names the last one alone. They may have gone forward themselves, each with its readers.
    """
    gone = {tree.merged.node.id: tree.merged for tree in trees if tree.merged is not None}
    crossed = {link.node.id for tree in trees for chain in tree.chains for link in chain.links[:-1]} & gone.keys()
    for id_, link in reversed(gone.items()):
        before = graph.producer(link.source)
        if id_ in crossed and before is not None and before.id in gone:
            crossed.add(before.id)
    return tuple(link for id_, link in gone.items() if id_ in crossed)


def _tree(went: Went, claim: Claim) -> Tree:
    if claim.joint:
        return tree_beside(went, claim)
    return tree_ahead(went, claim) if claim.ahead else _Way.of(went, claim).tree()


@dataclass(slots=True, eq=False)
class _Way:
    """The search from the node that went towards the homes of its claim."""

    went: Went
    claim: Claim
    passed: dict[int, Node]
    ends: dict[int, Node]
    stops: frozenset[Site]
    chains: list[Chain] = field(default_factory=list)
    order: list[Node] = field(default_factory=list)
    feeds: dict[int, tuple[tuple[int, Node], ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, went: Went, claim: Claim) -> _Way:
        """Raises where the claim names what is not there, or a node twice."""
        if not claim.homes:
            raise UncertainError(f"{claim.site} has 0 homes, which the certificate cannot follow")
        nodes = {site: went.node(site) for site in (claim.site, *claim.path, *claim.homes)}
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
        stops = frozenset(claim.homes) & on_path
        return cls(went, claim, passed, {nodes[site].id: nodes[site] for site in ends}, stops)

    def tree(self) -> Tree:
        """Every branch, from the node that went to a home."""
        site = self.went.node(self.claim.site)
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
                links = link if between is None else (between, *link)
                if producer.id in self.ends:
                    self._add(producer, root, links)
                else:
                    pending.append((producer, producer.outputs.index(root), links))
        named = (*self.passed.values(), *self.ends.values())
        reached = self.feeds.keys() | {chain.home.id for chain in self.chains} | self.went.gone.keys()
        missed = [n for n in named if n.id not in reached]
        if missed:
            raise DeviationError(f"{missed[0].site} does not stand before {self.claim.site}, as its claim says")
        skipped = tuple(self._skipped(skip) for skip in self.claim.skips)
        chains, order, lost = tuple(self.chains), tuple(self.order), self.went.lost_by(self.feeds)
        return Tree(self.claim, site, chains, order, self.feeds, skipped=skipped, lost=lost)

    def _skipped(self, skip: Skip) -> Skipped:
        """The only input of a sum on the way that the claim does not lead to reads what one of the homes reads."""
        joint = self.went.node(skip.joint)
        fed = {index for index, _ in self.feeds.get(joint.id, ())}
        others = [link for link in self.went.left(joint) if link.data not in fed]
        chain = next((one for one in self.chains if one.home.site == skip.home), None)
        place = None if chain is None else next((i for i, k in enumerate(chain.links) if k.node is joint), None)
        if chain is None or place is None or len(others) != 1:
            raise DeviationError(f"{skip.home} does not lead to {skip.joint}, which takes one value as it is")
        link = others[0]
        if self.went.root(link.source) is not self.went.root(Link(chain.home, 0).source):
            raise DeviationError(f"{skip.joint} and {skip.home} do not read the same data")
        return Skipped(link, chain.links[: place + 1], chain.home)

    def _feeding(self, node: Node) -> Iterable[tuple[int, Node, Value, Link | None]]:
        """The inputs of a node that the claim leads to: the node there, its value, and the last one gone between."""
        for link in self.went.left(node):
            root = self.went.root(link.source)
            producer = self.went.graph.producer(root)
            if producer is not None and (producer.id in self.passed or producer.id in self.ends):
                yield link.data, producer, root, self.went.before(link.source)

    def _check_fed(self, node: Node, found: list[tuple[int, Node, Value, Link | None]]) -> None:
        if not found or (node.site == self.claim.site and len(found) > 1):
            raise DeviationError(f"{node.site} does not read from what the claim of {self.claim.site} names (once)")
        roots = [root.id for _, _, root, _ in found]
        if len(set(roots)) < len(roots):
            raise DeviationError(f"{node.site} reads {found[0][2].name!r} twice, and a claim passes it")

    def _add(self, home: Node, root: Value, links: tuple[Link, ...]) -> None:
        if home.output(0) is not root:
            raise DeviationError(f"{root.name!r} is a further output of {home.site}, which is no home for it")
        places = [place for place, link in enumerate(links) if link.node.site in self.stops] if self.stops else []
        self.chains.append(Chain(self.claim, home, links, tuple(reversed(places))))
