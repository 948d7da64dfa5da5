"""Rewritings that are correct and are no fold of a BatchNormalization into the operator right before it.

Each rule below writes one pattern into two models at once, as it was and as it is afterwards, with constants in
float64 that are rounded once. A draw repeats a rule a few times, with ordinary layers in between.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from correct import rename
from exact import Array
from onnx import numpy_helper, parser

CHANNELS = 8
LENGTH = 12
EPSILON = float(np.float32(1e-5))
SAME = "pads=[1,1,1,1]"


class Norm:
    """A BatchNormalization's constants, rounded to the type already; `a` and `s` are its scale and shift."""

    def __init__(self, sketch: Sketch, *, positive: bool = False, centred: bool = False) -> None:
        rng, channels = sketch.rng, CHANNELS
        gamma = rng.uniform(0.5, 1.5, channels) * (1 if positive else rng.choice([1, 1, -1], channels))
        beta, mean = np.zeros((2, channels)) if centred else 0.4 * rng.standard_normal((2, channels))
        drawn = (gamma, beta, mean, rng.uniform(0.5, 1.5, channels))
        self.gamma, self.beta, self.mean, self.var = (sketch.stored(one) for one in drawn)
        names = [sketch.tensor(one) for one in (self.gamma, self.beta, self.mean, self.var)]
        self.text = f"BatchNormalization <epsilon=0.00001> ({{}}, {', '.join(names)})"
        self.a = self.gamma / np.sqrt(self.var + EPSILON)
        self.s = self.beta - self.mean * self.a

    def of(self, value: str) -> str:
        return self.text.format(value)


class Sketch:
    """Two models in the making, which share what is not rewritten."""

    def __init__(self, rng: np.random.Generator, dtype: str) -> None:
        self.rng, self.dtype = rng, dtype
        self.lines: tuple[list[str], list[str]] = ([], [])
        self.tensors: dict[str, Array] = {}
        self.count = 0

    def stored(self, array: Array) -> Array:
        """The array as its type has it, in float64 again."""
        return array.astype(self.dtype).astype(np.float64)

    def tensor(self, array: Array) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = array.astype(self.dtype)
        return name

    def weight(self, out: int = CHANNELS, size: int = 3, into: int = CHANNELS) -> Array:
        return self.stored(self.rng.standard_normal((out, into, size, size)) * np.sqrt(1.5 / (into * size * size)))

    def vector(self, channels: int = CHANNELS) -> Array:
        return self.stored(0.3 * self.rng.standard_normal(channels))

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def both(self, text: str) -> str:
        name = self.before(text)
        self.lines[1].append(f"{name} = {text}")
        return name

    def before(self, text: str) -> str:
        name = self.name()
        self.lines[0].append(f"{name} = {text}")
        return name

    def after(self, text: str, name: str = "") -> str:
        """A value of the rewritten model; `name` where it is one that the original has too."""
        name = name or self.name()
        self.lines[1].append(f"{name} = {text}")
        return name

    def conv(self, value: str, weight: Array, bias: Array, attributes: str = SAME) -> str:
        return f"Conv <{attributes}> ({value}, {self.tensor(weight)}, {self.tensor(bias)})"

    def layer(self, value: str) -> str:
        """One that nothing is done to."""
        return self.both(f"Relu ({self.both(self.conv(value, self.weight(), self.vector()))})")

    def model(self, place: int, output: str, *, clashing: bool = False) -> onnx.ModelProto:
        """The original (place 0) or the rewritten model (1); `clashing`: what is new in it bears names that were."""
        element = {"float32": "float", "float16": "float16"}[self.dtype]
        body = "\n".join(self.lines[place])
        model = parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : 17]> g ({element}[N,{CHANNELS},{LENGTH},{LENGTH}] x) '
            f"=> ({element}[N,C,H,W] y) {{ {body}\n y = Identity ({output}) }}"
        )
        read = {name for node in model.graph.node for name in node.input}
        kept = {name: array for name, array in self.tensors.items() if name in read}
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in kept.items())
        if clashing:
            known, now = ([line.partition(" = ")[0] for line in lines] for lines in self.lines)
            gone, new = ([n for n in one if n not in other] for one, other in ((known, now), (now, known)))
            rename(model, dict(zip(new, self.rng.permutation(gone), strict=False)))
        onnx.checker.check_model(model)
        return model


def outs(weight: Array, scale: Array) -> Array:
    return weight * scale[:, None, None, None]


def ins(weight: Array, scale: Array) -> Array:
    return weight * scale[None, :, None, None]


def forward_through_relu(made: Sketch, x: str) -> str:
    """Conv, BN (a > 0, s = 0), Relu, Conv: the scale goes into the second Conv."""
    norm, first, second = Norm(made, positive=True, centred=True), made.weight(), made.weight()
    bias = made.vector()
    c = made.both(made.conv(x, first, made.vector()))
    y = made.before(made.conv(made.before(f"Relu ({made.before(norm.of(c))})"), second, bias))
    return made.after(made.conv(made.after(f"Relu ({c})"), ins(second, norm.a), bias), y)


def forward_into_conv(made: Sketch, x: str) -> str:
    """BN, Conv without padding."""
    norm, weight, bias = Norm(made), made.weight(size=int(made.rng.choice([1, 3]))), made.vector()
    y = made.before(made.conv(made.before(norm.of(x)), weight, bias, "pads=[0,0,0,0]"))
    moved = bias + weight.sum(axis=(2, 3)) @ norm.s
    return made.after(made.conv(x, ins(weight, norm.a), moved, "pads=[0,0,0,0]"), y)


def back_through_add(made: Sketch, x: str) -> str:
    """Conv and Conv, Add, BN: the scale goes into both, the shift into one."""
    norm, left, right = Norm(made), made.weight(), made.weight(size=1)
    one, other = made.vector(), made.vector()
    c, d = made.before(made.conv(x, left, one)), made.before(made.conv(x, right, other, "pads=[0,0,0,0]"))
    y = made.before(norm.of(made.before(f"Add ({c}, {d})")))
    c = made.after(made.conv(x, outs(left, norm.a), norm.a * one + norm.s))
    d = made.after(made.conv(x, outs(right, norm.a), norm.a * other, "pads=[0,0,0,0]"))
    return made.after(f"Add ({c}, {d})", y)


def back_through(made: Sketch, x: str, operator: str, *, positive: bool) -> str:
    norm, weight, bias = Norm(made, positive=positive), made.weight(), made.vector()
    y = made.before(norm.of(made.before(f"{operator} ({made.before(made.conv(x, weight, bias))})")))
    folded = made.conv(x, outs(weight, norm.a), norm.a * bias + norm.s)
    return made.after(f"{operator} ({made.after(folded)})", y)


def back_through_max_pool(made: Sketch, x: str) -> str:
    """Conv, MaxPool, BN with a > 0."""
    return back_through(made, x, "MaxPool <kernel_shape=[3,3], pads=[1,1,1,1]>", positive=True)


def back_through_average_pool(made: Sketch, x: str) -> str:
    """Conv, AveragePool, BN."""
    return back_through(made, x, "AveragePool <kernel_shape=[2,2]>", positive=False)


def back_through_concat(made: Sketch, x: str) -> str:
    """Conv and Conv, Concat, BN: each Conv takes its channels' share."""
    norm = Norm(made)
    cut = int(made.rng.integers(2, CHANNELS - 1))
    parts = [(slice(0, cut), made.weight(cut)), (slice(cut, None), made.weight(CHANNELS - cut))]
    biases = [made.vector(len(weight)) for _, weight in parts]
    old = [made.before(made.conv(x, weight, bias)) for (_, weight), bias in zip(parts, biases, strict=True)]
    new = [
        made.after(made.conv(x, outs(weight, norm.a[part]), norm.a[part] * bias + norm.s[part]))
        for (part, weight), bias in zip(parts, biases, strict=True)
    ]
    y = made.before(norm.of(made.before(f"Concat <axis=1> ({', '.join(old)})")))
    return made.after(f"Concat <axis=1> ({', '.join(new)})", y)


def two_norms_into_conv(made: Sketch, x: str) -> str:
    """Conv, BN, BN."""
    first, second, weight, bias = Norm(made), Norm(made), made.weight(), made.vector()
    y = made.before(second.of(made.before(first.of(made.before(made.conv(x, weight, bias))))))
    a = second.a * first.a
    return made.after(made.conv(x, outs(weight, a), a * bias + second.a * first.s + second.s), y)


def two_norms_composed(made: Sketch, x: str) -> str:
    """BN, BN: one BN is left, with another gamma and beta."""
    first, second = Norm(made), Norm(made)
    y = made.before(second.of(made.before(first.of(x))))
    arrays = (second.a * first.gamma, second.a * first.beta + second.s, first.mean, first.var)
    names = ", ".join(made.tensor(one) for one in arrays)
    return made.after(f"BatchNormalization <epsilon=0.00001> ({x}, {names})", y)


def written_by_hand(made: Sketch, x: str) -> str:
    """Conv, BN becomes Conv, Mul, Add."""
    norm = Norm(made)
    c = made.both(made.conv(x, made.weight(), made.vector()))
    y = made.before(norm.of(c))
    scale, shift = (made.tensor(one.reshape(-1, 1, 1)) for one in (norm.a, norm.s))
    return made.after(f"Add ({made.after(f'Mul ({c}, {scale})')}, {shift})", y)


def hand_written_folded(made: Sketch, x: str) -> str:
    """Conv, Mul, Add by constants becomes Conv."""
    weight, bias = made.weight(), made.vector()
    scale, shift = made.stored(made.rng.uniform(0.5, 1.5, CHANNELS)), made.vector()
    names = [made.tensor(one.reshape(-1, 1, 1)) for one in (scale, shift)]
    product = made.before(f"Mul ({made.before(made.conv(x, weight, bias))}, {names[0]})")
    y = made.before(f"Add ({product}, {names[1]})")
    return made.after(made.conv(x, outs(weight, scale), scale * bias + shift), y)


def scale_back_shift_forward(made: Sketch, x: str) -> str:
    """Conv, Relu, BN (a > 0), Conv without padding: the scale goes before the Relu, the shift behind it."""
    norm, first, second = Norm(made, positive=True), made.weight(), made.weight(size=1)
    one, other = made.vector(), made.vector()
    r = made.before(f"Relu ({made.before(made.conv(x, first, one))})")
    y = made.before(made.conv(made.before(norm.of(r)), second, other, "pads=[0,0,0,0]"))
    r = made.after(f"Relu ({made.after(made.conv(x, outs(first, norm.a), norm.a * one))})")
    return made.after(made.conv(r, second, other + second[:, :, 0, 0] @ norm.s, "pads=[0,0,0,0]"), y)


def branches_merged(made: Sketch, x: str) -> str:
    """RepVGG: Conv 3x3 with BN, Conv 1x1 with BN and a BN alone, added, become one Conv."""
    norms, wide, narrow = [Norm(made) for _ in range(3)], made.weight(), made.weight(size=1)
    zero = np.zeros(CHANNELS)
    c = made.before(norms[0].of(made.before(made.conv(x, wide, zero))))
    d = made.before(norms[1].of(made.before(made.conv(x, narrow, zero, "pads=[0,0,0,0]"))))
    y = made.before(f"Add ({made.before(f'Add ({c}, {d})')}, {made.before(norms[2].of(x))})")
    merged = outs(wide, norms[0].a)
    merged[:, :, 1, 1] += norms[1].a[:, None] * narrow[:, :, 0, 0] + np.diag(norms[2].a)
    return made.after(made.conv(x, merged, sum(norm.s for norm in norms)), y)


def before_quantisation(made: Sketch, x: str) -> str:
    """Conv, BN, QuantizeLinear, DequantizeLinear: folded, a value on the edge may fall to the other side."""
    norm, weight, bias = Norm(made), made.weight(), made.vector()
    step = made.tensor(np.array(0.05))
    zero = f"t{len(made.tensors)}"
    made.tensors[zero] = np.array(0, np.int8)
    n = made.before(norm.of(made.before(made.conv(x, weight, bias))))
    made.after(made.conv(x, outs(weight, norm.a), norm.a * bias + norm.s), n)
    quantised = made.both(f"QuantizeLinear ({n}, {step}, {zero})")
    return made.both(f"DequantizeLinear ({quantised}, {step}, {zero})")


RULES: dict[str, Callable[[Sketch, str], str]] = {
    "scale forward through Relu": forward_through_relu,
    "BN into the Conv after it": forward_into_conv,
    "BN back through Add": back_through_add,
    "BN back through MaxPool": back_through_max_pool,
    "BN back through AveragePool": back_through_average_pool,
    "BN back through Concat": back_through_concat,
    "two BNs into a Conv": two_norms_into_conv,
    "two BNs into one": two_norms_composed,
    "BN written by hand": written_by_hand,
    "hand-written into a Conv": hand_written_folded,
    "scale back, shift forward": scale_back_shift_forward,
    "three branches into one Conv": branches_merged,
    "activations quantised": before_quantisation,
}
FLOAT32_ALONE = {"activations quantised"}
"""float16 cannot be quantised before opset 19."""


def drawn(rule: str, rng: np.random.Generator, dtype: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Both models: the rule up to four times, with layers before, between and behind now and then."""
    made = Sketch(rng, dtype)
    x = "x"
    for _ in range(int(rng.integers(1, 5))):
        if rng.random() < 0.5:
            x = made.layer(x)
        x = RULES[rule](made, x)
        if rng.random() < 0.5:
            x = made.both(f"Relu ({x})")
    return made.model(0, x), made.model(1, x, clashing=rng.random() < 0.3)
