"""bnfold folds BatchNormalization of ONNX models into the weights around it, and shows that outputs match.

    result = bnfold.fold("model.onnx")      # a path, bytes or an onnx.ModelProto; verified, or raises NotVerified
    result.save("folded.onnx")

Names are resolved when they are first used: importing bnfold imports neither onnx nor onnxruntime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfold.lazily import names_of

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bnfold.affine import Affine
    from bnfold.api import explain, fold, insert, operators, plan, validate, verify, witness
    from bnfold.equality.certificate import Certificate
    from bnfold.equality.verdict import Counterexample, Differs, EndToEnd, Recheck, Same, Unknown, Verdict
    from bnfold.errors import (
        BatchNormsLeft,
        BnfoldError,
        CannotWrite,
        Flagged,
        InputRefused,
        NotClean,
        NotVerified,
        Undecided,
        UsageError,
        WouldFold,
    )
    from bnfold.inserting.places import Place
    from bnfold.inserting.result import InsertResult
    from bnfold.moves import Move, Plan, Refusal
    from bnfold.nodes import Site
    from bnfold.ops.reasons import Reason
    from bnfold.result import FoldResult, Totals
    from bnfold.rules.rule import Finding, Findings, Rule
    from bnfold.witnessing import Witness

_HOMES = {
    "bnfold.affine": ("Affine",),
    "bnfold.api": ("explain", "fold", "insert", "operators", "plan", "validate", "verify", "witness"),
    "bnfold.equality.certificate": ("Certificate",),
    "bnfold.equality.verdict": ("Counterexample", "Differs", "EndToEnd", "Recheck", "Same", "Unknown", "Verdict"),
    "bnfold.errors": (
        "BatchNormsLeft",
        "BnfoldError",
        "CannotWrite",
        "Flagged",
        "InputRefused",
        "NotClean",
        "NotVerified",
        "Undecided",
        "UsageError",
        "WouldFold",
    ),
    "bnfold.inserting.places": ("Place",),
    "bnfold.inserting.result": ("InsertResult",),
    "bnfold.nodes": ("Site",),
    "bnfold.ops.reasons": ("Reason",),
    "bnfold.moves": ("Move", "Plan", "Refusal"),
    "bnfold.result": ("FoldResult", "Totals"),
    "bnfold.rules.rule": ("Finding", "Findings", "Rule"),
    "bnfold.witnessing": ("Witness",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


__getattr__ = names_of(__name__, _HOME_OF, globals())


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "Affine",
    "BatchNormsLeft",
    "BnfoldError",
    "CannotWrite",
    "Certificate",
    "Counterexample",
    "Differs",
    "EndToEnd",
    "Finding",
    "Findings",
    "Flagged",
    "FoldResult",
    "InputRefused",
    "InsertResult",
    "Move",
    "NotClean",
    "NotVerified",
    "Place",
    "Plan",
    "Reason",
    "Recheck",
    "Refusal",
    "Rule",
    "Same",
    "Site",
    "Totals",
    "Undecided",
    "Unknown",
    "UsageError",
    "Verdict",
    "Witness",
    "WouldFold",
    "__version__",
    "explain",
    "fold",
    "insert",
    "operators",
    "plan",
    "validate",
    "verify",
    "witness",
]
