"""An affine passes layout exactly when each output channel of the weight meets one channel of the norm: brute force."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from folding_draws import Array, Kind, arrays, examples, statistics
from folding_support import assert_same_function, bits, fold, folded, inputs, model, norm, operands, scale_and_shift
from folding_support import weights as random_weights
from hypothesis import event, given
from hypothesis import strategies as st

PROVEN = {("passing", op) for op in ("Identity", "Dropout", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")}
OPSETS = (7, 8, 10, 12, 13, 14, 17, 21)


@dataclass(slots=True)
class Chain:
    """Layout operators as text, the shape operands they read, and what they do to numpy arrays."""

    opset: int
    shape: tuple[int, ...]
    lines: list[str] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)
    steps: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def add(self, op: str, argument: tuple[int, ...], attributes: str = "", operand: str = "") -> None:
        number = len(self.lines)
        self.lines.append(f"t{number + 1} = {op} {f'<{attributes}>' if attributes else ''} (t{number}{operand})")
        self.steps.append(("transpose" if op == "Transpose" else "reshape", argument))
        self.shape = self.apply(np.empty(self.shape), last=True).shape

    def apply(self, array: Array, *, last: bool = False) -> Array:
        for how, argument in self.steps[-1:] if last else self.steps:
            array = array.transpose(argument) if how == "transpose" else array.reshape(argument)
        return array

    def axes(self, op: str, axes: list[int], result: tuple[int, ...]) -> None:
        if self.opset < 13:
            self.add(op, result, f"axes = {axes}")
            return
        name = f"axes{len(self.lines)}"
        self.tensors[name] = np.array(axes, np.int64)
        self.add(op, result, operand=f", {name}")


def _reshape(draw: st.DrawFn, chain: Chain) -> None:
    dims = list(draw(st.permutations(_primes(math.prod(chain.shape)))))
    while len(dims) > 1 and (len(dims) > 5 or draw(st.booleans())):
        i = draw(st.integers(0, len(dims) - 2))
        dims[i : i + 2] = [dims[i] * dims[i + 1]]
    if draw(st.booleans()):
        dims = list(draw(st.sampled_from(_near(chain.shape))))
    written = list(dims)
    attributes = draw(st.sampled_from(["", "allowzero = 1"])) if chain.opset >= 14 else ""
    for i, size in enumerate(dims):
        if not attributes and i < len(chain.shape) and chain.shape[i] == size and draw(st.booleans()):
            written[i] = 0
    if draw(st.booleans()):
        written[draw(st.integers(0, len(dims) - 1))] = -1
    name = f"shape{len(chain.lines)}"
    chain.tensors[name] = np.array(written, np.int64)
    chain.add("Reshape", tuple(dims), attributes, f", {name}")


def _primes(number: int) -> list[int]:
    found = [d for d in (2, 3, 5) for _ in range(10) if number % d ** (_ + 1) == 0]
    return found or [1]


def _near(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes that merge two neighbours: those that real networks use."""
    merged = [(*shape[:i], shape[i] * shape[i + 1], *shape[i + 2 :]) for i in range(len(shape) - 1)]
    return [*merged, (*shape, 1), shape]


def _transpose(draw: st.DrawFn, chain: Chain) -> None:
    perm = tuple(draw(st.permutations(range(len(chain.shape)))))
    if perm == tuple(reversed(range(len(perm)))) and draw(st.booleans()):
        chain.add("Transpose", perm)
    else:
        chain.add("Transpose", perm, f"perm = {list(perm)}")


def _squeeze(draw: st.DrawFn, chain: Chain) -> None:
    ones = [i for i, n in enumerate(chain.shape) if n == 1]
    chosen = sorted(draw(st.sets(st.sampled_from(ones), min_size=1))) if ones else []
    result = tuple(n for i, n in enumerate(chain.shape) if i not in chosen)
    if not chosen or not result:
        return
    if chosen == ones and draw(st.booleans()):
        chain.add("Squeeze", result)
        return
    negative = draw(st.booleans()) and chain.opset >= 11
    chain.axes("Squeeze", [i - len(chain.shape) if negative else i for i in chosen], result)


def _unsqueeze(draw: st.DrawFn, chain: Chain) -> None:
    rank = len(chain.shape) + 1
    axis = draw(st.integers(0, rank - 1))
    negative = draw(st.booleans()) and chain.opset >= 11
    chain.axes("Unsqueeze", [axis - rank if negative else axis], (*chain.shape[:axis], 1, *chain.shape[axis:]))


def _flatten(draw: st.DrawFn, chain: Chain) -> None:
    axis = draw(st.integers(0, len(chain.shape)))
    result = (math.prod(chain.shape[:axis]), math.prod(chain.shape[axis:]))
    chain.add("Flatten", result, f"axis = {axis}")


def _identity(draw: st.DrawFn, chain: Chain) -> None:
    dropout = ["Dropout"] if chain.opset < 13 else ["Dropout", "Dropout, ratio", "Dropout, ratio, off"]
    op, *operand = draw(st.sampled_from(["Identity", *dropout])).split(",")
    chain.tensors |= {"ratio": np.float32(0.5).reshape(()), "off": np.array(False)} if operand else {}
    chain.add(op, chain.shape, operand="".join(f",{name}" for name in operand))


STEPS = [_identity, _transpose, _transpose, _reshape, _reshape, _squeeze, _unsqueeze, _flatten]


@st.composite
def chains(draw: st.DrawFn) -> tuple[Chain, str, tuple[int, ...], Array]:
    """A Conv or Gemm of static shape and a chain of layout operators after it, of a result of rank 2 or more."""
    opset = draw(st.sampled_from(OPSETS))
    channels, batch = draw(st.sampled_from([1, 2, 3, 4, 6])), draw(st.sampled_from([1, 2, 3]))
    extents = draw(st.sampled_from([(), (1,), (2,), (5,), (1, 1), (2, 2), (2, 3)]))
    op = "Conv (x, W, b)" if extents else "Gemm <transB = 1> (x, W, b)"
    chain = Chain(opset, (batch, channels, *extents))
    for _ in range(draw(st.integers(1, 4))):
        draw(st.sampled_from(STEPS))(draw, chain)
    if len(chain.shape) == 1:
        _unsqueeze(draw, chain)
    weight = draw(arrays((channels, 2, *[1] * len(extents)), np.float32))
    return chain, op, (batch, 2, *extents), weight


@examples(400)
@given(chains(), st.data())
def test_a_norm_behind_layout_folds_exactly_when_each_weight_channel_meets_one_of_its_channels(
    drawn: tuple[Chain, str, tuple[int, ...], Array], data: st.DataObject
) -> None:
    chain, op, x_shape, weight = drawn
    outputs = (x_shape[0], weight.shape[0], *x_shape[2:])
    ours = chain.apply(np.broadcast_to(np.arange(outputs[1]).reshape(1, -1, *[1] * (len(outputs) - 2)), outputs))
    theirs = np.broadcast_to(np.arange(chain.shape[1]).reshape(1, -1, *[1] * (len(chain.shape) - 2)), chain.shape)
    meets = [sorted(set(theirs[ours == channel].tolist())) for channel in range(outputs[1])]
    parameters = data.draw(statistics(chain.shape[1], Kind(np.float32, np.float32, chain.opset)))
    parameters["g"] = np.linspace(0.5, 1.5, chain.shape[1], dtype=np.float32)  # no two channels alike by accident
    parameters["v"] = np.linspace(1.0, 1.1, chain.shape[1], dtype=np.float32)
    tensors = {"W": weight, "b": random_weights(len(weight)), **chain.tensors, **parameters}
    before = model(
        f"(float{list(x_shape)} x) => (float[] y) {{ t0 = {op}  {' '.join(chain.lines)}"
        f" y = BatchNormalization (t{len(chain.lines)}, g, be, m, v) }}",
        opset=chain.opset,
        **tensors,
    )
    possible = all(len(channels) == 1 for channels in meets)
    event("folds" if possible else "stays")
    after = fold(before)
    assert len(after.plan.moves) == possible, after.plan.refusals
    if not possible:
        assert after.plan.refusals[0].reason.code in {"axis-not-owned", "layout-lost"}
        return
    a, s = (vector[[channels[0] for channels in meets]] for vector in scale_and_shift(parameters))
    _, new_weight, new_bias = operands(after.proto, op.split()[0])
    exact = weight.astype(np.float64) * a.reshape(-1, *[1] * (weight.ndim - 1))
    assert bits(new_weight) == bits(exact.astype(np.float32))
    assert bits(new_bias) == bits((tensors["b"].astype(np.float64) * a + s).astype(np.float32))
    assert_same_function(before, after.proto, inputs(before), 3)


KNOWN = {
    "dcgan: Gemm, Reshape to an image, norm per element of a channel": (
        """(float[N,3] x) => (float[] y) { p = Gemm (x, W)  t = Reshape (p, to)
        y = BatchNormalization (t, g, be, m, v) }""",
        {"W": (3, 8), "to": [-1, 2, 2, 2]},
        2,
        lambda a: a.repeat(4),
    ),
    "an island of NHWC: Conv, Transpose, norm on the last axis moved back": (
        """(float[N,3,5,5] x) => (float[] y) { c = Conv (x, W)  t = Transpose <perm = [0,2,3,1]> (c)
        u = Transpose <perm = [0,3,1,2]> (t)  y = BatchNormalization (u, g, be, m, v) }""",
        {"W": (4, 3, 1, 1)},
        4,
        lambda a: a,
    ),
    "a Conv in one dimension, seen as two": (
        """(float[N,3,L] x) => (float[] y) { c = Conv (x, W)  t = Unsqueeze (c, last)
        y = BatchNormalization (t, g, be, m, v) }""",
        {"W": (4, 3, 1), "last": [-1]},
        4,
        lambda a: a,
    ),
    "global features: Conv, Squeeze, norm on a matrix": (
        """(float[N,3,1,1] x) => (float[] y) { c = Conv (x, W)  t = Squeeze (c, image)
        y = BatchNormalization (t, g, be, m, v) }""",
        {"W": (4, 3, 1, 1), "image": [-1, 2]},
        4,
        lambda a: a,
    ),
    "channel shuffle": (
        """(float[2,3,5,5] x) => (float[] y) { c = Conv (x, W)  t = Reshape (c, split)
        u = Transpose <perm = [0,2,1,3,4]> (t)  w = Reshape (u, merge)  y = BatchNormalization (w, g, be, m, v) }""",
        {"W": (6, 3, 1, 1), "split": [2, 2, 3, 5, 5], "merge": [2, -1, 5, 5]},
        6,
        lambda a: a.reshape(3, 2).T.reshape(-1),
    ),
    "channel shuffle of unknown batch and image, shapes copied": (
        """(float[N,3,H,W_] x) => (float[] y) { c = Conv (x, W)  t = Reshape (c, split)
        u = Transpose <perm = [0,2,1,3,4]> (t)  w = Reshape (u, merge)  y = BatchNormalization (w, g, be, m, v) }""",
        {"W": (6, 3, 1, 1), "split": [0, 2, 3, -1, 7], "merge": [0, 6, -1, 7]},
        6,
        lambda a: a.reshape(3, 2).T.reshape(-1),
    ),
    "Flatten of one pixel": (
        """(float[N,3,1,1] x) => (float[] y) { c = Conv (x, W)  t = Flatten (c)
        y = BatchNormalization (t, g, be, m, v) }""",
        {"W": (4, 3, 1, 1)},
        4,
        lambda a: a,
    ),
    "rows as points: Gemm over N*L rows, then (N, L, C) moved to (N, C, L)": (
        """(float[6,3] x) => (float[] y) { p = Gemm (x, W)  t = Reshape (p, to)  u = Transpose <perm = [0,2,1]> (t)
        y = BatchNormalization (u, g, be, m, v) }""",
        {"W": (3, 4), "to": [2, 3, 4]},
        4,
        lambda a: a,
    ),
}


@pytest.mark.parametrize("case", KNOWN)
def test_layouts_that_real_networks_hold_fold(case: str) -> None:
    text, tensors, channels, spread = KNOWN[case]
    held = {k: random_weights(*v) if isinstance(v, tuple) else v for k, v in tensors.items()}
    before = model(text, **held, **norm(channels))
    after = folded(before)
    op = after.ops[0]
    a, _ = scale_and_shift(norm(channels))
    shape = (1, -1) if op == "Gemm" else (-1, *[1] * (held["W"].ndim - 1))
    exact = held["W"].astype(np.float64) * spread(a).reshape(shape)
    assert bits(operands(after.proto, op)[1]) == bits(exact.astype(np.float32))
    assert_same_function(before, after.proto, inputs(before, H=7, W_=7, L=5), 4)
