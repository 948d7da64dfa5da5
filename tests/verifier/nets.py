"""Seeded networks with BatchNormalization, and for each layer what a fold of it would need. Nothing of bnfold's.

The probe holds N(0,1), 4*N(0,1) and U[0,1] side by side, as the verifier does. The statistics are set to it, so
that activations keep their size through any depth. "quantised" is a Conv network whose activations are stored as int8.
Four deep networks in ten are a trunk of identities beside which the layers stand, as in a ResNet: what one layer does
is a small part of the output there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from exact import Array, result
from layers import UNITS, Layer, Net, Spec, Unsuitable, sizes
from onnx import TensorProto, helper, numpy_helper

FAMILIES = (
    "conv", "conv1d", "conv3d", "grouped", "depthwise", "transpose", "gemm", "gemm batch 1", "matmul", "quantised",
)  # fmt: skip
STATISTICS = (
    "ordinary",
    "cancelling",
    "far mean",
    "tiny variance",
    "huge gamma",
    "dead",
    "shared",
    "untrained",
    "mixed",
)
MIXED = ("ordinary", "ordinary", "cancelling", "far mean", "tiny variance", "huge gamma", "dead")
LARGEST_HALF = 2e4
SHALLOW = 5
FLAT = ("gemm", "gemm batch 1", "matmul")
SPATIAL = {"conv1d": 1, "conv3d": 3, **dict.fromkeys(FLAT, 0)}


def draw(rng: np.random.Generator, family: str, statistics: str, dtype: str, depth: int) -> Net:
    """A network of `depth` layers; raises Unsuitable now and then."""
    batch: int | str = 1 if family == "gemm batch 1" else rng.choice(["N", "N", "N", "2", "4"])
    batch = int(batch) if batch != "N" else batch
    spatial = SPATIAL.get(family, 2)
    channels = int(rng.choice([16, 24, 32])) if not spatial else 4
    length = {0: 0, 1: 16, 2: int(rng.choice([5, 6, 7, 8])), 3: 4}[spatial]
    trunk = depth > SHALLOW and rng.random() < 0.4
    made = Builder(rng, Form(dtype, statistics, family, (channels, *[length] * spatial), bool(trunk)))
    x = "x"
    while len(made.layers) < depth:
        x = made.block(x, depth - len(made.layers))
    return made.net(made.head(x) if rng.random() < 0.5 else x, batch)


@dataclass(frozen=True, slots=True)
class Form:
    """What is drawn once for a net; `inner` is the shape of one sample."""

    dtype: str
    statistics: str
    family: str
    inner: tuple[int, ...]
    trunk: bool


class Builder:
    """Nodes in the making. Each is evaluated on the probe as it is added."""

    def __init__(self, rng: np.random.Generator, form: Form) -> None:
        self.rng, self.form, self.dtype, self.family, self.inner = rng, form, form.dtype, form.family, form.inner
        self.here = form.statistics  # those of the layer that is being made
        inner = form.inner
        count = 40 if len(inner) == 1 else 4
        normal, wide = rng.standard_normal((2, count, *inner))
        probe = np.concatenate([normal, 4 * wide, rng.random((count, *inner))])
        self.values: dict[str, Array] = {"x": probe.astype(form.dtype).astype(np.float64)}
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.layers: list[Layer] = []

    def constant(self, array: Array, stem: str) -> str:
        name = f"{stem}{len(self.tensors)}"
        stored = array.astype(self.dtype) if array.dtype.kind == "f" else array
        self.tensors.append(numpy_helper.from_array(np.array(stored, order="C"), name))
        self.values[name] = stored.astype(np.float64) if array.dtype.kind == "f" else array
        return name

    def node(self, op: str, inputs: Sequence[str], **attributes: object) -> str:
        count = len(self.nodes)
        made = helper.make_node(op, inputs, [f"{op.lower()}{count}_out"], name=f"{op.lower()}{count}", **attributes)
        self.nodes.append(made)
        self.values[made.output[0]] = result(made, self.values)
        return str(made.output[0])

    def block(self, x: str, left: int) -> str:
        """A layer with its activation, a residual block, two branches, or a pool."""
        chance = self.rng.random()
        if chance < (0.85 if self.form.trunk else 0.25) and left >= 2:
            return self.residual(x)
        if chance < 0.92 and self.form.trunk:
            return self.activation(self.layer(x, self.spec(x)))
        if chance < 0.32 and left >= 2:
            return self.branches(x)
        if chance < 0.42 and len(self.inner) > 1 and self.layers:
            return self.pool(x)
        return self.activation(self.layer(x, self.spec(x)))

    def residual(self, x: str) -> str:
        """Two layers beside the identity; as many channels come out as went in."""
        channels = self.values[x].shape[1]
        inside = self.activation(self.layer(x, replace(self.spec(x, still=True), out=channels)))
        behind = self.layer(inside, replace(self.spec(inside, still=True), out=channels))
        joined = self.node("Add", [behind, x] if self.rng.random() < 0.5 else [x, behind])
        return joined if self.form.trunk else self.activation(joined)

    def branches(self, x: str) -> str:
        """Two layers side by side, which are added, or activated and concatenated."""
        specs = [self.spec(x, still=True) for _ in range(2)]
        joined = self.rng.random() < 0.5 or self.values[x].shape[1] > 32
        if joined:
            left, right = (self.layer(x, replace(spec, out=specs[0].out)) for spec in specs)
            return self.activation(self.node("Add", [left, right]))
        left, right = (self.activation(self.layer(x, spec)) for spec in specs)
        return self.node("Concat", [left, right], axis=1)

    def pool(self, x: str) -> str:
        spatial = len(self.inner) - 1
        if self.values[x].shape[2] < 4:
            return self.activation(self.layer(x, self.spec(x)))
        if self.rng.random() < 0.5:
            return self.node("MaxPool", [x], kernel_shape=[3] * spatial, pads=[1] * 2 * spatial)
        return self.node("AveragePool", [x], kernel_shape=[2] * spatial)

    def spec(self, x: str, *, still: bool = False) -> Spec:
        """The next operator of the family; `still` keeps the length of the spatial axes."""
        channels, rng = self.values[x].shape[1], self.rng
        if self.family in FLAT:
            op = "MatMul" if self.family == "matmul" else "Gemm"
            return Spec(op, channels if rng.random() < 0.6 else int(rng.choice([16, 24, 32])))
        length, spatial = self.values[x].shape[2], len(self.inner) - 1
        out = channels if channels in {8, 12, 16} and rng.random() < 0.6 else int(rng.choice([8, 8, 12, 16]))
        size = int(rng.choice([1, 3]))
        kernel = (size,) * spatial
        if self.family == "depthwise":
            if self.layers and self.layers[-1].group == 1:
                return Spec("Conv", channels, (3,) * spatial, group=channels, pad=1)
            return Spec("Conv", out, (1,) * spatial)
        if self.family == "grouped":
            group = int(rng.choice([2, 4])) if channels % 4 == 0 else 1
            return Spec("Conv", out, kernel, group=group, pad=size // 2)
        if self.family == "transpose" and (still or length < 7):
            group = int(rng.choice([1, 1, 2]))
            if length <= 4 and not still:
                return Spec("ConvTranspose", out, (2, 2), group=group, stride=2)
            return Spec("ConvTranspose", out, kernel, group=group, pad=size // 2)
        if size == 3 and length >= 7 and not still and rng.random() < 0.4:
            return Spec("Conv", out, kernel, stride=2, pad=1)
        dilation = 2 if size == 3 and rng.random() < 0.15 else 1
        return Spec("Conv", out, kernel, pad=dilation * (size // 2), dilation=dilation)

    def activation(self, x: str) -> str:
        return self.quantised(self.rectified(x)) if self.family == "quantised" else self.rectified(x)

    def quantised(self, x: str) -> str:
        """The value as int8 and back."""
        step = self.constant(np.array(np.abs(self.values[x]).max() / 100), "step")
        zero = self.constant(np.array(0, np.int8), "zero")
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [x, step, zero]), step, zero])

    def rectified(self, x: str) -> str:
        chance = self.rng.random()
        if chance < 0.5:
            return self.node("Relu", [x])
        if chance < 0.65:
            return self.node("LeakyRelu", [x], alpha=0.1)
        if chance < 0.8:
            return self.node("Mul", [x, self.node("Sigmoid", [x])])
        if chance < 0.9 and self.here != "cancelling":  # there all values lie beyond 6
            return self.node("Clip", [x, self.constant(np.array(0.0), "low"), self.constant(np.array(6.0), "high")])
        return x

    def head(self, x: str) -> str:
        """A classifier, which has no BatchNormalization."""
        if len(self.inner) > 1:
            x = self.node("Flatten", [self.node("GlobalAveragePool", [x])])
        channels = self.values[x].shape[1]
        weight = self.constant(self.rng.standard_normal((10, channels)) / np.sqrt(channels), "w")
        return self.node("Gemm", [x, weight, self.constant(0.1 * self.rng.standard_normal(10), "b")], transB=1)

    def layer(self, x: str, spec: Spec) -> str:
        """One linear operator with its BatchNormalization."""
        if self.form.statistics == "mixed":
            self.here = str(self.rng.choice(MIXED))
        plan = self.outline(x, spec)
        x_in = self.values[x]
        fan = int(np.prod(plan.shape)) // spec.out
        rows = self.rng.standard_normal((spec.out, fan)) / np.sqrt(fan)
        if self.here == "cancelling" and fan > 1:
            # Over the input channels where there are several, so that padding leaves no tap uncancelled.
            taps = rows.reshape(spec.out, -1, int(np.prod(spec.kernel)))
            rows = (taps - taps.mean(axis=1 if taps.shape[1] > 1 else 2, keepdims=True)).reshape(rows.shape)
        # The weight is set to the probe: what comes out has the deviation that is wanted.
        attributes = self.attributes(spec, plan)
        trial = helper.make_node(spec.op, ["x", "w"], ["y"], **attributes)
        deviation = result(trial, {"x": x_in, "w": plan.raw(rows)}).std()
        rows *= self.deviation() / max(deviation, 1e-3)
        weight = self.shared(plan.shape) or self.constant(plan.raw(rows), "w")
        product = result(trial, {"x": x_in, "w": self.values[weight]})
        axes = (0, *range(2, product.ndim))
        mean, spread = product.mean(axis=axes), product.std(axis=axes)
        bias = self.bias(spread)
        inputs = [x, weight]
        stored = None
        if bias is not None:
            bias = bias / plan.bias_factor
            inputs.append(self.constant(bias, "b"))
            stored = plan.bias_factor * self.values[inputs[-1]]
        names = self.affine(mean + (0 if stored is None else stored), np.maximum(spread, 0.2 * spread.max()))
        merged = spec.op != "MatMul"
        total = self.node(spec.op, inputs if merged else inputs[:2], **attributes)
        home = adder = self.nodes[-1].name
        if not merged and stored is not None:
            total = self.node("Add", [total, inputs[2]])
            adder = self.nodes[-1].name
        epsilon = float(self.rng.choice([1e-5, 1e-5, 1e-5, 1e-3, 1e-4]))
        after = self.node("BatchNormalization", [total, *names], epsilon=epsilon)
        self.layers.append(
            replace(
                plan, home=home, adder="" if adder == home else adder, norm=self.nodes[-1].name, total=total,
                result=after, weight=weight, rows=self.rows(plan, weight), bias=stored,
                epsilon=float(np.float32(epsilon)),
                **dict(zip(("gamma", "beta", "mean", "var"), (self.values[name] for name in names), strict=True)),
            )
        )  # fmt: skip
        return after

    def outline(self, x: str, spec: Spec) -> Layer:
        """A layer of which only the form is known yet."""
        channels = self.values[x].shape[1]
        flipped = spec.op == "Gemm" and self.rng.random() < 0.6
        shape = {
            "Conv": (spec.out, channels // spec.group, *spec.kernel),
            "ConvTranspose": (channels, spec.out // spec.group, *spec.kernel),
        }.get(spec.op, (spec.out, channels) if flipped else (channels, spec.out))
        factor = float(self.rng.choice([1.0, 1.0, 0.5])) if spec.op == "Gemm" else 1.0
        unnamed, unknown = [""] * 3, [np.empty(0)] * 4
        form = (spec.op, spec.group, flipped, factor, shape)
        return Layer(*form, *unnamed, x, *unnamed, np.empty(0), None, *unknown, epsilon=0.0)

    def attributes(self, spec: Spec, plan: Layer) -> dict[str, object]:
        if spec.op == "MatMul":
            return {}
        if spec.op == "Gemm":
            return {"transB": int(plan.flipped), "beta": plan.bias_factor}
        spatial = len(spec.kernel)
        return {
            "group": spec.group,
            "kernel_shape": list(spec.kernel),
            "strides": [spec.stride] * spatial,
            "pads": [spec.pad] * 2 * spatial,
            "dilations": [spec.dilation] * spatial,
        }

    def rows(self, plan: Layer, weight: str) -> Array:
        """The stored weight as rows: the place of each number is found by asking `raw` where it puts it."""
        places = plan.raw(np.arange(np.prod(plan.shape)).reshape(self.out(plan), -1))
        rows = np.empty(places.size)
        rows[places.ravel()] = self.values[weight].ravel()
        return rows.reshape(self.out(plan), -1)

    @staticmethod
    def out(plan: Layer) -> int:
        if plan.op == "ConvTranspose":
            return plan.shape[1] * plan.group
        return plan.shape[0] if plan.op == "Conv" or plan.flipped else plan.shape[1]

    def deviation(self) -> float:
        """Of what the linear operator gives."""
        if self.here == "untrained":
            return 1.0
        if self.here == "tiny variance":
            low = -3.0 if self.dtype == "float32" else -2.0
            return float(10 ** self.rng.uniform(low, -1.5))
        return float(self.rng.uniform(0.5, 2.0))

    def shared(self, shape: tuple[int, ...]) -> str:
        """The name of a weight of this shape that another layer has already, now and then."""
        if self.here != "shared" or self.rng.random() < 0.3:
            return ""
        return next((layer.weight for layer in reversed(self.layers) if layer.shape == shape), "")

    def bias(self, spread: Array) -> Array | None:
        noise = self.rng.standard_normal(spread.shape)
        if self.here == "far mean":
            far = self.rng.uniform(*((100, 1000) if self.dtype == "float32" else (4, 12)), spread.shape)
            return far * np.sign(noise) * np.maximum(spread, spread.mean())
        return 0.3 * noise * spread.mean() if self.rng.random() < 0.6 else None

    def affine(self, mean: Array, spread: Array) -> list[str]:
        """Names of gamma, beta, mean and variance for a value of this mean and spread."""
        noise = self.rng.standard_normal((2, *mean.shape))
        gamma = self.rng.uniform(0.5, 1.5, mean.shape) * np.where(self.rng.random(mean.shape) < 0.1, -1, 1)
        beta = 0.4 * noise[0]
        if self.here == "untrained":
            ones = np.ones_like(mean)
            return [self.constant(ones * value, stem) for value, stem in zip((1, 0, 0, 1), "gemv", strict=True)]
        if self.here == "cancelling":
            beta = beta + (20 if self.dtype == "float32" else 6)
        if self.here == "huge gamma":
            gamma = gamma * np.where(self.rng.random(mean.shape) < 0.3, 40 if self.dtype == "float32" else 6, 1)
        if self.here == "dead":
            gamma = gamma * (self.rng.random(mean.shape) > 0.25)
        mean = mean + 0.3 * spread * noise[1]
        var = np.square(spread) * self.rng.uniform(0.6, 1.6, mean.shape)
        return [self.constant(one, stem) for one, stem in zip((gamma, beta, mean, var), "gemv", strict=True)]

    def net(self, output: str, batch: int | str) -> Net:
        """The whole, once it is sane."""
        values = self.values[output]
        largest = max(np.abs(value).max() for value in self.values.values() if value.dtype.kind == "f")
        if not np.isfinite(largest) or (self.dtype == "float16" and largest > LARGEST_HALF):
            raise Unsuitable("a number beyond its type")
        moving = values.std(axis=(0, *range(2, values.ndim)))
        if np.median(moving) <= 1e-3 * np.abs(values).max():
            raise Unsuitable("an output that is all but constant")
        element = TensorProto.FLOAT if self.dtype == "float32" else TensorProto.FLOAT16
        ports = [
            helper.make_tensor_value_info("x", element, [batch, *self.inner]),
            helper.make_tensor_value_info(output, element, [batch, *values.shape[1:]]),
        ]
        graph = helper.make_graph(self.nodes, "net", ports[:1], ports[1:], self.tensors)
        opset = int(self.rng.choice([13, 15, 17, 18, 20]))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        return Net(model, tuple(self.layers), self.values, self.family, self.form.statistics, self.dtype)


__all__ = ["FAMILIES", "STATISTICS", "UNITS", "Layer", "Net", "Unsuitable", "draw", "sizes"]
