"""One case is one seed: what it draws, and what bnfold.verify says of it.

A `Case` holds two models; a `Finding` is small and travels between processes. `bnfold.verify(before, after)` gets the
two models and nothing else. A seed always draws the same case.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import correct
import faults
import legal
import nets
import numpy as np
import onnx
from correct import Names, Style

import bnfold

COMBINATIONS = tuple(
    (kind, family)
    for family_shift in range(len(nets.FAMILIES))
    for kind_place, kind in enumerate(faults.KINDS)
    for family in [nets.FAMILIES[(kind_place + family_shift) % len(nets.FAMILIES)]]
    if faults.applies(kind, family)
)
"""Every kind with every family, so ordered that few cases already have many of both."""
ATTEMPTS = 400
INT8 = {"quantised"}
"""float16 cannot be quantised before opset 19."""
STYLES: dict[str, Callable[[int], Style]] = {
    "BN's name kept": lambda seed: Style("norm", order=seed if seed % 2 else None),
    "Conv's name kept": lambda seed: Style("home", order=seed if seed % 2 else None),
    "no name kept": lambda seed: Style("fresh", order=seed),
    "names of other values": lambda seed: Style("clashing", order=seed),
    "bias in an Add": lambda seed: Style(("norm", "home", "fresh")[seed % 3], added=True),
}
BNFOLD = "bnfold fold"
CORRECT = (*STYLES, BNFOLD, *legal.RULES)


@dataclass(frozen=True, slots=True)
class Case:
    """Two models, and how they were drawn."""

    seed: int
    kind: str
    family: str
    before: onnx.ModelProto = field(repr=False)
    after: onnx.ModelProto = field(repr=False)
    net: nets.Net | None = field(default=None, repr=False)
    traits: tuple[str, ...] = ()

    def feeds(self) -> dict[str, np.ndarray] | None:
        """A few samples of the probe in the size that the model takes; None for a case without a net."""
        if self.net is None:
            return None
        batch = self.before.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        return {"x": self.net.values["x"][-(batch or 3) :]}


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a case: `same`, `differs`, `unknown`; or `not drawn`, or `error`, a verify that raised."""

    seed: int
    kind: str
    family: str
    traits: tuple[str, ...]
    word: str
    sentence: str = ""
    seconds: float = 0.0


def combination(seed: int) -> tuple[str, str]:
    """The kind and family of a wrong fold's seed."""
    return COMBINATIONS[seed % len(COMBINATIONS)]


def wrong(seed: int, *, names: Names | None = None, deepest: int = 61) -> Case:
    """The wrong fold of this seed; `names` and `deepest` restrict what it may draw."""
    kind, family = combination(seed)
    given = np.random.default_rng([seed, 0])
    everywhere = bool(given.random() < 0.4)
    half = bool(given.random() < 0.25) and kind not in faults.FLOAT32_ALONE
    chosen: Names = names or ("norm" if given.random() < 0.6 else "home")
    depth = depth_of(given, deepest)
    for attempt in range(1, ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        net = drawn_net(rng, family, half=half, depth=depth)
        placed = faults.placed(net, kind, everywhere=everywhere, names=chosen, rng=rng) if net else {}
        if net and placed:
            extent = "all layers" if everywhere else "one layer"
            traits = (extent, net.dtype, net.statistics, depth_class(depth), f"names: {chosen}")
            where = "" if everywhere else next(f" at {one}" for one in placed)
            after = correct.folded(net, Style(chosen), placed)
            return Case(seed, kind, family, net.model, after, net, (*traits, f"{depth} layers{where}"))
    raise nets.Unsuitable(f"seed {seed}: no {kind} that counts was drawn for {family}")


def right(seed: int, *, kind: str | None = None, deepest: int = 61) -> Case:
    """The correct fold, or other correct rewriting, of this seed."""
    kind = kind or CORRECT[seed % len(CORRECT)]
    given = np.random.default_rng([seed, 1])
    half = bool(given.random() < 0.25)
    if kind in legal.RULES:
        dtype = "float16" if half and kind not in legal.FLOAT32_ALONE else "float32"
        before, after = legal.drawn(kind, given, dtype)
        return Case(seed, kind, "rewriting", before, after, traits=(dtype,))
    # By the round and not by the seed, or a kind would meet some of the families alone.
    family = nets.FAMILIES[(seed // len(CORRECT) + seed % len(CORRECT)) % len(nets.FAMILIES)]
    net, depth = net_of(given, family, half=half, deepest=deepest)
    after = folded_by(kind, net, seed)
    traits = (net.dtype, net.statistics, depth_class(depth), f"{depth} layers")
    return Case(seed, kind, family, net.model, after, net, traits)


def folded_by(kind: str, net: nets.Net, seed: int) -> onnx.ModelProto:
    """The net as the fold of this name leaves it; itself if there is none of the name (a peer will fold it)."""
    if kind == BNFOLD:
        return bnfold.fold(net.model, verify="off").to_proto()
    return correct.folded(net, STYLES[kind](seed)) if kind in STYLES else net.model


def deep_epsilon(seed: int) -> Case:
    """61 Convs, and one epsilon forgotten in one of them."""
    for attempt in range(1, ATTEMPTS):
        rng = np.random.default_rng([seed, attempt, 61])
        net = drawn_net(rng, "conv", half=False, depth=61, statistics="ordinary")
        kind = "epsilon forgotten"
        placed = faults.placed(net, kind, everywhere=False, names="norm", rng=rng) if net else {}
        if net and placed:
            place = next(k for k, layer in enumerate(net.layers) if layer.norm in placed)
            traits = (f"layer {place + 1} of {len(net.layers)}",)
            return Case(seed, kind, "conv", net.model, correct.folded(net, Style(), placed), net, traits)
    raise nets.Unsuitable(f"seed {seed}: no network of 61 layers")


def net_of(rng: np.random.Generator, family: str, *, half: bool, deepest: int) -> tuple[nets.Net, int]:
    """The first net of these that is fit to be used, and its depth."""
    for _ in range(ATTEMPTS):
        depth = depth_of(rng, deepest)
        net = drawn_net(rng, family, half=half, depth=depth)
        if net:
            return net, depth
    raise nets.Unsuitable(f"no net of {family}")


def drawn_net(
    rng: np.random.Generator, family: str, *, half: bool, depth: int, statistics: str | None = None
) -> nets.Net | None:
    """A net, or None where this draw came to nothing."""
    statistics = statistics or str(rng.choice(nets.STATISTICS))
    try:
        return nets.draw(rng, family, statistics, "float16" if half and family not in INT8 else "float32", depth)
    except nets.Unsuitable:
        return None


def depth_of(rng: np.random.Generator, deepest: int) -> int:
    """3 to 8 layers in four of ten, 15 to 30 in four, up to 61 in two."""
    low, high = ((3, 8), (15, 30), (31, 61))[int(rng.choice(3, p=(0.4, 0.4, 0.2)))]
    return int(rng.integers(min(low, deepest), min(high, deepest) + 1))


def depth_class(depth: int) -> str:
    return "3 to 8 deep" if depth <= 8 else "to 30 deep" if depth <= 30 else "to 61 deep"


def examined(draw: Callable[[int], Case], seed: int) -> Finding:
    """What verify says of the case that `draw` makes of a seed."""
    try:
        case = draw(seed)
    except nets.Unsuitable as error:
        return Finding(seed, "none", "none", (), "not drawn", str(error))
    return judged(case)


def judged(case: Case) -> Finding:
    """What verify says of a case."""
    start = time.perf_counter()
    try:
        verdict = bnfold.verify(case.before, case.after)
    except Exception as error:  # noqa: BLE001  # whatever it is, verify must not raise on a model that is fine
        word, sentence = "error", f"{type(error).__name__}: {error}"
    else:
        word = verdict.word
        sentence = getattr(verdict, "sentence", "") or getattr(verdict, "why", "")
    return Finding(case.seed, case.kind, case.family, case.traits, word, sentence, time.perf_counter() - start)
