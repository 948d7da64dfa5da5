"""Pairs of a model and its fold, both written by hand: ONNX text for the nodes, numpy in float64 for the numbers.

Nothing here is made by bnfold. `Draw(exact=True)` draws numbers of which every sum and product is exact in float32,
so that a right pair computes the very same outputs, bit for bit; other draws have to be rounded, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import ml_dtypes
import numpy as np
import onnx
from certificate_folds import copied, parsed, put

from bnfold.equality.certificate import Certificate, certify
from bnfold.equality.claim import Claim, Merging
from bnfold.graph import Graph
from bnfold.model import read

ELEMENTS = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
Arrays = Mapping[str, np.ndarray]


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Float64 numbers rounded once; by way of float32 a bfloat16 would be rounded twice, so that one is made odd."""
    values = np.asarray(values, np.float64)
    if dtype != ELEMENTS["bfloat16"]:
        return values.astype(dtype)
    toward_zero = values.astype(np.float32)
    too_large = np.abs(toward_zero.astype(np.float64)) > np.abs(values)
    toward_zero = np.where(too_large, np.nextafter(toward_zero, np.float32(0)), toward_zero)
    sticky = (toward_zero.astype(np.float64) != values).astype(np.uint32)
    return (toward_zero.view(np.uint32) | sticky).view(np.float32).astype(dtype)


@dataclass
class Draw:
    """Where a pair takes its numbers from. `epsilon` is the model's, `used` the one that the fold reckons with."""

    seed: int = 0
    element: str = "float"
    exact: bool = False
    used: float | None = None
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    @property
    def dtype(self) -> np.dtype:
        return ELEMENTS[self.element]

    @property
    def epsilon(self) -> float:
        return 0.0 if self.exact else float(np.float32(1e-5))

    def weights(self, *shape: int) -> np.ndarray:
        values = self.random.integers(-4, 5, shape) if self.exact else self.random.standard_normal(shape)
        return rounded(np.asarray(values, np.float64), self.dtype)

    def factors(self, *shape: int) -> np.ndarray:
        """Numbers that are not zero and may be divided by, of either sign."""
        signs = self.random.choice([-1.0, 1.0], shape)
        sizes = 2.0 ** self.random.integers(-1, 3, shape) if self.exact else self.random.uniform(0.5, 2, shape)
        return rounded(signs * sizes, self.dtype)

    def terms(self, *shape: int) -> np.ndarray:
        values = self.random.integers(-8, 9, shape) / 2 if self.exact else self.random.standard_normal(shape)
        return rounded(np.asarray(values, np.float64), self.dtype)

    def normalization(self, channels: int, suffix: str = "") -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """The parameters g, e, m, v of a BatchNormalization, and its scale and shift in float64."""
        spread = self.random.uniform(0.3, 2, channels)
        var = 4.0 ** self.random.integers(-1, 2, channels) if self.exact else spread
        found = {"g": self.factors(channels), "e": self.terms(channels), "m": self.terms(channels)}
        found["v"] = rounded(var, self.dtype)
        gamma, beta, mean, var = (wide(values) for values in found.values())
        scale = gamma / np.sqrt(var + (self.epsilon if self.used is None else self.used))
        return {name + suffix: values for name, values in found.items()}, scale, beta - mean * scale


def wide(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).astype(np.float64)


@dataclass(frozen=True)
class Pair:
    """A model, its fold, and what the fold did. `new` are the names of the constants that are the fold's own.

    `mergings` are convolutions that became one, after all that the claims say.
    """

    before: onnx.ModelProto
    after: onnx.ModelProto
    claims: tuple[Claim, ...]
    new: tuple[str, ...]
    mergings: tuple[Merging, ...] = ()

    def certificate(
        self,
        after: onnx.ModelProto | None = None,
        *,
        claimed: tuple[Claim, ...] | None = None,
        assume_inference: bool = False,
    ) -> Certificate:
        """What the certificate says of a candidate (default: the right one) under the claims."""
        graphs = (Graph.of(read(model)) for model in (self.before, self.after if after is None else after))
        said = (self.claims if claimed is None else claimed), self.mergings
        return certify(*graphs, *said, assume_inference=assume_inference)


def pair_of(  # noqa: PLR0913  # a pair is that many things, and each is named where it is given
    draw: Draw,
    interface: str,
    before: str,
    after: str,
    claims: str | Sequence[str],
    *,
    shared: Arrays | None = None,
    old: Arrays | None = None,
    new: Arrays | None = None,
    opset: int = 17,
) -> Pair:
    """A pair from ONNX text: `float` is the drawn type, `BN` a BatchNormalization, a new constant is rounded here."""
    models = []
    written = {
        name: values if values.dtype.kind in "iu" or values.dtype != np.float64 else rounded(values, draw.dtype)
        for name, values in (new or {}).items()
    }
    for body, constants in ((before, old or {}), (after, written)):
        text = f"{interface} {{ {body} }}".replace("float[", f"{draw.element}[")
        text = text.replace("BN(", f"BatchNormalization<epsilon={draw.epsilon!r}>(")
        models.append(put(parsed(text, opset=opset, ir=10), **(shared or {}), **constants))
    lines = [claims] if isinstance(claims, str) else claims
    return Pair(*models, tuple(claimed(models[0], line) for line in lines), tuple(written))


def read_besides(pair: Pair, name: str) -> Pair:
    """The same pair, where something else reads a value of the original, and in the fold what became of it: `y`."""
    models = [copied(model) for model in (pair.before, pair.after)]
    for model, read_there in zip(models, (name, "y"), strict=True):
        model.graph.node.add(op_type="Relu", input=[read_there], output=["besides"])
        model.graph.output.add().CopyFrom(model.graph.output[0])
        model.graph.output[-1].name = "besides"
    return replace(pair, before=models[0], after=models[1])


def fed_otherwise(pair: Pair, *places: tuple[int, int, int]) -> Pair:
    """The same pair, where nodes read another input of the same shape: (0 for the original or 1, node, its input)."""
    models = [copied(model) for model in (pair.before, pair.after)]
    for model in models:
        model.graph.input.add().CopyFrom(model.graph.input[0])
        model.graph.input[-1].name = "other"
    for which, node, index in places:
        models[which].graph.node[node].input[index] = "other"
    return replace(pair, before=models[0], after=models[1])


def ahead_pair(  # noqa: PLR0913  # as above
    draw: Draw,
    interface: str,
    before: str,
    after: str,
    claims: str | list[str],
    *,
    old: Arrays,
    new: Arrays,
    shared: Arrays,
) -> Pair:
    """A pair whose claims lead forward."""
    found = pair_of(draw, interface, before, after, claims, old=old, new=new, shared=shared)
    return replace(found, claims=tuple(replace(claim, ahead=True, unshifted=()) for claim in found.claims))


def merged(model: onnx.ModelProto, site: str, home: str, joint: str) -> Merging:
    """The convolution that puts out `site` went into the one that puts out `home`; `joint` was the sum of both."""
    nodes = {node.proto.output[0]: node.site for node in Graph.of(read(model)).nodes}
    return Merging(nodes[site], nodes[home], nodes[joint])


def claimed(model: onnx.ModelProto, line: str) -> Claim:
    """`n: t u -> c` claims that the node that puts out n went by way of those that put out t and u to that of c."""
    found = {node.proto.output[0]: node for node in Graph.of(read(model)).nodes}
    nodes = {name: node.site for name, node in found.items()}
    way, _, homes = line.partition("->")
    site, _, path = way.partition(":")
    passed, settled = (tuple(nodes[name] for name in names.split()) for names in (path, homes))
    gone = found[site.strip()].proto
    constants = {tensor.name for tensor in model.graph.initializer}
    data = next((i for i, name in enumerate(gone.input) if name not in constants), 0)
    return Claim(nodes[site.strip()], passed, settled, settled[1:], data=data)
