"""Claims that lead forward: every way from the node that went to its readers, in the graph that is left by then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bnfold.equality.claim import Ahead, Claim, DeviationError, Link, Tree, UncertainError, reads_form_alone
from bnfold.equality.went import Went
from bnfold.nodes import Node


def tree_ahead(went: Went, claim: Claim) -> Tree:
    """The tree of a claim that leads forward.

    All that reads what changes has to be on the way, or a home; what has gone lets it through, and ends where it ended.
    """
    site = went.node(claim.site)
    if not claim.homes:
        raise UncertainError(f"{claim.site} has 0 homes, which the certificate cannot follow")
    on_path = set(claim.path)
    named = [claim.site, *claim.path, *(home for home in claim.homes if home not in on_path)]
    if len(set(named)) < len(named) or len(set(claim.homes)) < len(claim.homes) or claim.data >= len(site.inputs):
        raise DeviationError(f"the claim of {claim.site} names a node twice, or an input that there is not")
    passed, homes = ({went.node(each).id for each in sites} for sites in (claim.path, claim.homes))
    found = _found(went, site, passed, homes)
    if not passed | homes <= found.keys():
        raise DeviationError(f"a node of the claim of {claim.site} does not stand behind it")
    on_way = sorted(found.keys() - (homes - passed), key=went.order.__getitem__)
    ways = [
        replace(link, output=output)
        for id_ in on_way
        for output, value in enumerate(found[id_][0].node.outputs)
        if value is not None
        for link in found[id_]
    ]
    settled = tuple(found[went.node(each).id][0] for each in claim.homes)
    ends, stops = (tuple(link for link in settled if (link.node.id in passed) is where) for where in (False, True))
    gone = frozenset(id_ for id_ in on_way if id_ in went.gone)
    ahead = Ahead(Link(site, claim.data), tuple(ways), ends, stops, gone)
    return Tree(claim, site, (), (), {}, ahead, lost=went.lost_by(found))


def _found(went: Went, site: Node, passed: set[int], homes: set[int]) -> dict[int, list[Link]]:
    """Every node to which a claim leads, and how it is come to: what it passes by several inputs, homes by one."""
    pending, found = [site], dict[int, list[Link]]()
    while pending:
        node = pending.pop()
        for link in _reading(went, node, is_whole=node is site):
            id_ = link.node.id
            if id_ in found and id_ in homes:
                raise DeviationError(f"{link.node.site} is come to by two ways in the claim of {site.site}")
            if id_ in went.gone:
                _lets_through(went, link, homes)
            elif id_ not in passed | homes:
                raise DeviationError(f"{link.source.name!r} changes, and {link.node.site} reads it")
            if id_ not in found and (id_ in passed or id_ in went.gone):
                pending.append(link.node)
            found.setdefault(id_, []).append(link)
    return found


def _lets_through(went: Went, link: Link, homes: set[int]) -> None:
    """What has gone is no home, and stands for one of the values that it read alone."""
    if link.node.id in homes or went.gone[link.node.id].data != link.data:
        raise DeviationError(f"{link.source.name!r} changes, and {link.node.site}, which has gone, is no way for that")


def _reading(went: Went, node: Node, *, is_whole: bool) -> Iterator[Link]:
    """Everything that reads what a node puts out, which is promised to nobody; with `is_whole` it is one value."""
    graph, values = went.graph, [value for value in node.outputs if value is not None]
    promised = any(graph.is_graph_output(value) for value in values)
    if node.output(0) is None or promised or (is_whole and len(values) > 1):
        raise DeviationError(f"what {node.site} puts out changes, and is promised to somebody, or not all there is")
    for reader in (reader for value in values for reader in graph.readers(value)):
        if reads_form_alone(reader) or reader.node.id in went.ended:
            continue
        link = Link(reader.node, reader.index)
        if reader.node.scope is not node.scope:
            raise DeviationError(f"{link.source.name!r} changes, and a nested graph reads it")
        yield link
