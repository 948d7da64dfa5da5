"""Whether what was measured at one site is rounding: element by element, and channel by channel over all elements.

With y the original's value, d the difference, u half a unit of the type, K the most terms that are summed at once,
D how many such sums lie behind each other, r how many elements repeat what rounding did to one (behind a Resize, in a
product of two values), n the elements of a channel, of which n/r tell something, A how many terms of a sum over places
are one value (plateaus.py; 0 unless something fails without), and S the sum of the absolute terms (magnitudes.py):

    every element      |d| <= (D*(4*sqrt(K) + 8) + A)*u*S
    every channel      gain    |cov(d, y)/var(y)| <= 4u*(1 + max(1, 5/3*std(S)/(sqrt(K)*std(y)))) + 6 standard errors
                               + (2u*mean(S))^2/var(y) + u*(|mean(y)|/2 + A*mean(S))/std(y)
                       offset  |mean(d)| <= (4*max(1, sqrt(K*r/n)) + A)*u*mean(S)

A wrong scale is a gain and a wrong shift is an offset, far below what rounding does to one element. Of a gain, 4u are
for the scale that the original computes in its own type, the rest for the weights, which are rounded once. The two
factors are 1 for ordinary layers: the first grows where weights cancel, for there their rounding is a larger gain, the
second where there are too few elements to average over. The original's own rounding stands in y and, with the other
sign, in d: that is a gain of (2u*mean(S))^2/var(y). And where y hardly varies beside its size, what lies above a power
of two is rounded to coarser steps than what lies below: |mean(y)|/2 is a quarter of such a step. Gains are asked of
at least 64 different values alone, and where std(y) > 32u*mean(S). Where much of y is one value (behind strides, what
only the bias is seen of), its error is one, not many: it counts once. So a mean over n elements, N of them different,
may be off by (2*sqrt(K/N) + A)*u*mean(S).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bnfold.equality.magnitudes import Size

Array = NDArray[np.generic]
Float64 = NDArray[np.float64]

ENOUGH = 64
"""Elements of a channel from which on it is judged as a whole."""

_LONG = 1024
_STANDARD_ERRORS = 6.0
_SYSTEMATIC = 4.0
_VISIBLE = 32
"""Units of S from which on the deviation of y is more than its own rounding."""

_OF_ONE_ERROR = 2.0
"""Times the root of the terms: units of S that two sums of them may differ by, each of which is rounded some way."""

_OWN_NOISE = 2.0
"""Units of S by which the original itself rounds: what it puts into y stands in d with the other sign."""

_PLATEAU = 1 / 8
"""The share of a channel from which on one value is a plateau: where nothing but a bias is seen, all has one error."""

_OF_SIZES = 5 / 3
"""How much more a normal variable varies than its size does."""


@dataclass(frozen=True, slots=True)
class Excess:
    """The worst thing that was found at a site, as a share of what is allowed: at most 1 passes.

    `kind`: "element", "gain", "offset", or "special" for NaN and infinities that are not in both, and values that
    must be identical. `channel` is that of a gain or offset. `before` and `after` are the elements at `index`.
    """

    share: float
    kind: str
    index: tuple[int, ...]
    before: float
    after: float
    bound: float
    channel: int | None = None


NOTHING = Excess(0.0, "element", (), 0.0, 0.0, 0.0)


@dataclass(slots=True, eq=False)
class _Sums:
    """Sums over all elements of each channel along one axis; values are counted from a first mean."""

    origin: Float64
    count: int = 0
    y: Float64 = field(default_factory=lambda: np.zeros(1))
    d: Float64 = field(default_factory=lambda: np.zeros(1))
    yy: Float64 = field(default_factory=lambda: np.zeros(1))
    yd: Float64 = field(default_factory=lambda: np.zeros(1))
    dd: Float64 = field(default_factory=lambda: np.zeros(1))
    s: Float64 = field(default_factory=lambda: np.zeros(1))
    ss: Float64 = field(default_factory=lambda: np.zeros(1))

    def add(self, y: Float64, d: Float64, s: Float64) -> None:
        """Arrays of (places before the channels, channels, places behind them)."""
        y = y - self.origin[:, None]
        self.count += y.shape[0] * y.shape[2]
        self.y, self.d, self.s = self.y + _sum(y), self.d + _sum(d), self.s + _sum(s)
        self.yy, self.dd = self.yy + _sum_of_products(y, y), self.dd + _sum_of_products(d, d)
        self.yd, self.ss = self.yd + _sum_of_products(y, d), self.ss + _sum_of_products(s, s)


def _sum(values: Float64) -> Float64:
    """Over all but the channels."""
    form = values.shape
    return _over_blocks(values.reshape(_rows(form)).sum(0), form)


def _sum_of_products(one: Float64, two: Float64) -> Float64:
    form = one.shape
    return _over_blocks(np.einsum("pk,pk->k", one.reshape(_rows(form)), two.reshape(_rows(form))), form)


def _rows(form: tuple[int, ...]) -> tuple[int, int]:
    """As how many rows of which length to sum first: numpy is slow on short ones, so several make a longer one."""
    before, width = form[0], form[1] * form[2]
    blocks = 1
    while before and width * blocks < _LONG and before % (2 * blocks) == 0:
        blocks *= 2
    return before // blocks, width * blocks


def _over_blocks(sums: Float64, form: tuple[int, ...]) -> Float64:
    blocks = sums.size // max(1, form[1] * form[2])
    return np.asarray(sums.reshape(blocks, *form[1:]).sum(2).sum(0))


@dataclass(slots=True, eq=False)
class Figures:
    """What was measured at one site so far."""

    unit: float
    size: Size
    worst: Excess = NOTHING
    elements: int = 0
    sums: dict[int, _Sums] = field(default_factory=dict)

    def add(self, before: Array, after: Array, magnitude: Array) -> None:
        """One more batch; all three have one shape."""
        y, z, s = (np.asarray(array, np.float64) for array in (before, after, magnitude))
        with np.errstate(invalid="ignore", over="ignore"):
            are_finite = all(math.isfinite(array.sum()) for array in (y, z, s))
        if not are_finite:
            special = specially_different(y, z)
            if special is not None:
                self._note(special)
                return
            usual = np.isfinite(y) & np.isfinite(s)
            y, z, s = (np.where(usual, array, 0.0) for array in (y, z, s))
        d = z - y
        self.elements += y.size
        self._element(y, z, d, s, before.dtype)
        for axis in {1, y.ndim - 1} if y.ndim > 1 else set():
            form = math.prod(y.shape[:axis]), y.shape[axis], math.prod(y.shape[axis + 1 :])
            yc, dc, sc = (a.reshape(form) for a in (y, d, s))
            if axis not in self.sums:
                self.sums[axis] = _Sums(_sum(yc) / (form[0] * form[2]) if yc.size else np.zeros(form[1]))
            if self.sums[axis].origin.shape == form[1:2]:
                self.sums[axis].add(yc, dc, sc)
                self._channels(axis, y, z, s)

    @property
    def fewest(self) -> int:
        """Over how many elements channels were judged."""
        return min((sums.count for axis, sums in self.sums.items() if axis == 1), default=self.elements)

    def _element(self, y: Float64, z: Float64, d: Float64, s: Float64, kind: np.dtype[np.generic]) -> None:
        factor = max(1, self.size.depth) * (4 * math.sqrt(self.size.terms + self.size.operators) + 8)
        bound = (factor + self.size.alike) * self.unit * s + smallest(kind)
        share = np.abs(d) / bound
        if share.size and share.max() > self.worst.share:
            index = np.unravel_index(int(np.argmax(share)), share.shape)
            place = tuple(int(i) for i in index)
            self._note(Excess(float(share[index]), "element", place, float(y[index]), float(z[index]), bound[index]))

    def _channels(self, axis: int, y: Float64, z: Float64, s: Float64) -> None:
        """The gain and offset of every channel along an axis, over all that was added."""
        sums = self.sums[axis]
        if sums.count < ENOUGH:
            return
        for kind, found, allowed in (("offset", *self._offsets(sums)), ("gain", *self._gains(sums))):
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.where(found == 0, 0.0, found / allowed)
            for channel in map(int, np.argsort(-share)):
                if not share[channel] > self.worst.share:
                    break
                much = float(share[channel])
                if much > 1:
                    of_channel = tuple(np.take(array, channel, axis) for array in (y, z, s))
                    much = self._unexplained(kind, much, of_channel, sums.count)
                if much > self.worst.share:
                    off = Excess(much, kind, (), 0.0, 0.0, float(found[channel]) / much, channel)
                    self._note(_in_channel(off, axis, y, z))
                    break

    def _unexplained(self, kind: str, share: float, of_channel: tuple[Float64, ...], count: int) -> float:
        """What is left of a share above 1 once it is asked how many values of the channel differ."""
        y, z, s = of_channel
        if kind == "offset":
            return share / self._widened(y, count)
        are_few = len(np.unique(y)) < min(ENOUGH, y.size)
        return 0.0 if are_few or self._lies_in_plateaus(y, z - y, s) else share

    def _widened(self, y: Float64, count: int) -> float:
        """How much larger an offset may be where few of a channel's elements differ: what is equal has one error."""
        alike = y.size / max(1, len(np.unique(y)))
        units = _OF_ONE_ERROR * math.sqrt(self.size.terms * alike / count) + self.size.alike
        return max(1.0, units / self._offset_units(count))

    def _lies_in_plateaus(self, y: Float64, d: Float64, s: Float64) -> bool:
        """Whether a gain is none once each value that much of y has counts once: all of it was rounded alike."""
        _, first, place, counts = np.unique(y, return_index=True, return_inverse=True, return_counts=True)
        is_common = counts > y.size * _PLATEAU
        if not is_common.any():
            return False
        kept = np.concatenate([np.flatnonzero(~is_common[place.reshape(-1)]), first[is_common]])
        sums = _Sums(np.array([y.mean()]))
        sums.add(*(array.reshape(-1)[kept].reshape(-1, 1, 1) for array in (y, d, s)))
        gain, allowed = self._gains(sums)
        return bool(gain[0] <= allowed[0])

    def _offset_units(self, count: int) -> float:
        """Units of S that the mean of a deviation may have."""
        return _SYSTEMATIC * max(1.0, math.sqrt(self.size.terms * self.size.repeats / count)) + self.size.alike

    def _offsets(self, sums: _Sums) -> tuple[Float64, Float64]:
        units = self._offset_units(sums.count)
        return np.abs(sums.d / sums.count), units * self.unit * sums.s / sums.count + 1e-300

    def _gains(self, sums: _Sums) -> tuple[Float64, Float64]:
        n = sums.count
        mean_y, mean_d = sums.y / n, sums.d / n
        var_y = np.maximum(sums.yy / n - mean_y**2, 0.0)
        var_d = np.maximum(sums.dd / n - mean_d**2, 0.0)
        mean_s = sums.s / n
        judged = np.sqrt(var_y) > _VISIBLE * self.unit * mean_s
        safe = np.where(judged, var_y, 1.0)
        gain = np.where(judged, (sums.yd / n - mean_y * mean_d) / safe, 0.0)
        left = np.maximum(var_d - gain**2 * safe, 0.0)
        error = np.sqrt(left * self.size.repeats / (n * safe))
        spread = np.maximum(sums.ss / n - (sums.s / n) ** 2, 0.0)
        cancelling = _OF_SIZES * np.sqrt(spread / safe / max(1, self.size.terms))
        own_noise = np.square(_OWN_NOISE * self.unit * mean_s) / safe
        in_steps = self.unit * (0.5 * np.abs(mean_y + sums.origin) + self.size.alike * mean_s) / np.sqrt(safe)
        systematic = _SYSTEMATIC * self.unit * (1.0 + np.maximum(1.0, cancelling)) + in_steps
        return np.abs(gain), systematic + _STANDARD_ERRORS * error + own_noise

    def _note(self, found: Excess) -> None:
        if found.share > self.worst.share:
            self.worst = found


def specially_different(y: Float64, z: Float64) -> Excess | None:
    """The first element that is NaN or infinite in one of two arrays, and not the same in the other."""
    with np.errstate(invalid="ignore"):
        differ = (np.isfinite(y) != np.isfinite(z)) | (~np.isfinite(y) & ~((y == z) | (np.isnan(y) & np.isnan(z))))
    if not differ.any():
        return None
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(differ)), differ.shape))
    return Excess(math.inf, "special", index, float(y[index]), float(z[index]), 0.0)


def _in_channel(found: Excess, axis: int, y: Float64, z: Float64) -> Excess:
    """A gain or offset, shown by the element of its channel that is furthest apart."""
    channel = found.channel or 0
    ours, theirs = np.take(y, channel, axis), np.take(z, channel, axis)
    if not ours.size:
        return found
    inner = [int(i) for i in np.unravel_index(int(np.argmax(np.abs(theirs - ours))), ours.shape)]
    place = (*inner[:axis], channel, *inner[axis:])
    return replace(found, index=place, before=float(y[place]), after=float(z[place]))


def smallest(kind: np.dtype[np.generic]) -> float:
    """The smallest number above zero of a float type: what underflow may do."""
    with np.errstate(all="ignore"):
        return float(np.nextafter(np.zeros((), kind), np.ones((), kind)))
