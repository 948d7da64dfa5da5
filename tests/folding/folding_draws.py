"""What hypothesis draws for the tests of the folding side: types, opsets, and statistics of every kind."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[np.generic]

NORM_OPSETS = (7, 8, 9, 11, 13, 14, 15, 17, 19, 21)
"""One opset, at least, for each version of BatchNormalization that onnxruntime runs."""


def examples(number: int) -> settings:
    """Reproducible examples: what holds today is asked again tomorrow. BNFOLD_EXPLORE=20 asks 20 times more."""
    explore = int(os.environ.get("BNFOLD_EXPLORE", "0"))
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=number * (explore or 1),
        deadline=None,
        derandomize=not explore,
        database=None,
        suppress_health_check=slow,
    )


@dataclass(frozen=True, slots=True)
class Kind:
    """The type of the data, that of the statistics, and an opset that allows both."""

    data: type
    statistics: type
    opset: int

    @property
    def text(self) -> str:
        """The type in ONNX text."""
        return {np.float16: "float16", np.float32: "float", np.float64: "double"}[self.data]


@st.composite
def kinds(draw: st.DrawFn, *, double: bool = False) -> Kind:
    """fp32 and fp16 alike; half of the fp16 ones with fp32 statistics, as opset 15 allows."""
    data = draw(st.sampled_from([np.float32, np.float16] + [np.float64] * double))
    if data is np.float16 and draw(st.booleans()):
        return Kind(data, np.float32, draw(st.sampled_from([o for o in NORM_OPSETS if o >= 15])))
    return Kind(data, data, draw(st.sampled_from(NORM_OPSETS)))


@st.composite
def statistics(draw: st.DrawFn, channels: int, kind: Kind, prefix: str = "") -> dict[str, Array]:
    """gamma, beta, mean, var: each channel ordinary, dead, negative, tiny or huge in variance, or far off in mean."""
    half = kind.data is np.float16
    tiny, huge, far = (1e-3, 16.0, 8.0) if half else (1e-9, 1e9, 3e3)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    gamma = rng.uniform(0.25, 2, channels) * rng.choice([-1, 1], channels)
    beta = rng.uniform(-2, 2, channels)
    deviation = np.sqrt(rng.uniform(0.25, 2, channels))
    mean = rng.uniform(-2, 2, channels)
    for channel in range(channels):
        match draw(st.sampled_from(["ordinary", "ordinary", "dead", "tiny", "huge", "far", "neutral", "centred"])):
            case "dead":
                gamma[channel] = 0
            case "tiny":
                deviation[channel] = np.sqrt(tiny)
            case "huge":
                deviation[channel] = np.sqrt(huge)
            case "far":
                mean[channel] = far * deviation[channel]
            case "neutral":
                gamma[channel] = 1
                mean[channel], beta[channel], deviation[channel] = 0, 0, 1
            case "centred":
                mean[channel], beta[channel] = 0, 0
    found = {"g": gamma, "be": beta, "m": mean, "v": deviation**2}
    return {f"{prefix}{name}": array.astype(kind.statistics) for name, array in found.items()}


@st.composite
def arrays(draw: st.DrawFn, dims: tuple[int, ...], dtype: type) -> Array:
    """Values of size 0.25 to 2, of either sign, a few of them zero."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.uniform(0.25, 2, dims) * rng.choice([-1, 1], dims)
    return np.asarray(np.where(rng.random(dims) < 0.1, 0, values)).astype(dtype)


def epsilons() -> st.SearchStrategy[float]:
    """The default and others that exporters write."""
    return st.sampled_from([1e-5, 1e-3, 1e-12, 0.1])


@dataclass(slots=True)
class Chain:
    """Affines written behind one another as ONNX text, all along one `axis` of a value of `rank` dimensions."""

    kind: Kind
    rank: int
    axis: int
    channels: int
    value: str
    lines: list[str] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)

    def add(self, text: str, **tensors: Array) -> None:
        """One more line; `{x}` is the value so far, `{n}` a number that no other line has."""
        number, before = len(self.lines), self.value
        self.value = f"{before.split('_')[0]}_{number + 1}"
        self.lines.append(f"{self.value} = {text.format(x=before, n=number)}")
        self.tensors |= {name.format(n=number): array for name, array in tensors.items()}


@st.composite
def spread(draw: st.DrawFn, chain: Chain) -> Array:
    """A nonzero constant for a chain, one per channel or one in all, in any shape that broadcasts without enlarging."""
    dims = draw(st.sampled_from([(chain.channels, *[1] * (chain.rank - 1 - chain.axis)), (), (1,)]))
    dims = (1,) * draw(st.integers(0, chain.rank - len(dims))) + dims
    # No two constants of a chain cancel to the last bit: what would be left then is an Add of zero.
    values = draw(arrays(dims, chain.kind.data))
    filled = np.where(values == 0, 1, values) * (1 + len(chain.lines) / 16)
    return np.asarray(filled).astype(chain.kind.data)


@st.composite
def chained(draw: st.DrawFn, chain: Chain, least: int = 1, most: int = 6) -> Chain:
    """The same chain with a few more affines: Mul, Add, Sub, Div, Neg in both orders, BatchNormalization on axis 1."""
    written = ["Mul ({x}, {c})", "Mul ({c}, {x})", "Add ({x}, {c})", "Add ({c}, {x})", "Sub ({x}, {c})",
               "Sub ({c}, {x})", "Div ({x}, {c})", "Neg ({x})"]  # fmt: skip
    norms = ["BatchNormalization"] * 4 if chain.axis == 1 else []
    for _ in range(draw(st.integers(least, most))):
        line = draw(st.sampled_from(written + norms))
        if line == "BatchNormalization":
            prefix = f"{chain.value}_n"
            chain.tensors |= draw(statistics(chain.channels, chain.kind, prefix))
            chain.add(f"BatchNormalization ({{x}}, {prefix}g, {prefix}be, {prefix}m, {prefix}v)")
            continue
        name = f"{chain.value}_c"
        if "{c}" in line:
            chain.tensors[name] = draw(spread(chain))
        chain.add(line.replace("{c}", name))
    return chain
