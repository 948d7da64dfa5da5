"""Outputs that were shipped with test data: how far both models are from them, as remarks that never decide.

Whoever made them had another machine and other kernels, and perhaps another model: only the original can be measured
against. With b and a the distances of original and rewritten model from what was shipped, and d how far they are apart,
a <= b + d: where d passes, nothing is left for this to find. What is left are outputs behind discrete operators. So a
rewritten model with a > b + 10 floors gets a remark of its own, with a verdict or without.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from bnfold.equality.measure import Distance, distance

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

    from bnfold.equality.inputs import Batch
    from bnfold.equality.tally import Measured


@dataclass(frozen=True, slots=True)
class Shipped:
    """One shipped output: how far either model is from it, or None where shape or type are others, as `other` says."""

    label: str
    measured: Measured
    before: Distance | None
    after: Distance | None
    other: str = ""


def against_shipped(
    batch: Batch, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], measured: Sequence[Measured]
) -> Iterator[Shipped]:
    """How far both models' outputs are from those that were shipped with a batch."""
    by_name = {one.name: one for one in measured}
    for name, value in (batch.shipped or {}).items():
        if name not in by_name:
            continue
        if _form(value) != _form(before[name]):
            other = f"{name!r} as {_form(value)}, and the original gives {_form(before[name])}"
            yield Shipped(batch.label, by_name[name], None, None, other)
            continue
        off, still_off = (distance(value, outputs[name]) for outputs in (before, after))
        yield Shipped(batch.label, by_name[name], off, still_off)


def remarks(shipped: Sequence[Shipped], floors: float) -> Iterator[str]:
    """What is to be said of them: a sentence per test set, and one per output that only the rewritten model misses.

    `floors`: by how many floors of the output the rewritten model may be further off than the original.
    """
    for label, group in groupby(shipped, key=lambda one: one.label):
        ones = list(group)
        yield from (f"{label} ships {one.other}: not compared" for one in ones if one.other)
        compared = [one for one in ones if one.before is not None]
        if compared:
            original, rewritten = (_off([getattr(one, side) for one in compared]) for side in ("before", "after"))
            said = f"the original is {original}, the rewritten model {rewritten}"
            both = f"both models are {original}"
            yield f"the shipped outputs of {label}: {both if original == rewritten else said}"
        yield from (_missed(one) for one in compared if _is_further(one, floors))


def _form(value: np.ndarray) -> str:
    return f"{value.dtype.name}{list(value.shape)}"


def _off(distances: Sequence[Distance]) -> str:
    if all(one.equal for one in distances):
        return "equal to them"
    if not all(one.alike for one in distances):
        return "not equal to them"
    return f"off by relative L2 {max(one.relative() for one in distances):.1e}"


def _is_further(one: Shipped, floors: float) -> bool:
    if one.before is None or one.after is None:
        return False
    if not (one.before.alike and one.after.alike):
        return one.before.alike
    return one.after.difference > one.before.difference + floors * one.measured.floor


def _missed(one: Shipped) -> str:
    original, rewritten = (_off([found]) for found in (one.before, one.after) if found is not None)
    return (
        f"the rewritten model is further from the shipped {one.measured.name!r} of {one.label} than the original, and "
        f"by more than rounding explains: {rewritten}, the original {original}"
    )
