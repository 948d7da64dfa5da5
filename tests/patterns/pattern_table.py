"""One small model for each pattern in which an affine finds, or does not find, a home before it; and what is expected.

A pattern is text: a model without its header, the dims of its weights, and what the plan must say: how many affines go,
why the others stay, and which operators of the main graph are left. What is computed in a nested graph or a function,
or from constants in roundabout ways, has a `plain` twin in the main graph, the same function, from which the bound is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from folding_support import Array, model, norm, weights
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper, parser

Tensors = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text and tensors, and what is expected of the fold: `left` are the operators of the main graph afterwards."""

    text: str
    left: str
    tensors: Tensors = field(default_factory=dict)
    moves: int = 1
    stays: tuple[str, ...] = ()
    opset: int = 17
    ir: int = 8
    fan_in: int = 27
    plain: str = ""
    runs: bool = True
    finish: Callable[[onnx.ModelProto], None] | None = None
    header: str = ""

    def build(self) -> onnx.ModelProto:
        """The model."""
        if self.header:
            proto = parser.parse_model(self.header + self.text)
            proto.graph.initializer.extend(_named(self.tensors))
        else:
            proto = model(self.text, opset=self.opset, ir=self.ir, **dict(self.tensors))
        if self.finish is not None:
            self.finish(proto)
        return proto

    def twin(self) -> onnx.ModelProto:
        """The same function with everything in the main graph."""
        return model(self.plain, opset=self.opset, ir=8, **dict(self.tensors)) if self.plain else self.build()


def _named(tensors: Tensors) -> list[TensorProto]:
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]


N4 = norm(4)
NORM = "y = BatchNormalization (c, g, be, m, v)"
IMAGE = "(float[2,3,5,5] x) => (float[] y)"
ROWS = "(float[2,3] x) => (float[] y)"
PLAIN_CONV = f"{IMAGE} {{ c = Conv (x, W)  {NORM} }}"
CONV = {"W": weights(4, 3, 3, 3), **N4}
DENSE = {"W": weights(3, 4), **N4}


def half(tensors: Mapping[str, Array], *names: str) -> dict[str, Array]:
    """Those of the names, or all, in half precision."""
    return {k: a.astype(np.float16) if k in names or not names else a for k, a in tensors.items()}


def brain(tensors: Mapping[str, Array]) -> dict[str, object]:
    """All in bfloat16."""
    return {k: helper.make_tensor(k, TensorProto.BFLOAT16, a.shape, a.reshape(-1)) for k, a in tensors.items()}


def convolution(line: str, dims: tuple[int, ...], x: str, fan_in: int, **more: Array) -> Pattern:
    """A convolution of four outputs and a norm."""
    text = f"(float[{x}] x) => (float[] y) {{ c = {line}  {NORM} }}"
    return Pattern(text, line.split(maxsplit=1)[0], {"W": weights(*dims), **N4, **more}, fan_in=fan_in)


def gemm(attributes: str, dims: tuple[int, ...], c: tuple[int, ...] | None, x: str = "2,3") -> Pattern:
    """A Gemm with its attributes and the shape of its C."""
    addend = {} if c is None else {"C": weights(*c, seed=8)}
    text = f"(float[{x}] x) => (float[] y) {{ c = Gemm <{attributes}> (x, W{', C' if addend else ''})  {NORM} }}"
    return Pattern(text, "Gemm", {"W": weights(*dims), **N4, **addend}, fan_in=4)


# --- layers ---------------------------------------------------------------------------------------------------------

LAYERS = {
    "Conv in 1-D": convolution("Conv (x, W)", (4, 3, 3), "2,3,7", 9),
    "Conv in 2-D, padded, strided": convolution(
        "Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, W, b)", (4, 3, 3, 3), "2,3,6,6", 28, b=weights(4)
    ),
    "Conv in 3-D": convolution("Conv (x, W)", (4, 2, 2, 2, 2), "1,2,3,3,3", 16),
    "Conv in groups": convolution("Conv <group = 2> (x, W)", (4, 2, 3, 3), "1,4,5,5", 18),
    "Conv, depthwise": convolution("Conv <group = 4> (x, W)", (4, 1, 3, 3), "1,4,5,5", 9),
    "Conv with auto_pad": convolution('Conv <auto_pad = "SAME_UPPER"> (x, W)', (4, 3, 3, 3), "1,3,5,5", 27),
    "Conv whose bias is named by nothing": convolution('Conv (x, W, "")', (4, 3, 3, 3), "1,3,5,5", 27),
    "ConvTranspose": convolution("ConvTranspose <strides = [2, 2]> (x, W)", (3, 4, 2, 2), "1,3,3,3", 12),
    "ConvTranspose in groups": convolution("ConvTranspose <group = 2> (x, W, b)", (4, 2, 2), "1,4,5", 5, b=weights(4)),
    **{
        f"Gemm, {attributes}, C {c}": gemm(attributes, dims, c, x)
        for attributes, dims, x in (
            ("alpha = 1.0", (3, 4), "2,3"),
            ("transB = 1, alpha = 0.5", (4, 3), "2,3"),
            ("transA = 1, beta = -2.0", (3, 4), "3,2"),
        )
        for c in (None, (), (1,), (4,), (1, 4), (2, 1), (2, 4))
    },
    "MatMul": Pattern(f"{ROWS} {{ c = MatMul (x, W)  {NORM} }}", "MatMul Add", DENSE, fan_in=3),
    "MatMul + Add": Pattern(
        f"{ROWS} {{ t = MatMul (x, W)  c = Add (t, b)  {NORM} }}", "MatMul Add", DENSE | {"b": weights(4)},
        stays=("no-gain",), fan_in=4,
    ),
    "Add + MatMul, the other way round": Pattern(
        f"{ROWS} {{ t = MatMul (x, W)  c = Add (b, t)  {NORM} }}", "MatMul Add", DENSE | {"b": weights(1, 4)},
        stays=("no-gain",), fan_in=4,
    ),
    "MatMul, the constant on the left": Pattern(
        f"(float[2,3,5] x) => (float[] y) {{ c = MatMul (W, x)  {NORM} }}", "MatMul Add",
        {"W": weights(4, 3), **N4}, fan_in=3,
    ),
    "MatMul + Add in 3-D -> Transpose": Pattern(
        f"""(float[2,5,3] x) => (float[] y) {{ t = MatMul (x, W)  a = Add (t, b)
        c = Transpose <perm = [0, 2, 1]> (a)  {NORM} }}""", "MatMul Add Transpose", DENSE | {"b": weights(4)},
        stays=("no-gain",), fan_in=4,
    ),
    "MatMul in 3-D -> Transpose": Pattern(
        f"(float[2,5,3] x) => (float[] y) {{ t = MatMul (x, W)  c = Transpose <perm = [0, 2, 1]> (t)  {NORM} }}",
        "MatMul Add Transpose", DENSE, fan_in=3,
    ),
    "Gemm -> Reshape": Pattern(
        f"{ROWS} {{ t = Gemm (x, W)  c = Reshape (t, to)  {NORM} }}", "Gemm Reshape",
        {"W": weights(3, 16), "to": [-1, 4, 2, 2], **N4}, fan_in=3,
    ),
    "Gemm -> Unsqueeze": Pattern(
        f"{ROWS} {{ t = Gemm (x, W)  c = Unsqueeze (t, to)  {NORM} }}", "Gemm Unsqueeze",
        DENSE | {"to": [2]}, fan_in=3,
    ),
    "Einsum": Pattern(
        f'(float[2,5,3] x) => (float[] y) {{ c = Einsum <equation = "nti,oi->not"> (x, W)  {NORM} }}', "Einsum Add",
        {"W": weights(4, 3), **N4}, fan_in=3,
    ),
    "norm -> Einsum": Pattern(
        '(float[2,4,5] x) => (float[] y) { n = BatchNormalization (x, g, be, m, v) '
        'y = Einsum <equation = "nct,cop->ntop"> (n, W) }', "Einsum Add", {"W": weights(4, 3, 2), **N4}, fan_in=4,
    ),
    # The bound of the others is that of sums; of these tests/folding has its own.
    "norm -> Transpose -> LSTM": Pattern(
        "(float[2,4,5] x) => (float[] y) { n = BatchNormalization (x, g, be, m, v) "
        "t = Transpose <perm = [2, 0, 1]> (n)  y = LSTM <hidden_size = 3> (t, W, R, B) }", "Transpose LSTM",
        {"W": weights(1, 12, 4), "R": weights(1, 12, 3), "B": weights(1, 24), **N4}, runs=False,
    ),
    "norm -> Squeeze -> Transpose -> GRU": Pattern(
        "(float[2,4,1,5] x) => (float[] y) { n = BatchNormalization (x, g, be, m, v)  q = Squeeze (n, two) "
        't = Transpose <perm = [2, 0, 1]> (q)  y = GRU <hidden_size = 3, direction = "bidirectional"> (t, W, R) }',
        "Squeeze Transpose GRU", {"W": weights(2, 9, 4), "R": weights(2, 9, 3), "two": [2], **N4}, runs=False,
    ),
    "integers behind DequantizeLinear": Pattern(
        f"{IMAGE} {{ W = DequantizeLinear <axis = 0> (Q, s)  c = Conv (x, W)  {NORM} }}", "DequantizeLinear Conv",
        {"Q": (weights(4, 3, 3, 3) * 100).astype(np.int8), "s": np.full(4, 0.01, np.float32), **N4},
    ),
}  # fmt: skip

# --- by hand --------------------------------------------------------------------------------------------------------

K, B = weights(4, 1, 1, seed=11), weights(4, 1, 1, seed=12)
BY_HAND = {
    "Conv + Add + norm": Pattern(
        f"{IMAGE} {{ t = Conv (x, W)  c = Add (t, k)  {NORM} }}", "Conv", CONV | {"k": K}, moves=2, fan_in=29
    ),
    "Conv -> Mul -> Add": Pattern(
        f"{IMAGE} {{ c = Conv (x, W)  t = Mul (c, k)  y = Add (t, b) }}", "Conv", CONV | {"k": K, "b": B}, moves=2,
        fan_in=29, finish=lambda proto: drop(proto, *N4),
    ),
    "Conv -> Mul over the width": Pattern(
        "(float[2,3,4,4] x) => (float[] y) { c = Conv (x, W)  y = Mul (c, k) }", "Conv Mul",
        {"W": weights(4, 3, 1, 1), "k": weights(4)}, moves=0, stays=("axis-not-owned",), fan_in=3,
    ),
    "Sub, Div, Mul, Add: a norm by hand": Pattern(
        f"{IMAGE} {{ c = Conv (x, W)  d = Sub (c, b)  e = Div (d, k)  f = Mul (e, b)  y = Add (f, k) }}", "Conv",
        {"W": weights(4, 3, 3, 3), "k": K, "b": B}, moves=4, fan_in=31,
    ),
    "Mul, Sub: a norm by hand in two steps": Pattern(
        f"{IMAGE} {{ c = Conv (x, W)  f = Mul (k, c)  y = Sub (f, b) }}", "Conv",
        {"W": weights(4, 3, 3, 3), "k": K, "b": B}, moves=2, fan_in=29,
    ),
    "Sub, Mul, Add with variance and epsilon as expressions": Pattern(
        f"""{IMAGE} {{ c = Conv (x, W)  ve = Add (v, eps)  r = Sqrt (ve)  i = Div (g, r)  j = Unsqueeze (i, to)
        mm = Unsqueeze (m, to)  bb = Unsqueeze (be, to)  d = Sub (c, mm)  f = Mul (d, j)  y = Add (f, bb) }}""", "Conv",
        CONV | {"eps": 1e-5, "to": [1, 2]}, moves=3, fan_in=30, plain=PLAIN_CONV,
    ),
    "Neg, and a constant less the value": Pattern(
        f"{IMAGE} {{ c = Conv (x, W)  d = Neg (c)  y = Sub (b, d) }}", "Conv",
        {"W": weights(4, 3, 3, 3), "b": B}, moves=2, fan_in=29,
    ),
    "norm -> norm": Pattern(
        f"(float[2,4,5] x) => (float[] y) {{ c = BatchNormalization (x, hg, hbe, hm, hv)  {NORM} }}",
        "BatchNormalization", N4 | norm(4, "h", 3), stays=("no-home",), fan_in=1,
    ),
    "Conv -> norm -> norm": Pattern(
        f"{IMAGE} {{ t = Conv (x, W)  c = BatchNormalization (t, hg, hbe, hm, hv)  {NORM} }}", "Conv",
        CONV | norm(4, "h", 3), moves=2,
    ),
}  # fmt: skip

# --- where the constants lie ----------------------------------------------------------------------------------------


def drop(proto: onnx.ModelProto, *names: str) -> None:
    """Without these initializers."""
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in names]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)


def typed(proto: onnx.ModelProto) -> None:
    """Every other tensor as float_data, which is another form of the same."""
    for tensor in proto.graph.initializer[::2]:
        values = numpy_helper.to_array(tensor).reshape(-1)
        tensor.ClearField("raw_data")
        tensor.float_data.extend(values.tolist())


def output_too(proto: onnx.ModelProto) -> None:
    """The weight as a graph output."""
    proto.graph.output.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, [4, 3, 3, 3]))


def sparse(proto: onnx.ModelProto) -> None:
    """W as a sparse initializer of two values."""
    values = helper.make_tensor("W", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("at", TensorProto.INT64, [2], [3, 7])
    proto.graph.sparse_initializer.append(SparseTensorProto(values=values, indices=indices, dims=[3, 4]))


LISTED = "x, float[4,3,3,3] W, float[4] g, float[4] be, float[4] m, float[4] v)"
IF = """(float[2,3,5,5] x, bool k) => (float[] y) { y = If (k) <
    then_branch = t () => (float[] p) { c = Conv (x, W)  p = BatchNormalization (c, g, be, m, v) },
    else_branch = e () => (float[] q) { d = Conv (x, W)  q = BatchNormalization (d, g, be, m, v) }> }"""
LOOP = """(float[2,3,5,5] x) => (float[] y) { z, y = Loop (once, on, x) <
    body = b (int64 i, bool go, float[2,3,5,5] s) => (bool more, float[2,3,5,5] r, float[2,4,3,3] o) {
    more = Identity (go)  r = Identity (s)  c = Conv (s, W)  o = BatchNormalization (c, g, be, m, v) }> }"""
SCAN = """(float[1,2,3,5,5] x) => (float[] y) { y = Scan (x) <num_scan_inputs = 1,
    body = b (float[2,3,5,5] s) => (float[2,4,3,3] o) { c = Conv (s, W)  o = BatchNormalization (c, g, be, m, v) }> }"""
FUNCTION = '<ir_version: 10, opset_import: ["" : 17, "local" : 1]> '
CONSTANTS = {
    "weights shared by two layers": Pattern(
        """(float[2,3,5,5] x) => (float[] y, float[] z) { c = Conv (x, W)  y = BatchNormalization (c, g, be, m, v)
        d = Conv (x, W)  z = BatchNormalization (d, hg, hbe, hm, hv) }""", "Conv Conv",
        CONV | norm(4, "h", 5), moves=2,
    ),
    "a weight that something else reads": Pattern(
        """(float[2,3,5,5] x) => (float[] y, float[] z) { c = Conv (x, W)  y = BatchNormalization (c, g, be, m, v)
        z = Relu (W) }""", "Conv Relu", CONV,
    ),
    "a weight that is an output": Pattern(PLAIN_CONV, "Conv", CONV, finish=output_too),
    "float_data and raw_data": Pattern(PLAIN_CONV, "Conv", CONV, finish=typed),
    "Identity": Pattern(
        f"{IMAGE} {{ V = Identity (W)  h = Identity (g)  c = Conv (x, V)  y = BatchNormalization (c, h, be, m, v) }}",
        "Conv", CONV, plain=PLAIN_CONV,
    ),
    "Cast": Pattern(
        f"{IMAGE} {{ V = Cast <to = 1> (W)  c = Conv (x, V)  {NORM} }}", "Conv", CONV, plain=PLAIN_CONV
    ),
    "Expand(CastLike(0, x), Shape(W)): torch's missing bias": Pattern(
        f"""{IMAGE} {{ z = CastLike (zero, x)  s = Shape <end = 1> (W)  b = Expand (z, s)  c = Conv (x, W, b)
        {NORM} }}""", "Conv", CONV | {"zero": 0}, plain=PLAIN_CONV,
    ),
    "IR 3": Pattern(PLAIN_CONV.replace("x)", LISTED), "Conv", CONV, opset=9, ir=3, plain=PLAIN_CONV),
    "a weight that a caller may replace": Pattern(
        PLAIN_CONV.replace("x)", "x, float[4,3,3,3] W)"), "Conv BatchNormalization", CONV, moves=0,
        stays=("overridable",),
    ),
    "a statistic that a caller may replace": Pattern(
        PLAIN_CONV.replace("x)", "x, float[4] m)"), "Conv BatchNormalization", CONV, moves=0, stays=("overridable",)
    ),
    "a sparse weight": Pattern(
        f"{ROWS} {{ c = Gemm (x, W)  {NORM} }}", "Gemm BatchNormalization", N4, moves=0, stays=("sparse",),
        finish=sparse,
    ),
    "both branches of an If, weights outside": Pattern(IF, "If", CONV, moves=2, plain=PLAIN_CONV),
    "the body of a Loop": Pattern(
        LOOP, "Loop", CONV | {"once": 1, "on": np.array(True), "o": [0]},
        plain="""(float[2,3,5,5] x) => (float[] y) { c = Conv (x, W)  n = BatchNormalization (c, g, be, m, v)
        y = Unsqueeze (n, o) }""", finish=lambda proto: drop(proto, "o"),
    ),
    "the body of a Scan": Pattern(
        SCAN, "Scan", CONV | {"o": [0]},
        plain="""(float[1,2,3,5,5] x) => (float[] y) { s = Squeeze (x, o)  c = Conv (s, W)
        n = BatchNormalization (c, g, be, m, v)  y = Unsqueeze (n, o) }""", finish=lambda proto: drop(proto, "o"),
    ),
    "a value captured by a branch": Pattern(
        """(float[2,3,5,5] x, bool k) => (float[] y, float[] z) { c = Conv (x, W)
        y = BatchNormalization (c, g, be, m, v)  z = If (k) <then_branch = t () => (float[] p) { p = Relu (c) },
        else_branch = e () => (float[] q) { q = Identity (x) }> }""", "Conv BatchNormalization If", CONV,
        moves=0, stays=("outer-scope",),
    ),
    "a function, its constants inside": Pattern(
        """g (float[2,3,5,5] x) => (float[] y) { y = local.block (x) }
        <domain: "local", opset_import: ["" : 17]> block (a) => (r) {
            W = Constant <value = float[4,3,1,1] {1,2,3,4,5,6,7,8,9,10,11,12}> ()
            g = Constant <value = float[4] {1,-2,3,4}> ()  be = Constant <value = float[4] {1,2,-3,4}> ()
            m = Constant <value = float[4] {0,1,2,3}> ()  v = Constant <value = float[4] {1,2,3,4}> ()
            c = Conv (a, W)  r = BatchNormalization (c, g, be, m, v) }""", "block", header=FUNCTION, fan_in=3,
        plain="""(float[2,3,5,5] x) => (float[] y) { c = Conv (x, W)  y = BatchNormalization (c, g, be, m, v) }""",
    ),
    "a function that is given its weight": Pattern(
        """g (float[2,3,5,5] x) => (float[] y) { y = local.block (x, W, g, be, m, v) }
        <domain: "local", opset_import: ["" : 17]> block (a, w, f, h, i, j) => (r) {
            c = Conv (a, w)  r = BatchNormalization (c, f, h, i, j) }""", "block", CONV, moves=0,
        stays=("not-constant",), header=FUNCTION,
    ),
}  # fmt: skip

# --- types, modes, numbers ------------------------------------------------------------------------------------------

IN_FUNCTION = {
    "W": np.arange(1, 13, dtype=np.float32).reshape(4, 3, 1, 1),
    "g": np.float32([1, -2, 3, 4]), "be": np.float32([1, 2, -3, 4]),
    "m": np.float32([0, 1, 2, 3]), "v": np.float32([1, 2, 3, 4]),
}  # fmt: skip
"""What the function above holds."""

HALF_CONV = PLAIN_CONV.replace("float[", "float16[")
MODES = {
    "half precision": Pattern(HALF_CONV, "Conv", half(CONV)),
    "half precision, statistics in single": Pattern(HALF_CONV, "Conv", half(CONV, "W")),
    "bfloat16": Pattern(PLAIN_CONV.replace("float[", "bfloat16["), "Conv", brain(CONV), runs=False),
    "training, by its attribute": Pattern(
        PLAIN_CONV.replace("y = BatchNormalization", "y, rm, rv = BatchNormalization <training_mode = 1>"),
        "Conv BatchNormalization", CONV, moves=0, stays=("training-mode",),
    ),
    "training, by its five outputs": Pattern(
        PLAIN_CONV.replace("y =", "y, rm, rv, sm, sv ="), "Conv BatchNormalization", CONV, moves=0,
        stays=("training-mode",), opset=9,
    ),
    "spatial = 0": Pattern(
        PLAIN_CONV.replace("BatchNormalization", "BatchNormalization <spatial = 0>"), "Conv BatchNormalization",
        CONV | {k: np.resize(a, (4, 3, 3)) for k, a in N4.items()}, moves=0, stays=("spatial-zero",), opset=8,
    ),
    "is_test = 0": Pattern(
        PLAIN_CONV, "Conv BatchNormalization", CONV, moves=0, stays=("is-test-zero",), opset=6, runs=False
    ),
    "is_test = 1": Pattern(
        PLAIN_CONV.replace("BatchNormalization", "BatchNormalization <is_test = 1>"), "Conv", CONV, opset=6, runs=False
    ),
    "overflow": Pattern(
        HALF_CONV, "Conv BatchNormalization", half(CONV, "W") | {"g": np.full(4, 3e6, np.float32)}, moves=0,
        stays=("overflow",), runs=False,
    ),
    "NaN in the variance": Pattern(
        PLAIN_CONV, "Conv BatchNormalization", CONV | {"v": np.float32([1, np.nan, 1, 1])}, moves=0,
        stays=("not-finite",), runs=False,
    ),
    "a negative variance": Pattern(
        PLAIN_CONV, "Conv BatchNormalization", CONV | {"v": np.float32([1, -1, 1, 1])}, moves=0,
        stays=("variance-not-positive",), runs=False,
    ),
}  # fmt: skip

PATTERNS: dict[str, Pattern] = LAYERS | BY_HAND | CONSTANTS | MODES
