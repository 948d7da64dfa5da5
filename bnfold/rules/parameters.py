"""Rules about the numbers of a BatchNormalization: gamma (scale), beta (B), mean, variance, epsilon."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from bnfold.moves import Refusal
from bnfold.ops.affine import FIRST_OPSET_WITH_TRAINING_MODE, PARAMETERS
from bnfold.ops.reasons import BROKEN_PARAMETERS
from bnfold.rules.rule import rule
from bnfold.rules.subject import FLOATS, Norm, named

LARGEST_GAIN = 1e3
LARGEST_EPSILON, LEAST_EPSILON = 1e-2, 1e-12
FAR_MEAN = 1e3
MOST_MEAN_ROUNDING = 2.0**-4
"""How much of a standard deviation the rounding of a value that lies at the mean may be."""


@rule("BN004", "error", "a parameter holds NaN or infinity")
def not_finite(norm: Norm) -> str | None:
    """The channel's output is NaN or a constant, and every later layer spreads it: usually all outputs of the model are
    NaN. It comes from a training run that diverged, or from a conversion to 16 bits that overflowed.

    Remedy: find out where the value comes from and export an earlier checkpoint. Running statistics alone can be
    estimated again over data.
    """
    if norm.epsilon is not None and not math.isfinite(norm.epsilon):
        return f"epsilon is {norm.epsilon}"
    for role, vector in norm.vectors.items():
        broken = ~np.isfinite(vector)
        if np.any(broken):
            return f"{role} is {vector[int(np.argmax(broken))]} in {named(broken)}"
    return None


@rule("BN005", "error", "variance + epsilon is not positive")
def not_positive(norm: Norm) -> str | None:
    """The layer divides by the square root of that sum: its output is infinite or NaN.

    Remedy: repair the statistics (estimate them again over data), or raise epsilon.
    """
    variance = norm.vectors.get("var")
    if variance is None or norm.epsilon is None:
        return None
    bad = variance + norm.epsilon <= 0
    if not np.any(bad):
        return None
    worst = int(np.argmin(np.where(bad, variance, np.inf)))
    return f"variance + epsilon is {variance[worst] + norm.epsilon:.3g} in {named(bad)}"


@rule("BN006", "warning", "a variance is negative")
def negative_variance(norm: Norm) -> str | None:
    """No data have a negative variance. Here epsilon is large enough to hide it, and the layer computes something; it
    is what is left of a variance that was computed as E[x^2] - E[x]^2 in too narrow a type, or of an average of
    weights in which the statistics took part.

    Remedy: estimate the statistics again over data.
    """
    variance = norm.vectors.get("var")
    if variance is None or norm.epsilon is None:
        return None
    negative = (variance < 0) & (variance + norm.epsilon > 0)
    return f"the variance is {np.min(variance[negative]):.3g} in {named(negative)}" if np.any(negative) else None


@rule("BN007", "error", "parameters of the wrong length, type or rank")
def broken_parameters(norm: Norm) -> str | None:
    """Scale, bias, mean and variance must be four vectors of floats, of one length, which is the size of the input's
    second dimension; before opset 14 all of the input's type, from then on mean and variance may have another, and from
    opset 15 on scale and bias as well. onnxruntime refuses a model that breaks this; other runtimes read beyond the end
    of the vector.

    Remedy: repair the exporting code, or the tool that pruned or converted the model.
    """
    return next(_faults(norm), None)


def _faults(norm: Norm) -> Iterator[str]:
    missing = [role for index, role in enumerate(PARAMETERS, start=1) if norm.node.input(index) is None]
    if missing:
        yield f"{', '.join(missing)}: missing"
    if norm.data is None or norm.node.output(0) is None:
        yield "its input or output is missing"
    for role, constant in norm.constants.items():
        if constant.data_type not in FLOATS:
            yield f"{role} is of the type {_type_name(constant.data_type)}"
        if norm.is_spatial and len(constant.dims) != 1:
            yield f"{role} has {len(constant.dims)} dimensions, not 1"
    lengths = {role: constant.dims[0] for role, constant in norm.constants.items() if len(constant.dims) == 1}
    if len(set(lengths.values())) > 1:
        yield "lengths differ: " + ", ".join(f"{role} {length}" for role, length in lengths.items())
    if lengths and not any(lengths.values()):
        yield "the parameters are empty"
    if norm.is_spatial:
        yield from _wrong_channels(norm, next(iter(lengths.values()), None))
    yield from _wrong_types(norm)
    decided = norm.decided
    if isinstance(decided, Refusal) and decided.reason is BROKEN_PARAMETERS:
        yield decided.detail


def _wrong_channels(norm: Norm, length: int | None) -> Iterator[str]:
    shape = None if norm.data is None else norm.facts.shape(norm.data)
    if shape is None or length is None:
        return
    if len(shape) < 2:
        yield f"its input has {len(shape)} dimension(s), and so no channels"
    elif isinstance(shape[1], int) and shape[1] != length:
        yield f"the parameters are for {length} channel(s), the input has {shape[1]}"


def _wrong_types(norm: Norm) -> Iterator[str]:
    """Parameters that must be of one type and are not."""
    types = {role: constant.data_type for role, constant in norm.constants.items()}
    element = None if norm.data is None else norm.facts.shapes.element_type(norm.data)
    if element:
        types["the input"] = element
    for group in _alike(norm.opset):
        ours = {role: types[role] for role in group if role in types}
        if len(set(ours.values())) > 1:
            yield "types differ: " + ", ".join(f"{role} {_type_name(kind)}" for role, kind in ours.items())


def _alike(opset: int) -> tuple[tuple[str, ...], ...]:
    """Which must be of one type."""
    if opset < FIRST_OPSET_WITH_TRAINING_MODE:
        return (("the input", *PARAMETERS),)
    statistics = ("mean", "var")
    return (("the input", "scale", "B"), statistics) if opset == FIRST_OPSET_WITH_TRAINING_MODE else (
        ("scale", "B"), statistics,
    )  # fmt: skip


def _type_name(data_type: int) -> str:
    known = data_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(data_type).lower() if known else str(data_type)


@rule("BN009", "warning", "an odd epsilon")
def odd_epsilon(norm: Norm) -> str | None:
    """Frameworks use 1e-3 to 1e-7. A negative epsilon, or one above 0.01, is nearly always a mistake in conversion: it
    changes every output a little, and nobody notices. One that is 0, or too small for the type of the variance, leaves
    channels of no variance to be divided by zero. 0 is right for a layer that was put in as the exact identity, and
    there it is no finding.

    Remedy: set the epsilon that the model was trained with.
    """
    epsilon = norm.epsilon
    if epsilon is None or not math.isfinite(epsilon) or norm.is_identity:
        return None
    if epsilon < 0 or epsilon > LARGEST_EPSILON:
        return f"epsilon is {epsilon:.3g}"
    if epsilon < LEAST_EPSILON:
        return f"epsilon is {epsilon:.3g}, which protects no channel"
    kind = norm.constants["var"].data_type if "var" in norm.constants else None
    if kind == TensorProto.FLOAT16 and not helper.tensor_dtype_to_np_dtype(kind).type(epsilon):
        return f"epsilon is {epsilon:.3g}, which in float16, the type of the variance, is 0"
    return None


def _dead(norm: Norm) -> NDArray[np.bool_] | None:
    """Per channel, whether nothing of the input is left beside beta in the type of the output."""
    if norm.values is None or norm.folding is None or norm.mode == "training":
        return None
    return np.abs(norm.values.gamma) <= norm.half_unit * np.abs(norm.values.beta)


@rule("BN010", "note", "dead channels")
def dead_channels(norm: Norm) -> str | None:
    """Gamma is 0, or so small beside beta that adding beta rounds it away: the channel has the same value everywhere,
    whatever the input. That is legal, and what some pruning methods do; but the weights before and after the channel
    are paid for and do nothing.

    Remedy: remove the channel from the layers around it, or look for a learning rate or weight decay that killed it.
    """
    dead = _dead(norm)
    return (
        f"gamma is 0 or rounded away in {named(dead)}"
        if dead is not None and np.any(dead) and not np.all(dead)
        else None
    )


@rule("BN011", "warning", "a dead layer: no channel depends on the input")
def dead_layer(norm: Norm) -> str | None:
    """In every channel gamma is 0, or so small beside beta that adding beta rounds it away. The output is a constant,
    and everything before the layer on this path is without effect. A residual branch starts so in training; in a
    trained model it has learnt nothing.

    Remedy: check that the trained parameters were loaded before the export.
    """
    dead = _dead(norm)
    return f"gamma is 0 or rounded away in all {dead.size} channels" if dead is not None and np.all(dead) else None


@rule("BN012", "warning", "exploding gain")
def exploding_gain(norm: Norm) -> str | None:
    """The layer multiplies some channel by more than 1000: its running variance is next to nothing, or gamma has run
    away. Small differences of the input, rounding included, become large ones; in 16 bits, or quantised, the model will
    differ.

    Remedy: look whether the channel's input is constant in training (a dead unit before it), and prune it, or train
    again with a larger epsilon.
    """
    if norm.folding is None or norm.mode == "training":
        return None
    size = np.abs(norm.folding.scale)
    large = size > LARGEST_GAIN
    return f"gamma / sqrt(variance + epsilon) is up to {size.max():.3g} in {named(large)}" if np.any(large) else None


@rule("BN013", "warning", "statistics that were never trained")
def never_trained(norm: Norm) -> str | None:
    """The running mean is exactly 0 and the running variance exactly 1 in every channel, as they are initialised.
    Either the layer has seen no data, or the statistics were not exported; at inference it then normalises nothing. A
    layer that was put in as the exact identity is no finding.

    Remedy: load the trained statistics before the export, or estimate them over data.
    """
    if norm.values is None or norm.mode == "training" or norm.is_identity:
        return None
    if np.any(norm.values.mean) or np.any(norm.values.variance != 1):
        return None
    return f"mean is 0 and variance 1 in all {norm.values.mean.size} channels"


@rule("BN014", "warning", "a mean far larger than the standard deviation")
def far_mean(norm: Norm) -> str | None:
    """The channel's values lie close together, far from 0: subtracting the mean cancels their leading digits, and what
    is left is mostly rounding. Reported where |mean| exceeds 1000 standard deviations, and in 16-bit types where one
    rounding of such a value is more than 1/16 of a standard deviation (128 of them in float16, 16 in bfloat16).

    Remedy: centre the data before the layer (the input's own mean, or the bias of the layer before), or keep the layer
    in float32.
    """
    if norm.folding is None or norm.values is None or norm.epsilon is None or norm.mode == "training":
        return None
    ratio = np.abs(norm.values.mean) / np.sqrt(norm.values.variance + norm.epsilon)
    far = ratio > min(FAR_MEAN, MOST_MEAN_ROUNDING / norm.half_unit)
    return f"|mean| is up to {ratio.max():.3g} standard deviations in {named(far)}" if np.any(far) else None
