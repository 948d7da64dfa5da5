"""The op table: the one place that knows operators.

affine.py    operators that ARE an affine
linear.py    operators that ABSORB one
passing.py   operators that let one PASS
facts.py     what is known of a value before anything runs: its constant, its shape
reasons.py   why an affine may have to stay, each with its page
table.py     how the three kinds register, and the support matrix made from that
"""

from bnfold.ops import affine, linear, passing
from bnfold.ops.table import TABLE

__all__ = ["TABLE", "affine", "linear", "passing"]
