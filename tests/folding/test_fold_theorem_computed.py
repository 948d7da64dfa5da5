"""What an operator is told by an expression of sizes is told as by a constant: where it cuts, pads, repeats, reduces.

Every line computes its operands from the Shape of its data. The data are of known sizes, or of a batch, rows and
columns of any size: then only what the affine depends on has to be known.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from folding_draws import Array
from folding_support import model
from passing_support import judged

SIZES = "s = Shape (c)  n = Slice (s, i0, i1)  k = Slice (s, i1, i2)  h = Slice (s, i2, i3)  w = Slice (s, i3, i4)"
HALF = "half = Div (k, i2)"
POOLED = "g = GlobalAveragePool (c)"
DOUBLED = """a = Add (h, h)  d = Cast <to = 1> (a)  b = Cast <to = 1> (h)  e = Div (d, b)
    f = Concat <axis = 0> (scales1, scales1, e, scales1)  p = Resize <mode = "nearest"> (c, , f)"""

Way = Callable[[str, str, np.random.Generator], onnx.ModelProto]

CASES = {
    "Slice of rows": ("e = Add (h, i_1)  p = Slice (c, i0, e, i2)", 4),
    "Slice of rows from a computed one": ("b = Add (h, i_2)  p = Slice (c, b, h, i2)", 4),
    "Slice of the first channels": (f"{HALF}  p = Slice (c, i0, half, i1)", 2),
    "Slice of the last channels": (f"{HALF}  p = Slice (c, half, k, i1)", 2),
    "Slice of axes that are computed": ("e = Add (h, i_1)  a = Add (k, i_2)  p = Slice (c, i0, e, a)", 4),
    "Split": (f"{HALF}  parts = Concat <axis = 0> (half, half)  p, o = Split <axis = 1> (c, parts)", 2),
    "Gather": ("e = Squeeze (k, i0)  t = Range (z0, e, z1)  p = Gather <axis = 1> (c, t)", 4),
    "Tile": (f"{POOLED}  t = Concat <axis = 0> (i1, i1, h, w)  p = Tile (g, t)", 4),
    "Expand": (f"{POOLED}  p = Expand (g, s)", 4),
    "Pad": ('f = Mul (h, i_1)  d = Add (f, i9)  t = Concat <axis = 0> (o6, d, i0)  p = Pad <mode = "edge"> (c, t)', 4),
    "ReduceMean": ("e = Size (s)  a = Range (z2, e, z1)  p = ReduceMean <keepdims = 1> (c, a)", 4),
    "Unsqueeze": ("a = Shape (s)  p = Unsqueeze (c, a)", 4),
    "Squeeze": ("a = Shape (s)  u = Unsqueeze (c, i4)  p = Squeeze (u, a)", 4),
    "Reshape of rows and columns to one": ("t = Concat <axis = 0> (n, k, i_1)  p = Reshape (c, t)", 4),
    "Reshape, the channels left over": ("t = Concat <axis = 0> (n, i_1, h, w)  p = Reshape (c, t)", 4),
    "Reshape to blocks of rows": ("e = Div (h, i2)  t = Concat <axis = 0> (n, k, e, i2, w)  p = Reshape (c, t)", 4),
    "Resize by factors": (DOUBLED, 4),
}
"""What stands between c, of four channels, and p, and how many channels that has."""

RANKS = {"Unsqueeze": 5, "Reshape of rows and columns to one": 3, "Reshape to blocks of rows": 5}
HELD: dict[str, Array] = {
    **{f"i{k}": np.array([k]) for k in (0, 1, 2, 3, 4, 9)},
    **{f"z{k}": np.array(k) for k in (0, 1, 2)},
    "i_1": np.array([-1]), "i_2": np.array([-2]), "o6": np.zeros(6, np.int64), "scales1": np.ones(1, np.float32),
}  # fmt: skip
KNOWN = {"known": "2,{},4,6", "batch": "N,{},4,6", "any": "N,{},H,W"}


def read(line: str) -> dict[str, Array]:
    """The integers that the lines name."""
    return {name: array for name, array in HELD.items() if f"{name}," in line or f"{name})" in line}


def drawn(random: np.random.Generator, *shape: int) -> Array:
    return (random.choice([-1, 1], shape) * random.uniform(0.5, 2, shape)).astype(np.float32)


def back(case: str, dims: str, random: np.random.Generator) -> onnx.ModelProto:
    """A Conv, the line, and a norm."""
    line, channels = CASES[case]
    text = f"""(float[{dims.format(2)}] x) => (float[] y) {{ c = Conv (x, W)  {SIZES}  {line}
        q = BatchNormalization (p, g1, b1, m1, v1)  y = Identity (q) }}"""
    return model(text, opset=18, W=drawn(random, 4, 2, 1, 1), **norm(random, channels), **read(SIZES + line))


def ahead(case: str, dims: str, random: np.random.Generator) -> onnx.ModelProto:
    """A norm, the line, and a Conv."""
    line, channels = CASES[case]
    text = f"""(float[{dims.format(4)}] x) => (float[] y) {{ c = BatchNormalization (x, g1, b1, m1, v1)  {SIZES}  {line}
        q = Conv (p, W)  y = Identity (q) }}"""
    rank = RANKS.get(case, 4)
    weight = drawn(random, 3, channels, *[1] * (rank - 2))
    return model(text, opset=18, W=weight, **norm(random, 4), **read(SIZES + line))


def norm(random: np.random.Generator, channels: int) -> dict[str, Array]:
    return {**{n: drawn(random, channels) for n in ("g1", "b1", "m1")}, "v1": np.abs(drawn(random, channels))}


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("way", [back, ahead])
@pytest.mark.parametrize("case", CASES)
def test_an_affine_passes_what_is_told_by_sizes(case: str, way: Way, known: str) -> None:
    random = np.random.default_rng([len(case), len(known)])
    before = way(case, KNOWN[known], random)
    dims = [d.dim_value for d in before.graph.input[0].type.tensor_type.shape.dim]
    x = drawn(random, *[size or chosen for size, chosen in zip(dims, (3, 1, 8, 2), strict=True)])
    found = judged(before, {"x": x}, 8)
    assert [move.site.op for move in found.folded.plan.moves] == ["BatchNormalization"], found.folded.plan.refusals
    assert found.ran


@pytest.mark.parametrize(("dims", "parts"), [("2,4,8,6", "k"), ("N,4,H,6", ""), ("N,4,H,6", "k")])
def test_every_part_of_rows_bears_what_all_of_them_did(dims: str, parts: str) -> None:
    """How many rows a part has need not be known: each of them bears the same."""
    told = f", int64[2] {parts}" if parts else ""
    cut = f"Split <axis = 2> (n, {parts})" if parts else "Split <axis = 2, num_outputs = 2> (n)"
    text = f"""(float[{dims}] x{told}) => (float[] y, float[] z) {{ n = BatchNormalization (x, g1, b1, m1, v1)
        p, q = {cut}  y = Conv (p, W)  z = Conv (q, W) }}"""
    random = np.random.default_rng(len(dims + parts))
    before = model(text, opset=18, W=drawn(random, 3, 4, 1, 1), **norm(random, 4))
    feeds = {"x": drawn(random, 2, 4, 8, 6)} | ({parts: np.array([5, 3])} if parts else {})
    found = judged(before, feeds, 8)
    assert found.ran
    assert len(found.folded.plan.moves) == 1
