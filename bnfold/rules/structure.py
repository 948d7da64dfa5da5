"""Rules about how a BatchNormalization is written: its mode, its outputs, its neighbours."""

from __future__ import annotations

from bnfold.ops.affine import FIRST_OPSET_WITH_TRAINING_MODE, FIRST_OPSET_WITHOUT_TEST_FLAG, is_batch_norm
from bnfold.rules.rule import rule
from bnfold.rules.subject import Norm


@rule("BN001", "error", "the training signal is on")
def training_signal(norm: Norm) -> str | None:
    """In training mode a BatchNormalization normalises by the mean and variance of the very batch that is run, and its
    trained statistics stand in the file unused: the output for one image depends on its neighbours in the batch, and a
    batch of one is normalised by itself. The signals are training_mode=1 from opset 14 on, and before it more outputs
    than one.

    Remedy: export for inference (PyTorch: model.eval(), and training=EVAL). If the statistics in the file are the ones
    to use, set training_mode to 0 and leave out all outputs but the first.
    """
    if norm.mode != "training":
        return None
    if norm.opset < FIRST_OPSET_WITHOUT_TEST_FLAG and norm.node.int_attribute("is_test", 0):
        return f"is_test is 1, but it has {1 + norm.further_outputs} outputs, as only training has"
    if norm.opset < FIRST_OPSET_WITH_TRAINING_MODE:
        return f"it has {1 + norm.further_outputs} outputs, which in opset {norm.opset} means training"
    if not norm.node.int_attribute("training_mode", 0):
        return f"training_mode is 0, but it has {1 + norm.further_outputs} outputs, as only training has"
    return "training_mode is 1"


@rule("BN002", "warning", "perhaps training: is_test is 0, in a model older than opset 7")
def perhaps_training(norm: Norm) -> str | None:
    """Before opset 7 the attribute is_test says whether the node trains, and 0, its default, means that it does. Many
    old exporters wrote 0 for models that were meant for inference. With one output the file does not say which is the
    case, and two runtimes may disagree.

    Remedy: set is_test to 1 if the model is meant for inference, or convert it to a newer opset. To have it taken for
    inference here, use --assume-inference.
    """
    return f"is_test is 0, with one output, in opset {norm.opset}" if norm.mode == "perhaps" else None


@rule("BN003", "error", "an optional output has an empty name")
def empty_output_name(norm: Norm) -> str | None:
    """An empty name means an output that is left out, and the format allows it. onnxruntime 1.31 dies with a
    segmentation fault on a BatchNormalization that has one: not an exception, the whole process ends.

    Remedy: drop empty names from the end of the node's list of outputs (bnfold runs such models with them dropped).
    """
    empty = [str(index) for index, name in enumerate(norm.node.proto.output) if index and not name]
    return f"output{'s' if len(empty) > 1 else ''} {', '.join(empty)} of it: the name is empty" if empty else None


@rule("BN008", "warning", "spatial is 0: statistics per element, not per channel")
def not_spatial(norm: Norm) -> str | None:
    """BatchNormalization of opset 7 and 8 with spatial=0 normalises each element by statistics of its own. Later
    versions know no such thing, converters stop there, and runtimes that overlook the attribute compute something else.
    It is nearly always the result of an exporter's mistake.

    Remedy: export the layer with spatial=1, or, if it is meant, as Sub, Div, Mul and Add of constants.
    """
    return None if norm.is_spatial else f"spatial is 0, in opset {norm.opset}"


@rule("BN018", "note", "two BatchNormalizations in a row")
def in_a_row(norm: Norm) -> str | None:
    """What has been normalised is normalised again, with nothing in between. Two affine maps in a row are one, so at
    inference the second is only work; in training it fights the first. It is often left over from editing a network.

    Remedy: keep one of the two. `bnfold fold` makes one of them, or none, without changing the function.
    """
    before = norm.before
    if before is None or before.output(0) is not norm.data or not is_batch_norm(before.op):
        return None
    return f"it normalises the output of {before.site}"


@rule("BN019", "note", "parameters that a caller may override")
def overridable_parameters(norm: Norm) -> str | None:
    """From IR version 4 on an initializer that is also an input of the graph is only a default: whoever runs the model
    may feed another value. A runtime can then fold nothing ahead, and this layer stays slower than it need be. PyTorch
    exports so with keep_initializers_as_inputs=True, which nothing newer than 2019 needs.

    Remedy: if nobody feeds them, drop those inputs (`bnfold fold --freeze-inputs`).
    """
    names = norm.overridable
    if not names:
        return None
    return f"{', '.join(map(repr, names))}: also input{'s' if len(names) > 1 else ''} of the graph"
