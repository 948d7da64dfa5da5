"""Defaults that a caller may override become constants: their graph inputs go, and nothing else.

Since IR 4 an initializer that is also an input of the main graph is a default: whoever runs the model may feed another
value. Below IR 4 every initializer has to be an input, and is constant all the same; there is nothing to freeze. An
input of a nested graph is fed by the node that holds the graph, and stays.
"""

from __future__ import annotations

from onnx import ModelProto

from bnfold.model.content import Woven
from bnfold.model.edits import Address, GraphEdit
from bnfold.model.modelfile import ModelFile
from bnfold.model.source import reopened
from bnfold.model.splice import inline, spliced

FIRST_IR_WITH_FREE_INITIALIZERS = 4


def overridable(model: ModelProto) -> frozenset[str]:
    """Names of the main graph's inputs for which the model itself holds a value, dense or sparse."""
    if model.ir_version < FIRST_IR_WITH_FREE_INITIALIZERS:
        return frozenset()
    held = {tensor.name for tensor in model.graph.initializer}
    held.update(sparse.values.name for sparse in model.graph.sparse_initializer)
    return frozenset(entry.name for entry in model.graph.input if entry.name in held)


def frozen(model: ModelFile) -> ModelFile:
    """The model without those inputs, every other byte as it was; the same model where it has none."""
    names = overridable(model.proto)
    if not names:
        return model
    gone = {index: None for index, entry in enumerate(model.proto.graph.input) if entry.name in names}
    edits = {Address(): GraphEdit(inputs=gone)}
    content = model.storage.content
    return reopened(Woven(spliced(content, model.proto, edits, inline), content), model.path)
