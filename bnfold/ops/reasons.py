"""Why an affine may have to stay where it is: a stable code, one line, the reason behind it, and what to do about it.

Everything that is refused is refused with one of these and a sentence about the very case (an `Obstacle`).
`bnfold explain CODE` prints a reason's page, and the reference in the docs is made from this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.nodes import Node


@dataclass(frozen=True, slots=True)
class Reason:
    """A stable `code`, a `summary` of one line, `why` it must be so, and a `remedy` that works when followed."""

    code: str
    summary: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands in the way of one affine: a reason, a sentence about this case, and the node to blame."""

    reason: Reason
    detail: str
    node: Node | None = None


REASONS: dict[str, Reason] = {}


def _reason(code: str, summary: str, why: str, remedy: str) -> Reason:
    if code in REASONS:
        raise ValueError(f"two reasons bear the code {code}")
    REASONS[code] = Reason(code, summary, why, remedy)
    return REASONS[code]


TRAINING_MODE = _reason(
    "training-mode",
    "the BatchNormalization computes statistics of its batch",
    "In training mode the output depends on the mean and variance of the very batch that is run, so it is no fixed "
    "affine map. The signals are training_mode=1 (opset 14 and later), or more than one output in use (before).",
    "export the model for inference: call model.eval() and export with training=EVAL (PyTorch), or set training_mode=0 "
    "if the running statistics in the file are the ones to use",
)
SPATIAL = _reason(
    "spatial-zero",
    "spatial=0: one set of parameters per element, not per channel",
    "BatchNormalization of opset 7 and 8 with spatial=0 normalises each element by statistics of its own. No weight "
    "that is shared between positions can take that over.",
    "re-export the layer with spatial=1, or with opset 9 or later, which knows per-channel statistics alone",
)
TEST_FLAG = _reason(
    "is-test-zero",
    "a BatchNormalization older than opset 7 with is_test=0",
    "Before opset 7 the attribute is_test says whether the node trains, and 0, its default, means that it does. Many "
    "old exporters wrote 0 for models that were meant for inference; the file does not say which is the case.",
    "if the model is meant for inference, fold with --assume-inference (assume_inference=True)",
)
NOT_CONSTANT = _reason(
    "not-constant",
    "a parameter or weight is computed while the model runs",
    "Folding rewrites constants. A scale, mean, weight or bias that depends on an input of the model (or of the "
    "function that holds it) has no value yet when the file is rewritten.",
    "export the model with its parameters stored in the file (PyTorch: constant folding on); where they are passed to "
    "one of the model's functions, fold with --inline",
)
OVERRIDABLE = _reason(
    "overridable",
    "an initializer is also a graph input: a caller may replace it",
    "Since IR version 4 an initializer that is listed among the graph's inputs is only a default. Who feeds another "
    "value would get the effect of the old one if it had been folded.",
    "fold with --freeze-inputs (freeze_inputs=True) if nobody feeds them; PyTorch: export with "
    "keep_initializers_as_inputs=False",
)
QUANTIZED = _reason(
    "quantized",
    "a weight is stored as integers, and their scale cannot take the affine over",
    "An affine settles in the scale of the DequantizeLinear that stands directly before the layer, one scale per "
    "output (opset 13 and later). A bias of integers takes no shift, and a float weight computed from the integers "
    "would silently undo the quantisation and multiply the file's size.",
    "fold before quantising: run bnfold on the float model, then quantise its output",
)
SPARSE = _reason(
    "sparse",
    "a weight is a sparse initializer",
    "A sparse tensor would have to be written dense, which changes the size and the kernels of the model.",
    "store the weight as a dense initializer if that is acceptable",
)
BROKEN_PARAMETERS = _reason(
    "broken-parameters",
    "the parameters do not fit the channels or each other",
    "scale, bias, mean and variance must be four vectors of one length, the size of the input's second dimension.",
    "repair the model: onnxruntime refuses to run it as it is",
)
NOT_FINITE = _reason(
    "not-finite",
    "a parameter or weight holds NaN or infinity",
    "The original computes NaN there; a folded weight would spread it to every value that the weight touches.",
    "find out in training where the value comes from; a fold cannot repair it",
)
VARIANCE = _reason(
    "variance-not-positive",
    "variance + epsilon is not positive",
    "The original divides by the square root of that number: NaN or infinity.",
    "repair the statistics (re-estimate them over data) or raise epsilon",
)
NO_HOME = _reason(
    "no-home",
    "nothing before the BatchNormalization could take it, nor could all that reads it",
    "The input comes from outside the graph, from a constant, or from a node that has other duties: there is no weight "
    "before it in which the affine could settle. And something that reads it is no layer, or one that cannot take a "
    "shift on its data: where it pads with zeros, the border would see no shift.",
    "none is needed: it stays as one elementwise operation. A Conv behind it takes it if it pads nothing, or if the "
    "BatchNormalization has no shift",
)
MISMATCH = _reason(
    "mismatch",
    "what folding it made was found to differ",
    "Verification found that the model folded here is another function, and --drop-mismatched asked to leave such a "
    "BatchNormalization where it is. That should not happen: either bnfold or onnxruntime computes something wrong.",
    "please report it with the model; without --drop-mismatched nothing is written, and the report names the site",
)
BLOCKED = _reason(
    "blocked",
    "an operator on the way does not let a per-channel affine pass",
    "A scale and shift after this operator cannot be written as a scale and shift before it (a non-linear function, "
    "a mixture of channels, or an operator that is not in the table of `bnfold ops`).",
    "none, if the model is meant so; place the BatchNormalization directly after a Conv, ConvTranspose or Gemm when "
    "designing the network",
)
NO_GAIN = _reason(
    "no-gain",
    "an Add would only be replaced by another one, or by one that adds nothing",
    "MatMul and Einsum have no bias: a shift that settles there comes back as an Add behind them, so that moving an "
    "Add (or Sub) there saves nothing. It is the bias of the layer before it already. And where two constants cancel "
    "exactly, a node would be left that does nothing. Or it stands behind an affine of x that is added to a "
    "convolution of x: alone, that one becomes a tap of the convolution; with this one in it, only another fold would "
    "see that.",
    "none is needed: it stays as the layer's bias; two that cancel can both be removed by hand, and so can an Add of "
    "zero, with which the affine before it becomes a tap",
)
OTHER_READERS = _reason(
    "other-readers",
    "a value on the way is read by something else too",
    "Folding changes that value. Another node that reads it would compute something else.",
    "none, if both readers are meant; give the other reader a Conv of its own if folding matters more than size",
)
GRAPH_OUTPUT = _reason(
    "graph-output",
    "a value on the way is an output of the graph",
    "Folding changes that value, and the graph promises it to its caller.",
    "remove the output if it is only there for debugging",
)
OUTER_SCOPE = _reason(
    "outer-scope",
    "the value on the way comes from, or is read in, another graph",
    "A branch or loop body runs sometimes, several times or never, and the outer value is there regardless: what is "
    "folded outside would act when the branch does not run.",
    "none, if the model is meant so; compute the value inside the branch that normalises it",
)
AXIS = _reason(
    "axis-not-owned",
    "the channels are not the ones that the weight produces",
    "The affine varies along an axis (or several) other than the output channels of the weight before it, so no single "
    "weight belongs to one channel.",
    "check that the layout operator between them is meant; normalise before it instead",
)
LAYOUT = _reason(
    "layout-lost",
    "a layout operator mixes the channels with another axis, or its shape is not known",
    "On the other side of the operator the affine would no longer be a constant per channel, or the file does not say "
    "enough about its shapes to know.",
    "give the model static shapes (`onnx.shape_inference`, fixed input dimensions) if they are fixed in use",
)
BIAS = _reason(
    "broken-bias",
    "the bias before it has a shape or type that the operator does not accept",
    "A bias must have one value per output channel, of the weight's type. onnxruntime refuses the model as it is.",
    "repair the bias in the exporting code",
)
OVERFLOW = _reason(
    "overflow",
    "a folded weight would not be finite in its type",
    "The product of weight and scale lies beyond the largest number of the weight's type. Writing it would give "
    "infinity, and NaN downstream, where the original is finite.",
    "keep this layer in a wider type, or limit its scale (variance near zero, or an exploding gamma)",
)
PRECISION = _reason(
    "precision-lost",
    "a folded number would lose precision",
    "In a 16-bit type the product of a small weight and a small scale becomes zero or keeps only a few bits. And where "
    "a skip connection stays in front of a small scale a, (a - 1)*x + x would have to make up for it, which is rounded "
    "to the size of x.",
    "fold in float32 and convert to 16 bit afterwards, or keep this layer in float32; a skip connection has no remedy",
)
SKIPPED = _reason(
    "skipped",
    "it was asked to stay",
    "--only names what is to be folded, --skip what is not. What they leave out is not looked at, and --strict and "
    "--max-left do not count it.",
    "fold again without the option",
)
TYPE = _reason(
    "type",
    "the weights are of a type that is not folded",
    "Folding rounds once into the weight's own type; only float16, bfloat16, float32 and float64 weights are folded.",
    "fold in float32 and convert afterwards",
)
