"""Per-channel statistics that can be merged: how many elements, their mean, and the sum of their squared deviations.

    merge of (n1, m1, q1) and (n2, m2, q2), with d = m2 - m1 and n = n1 + n2   (Chan, Golub and LeVeque, 1983)

        mean = m1 + d * n2/n            q = q1 + q2 + d^2 * n1*n2/n

Everything is float64. No sum of squares is ever taken, so nothing cancels where the mean is large beside the deviation,
and memory does not depend on how much was merged. The variance is that of the population, q/n, as a
BatchNormalization's running variance is meant by ONNX.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from bnfold.affine import Float64

infinities = np.errstate(invalid="ignore", over="ignore")
"""What is infinite has no moments: they are NaN, and whoever asks for them says so. numpy need not."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Count, mean and sum of squared deviations of the elements of each channel.

    `mean` and `deviations` have one float64 per channel; `count` is how many elements each channel had. Of no elements
    the mean is 0, and the variance NaN.
    """

    count: int
    mean: Float64
    deviations: Float64

    @classmethod
    def none(cls, channels: int) -> Self:
        """The moments of nothing, from which merging begins."""
        return cls(0, np.zeros(channels), np.zeros(channels))

    @classmethod
    @infinities
    def of(cls, rows: np.ndarray) -> Self:
        """The moments of an array of shape (n, channels), over its n rows."""
        values = np.asarray(rows, dtype=np.float64)
        if not len(values):
            return cls.none(values.shape[1])
        mean = values.mean(axis=0)
        centred = values - mean
        # What the mean itself was rounded by is taken out of it again, which the two-pass formula is known for.
        rest = centred.mean(axis=0)
        return cls(len(values), mean + rest, np.square(centred).sum(axis=0) - len(values) * np.square(rest))

    @classmethod
    @infinities
    def pooled(cls, size: int, means: np.ndarray, deviations: np.ndarray) -> Self:
        """The moments of n groups of `size` elements each, of which means and deviations have the shape (n, channels).

        `deviations` are sums of squared deviations from each group's own mean.
        """
        groups = cls.of(means)
        return cls(groups.count * size, groups.mean, groups.deviations * size + deviations.sum(axis=0))

    @infinities
    def merged(self, other: Moments) -> Moments:
        """The moments of both together; raises ValueError where they are of different channels."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"moments of {self.mean.size} channels and of {other.mean.size} cannot be merged")
        if not other.count:
            return self
        if not self.count:
            return other
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = np.square(apart) * (self.count * other.count / count)
        return Moments(count, mean, self.deviations + other.deviations + between)

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return int(self.mean.size)

    @property
    def variance(self) -> Float64:
        """The population variance of each channel."""
        return self._over(self.count)

    @property
    def sample_variance(self) -> Float64:
        """The unbiased estimate of each channel's variance, over count - 1; NaN of fewer than two elements."""
        return self._over(self.count - 1)

    def _over(self, divisor: int) -> Float64:
        if divisor < 1:
            return np.full(self.mean.shape, np.nan)
        return np.asarray(np.maximum(self.deviations, 0.0) / divisor)


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What was seen of one value over data, per channel; its first axis counts samples (images, say).

    `elements`: moments of all elements. `sample_means`: moments of each sample's own mean over its positions,
    `sample_variances`: of each sample's own population variance, and `sample_squares`: of the mean over its positions
    of (x - centre)^2, where `centre` is fixed beforehand (a running mean, say). The latter three have one entry per
    sample, and samples are independent where pixels of one image are not: they are what tests are made of.
    """

    elements: Moments
    sample_means: Moments
    sample_variances: Moments
    sample_squares: Moments
    centre: Float64

    @classmethod
    def none(cls, channels: int, centre: np.ndarray | None = None) -> Self:
        """Nothing seen so far; `centre` is one number per channel, or 0."""
        nothing = Moments.none(channels)
        return cls(nothing, nothing, nothing, nothing, _centre(centre, channels))

    @classmethod
    def of_samples(cls, size: int, means: np.ndarray, variances: np.ndarray, centre: np.ndarray | None = None) -> Self:
        """Of n samples of `size` positions: `means` and `variances` over the positions, of shape (n, channels)."""
        spread = np.asarray(variances, dtype=np.float64)
        fixed = _centre(centre, spread.shape[1])
        return cls(
            Moments.pooled(size, means, spread * size),
            Moments.of(means),
            Moments.of(spread),
            Moments.of(spread + np.square(means - fixed)),
            fixed,
        )

    @classmethod
    def of(cls, array: np.ndarray, axis: int = 1, centre: np.ndarray | None = None) -> Self:
        """Of an array whose axis 0 counts samples and whose axis `axis` counts channels."""
        moved = np.moveaxis(np.asarray(array, dtype=np.float64), axis, 1)
        flat = moved.reshape(*moved.shape[:2], -1)
        return cls.of_samples(flat.shape[2], flat.mean(axis=2), flat.var(axis=2), centre)

    def merged(self, other: Observed) -> Observed:
        """What was seen in both; raises ValueError where they are of other channels, or about another centre."""
        if not np.array_equal(self.centre, other.centre):
            raise ValueError("what was seen about two centres cannot be merged")
        return Observed(
            self.elements.merged(other.elements),
            self.sample_means.merged(other.sample_means),
            self.sample_variances.merged(other.sample_variances),
            self.sample_squares.merged(other.sample_squares),
            self.centre,
        )


def _centre(centre: np.ndarray | None, channels: int) -> Float64:
    return np.zeros(channels) if centre is None else np.array(centre, dtype=np.float64)


def all_merged(parts: Iterable[Observed], channels: int, centre: np.ndarray | None = None) -> Observed:
    """What was seen in all parts together; `centre` is theirs."""
    seen = Observed.none(channels, centre)
    for part in parts:
        seen = seen.merged(part)
    return seen
