"""A model file: faithful reading, tensors as spans of a file, safe writing, and refusals of bad input.

Invariant: what an edit does not name comes out byte for byte, and no edit at all writes the input's own bytes.
"""

from __future__ import annotations

from bnfold.model.editing import edited
from bnfold.model.edits import Address, Edits, GraphEdit, NewTensor, NodeEdit
from bnfold.model.freezing import FIRST_IR_WITH_FREE_INITIALIZERS, overridable
from bnfold.model.inlining import without_functions
from bnfold.model.modelfile import ModelFile
from bnfold.model.publish import Candidate, ExternalData, candidate, staged
from bnfold.model.relocate import model_bytes as to_bytes
from bnfold.model.source import read
from bnfold.model.storage import Span
from bnfold.model.subject import Subject, subject_of

__all__ = [
    "FIRST_IR_WITH_FREE_INITIALIZERS",
    "Address",
    "Candidate",
    "Edits",
    "ExternalData",
    "GraphEdit",
    "ModelFile",
    "NewTensor",
    "NodeEdit",
    "Span",
    "Subject",
    "candidate",
    "edited",
    "overridable",
    "read",
    "staged",
    "subject_of",
    "to_bytes",
    "without_functions",
]
