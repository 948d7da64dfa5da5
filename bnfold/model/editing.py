"""An edited model as one that was read: in memory, its external data where they are."""

from __future__ import annotations

from bnfold.model.content import Woven
from bnfold.model.edits import Edits
from bnfold.model.modelfile import ModelFile
from bnfold.model.source import reopened
from bnfold.model.splice import check_size, inline, spliced


def edited(model: ModelFile, edits: Edits) -> ModelFile:
    """The model with its edits carried out; new tensors are stored inline. Raises CannotWrite beyond 2 GiB."""
    content = spliced(model.storage.content, model.proto, edits, inline)
    check_size(content)
    return reopened(Woven(content, model.storage.content), model.path)
