"""LSTM, GRU and RNN for the tests of the folding side: draws of them, and what they compute, in float64.

`Recurrent.outputs` is written from ONNX's text, gate by gate; that onnxruntime computes the same is a test of its own.
The jitter of verification.md is the bound: how far outputs move where every constant is rounded otherwise.

    floor = max(4u*||y||, RMS of three draws of ||y(c*(1 + xi*2u*U[0,1])) - y||)        at most 4 floors apart
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from folding_draws import Array, Kind, arrays
from folding_support import HALF_UNIT, run
from hypothesis import strategies as st
from onnx import numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
MOST_FLOORS = 4.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the data: input, sequence, batch; and how they lie (1: batch first)."""

    inputs: int
    steps: int
    batch: int
    layout: int = 0


@dataclass(frozen=True, slots=True)
class Parts:
    """What one direction has besides W and Wb: R, Rb, peepholes, activations."""

    r: Array
    rb: Array
    p: Array
    own: list[Callable[[Array], Array]]


@dataclass(slots=True)
class Recurrent:
    """One node as text in which `{x}` is its data, and all its constants; `lengths` are those of the sequences."""

    op: str
    text: str
    tensors: dict[str, Array]
    hidden: int
    direction: str
    layout: int
    activations: tuple[str, ...]
    clip: float
    before_reset: bool
    coupled: bool
    lengths: Array | None
    feeds: dict[str, Array] = field(default_factory=dict)

    @property
    def directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1

    def outputs(self, data: Array, held: Mapping[str, Array]) -> Array:
        """Y as [sequence, directions, batch, hidden], in float64."""
        x = np.asarray(data, np.float64)
        x = x.swapaxes(0, 1) if self.layout else x
        steps, batch = x.shape[:2]
        lengths = np.full(batch, steps) if self.lengths is None else self.lengths
        y = np.zeros((steps, self.directions, batch, self.hidden))
        for d in range(self.directions):
            backwards = self.direction == "reverse" or d == 1
            for b in range(batch):
                order = range(lengths[b])
                states = [first[b, d] if self.layout else first[d, b] for first in self.first_states(batch, held)]
                for t in reversed(order) if backwards else order:
                    states = self.step(x[t, b], states, d, held)
                    y[t, d, b] = states[0]
        return y

    def first_states(self, batch: int, held: Mapping[str, Array]) -> list[Array]:
        form = (batch, self.directions, self.hidden) if self.layout else (self.directions, batch, self.hidden)
        return [held.get(name, np.zeros(form)).astype(np.float64) for name in ("h0", "c0")[: STATES[self.op]]]

    def step(self, x: Array, states: list[Array], d: int, held: Mapping[str, Array]) -> list[Array]:
        """The states after one step of one direction."""
        w, r = (held[name].astype(np.float64)[d] for name in ("W", "R"))
        bias = held["B"].astype(np.float64)[d] if "B" in held else np.zeros(2 * len(w))
        peepholes = held["P"].astype(np.float64)[d] if "P" in held else np.zeros(3 * self.hidden)
        own = [function(name) for name in self.activations[d * ACTIVATIONS[self.op] : (d + 1) * ACTIVATIONS[self.op]]]
        gates = {"LSTM": self.lstm, "GRU": self.gru, "RNN": self.rnn}[self.op]
        return gates(w @ x + bias[: len(w)], states, Parts(r, bias[len(w) :], peepholes, own))

    def clipped(self, values: Array) -> Array:
        return np.clip(values, -self.clip, self.clip) if self.clip else values

    def lstm(self, xw: Array, states: list[Array], parts: Parts) -> list[Array]:
        (h, c), (f, g, out) = states, parts.own
        to_i, to_o, to_f, to_c = np.split(xw + parts.r @ h + parts.rb, 4)
        pi, po, pf = np.split(parts.p, 3)
        i = f(self.clipped(to_i + pi * c))
        forget = 1 - i if self.coupled else f(self.clipped(to_f + pf * c))
        c = forget * c + i * g(self.clipped(to_c))
        return [f(self.clipped(to_o + po * c)) * out(c), c]

    def gru(self, xw: Array, states: list[Array], parts: Parts) -> list[Array]:
        (h,), (f, g) = states, parts.own
        xz, xr, xh = np.split(xw, 3)
        rz, rr, rh = np.split(parts.r, 3)
        bz, br, bh = np.split(parts.rb, 3)
        z, reset = f(self.clipped(xz + rz @ h + bz)), f(self.clipped(xr + rr @ h + br))
        inner = reset * (rh @ h + bh) if self.before_reset else rh @ (reset * h) + bh
        return [(1 - z) * g(self.clipped(xh + inner)) + z * h]

    def rnn(self, xw: Array, states: list[Array], parts: Parts) -> list[Array]:
        (h,), (f,) = states, parts.own
        return [f(self.clipped(xw + parts.r @ h + parts.rb))]


ACTIVATIONS = {"LSTM": 3, "GRU": 2, "RNN": 1}
"""How many activations each direction has."""

DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def function(name: str) -> Callable[[Array], Array]:
    """An activation of ONNX's text."""
    return {
        "Sigmoid": lambda v: 0.5 * (1 + np.tanh(v / 2)),
        "Tanh": np.tanh,
        "Softsign": lambda v: v / (1 + np.abs(v)),
    }[name]


@st.composite
def recurrents(draw: st.DrawFn, op: str, kind: Kind, sizes: Sizes) -> Recurrent:
    """One with everything optional there or not: B, lengths, initial states, peepholes, clip, other activations."""
    layout, steps, batch = sizes.layout, sizes.steps, sizes.batch
    hidden = draw(st.integers(1, 3))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    directions, rows = 2 if direction == "bidirectional" else 1, GATES[op] * hidden
    tensors = {"W": draw(arrays((directions, rows, sizes.inputs), kind.data)) / 4}
    tensors["R"] = draw(arrays((directions, rows, hidden), kind.data)) / 2
    feeds: dict[str, Array] = {}
    operands = ["{x}", "W", "R", "", "", "", "", ""]
    if draw(st.booleans()):
        tensors["B"], operands[3] = draw(arrays((directions, 2 * rows), kind.data)), "B"
    lengths = None
    if draw(st.booleans()):
        lengths = np.array(draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch)), np.int32)
        feeds["lens"], operands[4] = lengths, "lens"
    for place, name in enumerate(("h0", "c0")[: STATES[op]], start=5):
        if draw(st.booleans()):
            form = (batch, directions, hidden) if layout else (directions, batch, hidden)
            tensors[name], operands[place] = draw(arrays(form, kind.data)) / 2, name
    if op == "LSTM" and draw(st.booleans()):
        tensors["P"], operands[7] = draw(arrays((directions, 3 * hidden), kind.data)) / 2, "P"
    attributes = [f"hidden_size = {hidden}", f'direction = "{direction}"']
    attributes += [f"layout = {layout}"] * layout
    activations = DEFAULTS[op] * directions
    if draw(st.booleans()):
        names = st.sampled_from(["Sigmoid", "Tanh", "Softsign"])
        activations = tuple(draw(names) for _ in activations)
        attributes.append("activations = [" + ", ".join(f'"{name}"' for name in activations) + "]")
    clip = draw(st.sampled_from([0.0, 0.0, 0.75]))
    attributes += [f"clip = {clip}"] * bool(clip)
    before_reset, coupled = op == "GRU" and draw(st.booleans()), op == "LSTM" and draw(st.booleans())
    attributes += ["linear_before_reset = 1"] * before_reset + ["input_forget = 1"] * coupled
    while not operands[-1]:
        operands.pop()
    shown = ", ".join(operand or '""' for operand in operands)
    return Recurrent(
        op, f"{op} <{', '.join(attributes)}> ({shown})", {n: np.asarray(a, kind.data) for n, a in tensors.items()},
        hidden, direction, layout, activations, clip, before_reset, coupled, lengths, feeds,
    )  # fmt: skip


def floors_apart(ours: Array, theirs: Array, moved: Callable[[int], Array], unit: float) -> float:
    """How many floors two arrays are apart; `moved` gives the first one under constants that are rounded otherwise."""
    y, z = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    squares = [np.sum(np.square(np.asarray(moved(draw), np.float64) - y)) for draw in range(3)]
    floor = max(4 * unit * float(np.linalg.norm(y)), float(np.sqrt(np.mean(squares))))
    off = float(np.linalg.norm(z - y))
    return off / floor if floor else (np.inf if off else 0.0)


def jittered(array: Array, unit: float, random: np.random.Generator) -> Array:
    """c*(1 + xi*2u*U[0,1]), xi = +-1."""
    return np.asarray(array * (1 + random.uniform(-2, 2, array.shape) * unit)).astype(array.dtype)


def floors_in_onnxruntime(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Mapping[str, Array]) -> float:
    """The same for two models, the worst of their outputs."""
    worst, ours, theirs = 0.0, run(before, feeds), run(after, feeds)

    def moved(place: int) -> Callable[[int], Array]:
        def of(draw: int) -> Array:
            random = np.random.default_rng(draw)
            other = onnx.ModelProto()
            other.CopyFrom(before)
            for tensor in other.graph.initializer:
                array = numpy_helper.to_array(tensor)
                if array.dtype.kind == "f":
                    unit = HALF_UNIT[array.dtype]
                    tensor.CopyFrom(numpy_helper.from_array(jittered(array, unit, random), tensor.name))
            return run(other, feeds)[place]

        return of

    for place, (y, z) in enumerate(zip(ours, theirs, strict=True)):
        assert y.shape == z.shape
        worst = max(worst, floors_apart(y, z, moved(place), HALF_UNIT[y.dtype]))
    return worst
