"""A product of matrices lets a scale pass to one of its operands: the law in float64, onnxruntime and the certificate.

Operands of two to four dimensions, one of them perhaps constant, broadcast along a batch; the scale is of rows, of
columns, or of a matrix of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from folding_draws import Array, examples
from folding_support import model
from hypothesis import event, given
from hypothesis import strategies as st
from passing_support import Tally, judged

OPSETS = (7, 9, 11, 13, 17, 21)


def drawn(random: np.random.Generator, *shape: int) -> Array:
    return (random.choice([-1, 1], shape) * random.uniform(0.5, 2, shape)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Product:
    """A model with a product, in which a scale is to move, and its inputs."""

    before: onnx.ModelProto
    feeds: dict[str, Array]
    is_small: bool = False
    """The operand that has to bear the scale is smaller than the product where that differs."""


@st.composite
def behind(draw: st.DrawFn) -> Product:
    """The scale of one axis of a product, one of whose operands is a product with a constant, in which it settles."""
    random, opset = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.sampled_from(OPSETS))
    rank, takes = draw(st.integers(2, 4)), draw(st.sampled_from([0, 1]))
    batch = (2, 3)[: rank - 2]
    dims = [(*batch, 4, 5), (*batch, 5, 6)]
    axis = draw(st.sampled_from([*range(rank - 2), rank - 2 + takes]))
    is_small = axis < rank - 2 and draw(st.booleans())
    if is_small:  # its batch is broadcast
        dims[takes] = (*[1] * (rank - 2), *dims[takes][rank - 2 :])
    size = ((*batch, 4, 6))[axis]
    k = drawn(random, size, *[1] * (rank - 1 - axis))
    held = {"k": k, "t": drawn(random, *dims[takes])}
    other = "u" if draw(st.booleans()) else "V"
    operands = ("m", other) if takes == 0 else (other, "m")
    told = f", float[{','.join(map(str, dims[1 - takes]))}] u" if other == "u" else ""
    feeds = {"x": drawn(random, *dims[takes])} | ({"u": drawn(random, *dims[1 - takes])} if other == "u" else {})
    held |= {} if other == "u" else {"V": drawn(random, *dims[1 - takes])}
    text = f"""(float[{",".join(map(str, dims[takes]))}] x{told}) => (float[] y) {{ z = Mul (x, t)  m = Relu (z)
        n = Neg (m)  p = MatMul ({", ".join(operands).replace("m", "n")})  q = Mul (p, k)  y = Identity (q) }}"""
    held["k"] = np.abs(k)
    return Product(model(text, opset=opset, **held), feeds, is_small)


def test_a_scale_of_a_product_goes_to_the_operand_that_has_it() -> None:
    tally = Tally()

    @examples(120)
    @given(behind())
    def check(case: Product) -> None:
        found = judged(case.before, case.feeds, 5)
        gone = not any(node.op_type == "Mul" and "p" in node.input for node in found.folded.proto.graph.node)
        event("stays" if case.is_small else "goes")
        assert gone or case.is_small, found.folded.plan.refusals
        tally.add(found)

    check()
    assert min(tally.counted[what] for what in ("moved", "ran", "wide")) >= 60


@st.composite
def before(draw: st.DrawFn) -> Product:
    """The scale of rows of the left operand, or of columns of the right one, and a layer along those behind."""
    random, opset = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.sampled_from(OPSETS))
    is_left, is_batch = draw(st.booleans()), draw(st.booleans())
    dims = [(2, 4, 5), (2, 5, 6)] if is_batch else [(2, 4, 5), (5, 6)]
    if is_left:
        line, held = "n = Mul (x, k)  p = MatMul (n, u)  y = Conv (p, W)", {"k": drawn(random, 4, 1)}
        held["W"] = drawn(random, 3, 4, 1)
    else:
        line, held = "n = Mul (u, k)  p = MatMul (x, n)  y = MatMul (p, W)", {"k": drawn(random, 6)}
        held["W"] = drawn(random, 6, 3)
    shapes = [",".join(map(str, each)) for each in dims]
    text = f"(float[{shapes[0]}] x, float[{shapes[1]}] u) => (float[] y) {{ {line} }}"
    return Product(model(text, opset=opset, **held), {"x": drawn(random, *dims[0]), "u": drawn(random, *dims[1])})


def test_a_scale_of_an_operand_goes_forward_through_the_product() -> None:
    tally = Tally()

    @examples(40)
    @given(before())
    def check(case: Product) -> None:
        found = judged(case.before, case.feeds, 30)
        assert "Mul" not in found.folded.ops, found.folded.plan.refusals
        tally.add(found)

    check()
    assert min(tally.counted[what] for what in ("moved", "ran", "wide")) >= 30


@pytest.mark.parametrize("batch", ["2", "N"])
def test_a_norm_of_rows_without_a_shift_goes_through_a_layer_to_the_convolution_before_it(batch: str) -> None:
    """MatMul with a constant on the right has no place for what differs between its rows: its data have."""
    text = f"""(float[{batch},4,6] x) => (float[] y) {{ c = Conv (x, W, b)  p = MatMul (c, V)
        q = BatchNormalization (p, g, z, z, v)  y = Identity (q) }}"""
    random = np.random.default_rng(5)
    held = {"W": drawn(random, 8, 4, 1), "b": drawn(random, 8), "V": drawn(random, 6, 5), "g": drawn(random, 8)}
    proto = model(text, **held, z=np.zeros(8, np.float32), v=np.abs(drawn(random, 8)))
    found = judged(proto, {"x": drawn(random, 2, 4, 6)}, 30)
    assert found.ran
    assert found.folded.ops == ["Conv", "MatMul", "Identity"]


def test_scales_of_rows_and_of_columns_each_go_their_own_way() -> None:
    """Also past what a layer has taken over of the other axis."""
    text = """(float[2,4,6] x) => (float[] y) { c = Conv (x, W)  p = MatMul (c, V)  q = Mul (p, k)  r = Mul (q, t)
        y = Identity (r) }"""
    random = np.random.default_rng(6)
    held = {"W": drawn(random, 8, 4, 1), "V": drawn(random, 6, 5), "k": drawn(random, 5), "t": drawn(random, 8, 1)}
    found = judged(model(text, **held), {"x": drawn(random, 2, 4, 6)}, 30)
    assert found.folded.ops == ["Conv", "MatMul", "Identity"]
