"""The op table: the one place that knows operators.

affine.py       operators that ARE an affine
linear.py       operators that ABSORB one: convolutions, a norm
products.py     products with a constant: Gemm, MatMul, Einsum
recurrent.py    LSTM, GRU, RNN, which absorb one of their data
elementwise.py  a constant Mul, Add, Sub or Div, which may be all three
passing.py      operators that let one PASS: layout, and what passing is
joining.py      those of several values: sums, products, Concat
positions.py    those over positions or single elements: pooling, padding, rectifiers
indexing.py     those that take a part: Split, Slice, Gather
repeating.py    those that repeat a value, or exchange channels for positions: Expand, Tile, DepthToSpace, SpaceToDepth
collecting.py   those on sequences
matrices.py     a product of matrices: MatMul, of which either may bear a scale
attending.py    one with rows that sum to one: MatMul(Softmax, V)
forward.py      operators that let one pass the other way; forward_parts.py: what takes parts, repeats, or mixes
bounding.py     those with numbers of their own beside a value: Clip, Pad
vanishing.py    those in which a shift of their data vanishes: Softmax, InstanceNormalization
taking.py       all that a node takes over on its sides
standing.py     what is said of a node that does none of this
absorb.py       absorbing, written once
exact.py        its numbers, in float64
limits.py       what keeps a layer from it: axes, and what its type does not hold
quantized.py    weights that are integers: the scale absorbs
home.py         what a home is, and what it needs to have written
facts.py        what is known of a value before anything runs: its constant, its shape
rounding.py     float64 to a narrower type, rounded once
reasons.py      why an affine may have to stay, each with its page
table.py        how all of them register, and the support matrix made from that
"""

from bnfold.ops import (
    affine,
    attending,
    bounding,
    collecting,
    elementwise,
    forward,
    forward_parts,
    indexing,
    joining,
    linear,
    matrices,
    passing,
    positions,
    products,
    recurrent,
    repeating,
    vanishing,
)
from bnfold.ops.table import TABLE

__all__ = [
    "TABLE",
    "affine",
    "attending",
    "bounding",
    "collecting",
    "elementwise",
    "forward",
    "forward_parts",
    "indexing",
    "joining",
    "linear",
    "matrices",
    "passing",
    "positions",
    "products",
    "recurrent",
    "repeating",
    "vanishing",
]
