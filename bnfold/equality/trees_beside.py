"""Claims that lead sideways: into a convolution of the same data, by sums, where a branch ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bnfold.equality.claim import Beside, Claim, DeviationError, Link, Tree
from bnfold.equality.passes import adds_any_number
from bnfold.equality.went import Went
from bnfold.graph import Graph
from bnfold.nodes import Node, Value

_FIRST_OPSET_OF_SUMS = 8  # from here on all sums broadcast, whatever the shape of what is left


def tree_beside(went: Went, claim: Claim) -> Tree:
    """The way from a convolution by sums, and by what has gone, to the sum with an affine of the same data.

    That is the sum which loses the affine, or one behind it that adds up what is left of it.
    """
    site, joint = went.node(claim.site), went.node(claim.joint[0])
    plain = len(claim.homes) == len(claim.joint) == 1 and not claim.ahead and not claim.unshifted
    if not plain or claim.data >= len(site.inputs):
        raise DeviationError(f"the claim of {claim.site} names not one home, or an input that there is not")
    home, passed = went.node(claim.homes[0]), {went.node(each).id for each in claim.path}
    output = site.output(0)
    places = [link for link in went.left(joint) if went.root(link.source) is output]
    if output is None or len(places) != 1:
        raise DeviationError(f"{joint.site} is no sum of {claim.site} and another value")
    lost = places[0]
    branch, left = tuple(_alone(went, lost, output, ends=True)), _left_alone(went, lost)
    climb, end = _climb(went, lost, {home.id} | passed, passed)
    links = tuple(reversed(_between(went, claim, end, home, passed)))
    if went.root(Link(site, claim.data).source) is not went.root(Link(home, 0).source):
        raise DeviationError(f"{claim.site} and {home.site} do not read the same data")
    beside = Beside(Link(site, claim.data), lost, left, climb, end, links, home, branch)
    return Tree(claim, site, (), (), {}, beside=beside)


def _left_alone(went: Went, lost: Link) -> Link | None:
    """What is left of a sum that loses a value, if it is one value; of several the operator Sum alone may be."""
    left = [link for link in went.left(lost.node) if link.data != lost.data]
    if not left or (len(lost.node.inputs) != 2 and not adds_any_number(lost.node)):
        raise DeviationError(f"{lost.node.site} is no sum that may lose a value")
    return left[0] if len(left) == 1 else None


def _climb(went: Went, lost: Link, ends: set[int], passed: set[int]) -> tuple[tuple[Link, ...], Link]:
    """The way from what a sum lost to the first sum that adds what comes from one of these nodes, and that value.

    On the way, values lose what they were made of, perhaps their shape: each is seen by the next node alone.
    """
    climb: list[Link] = []
    link = lost
    while True:
        found = [each for each in went.left(link.node) if each.data != link.data and _leads(went, each.source, ends)]
        if len(found) == 1 and link.node.id not in went.gone:
            return tuple(climb), found[0]
        output = link.node.output(0)
        if found or output is None:
            raise DeviationError(f"{link.node.site} is come to by {len(found)} ways, beside what it lost")
        link = went.seen_by_one(output)
        before = went.gone.get(link.node.id)
        is_way = link.node.id in passed if before is None else before.data == link.data
        if not is_way or link.node.scope.opset < _FIRST_OPSET_OF_SUMS:
            raise DeviationError(f"{link.node.site} reads what {lost.node.site} becomes, and is on no way")
        climb.append(link)


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
        ways = [each for each in went.left(node) if _leads(went, each.source, ends)]
        if len(ways) != 1:
            raise DeviationError(f"{node.site} is come to by {len(ways)} ways in the claim of {claim.site}")
        link = ways[0]
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
    if {site.id, home.id, joint.id} & (went.gone.keys() | went.ended) or site is home:
        raise DeviationError(f"{site.site} is merged into {home.site}, and one of them is gone already")
    outputs = [site.output(0), home.output(0)]
    ends = [link for output in outputs for link in went.left(joint) if went.root(link.source) is output]
    if None in outputs or len(ends) != 2 or ends[0].data == ends[1].data:
        raise DeviationError(f"{joint.site} is no sum of {site.site} and {home.site}")
    left = _left_alone(went, ends[0])
    found = zip(ends, outputs, (True, False), strict=True)
    branch, own = (tuple(_alone(went, end, root, ends=which)) for end, root, which in found if root is not None)
    if went.root(Link(site, 0).source) is not went.root(Link(home, 0).source):
        raise DeviationError(f"{site.site} and {home.site} do not read the same data")
    makers = (None if value is outputs[1] else went.graph.producer(value) for value in reversed(own))
    links = tuple(went.gone[node.id] for node in makers if node is not None)
    beside = Beside(Link(site, 0), ends[0], left, (), ends[1], links, home, branch)
    return Tree(claim, site, (), (), {}, beside=beside)


def _alone(went: Went, end: Link, output: Value, *, ends: bool) -> Iterator[Value]:
    """The values from an output to what a sum reads of it, what went standing between; each is read by one node.

    Of those that end nobody else sees even the shape.
    """
    link = end
    while True:
        went.read_by_one(link.source, link.node)
        if ends:
            went.seen_by_one(link.source)
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
