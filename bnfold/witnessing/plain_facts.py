"""What shows a refusal without any number (who else reads a value, what is fed, what trains), or that nothing does."""

from __future__ import annotations

from collections.abc import Mapping

from bnfold.moves import Refusal
from bnfold.nodes import Node
from bnfold.ops.facts import Facts, reads_metadata_alone
from bnfold.witnessing.values import Witness
from bnfold.witnessing.ways import LONGEST, Walk

FACTS: Mapping[str, str] = {
    "training-mode": "trains",
    "spatial-zero": "parameters per element",
    "is-test-zero": "may train",
    "not-constant": "not constant",
    "overridable": "a caller may replace it",
    "quantized": "stored as integers",
    "sparse": "stored sparse",
    "broken-parameters": "parameters that do not fit",
    "not-finite": "NaN or infinity",
    "variance-not-positive": "no square root",
    "no-home": "no layer",
    "function-call": "a call",
    "several-ways": "several ways",
    "other-readers": "another reader",
    "graph-output": "an output of the graph",
    "outer-scope": "another graph",
    "constant-stays": "a constant on the way",
    "padding-unknown": "a size that is not known",
    "layout-lost": "shapes that mix or are not known",
    "broken-bias": "a bias that does not fit",
    "broken-layer": "a weight that does not fit",
    "type": "a type that is not folded",
    "skipped": "asked to stay",
    "kept": "a neighbour that was asked to stay",
}
"""Reasons that a plain fact shows, and that fact in a few words."""

NOTHING: Mapping[str, tuple[str, str]] = {
    "no-gain": ("no difference", "folding it would be the same function, with as many nodes: no input shows anything"),
    "search-limit": ("no difference", "folding it might be the same function: a limit of the search, and no rule"),
    "old-opset": (
        "not looked at",
        "rules of before opset 7 are not followed: what a fold would give is open",
    ),
    "mismatch": ("the verdict", "what differed stands in the verdict of the verification that led to this"),
}
"""Reasons that nothing shows: a few words, and the sentence that says why not."""

BROKEN = frozenset({"broken-parameters", "broken-bias", "broken-layer"})


def plain(facts: Facts, refusal: Refusal, walk: Walk | None) -> Witness | None:
    """The fact behind a refusal, or that there is none; None where numbers have to show it."""
    code = refusal.reason.code
    if code in NOTHING:
        return Witness(refusal, "none", *NOTHING[code])
    if code not in FACTS:
        return None
    names = _names(facts, refusal, walk)
    sentence = refusal.detail
    if code in BROKEN:
        sentence += ": onnxruntime refuses to run it"
    if code == "other-readers" and names:
        sentence += f", among them {names[0]}"
    return Witness(refusal, "fact", FACTS[code], sentence, names)


def _names(facts: Facts, refusal: Refusal, walk: Walk | None) -> tuple[str, ...]:
    """What shows the fact: all that reads a value besides, or the node to blame."""
    own = (str(refusal.blamed or refusal.site),)
    if refusal.reason.code == "not-constant":
        return _sources(facts, facts.graph.at(refusal.blamed or refusal.site)) or own
    if refusal.reason.code != "other-readers" or walk is None:
        return own
    walk.reached()
    for value in walk.seen:
        readers = [reader.node for reader in facts.graph.readers(value) if not reads_metadata_alone(reader)]
        if walk.blamed in readers:
            return tuple(dict.fromkeys(str(node.site) for node in (walk.blamed, *_others(readers, walk))))
    return own


def _sources(facts: Facts, node: Node) -> tuple[str, ...]:
    """The values on which the parameters of a node depend and that nothing computes: what a caller feeds."""
    pending = [value for value in node.inputs[1:] if value is not None and not facts.is_constant(value)]
    found: dict[int, str] = {}
    seen: set[int] = set()
    while pending and len(seen) < LONGEST:
        value = pending.pop()
        if value.id in seen or facts.is_constant(value):
            continue
        seen.add(value.id)
        made_by = facts.graph.producer(value)
        if made_by is None:
            found[value.id] = value.name
        else:
            pending += [operand for operand in made_by.inputs if operand is not None]
    return tuple(name for _, name in sorted(found.items()))


def _others(readers: list[Node], walk: Walk) -> list[Node]:
    return [node for node in readers if node is not walk.affine.node]
