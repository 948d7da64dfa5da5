"""Which value of the original each value of a rewritten model stands for, as far as the two files alone can say.

A value that is computed alike (fingerprints.py) is the same, bit for bit. One that is computed otherwise may stand
for the value of its name, for what an operator of its kind puts out over the same data, for what a chain of nodes
makes of either, and, where there is neither, for what such a chain makes of what it is fed. The first of these by who
reads it is assumed, and what follows is compared under that assumption; which one it really is, if any, only running
both can say (sites.py). Where most names are kept, a new one is taken for a new value: it stands for nothing, unless it
turns out to agree with something all the same (`inside`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import pairwise

from bnfold.equality.fingerprints import Digest, Fingerprints
from bnfold.equality.outline import Outline
from bnfold.nodes import Node, Value

_MOST_CANDIDATES = 8
_LONGEST_CHAIN = 4
_MOST_NAMES = 0.5
_IN_ORDER = 0.75


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A value of the rewritten model that is computed otherwise than its counterpart: one place to compare.

    `nodes` make it out of `bounds`, each of which stands for a value of the original (`feeds`, in the same order).
    `candidates` are values of the original that it may stand for, the assumed one first; `taken` are the feeds that
    bounds stand for by their values alone, and not because both are computed alike.
    """

    value: Value
    node: Node
    nodes: tuple[Node, ...]
    bounds: tuple[Value, ...]
    feeds: tuple[Value, ...]
    candidates: tuple[Value, ...]
    taken: tuple[Value, ...] = ()

    @property
    def assumed(self) -> Value:
        """What it is taken for."""
        return self.candidates[0]

    @property
    def key(self) -> tuple[object, ...]:
        """What a comparison depends on: asked again with the same key, it has the same answer."""
        feeds = tuple((bound.id, feed.id) for bound, feed in zip(self.bounds, self.feeds, strict=True))
        return self.value.id, feeds, tuple(v.id for v in self.candidates)


Decisions = Mapping[int, Value | None]
"""By id of a value of the rewritten model: what it stands for, or None where it has been found to stand for nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Correspondence:
    """Values of the rewritten model: what each stands for (by id), which are so by their fingerprint, and the sites.

    `bounding` is the part of `stands_for` where sites may begin. A value that stands for what it is itself made of is
    not in it (the Abs of a Sigmoid is that Sigmoid): on other numbers than these it would be another one.
    """

    stands_for: Mapping[int, Value]
    bounding: Mapping[int, Value]
    identical: frozenset[int]
    sites: tuple[Site, ...]


class Counterparts:
    """Looks for counterparts in an original; asked again under other decisions, it hashes nothing anew.

    With `by_name` False, what a value is called says nothing, but for inputs and outputs.
    """

    def __init__(self, before: Outline, after: Outline, *, by_name: bool = True) -> None:
        self._before = before
        self._after = after
        self._by_name = by_name
        originals = Fingerprints(before)
        self._originals = originals.all_values()
        self._prints = Fingerprints(after, originals)
        self._by_print: dict[Digest, list[Value]] = defaultdict(list)
        self._by_kind: dict[tuple[object, ...], list[Node]] = defaultdict(list)
        self._names_are_kept = by_name and _share_of_names(before, after) >= _MOST_NAMES
        self._known: dict[int, Digest] = {}
        for value in before.names.values():
            if value.id in self._originals:
                self._by_print[self._originals[value.id]].append(value)
        for node in before.nodes:
            self._by_kind[self._kind(before, node, self._originals)].append(node)

    def under(self, decisions: Decisions) -> Correspondence:
        """All correspondences, where what was decided holds whatever else would be assumed."""
        known = self._known = {}
        stands_for: dict[int, Value] = {}
        bounding: dict[int, Value] = {}
        identical: set[int] = set()
        sites: list[Site] = []
        graph = self._after.graph
        for value in self._after.names.values():
            if graph.producer(value) is None:
                known[value.id] = self._prints.of_source(value)
                self._note(value, stands_for, bounding, identical)
        for node in self._after.nodes:
            digest = self._prints.of_node(node, known)
            for index, value in _outputs(node):
                known[value.id] = self._prints.of_output(digest, index)
                if value.id not in decisions and self._note(value, stands_for, bounding, identical):
                    continue
                candidates = () if self._is_new(value) else self._candidates(node, index, decisions, stands_for)
                if not candidates:
                    known[value.id] = b"nothing" + known[value.id]
                    continue
                stands_for[value.id] = candidates[0]
                known[value.id] = self._originals[candidates[0].id]
                sites.append(self._site(node, value, candidates, bounding, identical))
                if candidates[0] not in sites[-1].feeds:
                    bounding[value.id] = candidates[0]
        return Correspondence(stands_for, bounding, frozenset(identical), tuple(sites))

    def inside(self, found: Correspondence, decisions: Decisions) -> tuple[Site, ...]:
        """Places between the sites: values that stand for nothing so far, and what they might stand for."""
        stands_for = found.stands_for
        between = {v.id for site in found.sites for node in site.nodes for v in node.outputs if v is not None}
        sites = []
        for node in self._after.nodes:
            for index, value in _outputs(node):
                if value.id in stands_for or value.id not in between or value.id in decisions:
                    continue
                candidates = self._candidates(node, index, decisions, stands_for)
                if candidates:
                    sites.append(self._site(node, value, candidates, found.bounding, found.identical))
        return tuple(sites)

    @property
    def names_are_mixed(self) -> bool:
        """Whether names that both models have follow each other otherwise than in the original, by and large.

        A tool that keeps names keeps their order; of names that are dealt out anew, half stand before the next one.
        """
        place = {v.name: i for i, node in enumerate(self._before.nodes) for _, v in _outputs(node)}
        ours = [v for node in self._after.nodes for _, v in _outputs(node) if v.id in self._after.varying]
        found = [place[value.name] for value in ours if value.name in place]
        pairs = list(pairwise(found))
        return sum(one < other for one, other in pairs) < _IN_ORDER * len(pairs)

    def _is_new(self, value: Value) -> bool:
        return self._names_are_kept and value.name not in self._before.names

    def _note(
        self, value: Value, stands_for: dict[int, Value], bounding: dict[int, Value], identical: set[int]
    ) -> bool:
        """Whether a value is computed as one of the original is; the one of its name, if several are."""
        same = self._by_print.get(self._known[value.id], ())
        if same and value.id in self._after.varying:
            stands_for[value.id] = bounding[value.id] = next((v for v in same if v.name == value.name), same[0])
            identical.add(value.id)
        return bool(same)

    def _site(
        self,
        node: Node,
        value: Value,
        candidates: tuple[Value, ...],
        bounding: Mapping[int, Value],
        identical: Set[int],
    ) -> Site:
        nodes, bounds = self._after.behind([value], bounding)
        taken = tuple(bounding[b.id] for b in bounds if b.id not in identical)
        return Site(value, node, nodes, bounds, tuple(bounding[b.id] for b in bounds), candidates, taken)

    def _candidates(
        self,
        node: Node,
        index: int,
        decisions: Decisions,
        stands_for: Mapping[int, Value],
    ) -> tuple[Value, ...]:
        value = node.outputs[index]
        if value is None or value.id not in self._after.varying:
            return ()
        if value.id in decisions:
            decided = decisions[value.id]
            return () if decided is None else (decided,)
        named = self._before.names.get(value.name)
        if self._after.graph.is_graph_output(value):
            return () if named is None or named.id not in self._before.varying else (named,)
        starts = [] if named is None or not self._by_name else [named]
        alike = self._by_kind.get(self._kind(self._after, node, self._known), ())
        starts += [v for other in alike[:_MOST_CANDIDATES] for v in [other.output(index)] if v is not None]
        if not starts:
            starts = [stands_for[bound.id] for bound in self._after.behind([value], stands_for)[1]]
        chain = {v.id: v for start in starts for v in self._chain(start)}
        computed = [v for v in chain.values() if self._before.graph.producer(v) is not None]
        ours = self._read_by(self._after, value)
        ranked = sorted(computed, key=lambda v: (self._read_by(self._before, v) != ours, v.name != value.name))
        return tuple(ranked[:_MOST_CANDIDATES])

    def _chain(self, start: Value) -> Iterator[Value]:
        """A value that varies, and what nodes that read nothing else that does make of it."""
        current: list[Value] = [start] if start.id in self._before.varying else []
        for _ in range(_LONGEST_CHAIN):
            yield from current
            nodes = [node for value in current for node in self._before.readers.get(value.id, ())]
            alone = [node for node in nodes if len(self._before.varying_needs(node)) == 1]
            current = [v for node in alone[:_MOST_CANDIDATES] for v in [node.output(0)] if v is not None]

    def _read_by(self, outline: Outline, value: Value) -> list[str]:
        """Who reads a value, and whether it is an output: what it is for."""
        readers = [node.op for node in outline.readers.get(value.id, ())]
        return sorted([*readers, *(["output"] if outline.graph.is_graph_output(value) else [])])

    def _kind(self, outline: Outline, node: Node, known: Mapping[int, Digest]) -> tuple[object, ...]:
        """An operator and the data it works on, whatever its constants are."""
        return node.op, tuple(_varying_operands(outline, node, known))


def _share_of_names(before: Outline, after: Outline) -> float:
    """How many of the names that nodes give to values that vary are names in the original, too."""
    made = [v.name for node in after.nodes for _, v in _outputs(node) if v.id in after.varying]
    return sum(name in before.names for name in made) / len(made) if made else 1.0


def _outputs(node: Node) -> Iterator[tuple[int, Value]]:
    return ((index, value) for index, value in enumerate(node.outputs) if value is not None)


def _varying_operands(outline: Outline, node: Node, known: Mapping[int, Digest]) -> Iterable[Digest]:
    return (known.get(value.id, b"") for value in outline.varying_needs(node))
