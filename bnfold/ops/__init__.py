"""The op table: the one place that knows operators.

affine.py       operators that ARE an affine
linear.py       operators that ABSORB one
elementwise.py  a constant Mul, Add, Sub or Div, which may be all three
passing.py      operators that let one PASS: layout, and what passing is
joining.py      those of several values: sums, products, Concat
positions.py    those over positions or single elements: pooling, padding, rectifiers
indexing.py     those that take a part: Split, Slice, Gather
forward.py      operators that let one pass the other way
taking.py       all that a node takes over on its sides
standing.py     what is said of a node that does none of this
absorb.py       the arithmetic of absorbing, written once
quantized.py    weights that are integers: the scale absorbs
home.py         what a home is, and what it needs to have written
facts.py        what is known of a value before anything runs: its constant, its shape
rounding.py     float64 to a narrower type, rounded once
reasons.py      why an affine may have to stay, each with its page
table.py        how all of them register, and the support matrix made from that
"""

from bnfold.ops import affine, elementwise, forward, indexing, joining, linear, passing, positions
from bnfold.ops.table import TABLE

__all__ = ["TABLE", "affine", "elementwise", "forward", "indexing", "joining", "linear", "passing", "positions"]
