"""MatMul and Einsum take over any affine along an axis that their constant alone makes; a shift becomes one Add."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from folding_draws import Array, Chain, Kind, arrays, chained, examples, kinds, statistics
from folding_support import bits, model, operands, proven, scale_and_shift
from hypothesis import event, given
from hypothesis import strategies as st

PROVEN = {("linear", "MatMul"), ("linear", "Einsum"), ("feeding", "Einsum")}
FIRST_OPSET_WITH_EINSUM = 12


@dataclass(frozen=True, slots=True)
class Product:
    """A product with one constant operand; its outputs lie along `axis` of the result, `own` of the weight."""

    kind: Kind
    line: str
    weight: Array
    x: Array
    rank: int
    axis: int
    own: int
    fan_in: int
    symbolic: bool = False

    def text(self, body: str) -> str:
        dims = [f"d{i}" if self.symbolic and i == 0 else str(d) for i, d in enumerate(self.x.shape)]
        kind = self.kind.text
        return f"({kind}[{','.join(dims)}] x) => ({kind}[] y) {{ {self.line} {body} }}"

    @property
    def channels(self) -> int:
        return int(self.weight.shape[self.own])


@st.composite
def products(draw: st.DrawFn) -> Product:
    """A MatMul: x of rank 2 to 4, the constant on either side, of rank 2 or batched like x, or more than x."""
    kind = draw(kinds(double=True))
    rows, terms, columns = (draw(st.integers(1, 4)) for _ in range(3))
    batch = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    own_batch = tuple(draw(st.sampled_from([1, d])) for d in batch[draw(st.integers(0, len(batch))) :])
    right = draw(st.booleans())
    x_batch = batch if draw(st.booleans()) else (1,) * len(batch)
    if right:
        weight, x = draw(arrays((*own_batch, terms, columns), kind.data)), (*x_batch, rows, terms)
    else:
        weight, x = draw(arrays((*own_batch, rows, terms), kind.data)), (*x_batch, terms, columns)
    rank = len(batch) + 2
    line = "t = MatMul (x, W)" if right else "t = MatMul (W, x)"
    axis = rank - 1 if right else rank - 2
    own = weight.ndim - 1 if right else weight.ndim - 2
    return Product(kind, line, weight, draw(arrays(x, kind.data)), rank, axis, own, terms, draw(st.booleans()))


@st.composite
def einsums(draw: st.DrawFn) -> Product:
    """An Einsum of x and W: labels of x alone, of W alone, contracted ones and batches; output in any order."""
    data = draw(st.sampled_from([np.float32, np.float64]))
    kind = Kind(data, data, draw(st.sampled_from([12, 13, 17, 21])))
    size = dict(zip("abcdefgh", draw(st.permutations([2, 3, 2, 4, 1, 3, 2, 5])), strict=True))
    labels = draw(st.permutations("abcdefgh"))
    owned, labels = list(labels[: draw(st.integers(1, 2))]), labels[2:]
    of_x, batch, summed = (list(labels[i : i + draw(st.integers(0, 2))][:2]) for i in (0, 2, 4))
    if not (of_x or batch or summed):
        of_x = [labels[0]]
    x_term = "".join(draw(st.permutations(of_x + batch + summed)))
    w_term = "".join(draw(st.permutations(owned + batch + summed)))
    out = "".join(draw(st.permutations(owned + of_x + batch)))
    own = draw(st.sampled_from(owned))
    first = draw(st.booleans())
    ellipsis = draw(st.sampled_from(["", "..."])) if not first else ""
    equation = f"{w_term},{x_term}->{out}" if first else f"{ellipsis}{x_term},{w_term}->{ellipsis}{out}"
    line = f't = Einsum <equation = "{equation}"> ({"W, x" if first else "x, W"})'
    extra = (2,) if ellipsis and draw(st.booleans()) else ()
    weight = draw(arrays(tuple(size[label] for label in w_term), data))
    x = draw(arrays((*extra, *(size[label] for label in x_term)), data))
    rank = len(extra) + len(out)
    fan_in = math.prod(size[label] for label in summed)
    return Product(kind, line, weight, x, rank, len(extra) + out.index(own), w_term.index(own), fan_in)


def to_axis_1(product: Product, draw: st.DrawFn) -> str:
    """A Transpose that brings the outputs to axis 1, unless they are there."""
    if product.axis == 1:
        return "c = Identity (t)"
    others = draw(st.permutations([axis for axis in range(product.rank) if axis != product.axis]))
    return f"c = Transpose <perm = {[others[0], product.axis, *others[1:]]}> (t)"


def scaled(product: Product, a: Array) -> Array:
    """a*W in float64, rounded once."""
    along = [1] * product.weight.ndim
    along[product.own] = -1
    return (product.weight.astype(np.float64) * a.reshape(along)).astype(product.kind.data)


def check_norm(product: Product, data: st.DataObject) -> None:
    if product.rank < 2:
        return
    kind = product.kind
    parameters = data.draw(statistics(product.channels, kind))
    body = f"{to_axis_1(product, data.draw)}  y = BatchNormalization (c, g, be, m, v)"
    before = model(product.text(body), opset=kind.opset, W=product.weight, **parameters)
    done = proven(before, {"x": product.x}, product.fan_in)
    a, s = scale_and_shift(parameters)
    op = product.line.split()[2]
    assert done.ops[0] == op
    assert done.ops[1:-1] == ["Add"] * bool(np.any(s))
    found = next(c for c in operands(done.proto, op) if c is not None)
    assert bits(found) == bits(scaled(product, a))
    if np.any(s):
        added = operands(done.proto, "Add")[1]
        assert np.all(added.reshape(-1) == s.astype(kind.data))  # one channel may lie along a longer label
        assert added.dtype == kind.data


@examples(110)
@given(products(), st.data())
def test_matmul_takes_over_any_norm_of_what_its_constant_makes(product: Product, data: st.DataObject) -> None:
    check_norm(product, data)


@examples(110)
@given(einsums(), st.data())
def test_einsum_takes_over_any_norm_along_a_label_that_its_constant_owns(product: Product, data: st.DataObject) -> None:
    check_norm(product, data)


def check_chain(product: Product, data: st.DataObject) -> None:
    """Everything settles, save that one Add (or Sub) may be left: where the chain is a mere shift, it was one before.

    What is left are as many as NO_GAIN says of, never more than one in the end: the next settles in it.
    """
    most = 3 if product.kind.data is np.float16 else 6
    chain = data.draw(chained(Chain(product.kind, product.rank, product.axis, product.channels, "t"), 1, most))
    body = f"{' '.join(chain.lines)}  y = Identity ({chain.value})"
    before = model(product.text(body), opset=product.kind.opset, W=product.weight, **chain.tensors)
    lone = first_shift_is_alone(chain)
    event(f"left {lone}")
    done = proven(before, {"x": product.x}, product.fan_in + len(chain.lines), left=lone)
    assert done.ops[0] == product.line.split()[2]
    assert len(done.ops) <= 3
    assert set(done.ops[1:-1]) <= {"Add", "Sub"}


def first_shift_is_alone(chain: Chain) -> int:
    """1 where the first affine of a chain that has a shift is an Add or Sub: it is the product's bias, and stays."""
    for line in chain.lines:
        op = line.split()[2]
        if op in {"Add", "Sub"} and any(
            np.any(chain.tensors[n]) for n in re.findall(r"\w+", line) if n in chain.tensors
        ):
            return 1
        if op == "BatchNormalization":
            prefix = line.split("(")[1].split(", ")[1].removesuffix("g")
            if np.any(scale_and_shift(chain.tensors, prefix)[1]):
                return 0
    return 0


@examples(110)
@given(products(), st.data())
def test_matmul_and_any_chain_of_affines_become_a_product_and_at_most_one_add(
    product: Product, data: st.DataObject
) -> None:
    check_chain(product, data)


@examples(80)
@given(einsums(), st.data())
def test_einsum_and_any_chain_of_affines_become_a_product_and_at_most_one_add(
    product: Product, data: st.DataObject
) -> None:
    check_chain(product, data)
