"""BatchNormalizations put where a user names them: which places, with which parameters, as edits of the model file.

places.py      which values were named, and why a BatchNormalization may not stand at some of them
types.py       types of values in functions, from where they are called
parameters.py  scale, B, mean, var and epsilon
splicing.py    places and parameters -> edits
measuring.py   statistics, all at once or layer by layer
"""

from __future__ import annotations

from bnfold.inserting.places import Place, Skipped, Where, chosen

__all__ = ["Place", "Skipped", "Where", "chosen"]
