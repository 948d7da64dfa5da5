"""The public functions: each reads as the story of the command that bears its name.

    fold       read, plan, rewrite, prove, and only then write
    plan       what fold would do with each BatchNormalization, and why not
    validate   what may be wrong with its BatchNormalizations, alone and over data
    verify     whether two models are the same function
    insert     BatchNormalizations behind named layers, that change nothing or normalise
    operators  what may move where, from the op table (the command is `ops`)
    explain    the page of one reason or rule
    witness    what shows that a BatchNormalization that stays could not go

A function that changes a model returns a new one. Whatever a caller could overlook raises. Each is imported when it is
first used, with what it alone needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfold.lazily import names_of

if TYPE_CHECKING:
    from bnfold.api.folding import fold, plan
    from bnfold.api.inserting import insert
    from bnfold.api.pages import explain, operators
    from bnfold.api.validating import validate
    from bnfold.api.verifying import verify
    from bnfold.api.witnesses import witness

_HOME_OF = {
    "fold": "bnfold.api.folding",
    "plan": "bnfold.api.folding",
    "insert": "bnfold.api.inserting",
    "explain": "bnfold.api.pages",
    "operators": "bnfold.api.pages",
    "validate": "bnfold.api.validating",
    "verify": "bnfold.api.verifying",
    "witness": "bnfold.api.witnesses",
}

__getattr__ = names_of(__name__, _HOME_OF, globals())

__all__ = ["explain", "fold", "insert", "operators", "plan", "validate", "verify", "witness"]
