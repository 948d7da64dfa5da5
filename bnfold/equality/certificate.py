"""Tier 0: every constant of the written file against a float64 recomputation from the original's, without data.

It is independent of the code that folds: it reads the two files, its own reference of each operator, and a list of
claims (which node went where). For a home with claims 1..n behind it, per output channel,

    scale = a_n * ... * a_1        shift = a_n * (... a_2 * (a_1 * 0 + s_1) + s_2 ...) + s_n
    W'    = scale * W              b'    = scale * b + shift

and a written number passes where |written - reference| <= ulp/2 + 2*(K + 10)*2^-53 * (sum of the absolute terms), K
the number of terms. Everything outside the claims has to be unchanged (structure.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bnfold.equality.reference import (
    Constants,
    Float64,
    Labels,
    LinearMap,
    UncertainError,
    batch_normalization,
    follow,
    is_normalization,
    linear_map,
    reads_form_alone,
)
from bnfold.equality.structure import Claim, DeviationError, pair
from bnfold.graph import Graph
from bnfold.nodes import Node, Site

UNKNOWN_SIZES = (2, 3)
BLOCK = 1 << 20
BIAS_INDEX = 2


@dataclass(frozen=True, slots=True)
class HomeCheck:
    """One home: how many numbers were compared, and the worst deviation as a share of its bound (at most 1 passes)."""

    home: Site
    numbers: int
    worst: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was recomputed: the SHA-256 of both files, the claims, and one check per home. `failure` says what is wrong.

    `uncertain` says what could not be followed; a certificate with either does not hold.
    """

    before: str
    after: str
    claims: tuple[Claim, ...]
    homes: tuple[HomeCheck, ...] = ()
    failure: str | None = None
    failed_site: Site | None = None
    uncertain: str | None = None

    @property
    def holds(self) -> bool:
        """Whether every number passed and nothing else changed."""
        return self.failure is None and self.uncertain is None

    def to_json(self) -> dict[str, object]:
        """This certificate as JSON values: both hashes, each claim, and each home's worst share of its bound."""
        return {
            "before": self.before,
            "after": self.after,
            "holds": self.holds,
            "failure": self.failure,
            "uncertain": self.uncertain,
            "claims": [asdict(claim) for claim in self.claims],
            "homes": [asdict(check) for check in self.homes],
        }


class _WrongNumberError(Exception):
    def __init__(self, site: Site, sentence: str) -> None:
        super().__init__(sentence)
        self.site = site


def certify(before: Graph, after: Graph, claims: tuple[Claim, ...]) -> Certificate:
    """Check the claims on two models; the answer is in the certificate, nothing is raised for a wrong fold."""
    hashes = before.model.sha256, after.model.sha256
    checks: list[HomeCheck] = []
    try:
        pairing = pair(before, after, claims)
        originals, written = Constants(before), Constants(after)
        for home, steps in _steps(originals, before, claims).items():
            node = before.at(home)
            here, there = _Side.of(originals, node), _Side.of(written, pairing.nodes[node.id])
            _only_constants(here, pairing.rewired[node.id])
            checks.append(_checked(here, there, steps))
    except DeviationError as error:
        return Certificate(*hashes, claims, tuple(checks), failure=str(error))
    except _WrongNumberError as error:
        return Certificate(*hashes, claims, tuple(checks), failure=str(error), failed_site=error.site)
    except UncertainError as error:
        return Certificate(*hashes, claims, tuple(checks), uncertain=str(error))
    return Certificate(*hashes, claims, tuple(checks))


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One normalization as its home sees it: per output channel, scale, shift and the sizes of the shift's terms."""

    scale: Float64
    shift: Float64
    magnitude: Float64


def _steps(constants: Constants, graph: Graph, claims: tuple[Claim, ...]) -> dict[Site, list[_Step]]:
    """The steps of each home, in the order in which the values run through them."""
    order = {node.id: place for place, node in enumerate(graph.producers_first())}
    claimed = {graph.at(claim.site).id for claim in claims}
    steps: dict[Site, list[_Step]] = defaultdict(list)
    for claim in sorted(claims, key=lambda claim: order[graph.at(claim.site).id]):
        if len(claim.homes) != 1:
            raise UncertainError(f"{claim.site} has {len(claim.homes)} homes, which the certificate cannot follow")
        (home,) = claim.homes
        steps[home].append(_step(constants, graph, claim, graph.at(home), claimed))
    return steps


def _step(constants: Constants, graph: Graph, claim: Claim, home: Node, claimed: set[int]) -> _Step:
    normalization = batch_normalization(constants, graph.at(claim.site))
    path = [graph.at(site) for site in reversed(claim.path)]
    _connected(graph, [home, *path, graph.at(claim.site)], claimed)
    channel = _channel_of_output(constants, _map(constants, home), path, normalization.scale.size)
    return _Step(normalization.scale[channel], normalization.shift[channel], normalization.magnitude[channel])


def _connected(graph: Graph, nodes: list[Node], claimed: set[int]) -> None:
    """A claim's nodes follow each other, nothing else reads what lies between, and what they jump over is claimed."""
    for earlier, later in pairwise(nodes):
        value = earlier.output(0)
        if value is None or later.input(0) is not value:
            raise DeviationError(f"{later.site} does not read from {earlier.site}, as a claim says")
        others = [r.node for r in graph.readers(value) if r.node is not later and not reads_form_alone(r)]
        if others or graph.is_graph_output(value):
            raise DeviationError(f"{value.name!r} changes, and something else reads it")
    for node in nodes[1:]:
        if is_normalization(node) and node.id not in claimed:
            raise DeviationError(f"a claim passes {node.site}, which stays")


def _channel_of_output(constants: Constants, linear: LinearMap, path: list[Node], channels: int) -> Labels:
    """For each output channel of a home, the channel of the normalization behind the path."""
    found = [_followed(constants, linear, path, channels, unknown) for unknown in UNKNOWN_SIZES]
    if not np.array_equal(found[0], found[1]):
        raise UncertainError("which channel goes where depends on a size that is not known")
    return found[0]


def _followed(constants: Constants, linear: LinearMap, path: list[Node], channels: int, unknown: int) -> Labels:
    dims = [1] * linear.rank
    dims[linear.axis] = linear.channels
    labels = np.arange(linear.channels).reshape(dims)
    for node in path:
        labels = follow(constants, node, labels, unknown)
    if labels.ndim < 2 or labels.shape[1] not in {1, channels}:
        raise DeviationError(f"{channels} channels are normalised where the value has {labels.shape}")
    position = np.arange(channels).reshape(1, -1, *[1] * (labels.ndim - 2))
    labels, position = np.broadcast_arrays(labels, position)
    channel = np.full(linear.channels, -1)
    channel[labels.reshape(-1)] = position.reshape(-1)
    if not np.array_equal(channel[labels], position) or np.any(channel < 0):
        raise DeviationError("an output channel of a home serves more than one channel of a normalization, or none")
    return channel


def _map(constants: Constants, node: Node) -> LinearMap:
    def dims(index: int) -> tuple[int, ...] | None:
        value = node.input(index)
        return None if value is None else constants.shape(value)

    return linear_map(node, dims)


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """A home in one of the two models."""

    constants: Constants
    node: Node
    linear: LinearMap

    @classmethod
    def of(cls, constants: Constants, node: Node) -> _Side:
        return cls(constants, node, _map(constants, node))

    def weight(self) -> NDArray[np.generic]:
        value = self.node.inputs[self.linear.weight_index]
        if value is None:
            raise DeviationError(f"the weight of {self.node.site} is missing")
        return self.constants.array(value)

    def bias(self) -> NDArray[np.generic]:
        """The bias as something that broadcasts against the output; zeros where there is none."""
        value, rank = self.node.input(BIAS_INDEX), self.linear.rank
        if value is None:
            return np.zeros([1] * rank, self.weight().dtype)
        bias = self.constants.array(value)
        if not self.linear.vector_bias:
            return bias.reshape((1,) * (rank - bias.ndim) + bias.shape)
        if bias.shape != (self.linear.channels,):
            raise DeviationError(f"the bias of {self.node.site} has the shape {bias.shape}")
        return bias.reshape(1, -1, *[1] * (rank - 2))


def _only_constants(home: _Side, rewired: frozenset[int]) -> None:
    """A home reads what it read, but for its weight and its bias."""
    others = rewired - {home.linear.weight_index, BIAS_INDEX}
    if others:
        raise DeviationError(f"{home.node.site} reads something else at input {min(others)}")


def _checked(before: _Side, after: _Side, steps: list[_Step]) -> HomeCheck:
    """Both constants of a home against their references."""
    weights, weight = _weight_share(before, after, steps)
    biases, bias = _bias_share(before, after, steps)
    return HomeCheck(before.node.site, weights + biases, max(weight, bias))


def _weight_share(before: _Side, after: _Side, steps: list[_Step]) -> tuple[int, float]:
    """How many weights were compared, and the worst deviation as a share of its bound."""
    site, original, now = before.node.site, before.weight(), after.weight()
    ours, theirs = ((linear.weight_index, linear.factor[0]) for linear in (before.linear, after.linear))
    if ours != theirs or original.shape != now.shape or original.dtype != now.dtype:
        raise _WrongNumberError(site, f"the weight of {site} changed its place, shape or type")
    scale = np.prod([step.scale for step in steps], axis=0)
    factors = np.broadcast_to(scale[before.linear.channel], original.shape)
    worst = 0.0
    for piece in _pieces(original.shape):
        reference = factors[piece] * original[piece].astype(np.float64)
        share = _share(now[piece], reference, np.abs(reference), terms=len(steps))
        worst = max(worst, _within(share, site, "weight", now[piece], reference))
    return original.size, worst


def _bias_share(before: _Side, after: _Side, steps: list[_Step]) -> tuple[int, float]:
    """The same for the bias; an absent one is zero."""
    dims = [1] * before.linear.rank
    dims[before.linear.axis] = before.linear.channels
    now = after.bias()
    if after.linear.factor[1] != 1.0:
        now = now.astype(np.float64) * after.linear.factor[1]
    reference = before.bias().astype(np.float64) * before.linear.factor[1]
    magnitude = np.abs(reference)
    for step in steps:
        scale, shift, size = (v.reshape(dims) for v in (step.scale, step.shift, step.magnitude))
        reference, magnitude = reference * scale + shift, magnitude * np.abs(scale) + size
    reference, now, magnitude = np.broadcast_arrays(reference, now, magnitude)
    share = _share(now, reference, magnitude, terms=1 + 2 * len(steps))
    return reference.size, _within(share, before.node.site, "bias", now, reference)


def _share(now: NDArray[np.generic], reference: Float64, magnitude: Float64, *, terms: int) -> Float64:
    """|written - reference| as a share of ulp/2 + 2*(K + 10)*2^-53 * (sum of the absolute terms)."""
    with np.errstate(all="ignore"):
        half = np.maximum(_half_ulp(reference.astype(now.dtype)), _half_ulp(now))
        bound = half + 2 * (terms + 10) * 2.0**-53 * magnitude
        difference = np.abs(now.astype(np.float64) - reference)
        share = difference / bound
    share = np.where(np.isfinite(share), share, np.inf)
    return np.asarray(np.where(difference == 0, 0.0, share))


def _half_ulp(array: NDArray[np.generic]) -> Float64:
    return np.asarray(np.spacing(np.abs(array)).astype(np.float64) / 2)


def _within(share: Float64, site: Site, what: str, now: NDArray[np.generic], reference: Float64) -> float:
    """The worst share, or the error that names the number."""
    worst = float(np.max(share, initial=0.0))
    if worst <= 1.0:
        return worst
    index = np.unravel_index(int(np.argmax(share)), share.shape)
    at = [int(i) for i in index]
    sentence = f"the {what} of {site} at {at} is {now[index]!s}, and should be {reference[index]!s}"
    raise _WrongNumberError(site, sentence)


def _pieces(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the first axis of about BLOCK elements, so that a large weight is never held in float64."""
    rest = int(np.prod(shape[1:], dtype=np.int64))
    step = max(1, BLOCK // max(1, rest))
    for first in range(0, shape[0], step):
        yield slice(first, first + step)
