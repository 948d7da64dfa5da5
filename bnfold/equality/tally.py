"""The figures of a comparison while they are gathered; of the outputs themselves nothing is kept.

The floor of an output on a batch is 4u*||y|| until the original's own jitter has been drawn; it is drawn only where the
difference exceeds 8u*||y||, for below that no jitter could change what the ratio says.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from bnfold.equality.measure import UNITS, Distance, distance, floor_of, is_float, number, widened
from bnfold.equality.seen import Seen, weaknesses
from bnfold.equality.shipped import Shipped, remarks
from bnfold.equality.verdict import Accuracy, Counterexample, EndToEnd, OutputComparison

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bnfold.equality.conditions import Place
    from bnfold.equality.inputs import Batch

Outputs = dict[str, np.ndarray]

PASSES: Final = 4.0
DIFFERS: Final = 10.0
JITTER_FROM: Final = 8.0
_PART_OF_OUTPUT: Final = re.compile(r"(?:\[\d+\]|\.keys|\.values)+$")
_NO_SCORES: Final = "labels were given, but no output has one row of scores per sample"


@dataclass(slots=True)
class Measured:
    """One output on one batch: its distance, the RMS of the draws where they were made, and the values at its index."""

    name: str
    batch: Batch
    distance: Distance
    unit: float
    operator: str  # a discrete operator upstream, or ""
    count: int
    before: float
    after: float
    jitter: float | None = None

    @property
    def wants_draws(self) -> bool:
        """Whether the output is further apart than rounding it once explains, so that the jitter is needed."""
        exact = self.distance.exact or not self.distance.alike
        return not exact and self.distance.relative() > JITTER_FROM * self.unit

    @property
    def undrawn(self) -> bool:
        """Whether the jitter is needed and not known."""
        return self.wants_draws and self.jitter is None

    @property
    def floor(self) -> float:
        """The L2 norm that rounding explains."""
        return floor_of(self.distance, self.unit, self.jitter)

    @property
    def ratio(self) -> float:
        """The difference in units of the floor."""
        return self.distance.ratio(self.floor)

    @property
    def certain(self) -> bool:
        """Whether a large ratio is a difference: the floor is known, or none could explain it."""
        return not self.undrawn

    def comparison(self) -> OutputComparison:
        """The figures for a report."""
        return OutputComparison(
            name=self.name,
            batch=self.batch.label,
            ratio=self.ratio,
            relative_l2=self.distance.relative(),
            max_difference=self.distance.largest,
            snr_db=self.distance.snr_db(),
            argmax_agreement=self.distance.argmax_agreement,
            decides=not self.operator,
            equal=self.distance.equal,
        )

    def counterexample(self) -> Counterexample:
        """The element that is furthest apart, with the feeds that show it."""
        explained = self.distance.alike and self.count
        return Counterexample(
            output=self.name,
            index=self.distance.index,
            before=self.before,
            after=self.after,
            bound=DIFFERS * self.floor / math.sqrt(self.count) if explained else 0.0,
            batch=self.batch.label,
            inputs=self.batch.feeds,
        )


@dataclass(slots=True)
class Tally:
    """What has been measured so far. Of the outputs themselves nothing is kept but figures."""

    unit: float
    discrete: Mapping[str, str]
    measured: list[Measured] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seen: dict[str, Seen] = field(default_factory=dict)
    shipped: list[Shipped] = field(default_factory=list)
    takes_inputs: bool = True
    hits_before: int = 0
    hits_after: int = 0
    samples: int = 0
    repeatable: bool = False
    sites_agree: bool = False
    reached: list[Batch] = field(default_factory=list)
    unreached: tuple[Place, ...] = ()

    def leaves_open(self, one: Measured) -> bool:
        """Whether an output that is further apart than passes was not drawn for, since every site agrees."""
        return self.sites_agree and one.undrawn and PASSES < one.ratio <= DIFFERS

    def see(self, batch: Batch, before: Outputs) -> None:
        """Count what the original gave on a batch."""
        self.takes_inputs = bool(batch.feeds)
        for name, value in before.items():
            self.seen.setdefault(name, Seen()).add(value)

    def operator(self, name: str) -> str:
        """The discrete operator upstream of an output, or of the output that `name` is a part of; or ""."""
        known = name if name in self.discrete else _PART_OF_OUTPUT.sub("", name)
        return self.discrete.get(known, "")

    def end_to_end(self) -> EndToEnd | None:
        """The evidence so far, or None if there is none."""
        if not self.measured and not self.notes:
            return None
        comparisons = tuple(measured.comparison() for measured in self.measured)
        return EndToEnd(comparisons, self._accuracy(), (*self.notes, *self._remarks()))

    def _accuracy(self) -> Accuracy | None:
        if not self.samples:
            return None
        return Accuracy(self.hits_before / self.samples, self.hits_after / self.samples, self.samples)

    def _remarks(self) -> Iterator[str]:
        yield from remarks(self.shipped, DIFFERS)
        yield from weaknesses(self.seen, takes_inputs=self.takes_inputs)


def measured(name: str, batch: Batch, before: np.ndarray, after: np.ndarray, tally: Tally) -> Measured:
    """One output of both models on one batch; both arrays have one shape and type."""
    apart = distance(before, after)
    return Measured(
        name=name,
        batch=batch,
        distance=apart,
        unit=max(tally.unit, UNITS.get(before.dtype.name, 0.0)),
        operator=tally.operator(name),
        count=before.size,
        before=number(before, apart.index),
        after=number(after, apart.index),
    )


def count_hits(labels: np.ndarray, before: Outputs, after: Outputs, tally: Tally) -> None:
    """Add to the accuracy of both models: the arg-max of the first output with a row of scores per sample."""
    scores = [name for name, value in before.items() if is_float(value) and value.ndim == 2]
    if not scores or len(before[scores[0]]) != len(labels):
        if not tally.samples and _NO_SCORES not in tally.notes:
            tally.notes.append(_NO_SCORES)
        return
    tally.samples += len(labels)
    tally.hits_before += int(np.sum(widened(before[scores[0]]).argmax(axis=-1) == labels))
    tally.hits_after += int(np.sum(widened(after[scores[0]]).argmax(axis=-1) == labels))
