"""Rules about a model over data: do the running statistics still hold?

Samples (images) are independent, their pixels are not, so everything is made of one number per sample and channel. With
n samples, c the running mean, s^2 the running variance, m_i a sample's mean and q_i its mean of (x - c)^2:

    mean        M = mean(m_i)                      standard error sqrt(max(var(m_i), s^2/2) / n)
    variance    V = mean(q_i) - (M - c)^2          standard error (sd(q_i) + 2 |M - c| sd(m_i)) / sqrt(n)

V estimates the variance of all elements: E[q_i] = s^2 where nothing drifted. The hypotheses are that the difference
does not matter: |M - c| <= 0.1 s, and 0.9 <= sqrt(V)/s <= 1.1, which is the same tenth of a standard deviation. Each is
tested by Student's t with n - 1 degrees of freedom at the nearest edge of what does not matter, all channels and
both tests of all layers as one family by Holm: the chance of any false alarm in a run is to be at most 1 %, and is
larger where a variance hangs on a few extreme images.

Where Student's t would err, on rare events (a channel that few images excite, and that no image of the data did): a
sample's mean varies by no less than half of s^2 is taken for granted; for a variance that came out small, the relative
error is what is believed, so that few events never show a decrease. The second standard error takes the covariance of
q_i and m_i at its worst: where a mean is far off, its variance is seldom found to be off as well. At least 32 samples
are wanted for means and 128 for variances.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Float64
from bnfold.rules.rule import rule
from bnfold.rules.subject import Norm, Values, named
from bnfold.rules.testing import holm, upper_tail

LEVEL = 0.01
"""The chance of any false alarm in one run."""
EFFECT = 0.1
"""What matters, in standard deviations."""
FEWEST_FOR_MEANS = 32
FEWEST_FOR_VARIANCES = 128
FEWEST = {"BN101": FEWEST_FOR_MEANS, "BN102": FEWEST_FOR_VARIANCES}
"""By the code of the rule that says so."""
LEAST_SHARE = 0.5
"""Of the running variance, what a sample's mean is taken to vary by at least."""
GROSS = 0.5
"""How far from gamma and beta, in units of gamma, an output is no longer what they say."""

Mask = NDArray[np.bool_]


class Tested(NamedTuple):
    """Per channel: by how many running standard deviations it is off, and the probability that this is chance."""

    effect: Float64
    chance: Float64


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """What the data say of the statistics of one BatchNormalization, after Holm's correction.

    `means`: whether the running mean does not hold, per channel, and `mean_effect` by how many running standard
    deviations. `variances` and `ratio` (of standard deviations, observed to running) likewise.
    """

    means: Mask
    mean_effect: Float64
    variances: Mask
    ratio: Float64
    samples: int


def hold_against_data(norms: Iterable[Norm], images: int) -> tuple[str, ...]:
    """Set `drift` of every BatchNormalization that was observed over `images` samples; remarks on what was not tested.

    Where what the first axis of a value counts is more than images (positions that were folded into it), it is not more
    independent for that.
    """
    tested = [(norm, norm.observed, norm.values) for norm in norms if _is_testable(norm)]
    parts: list[tuple[Norm, Tested, Tested]] = []
    remarks: list[str] = []
    for norm, seen, values in tested:
        if seen is None or values is None:
            continue
        count = min(seen.sample_means.count, images)
        with np.errstate(all="ignore"):
            parts.append((norm, _mean_test(norm, values, count), _variance_test(norm, values, count)))
    if tested and images < FEWEST_FOR_VARIANCES:
        remarks.append(_too_few(images))
    chances = np.concatenate([test.chance for _, *tests in parts for test in tests] or [np.zeros(0)])
    known = ~np.isnan(chances)
    adjusted = np.ones_like(chances)
    adjusted[known] = holm(chances[known])
    rejected, start = adjusted < LEVEL, 0
    for norm, means, variances in parts:
        first, second = (rejected[start + i * means.chance.size :][: means.chance.size] for i in (0, 1))
        norm.drift = Drift(first, means.effect, second, variances.effect, images)
        start += 2 * means.chance.size
    return tuple(remarks)


def _too_few(images: int) -> str:
    if images < FEWEST_FOR_MEANS:
        wanted = f"running means ({FEWEST_FOR_MEANS}) or variances ({FEWEST_FOR_VARIANCES})"
        return f"{images} sample(s): too few to test {wanted}"
    return f"{images} samples: too few to test running variances, which takes {FEWEST_FOR_VARIANCES}"


def _is_testable(norm: Norm) -> bool:
    """Whether there are statistics to hold against what was observed."""
    if norm.observed is None or norm.values is None or norm.folding is None or norm.mode == "training":
        return False
    return norm.observed.elements.channels == norm.values.mean.size and norm.observed.sample_means.count > 0


def _mean_test(norm: Norm, values: Values, count: int) -> Tested:
    seen = norm.observed
    running = np.sqrt(np.maximum(values.variance, 0.0))
    if seen is None or count < FEWEST_FOR_MEANS:
        return _untested(values)
    off = seen.sample_means.mean - values.mean
    error = np.sqrt(np.maximum(seen.sample_means.sample_variance, LEAST_SHARE * np.square(running)) / count)
    # What rounding alone moves counts for nothing, in channels of no variance above all.
    slack = np.maximum(EFFECT * running, _rounding(norm, values))
    chance = 2.0 * upper_tail(_quotient(np.abs(off) - slack, error), count - 1)
    return Tested(off / running, np.minimum(np.where(np.isfinite(off), chance, np.nan), 1.0))


def _variance_test(norm: Norm, values: Values, count: int) -> Tested:
    seen = norm.observed
    if seen is None or count < FEWEST_FOR_VARIANCES:
        return _untested(values)
    off = seen.sample_means.mean - seen.centre
    variance = np.maximum(seen.sample_squares.mean - np.square(off), 0.0)
    spread = np.sqrt(seen.sample_squares.sample_variance)
    error = (spread + 2.0 * np.abs(off) * np.sqrt(seen.sample_means.sample_variance)) / np.sqrt(count)
    running = np.maximum(values.variance, 0.0)
    least, most = (1.0 - EFFECT) ** 2 * running, (1.0 + EFFECT) ** 2 * running + np.square(_rounding(norm, values))
    above = _quotient(variance - most, error)
    below = _quotient(least - variance, error * least / variance)
    chance = 2.0 * upper_tail(np.maximum(above, below), count - 1)
    chance = np.where(variance <= np.square(_rounding(norm, values)), np.nan, np.minimum(chance, 1.0))
    return Tested(np.sqrt(variance / running), np.where(np.isfinite(variance), chance, np.nan))


def _quotient(difference: Float64, error: Float64) -> Float64:
    """difference / error; where there is no error at all, infinite with the sign of the difference."""
    return np.where(error > 0, difference / error, np.where(difference > 0, np.inf, -np.inf))


def _rounding(norm: Norm, values: Values) -> Float64:
    """What rounding may move a value by that lies where the channel's values do."""
    seen = norm.observed
    mean = np.abs(values.mean) if seen is None else np.maximum(np.abs(values.mean), np.abs(seen.elements.mean))
    return 8.0 * norm.half_unit * mean


def _untested(values: Values) -> Tested:
    return Tested(np.full(values.mean.size, np.nan), np.full(values.mean.size, np.nan))


@rule("BN101", "warning", "the running mean does not hold for these data")
def mean_drift(norm: Norm) -> str | None:
    """The mean of the layer's input over the data is another than the one in the file, by more than a tenth of the
    running standard deviation and beyond chance (1 % for any false alarm in the whole run). The network sees data that
    it was not trained on (another preprocessing, scale or camera), or the statistics are not this model's.

    Remedy: check first that the data are prepared as in training. If they are right, estimate the statistics again over
    data.
    """
    drift = norm.drift
    if drift is None or not np.any(drift.means):
        return None
    worst = _worst(drift.means, np.abs(drift.mean_effect))
    size = f"{drift.mean_effect[worst]:+.2f} running standard deviations"
    return f"off in {named(drift.means)}, by {size} in channel {worst}"


@rule("BN102", "warning", "the running variance does not hold for these data")
def variance_drift(norm: Norm) -> str | None:
    """The standard deviation of the layer's input over the data is less than 0.9 or more than 1.1 times the running
    one, beyond chance (1 % for any false alarm in the whole run). It takes at least 128 images to say so. Where a
    channel's variance hangs on a few extreme images (a log-normal of sigma 1), false alarms are more frequent.

    Remedy: check first that the data are prepared as in training. If they are right, estimate the statistics again over
    data.
    """
    drift = norm.drift
    if drift is None or not np.any(drift.variances):
        return None
    with np.errstate(divide="ignore"):
        worst = _worst(drift.variances, np.abs(np.log(drift.ratio)))
    return f"off in {named(drift.variances)}, {drift.ratio[worst]:.2f} times the running deviation in channel {worst}"


@rule("BN103", "note", "channels that are constant over the data")
def constant_channels(norm: Norm) -> str | None:
    """The input of the layer is the same number in every position of every sample, up to rounding: a dead unit before
    it, or data that never excite it. The output is constant too.

    Remedy: look whether more data excite the channel; if none do, prune it.
    """
    seen = norm.observed
    if seen is None or seen.elements.count < 2:
        return None
    rounding = 8.0 * norm.half_unit * np.abs(seen.elements.mean)
    constant = seen.elements.variance <= np.square(rounding)
    if not np.any(constant):
        return None
    what = "all " * bool(np.all(constant)) + named(constant)
    return f"{what} of the input, over {seen.sample_means.count} sample(s)"


@rule("BN104", "warning", "the outputs are not normalised as gamma and beta say")
def not_normalised(norm: Norm) -> str | None:
    """A BatchNormalization is to give each channel the mean beta and the standard deviation |gamma|. Over these data
    more than half of the channels are off by more than half of gamma, beyond chance: the layer as a whole no longer
    normalises, and what follows it gets values that it was not trained on.

    Remedy: as for BN101 and BN102: check the preprocessing, or estimate the statistics again over data.
    """
    drift = norm.drift
    if drift is None or norm.values is None or norm.epsilon is None:
        return None
    variance = norm.values.variance
    with np.errstate(all="ignore"):
        shrunk = np.sqrt(variance / (variance + norm.epsilon))
        mean, deviation = np.abs(drift.mean_effect) * shrunk, drift.ratio * shrunk
    gross = (drift.means & (mean > GROSS)) | (drift.variances & (np.abs(deviation - 1.0) > GROSS))
    if 2 * np.count_nonzero(gross) <= gross.size:
        return None
    typical = f"mean off by {np.median(mean):.2f} |gamma|" + _typical_deviation(deviation)
    count = f"{np.count_nonzero(gross)} of {gross.size} channels"
    return f"{count} are off by more than {GROSS:g} |gamma|; typically {typical}"


def _typical_deviation(deviation: Float64) -> str:
    known = deviation[np.isfinite(deviation)]
    return f", deviation {np.median(known):.2f} |gamma|" if known.size else ""


def _worst(where: Mask, size: Float64) -> int:
    """The channel of those marked that is off most."""
    return int(np.argmax(np.where(where, np.nan_to_num(size, nan=-1.0, posinf=np.inf), -np.inf)))


def not_observed(norms: Sequence[Norm]) -> tuple[str, ...]:
    """Remarks on values that were infinite or NaN over the data, which no test can use."""
    seen = [(norm, norm.observed) for norm in norms if norm.observed is not None]
    broken = [norm for norm, observed in seen if not np.all(np.isfinite(observed.elements.mean))]
    return tuple(f"{norm.site}: its input holds NaN or infinity over the data, and was not tested" for norm in broken)
