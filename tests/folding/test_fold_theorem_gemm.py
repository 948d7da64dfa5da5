"""Gemm takes over any affine along the axis of its constant operand: alpha stays, beta is taken into C."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from folding_draws import Array, Kind, arrays, examples, kinds, statistics
from folding_support import assert_same_function, bits, folded, model, operands, scale_and_shift
from hypothesis import given
from hypothesis import strategies as st

PROVEN = {("linear", "Gemm")}
FIRST_OPSET_WITHOUT_C = 11
ATTRIBUTES = "alpha = {alpha!r}, beta = {beta!r}, transA = {flip_a}, transB = {flip_b}"


@dataclass(frozen=True, slots=True)
class Case:
    """alpha*A'B' + beta*C with one constant operand; `weight` is that operand as the multiplication sees it."""

    kind: Kind
    attributes: dict[str, float]
    weight: Array
    tensors: dict[str, Array]
    x: Array

    @property
    def c(self) -> str:
        return ", C" if "C" in self.tensors else ""

    def text(self, body: str) -> str:
        dims = ",".join(map(str, self.x.shape))
        return f"({self.kind.text}[{dims}] x) => ({self.kind.text}[] y) {{ {body} }}"


@st.composite
def cases(draw: st.DrawFn, *, constant: str) -> Case:
    """M rows, K terms, N columns; the constant operand is "A" (channels are rows) or "B" (channels are columns)."""
    kind = draw(kinds(double=True))
    rows, terms, columns = (draw(st.integers(1, 4)) for _ in range(3))
    flips = {"flip_a": draw(st.booleans()), "flip_b": draw(st.booleans())}
    factors = st.sampled_from([1.0, -1.0, 0.5, 0.3, 2.0])
    attributes = {"alpha": draw(factors), "beta": draw(st.sampled_from([1.0, 0.0, -0.7, 3.0])), **flips}
    weight = draw(arrays((rows, terms) if constant == "A" else (terms, columns), kind.data))
    x = draw(arrays((terms, columns) if constant == "A" else (rows, terms), kind.data))
    channels = rows if constant == "A" else columns
    flip_weight, flip_x = flips[f"flip_{constant.lower()}"], flips["flip_b" if constant == "A" else "flip_a"]
    tensors = {"W": weight.T.copy() if flip_weight else weight, **draw(statistics(channels, kind))}
    shapes = [(), (1,), (columns,), (1, columns), (rows, 1), (rows, columns)]
    shape = draw(st.sampled_from([*shapes, None] if kind.opset >= FIRST_OPSET_WITHOUT_C else shapes))
    if shape is not None:
        tensors["C"] = draw(arrays(shape, kind.data))
    return Case(kind, {k: float(v) for k, v in attributes.items()}, weight, tensors, x.T.copy() if flip_x else x)


def written(case: Case) -> str:
    a = case.attributes
    flips = {name: int(a[name]) for name in ("flip_a", "flip_b")}
    return ATTRIBUTES.format(alpha=a["alpha"], beta=a["beta"], **flips)


def expected_c(case: Case, *, axis: int) -> Array | None:
    """beta*C*a + s in float64, rounded once; a and s lie along `axis` of the result."""
    a, s = (v if axis == 1 else v.reshape(-1, 1) for v in scale_and_shift(case.tensors))
    if "C" not in case.tensors:
        return s.astype(case.kind.data) if np.any(s) else None
    exact = case.tensors["C"].astype(np.float64) * np.float64(np.float32(case.attributes["beta"])) * a + s
    return exact.astype(case.kind.data)


@examples(150)
@given(cases(constant="B"))
def test_gemm_takes_over_any_norm_of_its_columns(case: Case) -> None:
    body = f"p = Gemm <{written(case)}> (x, W{case.c})  y = BatchNormalization (p, g, be, m, v)"
    before = model(case.text(body), opset=case.kind.opset, **case.tensors)
    after = folded(before)
    assert after.ops == ["Gemm"]
    a, _ = scale_and_shift(case.tensors)
    check_constants(case, after.proto, case.weight.astype(np.float64) * a, axis=1)
    assert_same_function(before, after.proto, {"x": case.x}, case.weight.shape[0] + 1)


@examples(120)
@given(cases(constant="A"))
def test_gemm_takes_over_a_norm_of_its_rows_where_they_become_the_channels(case: Case) -> None:
    body = f"""p = Gemm <{written(case)}> (W, x{case.c})
               t = Transpose <perm = [1, 0]> (p)
               y = BatchNormalization (t, g, be, m, v)"""
    before = model(case.text(body), opset=case.kind.opset, **case.tensors)
    after = folded(before)
    assert after.ops == ["Gemm", "Transpose"]
    a, _ = scale_and_shift(case.tensors)
    check_constants(case, after.proto, case.weight.astype(np.float64) * a[:, np.newaxis], axis=0)
    assert_same_function(before, after.proto, {"x": case.x}, case.weight.shape[1] + 1)


def check_constants(case: Case, after: onnx.ModelProto, exact: Array, *, axis: int) -> None:
    at, flip = (0, "flip_a") if axis == 0 else (1, "flip_b")
    node = after.graph.node[0]
    held = {attribute.name for attribute in node.attribute}
    found = operands(after, "Gemm")
    rounded = (exact.T if case.attributes[flip] else exact).astype(case.kind.data)
    assert bits(found[at]) == bits(rounded)
    others = case.x.size // case.weight.shape[1 - axis]  # rows of x, or columns, as many as are not summed over
    whole = (case.weight.shape[0], others) if axis == 0 else (others, case.weight.shape[1])
    c = expected_c(case, axis=axis)
    assert ("beta" in held) == (c is None)  # a beta that stays would act on the new C
    assert {"alpha", "transA", "transB"} <= held
    if c is not None:
        assert bits(np.broadcast_to(found[2], whole)) == bits(np.broadcast_to(c, whole))
