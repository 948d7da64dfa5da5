"""Why an affine may have to stay where it is: a stable code, one line, the reason behind it, and what to do about it.

Everything that is refused is refused with one of these and a sentence about the very case (an `Obstacle`).
`bnfold explain CODE` prints a reason's page, and the reference in the docs is made from this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.nodes import Node


@dataclass(frozen=True, slots=True)
class Reason:
    """A stable `code`, a `summary` of one line, `why` it must be so, and a `remedy` that works when followed.

    A remedy that begins with "none" says why nothing can be done. `algebra` is the same as `why` in one formula, where
    it is algebra that stands in the way. `changes_function`: the remedy makes another function of the model, or a
    model of what was none.
    """

    code: str
    summary: str
    why: str
    remedy: str
    algebra: str = ""
    changes_function: bool = False

    @property
    def can_be_remedied(self) -> bool:
        """Whether something can be done about it."""
        return not self.remedy.startswith("none")


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands in the way of one affine: a reason, a sentence about this case, and the node to blame."""

    reason: Reason
    detail: str
    node: Node | None = None


REASONS: dict[str, Reason] = {}


def _reason(  # noqa: PLR0913  # a page, paragraph by paragraph
    code: str, summary: str, why: str, remedy: str, algebra: str = "", *, changes_function: bool = False
) -> Reason:
    if code in REASONS:
        raise ValueError(f"two reasons bear the code {code}")
    REASONS[code] = Reason(code, summary, why, remedy, algebra, changes_function)
    return REASONS[code]


TRAINING_MODE = _reason(
    "training-mode",
    "the BatchNormalization computes statistics of its batch",
    "In training mode the output depends on the mean and variance of the very batch that is run, so it is no fixed "
    "affine map. The signals are training_mode=1 (opset 14 and later), or more than one output in use (before). A "
    "Dropout in training mode draws random numbers.",
    "export the model for inference: call model.eval() and export with training=EVAL (PyTorch), or set training_mode=0 "
    "and drop the further outputs if the running statistics in the file are the ones to use",
    "y = a(x)*x + s(x), where a and s are computed from all of x",
    changes_function=True,
)
SPATIAL = _reason(
    "spatial-zero",
    "spatial=0: one set of parameters per element, not per channel",
    "BatchNormalization of opset 7 and 8 with spatial=0 normalises each element by statistics of its own. No weight "
    "that is shared between positions can take that over.",
    "re-export the layer with spatial=1, or with opset 9 or later, which knows per-channel statistics alone",
    "a[c,h,w] * sum of W[c,i,k]*x[i,h+k,w] has no W'[c,i,k] unless a is the same for all h and w",
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
    "one of the model's functions, fold with --inline; where two values of the data are multiplied, as in attention, "
    "nothing can be done",
    changes_function=True,
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
    changes_function=True,
)
NOT_FINITE = _reason(
    "not-finite",
    "a parameter or weight holds NaN or infinity",
    "The original computes NaN there; a folded weight would spread it to every value that the weight touches.",
    "find out in training where the value comes from; a fold cannot repair it",
    changes_function=True,
)
VARIANCE = _reason(
    "variance-not-positive",
    "variance + epsilon is not positive",
    "The original divides by the square root of that number: NaN or infinity.",
    "repair the statistics (re-estimate them over data) or raise epsilon",
    "a = gamma / sqrt(var + epsilon)",
    changes_function=True,
)
NO_HOME = _reason(
    "no-home",
    "nothing before the BatchNormalization could take it, nor could what reads it",
    "The input comes from outside the graph, from a constant, or is a further output of an operator: there is no "
    "weight before it in which the affine could settle. And what reads it is no layer, or nothing does.",
    "none, where there is no layer on either side: it stays as one elementwise operation, and it is one already. A "
    "layer with a constant weight beside it would take it",
)
MISMATCH = _reason(
    "mismatch",
    "what folding it made was found to differ, or not shown to be the same",
    "Verification found that the model folded here is another function, or the certificate could not follow what was "
    "done with it; and --drop-mismatched asked to leave such a BatchNormalization where it is. That should not happen: "
    "bnfold or onnxruntime computes something wrong, or the certificate knows less than what decides what goes where.",
    "none of yours: please report it with the model. Without --drop-mismatched nothing is written, and the report "
    "names the site",
)
BLOCKED = _reason(
    "blocked",
    "an operator on the way does not let a per-channel affine pass",
    "A scale and shift after this operator cannot be written as a scale and shift before it: it is not linear, mixes "
    "channels, or is not in the table of `bnfold ops`, so that nothing is known of it.",
    "place the BatchNormalization directly after a Conv, ConvTranspose or Gemm, before this operator, and train it "
    "there: that is another network; as the model is, nothing can be done",
    "f(a*x + s) = a*f(x) + s for every x holds for no such f unless a = 1 and s = 0",
    changes_function=True,
)
PADDING = _reason(
    "padding",
    "what is padded in would not bear the affine",
    "Zeros (or another number) that come in at the border are not scaled and shifted when what stands before them is. "
    "A scale leaves zeros as they are; a shift does not, nor a scale another number. So it is for a Conv behind the "
    "BatchNormalization that pads, a ConvTranspose that strides or keeps what hangs over, a Pad, and an AveragePool "
    "that counts its padding.",
    "pad with mode reflect or edge in a Pad of its own, or let the layer pad nothing, or train the BatchNormalization "
    "without a shift: each is another function at the border; none of them is done unasked",
    "pad(a*x + s) = a*pad(x) + s fails at the border, where it is 0 on the left and s on the right",
    changes_function=True,
)
SIZE_UNKNOWN = _reason(
    "padding-unknown",
    "whether anything is padded depends on a size that is not known",
    "With auto_pad SAME_UPPER or SAME_LOWER, and a kernel that is not larger than the stride, a Conv or AveragePool "
    "pads for some sizes of its data and not for others; with ceil_mode=1 an AveragePool hangs over for some. "
    "A shift before it goes where nothing is padded. The file does not say how large the data are.",
    "give the inputs of the model static sizes if they are fixed in use (what is noted of values between is not relied "
    "on), or write "
    "auto_pad=NOTSET with pads of zero (ceil_mode=0) where the sizes are such that nothing is padded",
    "SAME pads where kernel > (size - 1) mod stride + 1",
)
CONSTANT_STAYS = _reason(
    "constant-stays",
    "a constant is added on the way, and no scale goes forward past it",
    "(a*x + s) + c is a*(x + (s + c)/a): the constant would have to be divided by the scale. One that is the same for "
    "all positions is an affine itself, and goes. One that differs between them (a code of the positions, say) would "
    "have to become a number for each channel and position, and there is none where a channel's scale is zero: it "
    "stays as it is. A shift alone goes past any constant.",
    "add the constant before the BatchNormalization, divided by its scale (scale / sqrt(var + epsilon)): that is the "
    "same function, and the BatchNormalization then stands before what reads it",
    "(a*x + s) + c = a*(x + c/a) + s",
)
SHIFT = _reason(
    "shift-stays",
    "an operator on the way lets a scale pass, and no shift",
    "A rectifier, a norm, a product of two values or a factor of zero takes a scale that is not negative (or any) from "
    "its result to its input. A shift behind it is nowhere before it.",
    "place the BatchNormalization before this operator and train it there, or train it without a shift (B = mean * "
    "scale / sqrt(var + epsilon)): each is another function; as the model is, nothing can be done",
    "max(x, 0) + s is not max(x + t, 0) for any t: one is s for every negative x, the other is not",
    changes_function=True,
)
NEGATIVE = _reason(
    "negative-scale",
    "an operator on the way lets no negative scale pass",
    "The largest of some numbers, multiplied by a negative one, is the smallest of the products. Rectifiers, norms, "
    "maxima and minima let a scale pass that is nowhere negative.",
    "train with a positive scale (gamma), or place the BatchNormalization before this operator: each is another "
    "function; as the model is, nothing can be done",
    "a*max(x, y) = min(a*x, a*y) for a < 0",
    changes_function=True,
)
ROUNDED = _reason(
    "rounded",
    "values are rounded on the way",
    "A Cast to a narrower type, or a pass through integers (QuantizeLinear, DequantizeLinear), loses what a scale "
    "before it would keep, or keeps what is now lost: another number of steps fits into the value.",
    "fold before quantising or converting: run bnfold on the float model, then quantise or convert its output",
    "round(a*x + s) = a*round(x) + s fails unless a = 1 and s is an integer",
    changes_function=True,
)
FUNCTION = _reason(
    "function-call",
    "a call of one of the model's own functions stands on the way",
    "What the function does stands in its body, and nothing is moved into one that may be called elsewhere too.",
    "fold with --inline (inline=True), which writes the body in place of the call",
)
SEVERAL = _reason(
    "several-ways",
    "a node on the way is met on several ways",
    "More than one output of it leads to this BatchNormalization or is read besides, or a node reads the value twice: "
    "which of the ways the affine should go is not plain, and on both it would act twice.",
    "give each way nodes of its own: copy the node that is met twice, and all before it up to a layer that is copied "
    "too; or place the BatchNormalization before that node and train it there",
    "x*x scaled by a is (a*x)*x, and not (a*x)*(a*x)",
)
KEPT = _reason(
    "kept",
    "a node that would take it over, or that it would pass, was asked to stay",
    "--skip names that node, which then takes over nothing and lets nothing pass.",
    "fold without that --skip, or name this BatchNormalization too",
)
LAYER = _reason(
    "broken-layer",
    "the layer beside it does not fit its weight",
    "A weight of too few dimensions or without elements, a group that does not divide it, an equation with another "
    "number of terms, or an input that is missing. onnxruntime refuses the model as it is.",
    "repair the layer in the exporting code",
    changes_function=True,
)
OLD_OPSET = _reason(
    "old-opset",
    "before opset 7 two values are joined by rules that are not followed",
    "Until opset 6 an attribute says whether and along which axis the second value is broadcast to the first.",
    "convert the model to opset 7 or later (onnx.version_converter.convert_version), then fold",
)
LIMIT = _reason(
    "search-limit",
    "more values read it in turn than are looked at",
    "Every reader of a value has to take over an affine that goes forward. A value that so many read is no parameter "
    "of theirs, and the time that a plan takes has to stay linear in the model.",
    "none: a limit of the search, and no rule of algebra. It stays as one elementwise operation",
)
NO_GAIN = _reason(
    "no-gain",
    "an Add would only be replaced by another one, or by one that adds nothing",
    "MatMul and Einsum have no bias: a shift that settles there comes back as an Add behind them, so that moving an "
    "Add (or Sub) there saves nothing. It is the bias of the layer before it already. And where two constants cancel "
    "exactly, a node would be left that does nothing. Or it stands behind an affine of x that is added to a "
    "convolution of x: alone, that one becomes a tap of the convolution; with this one in it, only another fold would "
    "see that.",
    "none is needed: it stays as the layer's bias. Of two that cancel both can be removed by hand, and so can an Add "
    "of zero, with which the affine before it becomes a tap",
    "W*x + s is one MatMul and one Add before and after",
)
OTHER_READERS = _reason(
    "other-readers",
    "a value on the way is read by something else too",
    "Folding changes that value. Another node that reads it would compute something else.",
    "give the other reader a layer of its own (a copy with the same weights) if folding matters more than size and "
    "time; where both readers are meant, as in a DenseNet or behind a residual sum, it is best left",
    "with W' = a*W the other reader gets a*W*x + s instead of W*x",
)
GRAPH_OUTPUT = _reason(
    "graph-output",
    "a value on the way is an output of the graph",
    "Folding changes that value, and the graph promises it to its caller.",
    "remove the output if it is only there for debugging",
    "with W' = a*W the caller gets a*W*x + s instead of W*x",
    changes_function=True,
)
OUTER_SCOPE = _reason(
    "outer-scope",
    "the value on the way comes from, or is read in, another graph",
    "A branch or loop body runs sometimes, several times or never, and the outer value is there regardless: what is "
    "folded outside would act when the branch does not run.",
    "compute the value inside the branch that normalises it, if nothing else needs it",
)
AXIS = _reason(
    "axis-not-owned",
    "the channels are not the ones that the weight produces",
    "The affine varies along an axis (or several) other than the output channels of the weight before it, so no single "
    "weight belongs to one channel.",
    "check that the layout operator between them is meant; normalise before it instead, along the layer's own channels",
    "a[h] * sum of W[c,i]*x[i,h] has no W'[c,i] unless a is the same for all h",
    changes_function=True,
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
    changes_function=True,
)
OVERFLOW = _reason(
    "overflow",
    "a folded weight would not be finite in its type",
    "The product of weight and scale lies beyond the largest number of the weight's type. Writing it would give "
    "infinity, and NaN downstream, where the original is finite.",
    "keep this layer in a wider type, or limit its scale (variance near zero, or an exploding gamma)",
    "|a*W| > 65504 in float16, 3.4e38 in float32",
)
PRECISION = _reason(
    "precision-lost",
    "a folded number would lose precision",
    "In a 16-bit type the product of a small weight and a small scale becomes zero or keeps only a few bits. And where "
    "a skip connection stays in front of a small scale a, (a - 1)*x + x would have to make up for it, which is rounded "
    "to the size of x. Beside data of float64 the attributes of Clip and Pad (before opset 11), which are float32, are "
    "not rounded.",
    "fold in float32 and convert to 16 bit afterwards, or keep this layer in float32; a skip connection has no remedy",
    "0 < |a*W| < 6e-8 in float16 is written as 0",
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
    "Folding rounds once into the weight's own type; only float16, bfloat16, float32 and float64 weights are folded. "
    "The numbers of Clip and Pad before opset 11 are attributes, which are float32: beside data of float16 each has to "
    "be a number of float16, and beside float64 a Clip has to have both.",
    "fold in float32 and convert afterwards",
)
