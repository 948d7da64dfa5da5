"""From claims to trees: the nodes that a claim names, found in the graph, and whether they follow each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from bnfold.equality.claim import (
    Ahead,
    Beside,
    Chain,
    Claim,
    DeviationError,
    Link,
    Part,
    Skip,
    Skipped,
    Tree,
    UncertainError,
    reads_form_alone,
)
from bnfold.graph import Graph
from bnfold.nodes import Node, Site, Value


def trees_of(graph: Graph, claims: Iterable[Claim]) -> tuple[Tree, ...]:
    """The trees of all claims in the order in which the values run through them; each node goes once.

    Raises DeviationError where the nodes of a claim are none, or do not follow each other. Nodes that go themselves
    stand in the way of nothing: a claim need not name those that it passes.
    """
    order = {node.id: place for place, node in enumerate(graph.producers_first())}
    sites = {claim: _found(graph, claim.site) for claim in claims}
    acts = {claim: _found(graph, claim.joint[0]) if claim.joint else sites[claim] for claim in claims}
    gone: dict[int, _Gone] = {}
    went: set[int] = set()
    parted: dict[int, set[Part]] = defaultdict(set)
    trees: list[Tree] = []
    for claim in sorted(claims, key=lambda claim: order[acts[claim].id]):
        again = claim.part != "" and claim.part not in parted[sites[claim].id] and parted[sites[claim].id]
        if (sites[claim].id in went or acts[claim].id in went) and not again:
            raise DeviationError(f"{claim.site} is claimed twice")
        parted[sites[claim].id].add(claim.part)
        tree = _tree(graph, claim, gone)
        if claim.data != tree.link.data:
            raise DeviationError(f"the data of {claim.site} are its input {tree.link.data}, not {claim.data}")
        _note(graph, tree, gone)
        went.update(node.id for node in tree.gone)
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
    return tuple(sorted(trees, key=lambda tree: order[tree.merged.node.id]))


def crossed_by(graph: Graph, trees: Iterable[Tree]) -> tuple[Link, ...]:
    """The nodes that went and through which a claim leads back, given the trees in the order of the values.

    Of a row of them, a branch names the last one alone. They may have gone forward themselves, each with its readers.
    """
    gone = {tree.merged.node.id: tree.merged for tree in trees}
    crossed = {link.node.id for tree in trees for chain in tree.chains for link in chain.links[:-1]} & gone.keys()
    for id_, link in reversed(gone.items()):
        before = graph.producer(link.source)
        if id_ in crossed and before is not None and before.id in gone:
            crossed.add(before.id)
    return tuple(link for id_, link in gone.items() if id_ in crossed)


def _tree(graph: Graph, claim: Claim, gone: Mapping[int, _Gone]) -> Tree:
    if claim.joint:
        return _beside(graph, claim, gone)
    return _ahead(graph, claim) if claim.ahead else _Way.of(graph, claim, gone).tree()


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
    stops: frozenset[Site]
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
        stops = frozenset(claim.homes) & on_path
        return cls(graph, claim, gone, passed, {nodes[site].id: nodes[site] for site in ends}, stops)

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
        reached = self.feeds.keys() | {chain.home.id for chain in self.chains} | self.gone.keys()
        missed = [n for n in named if n.id not in reached]
        if missed:
            raise DeviationError(f"{missed[0].site} does not stand before {self.claim.site}, as its claim says")
        skipped = tuple(self._skipped(skip) for skip in self.claim.skips)
        return Tree(self.claim, site, tuple(self.chains), tuple(self.order), self.feeds, skipped=skipped)

    def _skipped(self, skip: Skip) -> Skipped:
        """The only input of a sum on the way that the claim does not lead to reads what one of the homes reads."""
        joint = _found(self.graph, skip.joint)
        fed = {index for index, _ in self.feeds.get(joint.id, ())}
        others = [i for i, value in enumerate(joint.inputs) if value is not None and i not in fed]
        chain = next((one for one in self.chains if one.home.site == skip.home), None)
        place = None if chain is None else next((i for i, k in enumerate(chain.links) if k.node is joint), None)
        if chain is None or place is None or len(others) != 1:
            raise DeviationError(f"{skip.home} does not lead to {skip.joint}, which takes one value as it is")
        link = Link(joint, others[0])
        if _root(self.graph, link.source, self.gone) is not _root(self.graph, Link(chain.home, 0).source, self.gone):
            raise DeviationError(f"{skip.joint} and {skip.home} do not read the same data")
        return Skipped(link, chain.links[: place + 1], chain.home)

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
        places = [place for place, link in enumerate(links) if link.node.site in self.stops] if self.stops else []
        self.chains.append(Chain(self.claim, home, links, tuple(reversed(places))))


def _ahead(graph: Graph, claim: Claim) -> Tree:
    """Every way from the node that went to its readers; all of them have to be on the way, or homes."""
    site = _found(graph, claim.site)
    if not claim.homes:
        raise UncertainError(f"{claim.site} has 0 homes, which the certificate cannot follow")
    on_path = set(claim.path)
    named = [claim.site, *claim.path, *(home for home in claim.homes if home not in on_path)]
    if len(set(named)) < len(named) or len(set(claim.homes)) < len(claim.homes) or claim.data >= len(site.inputs):
        raise DeviationError(f"the claim of {claim.site} names a node twice, or an input that there is not")
    passed, homes = ({_found(graph, each).id for each in sites} for sites in (claim.path, claim.homes))
    pending, found = [site], dict[int, Link]()
    while pending:
        node = pending.pop()
        for link in _reading(graph, node, is_whole=node is site):
            if link.node.id not in passed | homes:
                raise DeviationError(f"{link.source.name!r} changes, and {link.node.site} reads it")
            if link.node.id in found:
                raise DeviationError(f"{link.node.site} is come to by two ways in the claim of {claim.site}")
            found[link.node.id] = link
            pending += [link.node] if link.node.id in passed else []
    if found.keys() != passed | homes:
        raise DeviationError(f"a node of the claim of {claim.site} does not stand behind it")
    order = {node.id: place for place, node in enumerate(graph.producers_first())}
    ways = [
        replace(link, output=output)
        for link in sorted((found[id_] for id_ in passed), key=lambda link: order[link.node.id])
        for output, value in enumerate(link.node.outputs)
        if value is not None
    ]
    settled = tuple(found[_found(graph, each).id] for each in claim.homes)
    ends, stops = (tuple(link for link in settled if (link.node.id in passed) is on_way) for on_way in (False, True))
    return Tree(claim, site, (), (), {}, Ahead(Link(site, claim.data), tuple(ways), ends, stops))


def _beside(graph: Graph, claim: Claim, gone: Mapping[int, _Gone]) -> Tree:
    """The way from a convolution by sums, and by what has gone, to the sum with an affine of the same data."""
    site, joint = _found(graph, claim.site), _found(graph, claim.joint[0])
    if (
        len(claim.homes) != 1
        or len(claim.joint) != 1
        or claim.ahead
        or claim.unshifted
        or claim.data >= len(site.inputs)
    ):
        raise DeviationError(f"the claim of {claim.site} names not one home, or an input that there is not")
    home, passed = _found(graph, claim.homes[0]), {_found(graph, each).id for each in claim.path}
    output = site.output(0)
    places = [i for i, value in enumerate(joint.inputs) if value is not None and _root(graph, value, gone) is output]
    if len(joint.inputs) != 2 or output is None or len(places) != 1:
        raise DeviationError(f"{joint.site} is no sum of {claim.site} and one other value")
    branch = tuple(_alone(graph, Link(joint, places[0]), output, gone))
    end = Link(joint, 1 - places[0])
    links: list[Link] = []
    value, reader = end.source, joint
    while True:
        _read_by_one(graph, value, reader)
        before = _gone_before(graph, value, gone)
        root = value if before is None else before.root
        node = graph.producer(root)
        if before is not None:
            links.append(before.link)
            _read_by_one(graph, root, None)
        if node is None or (node is not home and node.id not in passed) or len(links) > len(graph.nodes):
            raise DeviationError(f"{reader.site} does not read from what the claim of {claim.site} names")
        if node is home:
            break
        ends = {home.id} | passed
        ways = [
            i for i, operand in enumerate(node.inputs) if operand is not None and _leads(graph, operand, ends, gone)
        ]
        if len(ways) != 1:
            raise DeviationError(f"{node.site} is come to by {len(ways)} ways in the claim of {claim.site}")
        links.append(Link(node, ways[0]))
        value, reader = links[-1].source, node
    own, theirs = (_root(graph, value, gone) for value in (Link(site, claim.data).source, Link(home, 0).source))
    if own is not theirs or home.output(0) is not root:
        raise DeviationError(f"{claim.site} and {home.site} do not read the same data")
    beside = Beside(Link(site, claim.data), end, tuple(reversed(links)), home, branch)
    return Tree(claim, site, (), (), {}, beside=beside)


def merged_trees(
    graph: Graph, merged: Iterable[tuple[Claim, Node, Node, Node]], trees: Iterable[Tree]
) -> Iterator[Tree]:
    """The trees of convolutions that went into others: each as a claim, what went, its home and the sum of both.

    They come in the order of the sums, behind all that other claims (`trees`) say has gone.
    """
    gone: dict[int, _Gone] = {}
    for tree in trees:
        _note(graph, tree, gone)
    for claim, site, home, joint in merged:
        found = _merged(graph, claim, site, home, joint, gone)
        _note(graph, found, gone)
        yield found


def _note(graph: Graph, tree: Tree, gone: dict[int, _Gone]) -> None:
    """What stands for the output of the node that goes with a tree, from now on."""
    before = _gone_before(graph, tree.merged.source, gone)
    gone[tree.merged.node.id] = _Gone(tree.merged, tree.merged.source if before is None else before.root)


def _merged(  # noqa: PLR0913, PLR0917  # the claim, its three nodes, and what went before
    graph: Graph, claim: Claim, site: Node, home: Node, joint: Node, gone: Mapping[int, _Gone]
) -> Tree:
    """A convolution that is added to another one of the same data; nothing but what has gone stands between."""
    roots = [None if value is None else _root(graph, value, gone) for value in joint.inputs]
    outputs = [site.output(0), home.output(0)]
    if len(roots) != 2 or None in outputs or sorted(map(id, roots)) != sorted(map(id, outputs)):
        raise DeviationError(f"{joint.site} is no sum of {site.site} and {home.site}")
    place = next(i for i, root in enumerate(roots) if root is outputs[0])
    ends = [Link(joint, place), Link(joint, 1 - place)]
    branch, own = (
        tuple(_alone(graph, end, root, gone)) for end, root in zip(ends, outputs, strict=True) if root is not None
    )
    if _root(graph, Link(site, 0).source, gone) is not _root(graph, Link(home, 0).source, gone):
        raise DeviationError(f"{site.site} and {home.site} do not read the same data")
    makers = (None if value is outputs[1] else graph.producer(value) for value in reversed(own))
    links = tuple(gone[node.id].link for node in makers if node is not None)
    return Tree(claim, site, (), (), {}, beside=Beside(Link(site, 0), ends[1], links, home, branch))


def _alone(graph: Graph, end: Link, output: Value, gone: Mapping[int, _Gone]) -> Iterator[Value]:
    """The values from an output to what a sum reads of it, what went standing between; each is read by one node."""
    link = end
    while True:
        _read_by_one(graph, link.source, link.node)
        yield link.source
        if link.source is output:
            return
        before = _gone_before(graph, link.source, gone)
        if before is None:
            raise DeviationError(f"{link.node.site} does not read what {output.name!r} becomes")
        link = before.link


def _leads(graph: Graph, value: Value, ends: set[int], gone: Mapping[int, _Gone]) -> bool:
    """Whether a value comes from one of these nodes."""
    producer = graph.producer(_root(graph, value, gone))
    return producer is not None and producer.id in ends


def _root(graph: Graph, value: Value, gone: Mapping[int, _Gone]) -> Value:
    before = _gone_before(graph, value, gone)
    return value if before is None else before.root


def _read_by_one(graph: Graph, value: Value, reader: Node | None) -> None:
    """Nothing else reads a value that changes, or goes."""
    readers = [each.node for each in graph.readers(value) if not reads_form_alone(each)]
    alone = len(readers) == 1 and readers[0].scope is value.scope and reader in {None, readers[0]}
    if graph.is_graph_output(value) or not alone:
        raise DeviationError(f"{value.name!r} changes, and something else reads it")


def _reading(graph: Graph, node: Node, *, is_whole: bool) -> Iterator[Link]:
    """Everything that reads what a node puts out, which is promised to nobody; with `is_whole` it is one value."""
    values = [value for value in node.outputs if value is not None]
    promised = any(graph.is_graph_output(value) for value in values)
    if node.output(0) is None or promised or (is_whole and len(values) > 1):
        raise DeviationError(f"what {node.site} puts out changes, and is promised to somebody, or not all there is")
    for reader in (reader for value in values for reader in graph.readers(value)):
        if reads_form_alone(reader):
            continue
        link = Link(reader.node, reader.index)
        if reader.node.scope is not node.scope:
            raise DeviationError(f"{link.source.name!r} changes, and a nested graph reads it")
        yield link


def _found(graph: Graph, site: Site) -> Node:
    try:
        return graph.at(site)
    except KeyError as error:
        raise DeviationError(f"a claim names {site}, which the original has not") from error
