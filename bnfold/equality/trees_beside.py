"""Claims that lead sideways: into a convolution of the same data, by sums, where a branch ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bnfold.equality.claim import Beside, Claim, DeviationError, Link, Tree
from bnfold.equality.went import Went
from bnfold.graph import Graph
from bnfold.nodes import Node, Value


def tree_beside(went: Went, claim: Claim) -> Tree:
    """The way from a convolution by sums, and by what has gone, to the sum with an affine of the same data."""
    site, joint = went.node(claim.site), went.node(claim.joint[0])
    plain = len(claim.homes) == len(claim.joint) == 1 and not claim.ahead and not claim.unshifted
    if not plain or claim.data >= len(site.inputs):
        raise DeviationError(f"the claim of {claim.site} names not one home, or an input that there is not")
    home, passed = went.node(claim.homes[0]), {went.node(each).id for each in claim.path}
    output = site.output(0)
    places = [i for i, value in enumerate(joint.inputs) if value is not None and went.root(value) is output]
    if len(joint.inputs) != 2 or output is None or len(places) != 1:
        raise DeviationError(f"{joint.site} is no sum of {claim.site} and one other value")
    branch = tuple(_alone(went, Link(joint, places[0]), output))
    end = Link(joint, 1 - places[0])
    links = tuple(reversed(_between(went, claim, end, home, passed)))
    if went.root(Link(site, claim.data).source) is not went.root(Link(home, 0).source):
        raise DeviationError(f"{claim.site} and {home.site} do not read the same data")
    return Tree(claim, site, (), (), {}, beside=Beside(Link(site, claim.data), end, links, home, branch))


def _between(went: Went, claim: Claim, end: Link, home: Node, passed: set[int]) -> list[Link]:
    """What stands between a sum and the home, the nearest to the sum first; each value is read by one node."""
    links: list[Link] = []
    link, ends = end, {home.id} | passed
    while True:
        went.read_by_one(link.source, link.node)
        before, root = went.before(link.source), went.root(link.source)
        node = went.graph.producer(root)
        if before is not None:
            links.append(before)
            went.read_by_one(root, None)
        if node is None or node.id not in ends or len(links) > len(went.graph.nodes):
            raise DeviationError(f"{link.node.site} does not read from what the claim of {claim.site} names")
        if node is home:
            break
        ways = [i for i, operand in enumerate(node.inputs) if operand is not None and _leads(went, operand, ends)]
        if len(ways) != 1:
            raise DeviationError(f"{node.site} is come to by {len(ways)} ways in the claim of {claim.site}")
        link = Link(node, ways[0])
        links.append(link)
    if home.output(0) is not root:
        raise DeviationError(f"{claim.site} and {home.site} do not read the same data")
    return links


def merged_trees(
    graph: Graph, merged: Iterable[tuple[Claim, Node, Node, Node]], trees: Iterable[Tree]
) -> Iterator[Tree]:
    """The trees of convolutions that went into others: each as a claim, what went, its home and the sum of both.

    They come in the order of the sums, behind all that other claims (`trees`) say has gone.
    """
    went = Went(graph)
    for tree in trees:
        went.note(tree)
    for claim, site, home, joint in merged:
        found = _merged(went, claim, site, home, joint)
        went.note(found)
        yield found


def _merged(went: Went, claim: Claim, site: Node, home: Node, joint: Node) -> Tree:
    """A convolution that is added to another one of the same data; nothing but what has gone stands between."""
    roots = [None if value is None else went.root(value) for value in joint.inputs]
    outputs = [site.output(0), home.output(0)]
    if len(roots) != 2 or None in outputs or sorted(map(id, roots)) != sorted(map(id, outputs)):
        raise DeviationError(f"{joint.site} is no sum of {site.site} and {home.site}")
    place = next(i for i, root in enumerate(roots) if root is outputs[0])
    ends = [Link(joint, place), Link(joint, 1 - place)]
    branch, own = (tuple(_alone(went, end, root)) for end, root in zip(ends, outputs, strict=True) if root is not None)
    if went.root(Link(site, 0).source) is not went.root(Link(home, 0).source):
        raise DeviationError(f"{site.site} and {home.site} do not read the same data")
    makers = (None if value is outputs[1] else went.graph.producer(value) for value in reversed(own))
    links = tuple(went.gone[node.id] for node in makers if node is not None)
    return Tree(claim, site, (), (), {}, beside=Beside(Link(site, 0), ends[1], links, home, branch))


def _alone(went: Went, end: Link, output: Value) -> Iterator[Value]:
    """The values from an output to what a sum reads of it, what went standing between; each is read by one node."""
    link = end
    while True:
        went.read_by_one(link.source, link.node)
        yield link.source
        if link.source is output:
            return
        before = went.before(link.source)
        if before is None:
            raise DeviationError(f"{link.node.site} does not read what {output.name!r} becomes")
        link = before


def _leads(went: Went, value: Value, ends: set[int]) -> bool:
    """Whether a value comes from one of these nodes."""
    producer = went.graph.producer(went.root(value))
    return producer is not None and producer.id in ends
