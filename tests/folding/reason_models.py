"""A minimal model for each reason that yields exactly it, and the same model once the reason's remedy was followed.

A remedy either leaves the function what it is (options, a repair of form), which the tests hold, or says that it makes
another one (`same` False): then only that the affine goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from folding_support import Array, model, norm, plan_of, tensor, weights
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper, version_converter

Options = Mapping[str, object]
C = 4
W = weights(C, 3, 3, 3)
NORM = "y = BatchNormalization ({}, g, be, m, v)"
ENDS = NORM.format("c")
HEAD = "(float[2,3,5,5] x) => (float[] y)"
CONV = f"{HEAD} {{ c = Conv (x, W)  {ENDS} }}"
POSITIVE = norm(C) | {"g": np.abs(norm(C)["g"])}
CENTRED = norm(C) | {"be": np.zeros(C, np.float32), "m": np.zeros(C, np.float32)}
BEFORE = f"{HEAD} {{ {NORM.format('x').replace('y =', 'n =')}  LINE }}"
"""A BatchNormalization of the input, and what reads it."""
NORM3 = norm(3)


@dataclass(frozen=True, slots=True)
class Example:
    """A model whose only refusal of a BatchNormalization (or of `op`) bears the code and blames the operator `blamed`.

    `remedied` is a model in which the remedy was followed, and None where the page says that nothing can be done.
    """

    before: onnx.ModelProto
    blamed: str | None
    remedied: onnx.ModelProto | None = None
    options: Options = field(default_factory=dict)
    remedy_options: Options = field(default_factory=dict)
    same: bool = True
    op: str = "BatchNormalization"
    left: int = 1


def conv(text: str = CONV, parameters: Mapping[str, Array] | None = None, **further: object) -> onnx.ModelProto:
    """A model with W, the parameters of a BatchNormalization, and more."""
    held = {"W": W, **(norm(C) if parameters is None else parameters)}
    return model(text, **(held | further))


def through(line: str, parameters: Mapping[str, Array] | None = None, **further: object) -> onnx.ModelProto:
    """A Conv, a line from r to c, and a BatchNormalization."""
    return conv(f"{HEAD} {{ r = Conv (x, W)  {line}  {ENDS} }}", parameters, **further)


def ahead(line: str, parameters: Mapping[str, Array] | None = None, **further: object) -> onnx.ModelProto:
    """A BatchNormalization of the input, and a line from n to y."""
    return conv(BEFORE.replace("LINE", line), NORM3 if parameters is None else parameters, **further)


def _training() -> Example:
    text = CONV.replace("BatchNormalization (", "BatchNormalization <training_mode = 1> (")
    return Example(conv(text), None, conv(), same=False)


def _spatial() -> Example:
    each = {k: np.repeat(p, 9).reshape(C, 3, 3) for k, p in norm(C).items()}
    text = CONV.replace("BatchNormalization (", "BatchNormalization <spatial = 0> (")
    return Example(model(text, opset=8, W=W, **each), None, model(CONV, opset=8, W=W, **norm(C)))


def _test_flag() -> Example:
    before = model(CONV, opset=6, W=W, **norm(C))
    return Example(before, None, before, remedy_options={"assume_inference": True}, same=False)


def _not_constant() -> Example:
    text = CONV.replace("x)", "x, float[4] g)")
    return Example(conv(text, {k: p for k, p in norm(C).items() if k != "g"}), None, conv(), same=False)


def _overridable() -> Example:
    before = conv(CONV.replace("x)", "x, float[4,3,3,3] W)"))
    return Example(before, "Conv", before, remedy_options={"freeze_inputs": True})


def _quantized() -> Example:
    text = f"""{HEAD} {{ d = DequantizeLinear <axis = 0> (Q, qs)  b = DequantizeLinear <axis = 0> (B, bs)
        c = Conv (x, d, b)  {ENDS} }}"""
    q, scale = np.clip(W * 100, -99, 99).astype(np.int8), np.full(C, 0.01, np.float32)
    bias = np.int32([100, -200, 300, 50])
    before = model(text, Q=q, qs=scale, B=bias, bs=scale, **norm(C))
    plain = f"{HEAD} {{ c = Conv (x, W, b)  {ENDS} }}"
    return Example(before, "Conv", model(plain, W=q * scale[0], b=(bias * scale[0]).astype(np.float32), **norm(C)))


def _sparse() -> Example:
    text = f"(float[2,3] x) => (float[] y) {{ c = Gemm (x, W)  {ENDS} }}"
    dense = np.zeros((3, C), np.float32)
    dense.reshape(-1)[[0, 5, 7]] = [0.5, -0.75, 1.5]
    before = model(text, **norm(C))
    places = numpy_helper.from_array(np.array([0, 5, 7]), "places")
    held = SparseTensorProto(values=tensor("W", [0.5, -0.75, 1.5]), indices=places, dims=[3, C])
    before.graph.sparse_initializer.append(held)
    return Example(before, "Gemm", model(text, W=dense, **norm(C)))


def _broken_parameters() -> Example:
    return Example(conv(CONV, norm(C) | {"m": np.zeros(3, np.float32)}), None, conv(), same=False)


def _not_finite() -> Example:
    broken = norm(C)["be"].copy()
    broken[2] = np.nan
    return Example(conv(CONV, norm(C) | {"be": broken}), None, conv(), same=False)


def _variance() -> Example:
    return Example(conv(CONV, norm(C) | {"v": np.float32([1, -1, 1, 1])}), None, conv(), same=False)


def _no_home() -> Example:
    return Example(conv(f"(float[2,4,5,5] x) => (float[] y) {{ {NORM.format('x')} }}"), None)


def _mismatch() -> Example:
    before = conv()
    return Example(before, None, options={"mismatched": frozenset({plan_of(before).moves[0].site})})


def _blocked() -> Example:
    text = f"{HEAD} {{ r = Conv (x, W)  LINES }}"
    after = text.replace("LINES", f"c = Sigmoid (r)  {ENDS}")
    first = text.replace("LINES", f"{NORM.format('r').replace('y =', 'c =')}  y = Sigmoid (c)")
    return Example(conv(after), "Sigmoid", conv(first), same=False)


def _padding() -> Example:
    before = ahead("y = Conv <pads = [1,1,1,1]> (n, W)")
    edged = ahead('n2 = Pad <mode = "edge"> (x, p)  y = Conv (n, W)', p=[0, 0, 1, 1, 0, 0, 1, 1])
    edged.graph.node.insert(0, edged.graph.node.pop(1))
    edged.graph.node[1].input[0] = "n2"
    return Example(before, "Conv", edged, same=False)


def _padding_unknown() -> Example:
    line = 'y = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (n, W)'
    text, held = BEFORE.replace("LINE", line).replace("5,5", "6,W1"), NORM3 | {"W": weights(C, 3, 2, 2)}
    return Example(model(text, **held), "Conv", model(text.replace("W1", "8"), **held))


def _constant_stays() -> Example:
    place = weights(5, 5)
    scale = (NORM3["g"] / np.sqrt(NORM3["v"] + np.float32(1e-5))).reshape(3, 1, 1)
    before = ahead("t = Add (n, k)  y = Conv (t, W)", k=place)
    moved = BEFORE.replace("LINE", "y = Conv (n, W)").replace("n =", "u = Add (x, k)  n =").replace("(x, g", "(u, g")
    return Example(before, "Add", conv(moved, NORM3, k=place / scale))


def _shift() -> Example:
    line = "c = Relu (r)"
    return Example(through(line, POSITIVE), "Relu", through(line, CENTRED | {"g": POSITIVE["g"]}), same=False)


def _negative() -> Example:
    line = "c = MaxPool <kernel_shape = [2,2]> (r)"
    return Example(through(line), "MaxPool", through(line, POSITIVE), same=False)


def _rounded() -> Example:
    line = "h = Cast <to = 10> (r)  c = Cast <to = 1> (h)"
    return Example(through(line), "Cast", conv(), same=False)


def _function() -> Example:
    before = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
        g {HEAD} {{ c = own.Layer (x, W)  {ENDS} }}
        <domain: "own", opset_import: ["" : 17]> Layer (p, w) => (q) {{ q = Conv (p, w) }}""")
    before.graph.initializer.extend(conv().graph.initializer)
    return Example(before, "function own.Layer", before, remedy_options={"inline": True})


def _several() -> Example:
    line = "s, t = Split <axis = 1> (r)  c = Concat <axis = 1> (t, s)"
    copies = "s, t0 = Split <axis=1> (r)  r2 = Conv (x, W)  s0, t = Split <axis=1> (r2)  c = Concat <axis=1> (t, s)"
    return Example(through(line), "Split", through(copies))


def _kept() -> Example:
    text = f"{HEAD} {{ r = Conv (x, W)  s = Sigmoid (r)  c = Mul (s, k)  {ENDS} }}"
    before = conv(text, CENTRED, k=weights(C, 1, 1))
    before.graph.node[2].name = "factor"
    return Example(before, "Mul", before, options={"skip": ("factor",)}, left=2)


def _no_gain() -> Example:
    text = "(float[2,3] x) => (float[] y) { c = MatMul (x, W)  y = Add (c, k) }"
    return Example(model(text, W=weights(3, C), k=weights(C)), "MatMul", op="Add")


def _other_readers() -> Example:
    head = HEAD.replace("y)", "y, float[] z)")
    shared = f"{head} {{ c = Conv (x, W)  z = Relu (c)  {ENDS} }}"
    own = f"{head} {{ c = Conv (x, W)  c2 = Conv (x, W)  z = Relu (c2)  {ENDS} }}"
    return Example(conv(shared), "Relu", conv(own))


def _graph_output() -> Example:
    return Example(conv(CONV.replace("y)", "y, float[] c)")), "Conv", conv(), same=False)


BRANCHES = """(float[2,3,5,5] x, bool p) => (float[] y) {{ {outside}
    y = If (p) <then_branch = t () => (float[] a) {{ {inside} a = BatchNormalization (c, g, be, m, v) }},
                else_branch = e () => (float[] b) {{ b = Conv (x, W) }}> }}"""


def _outer_scope() -> Example:
    line = "c = Conv (x, W)"
    before = conv(BRANCHES.format(outside=line, inside=""))
    return Example(before, "Conv", conv(BRANCHES.format(outside="", inside=line)))


def _axis() -> Example:
    text = HEAD.replace("5,5]", "6,5]") + f" {{ r = Conv (x, W)  c = Transpose <perm = [0,2,1,3]> (r)  {ENDS} }}"
    first = HEAD + f" {{ r = Conv (x, W)  n = {ENDS[4:].replace('(c', '(r')}  y = Transpose <perm = [0,2,1,3]> (n) }}"
    return Example(conv(text), "Conv", conv(first), same=False)


def _layout() -> Example:
    text = f"(float[n,3,h,w] x) => (float[] y) {{ r = Conv (x, W)  c = Squeeze (r)  {ENDS} }}"
    return Example(conv(text), "Squeeze", conv(text.replace("n,3,h,w", "2,3,3,3")))


def _bias() -> Example:
    text = CONV.replace("(x, W)", "(x, W, b)")
    return Example(conv(text, b=weights(C, 2)), "Conv", conv(text, b=weights(C)), same=False)


def _layer() -> Example:
    text = CONV.replace("Conv (", "Conv <group = 3> (")
    return Example(conv(text), "Conv", conv(), same=False)


HALF = "(float16[2,3] x) => (float16[] y) { c = Gemm (x, W)  y = BatchNormalization (c, g, be, m, v) }"


def _half(weight: float, gamma: float) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The same layer in half precision and in single precision."""
    parameters = {k: np.abs(p) for k, p in norm(C, dtype=np.float16).items()}
    held = parameters | {"g": np.full(C, gamma, np.float16), "W": np.full((3, C), weight, np.float16)}
    wide = {name: array.astype(np.float32) for name, array in held.items()}
    return model(HALF, **held), model(HALF.replace("float16", "float"), **wide)


def _overflow() -> Example:
    before, wide = _half(6e4, 30)
    return Example(before, "Gemm", wide, same=False)


def _precision() -> Example:
    before, wide = _half(1e-5, 1e-4)
    return Example(before, "Gemm", wide, same=False)


def _skipped() -> Example:
    return Example(conv(), None, conv(), options={"skip": ("y",)})


def _type() -> Example:
    """No operator of ONNX multiplies eight-bit floats yet; the weight of the file is one all the same."""
    before = conv()
    held = next(t for t in before.graph.initializer if t.name == "W")
    held.CopyFrom(helper.make_tensor("W", TensorProto.FLOAT8E4M3FN, W.shape, W.reshape(-1).tolist()))
    return Example(before, "Conv", conv(), same=False)


def _old_opset() -> Example:
    text = f"""{HEAD} {{ r = Conv (x, W)  s = Conv (x, V)  c = Add (r, s)
        y = BatchNormalization <is_test = 1> (c, g, be, m, v) }}"""
    before = model(text, opset=6, W=W, V=weights(C, 3, 3, 3, seed=3), **norm(C))
    return Example(before, "Add", version_converter.convert_version(before, 7), same=False)


def _limit() -> Example:
    ways = "  ".join(f"i{k} = Identity (n)  o{k} = Conv (i{k}, W)" for k in range(65))
    outputs = ", ".join(f"float[] o{k}" for k in range(65))
    text = BEFORE.replace("LINE", ways).replace("float[] y", outputs)
    return Example(conv(text, NORM3), None)


EXAMPLES: dict[str, Callable[[], Example]] = {
    "training-mode": _training,
    "spatial-zero": _spatial,
    "is-test-zero": _test_flag,
    "not-constant": _not_constant,
    "overridable": _overridable,
    "quantized": _quantized,
    "sparse": _sparse,
    "broken-parameters": _broken_parameters,
    "not-finite": _not_finite,
    "variance-not-positive": _variance,
    "no-home": _no_home,
    "mismatch": _mismatch,
    "blocked": _blocked,
    "padding": _padding,
    "padding-unknown": _padding_unknown,
    "constant-stays": _constant_stays,
    "shift-stays": _shift,
    "negative-scale": _negative,
    "rounded": _rounded,
    "function-call": _function,
    "several-ways": _several,
    "kept": _kept,
    "no-gain": _no_gain,
    "other-readers": _other_readers,
    "graph-output": _graph_output,
    "outer-scope": _outer_scope,
    "axis-not-owned": _axis,
    "layout-lost": _layout,
    "broken-bias": _bias,
    "broken-layer": _layer,
    "overflow": _overflow,
    "precision-lost": _precision,
    "skipped": _skipped,
    "type": _type,
    "old-opset": _old_opset,
    "search-limit": _limit,
}
