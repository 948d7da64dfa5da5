"""The public functions: each reads as the story of the command that bears its name.

    fold       read, plan, rewrite, prove, and only then write
    plan       what fold would do with each BatchNormalization, and why not
    validate   what may be wrong with its BatchNormalizations, alone and over data
    verify     whether two models are the same function
    insert     BatchNormalizations behind named layers, that change nothing or normalise
    operators  what may move where, from the op table (the command is `ops`)
    explain    the page of one reason or rule
    witness    what shows that a BatchNormalization that stays could not go

A function that changes a model returns a new one. Whatever a caller could overlook raises.
"""

from __future__ import annotations

from bnfold.api.folding import fold, plan
from bnfold.api.inserting import insert
from bnfold.api.pages import explain, operators
from bnfold.api.validating import validate
from bnfold.api.verifying import verify
from bnfold.api.witnesses import witness

__all__ = ["explain", "fold", "insert", "operators", "plan", "validate", "verify", "witness"]
