"""What the original's outputs looked like on all inputs tried, and where that makes weak evidence.

Two models that both give a constant, nothing, or NaN, agree without having shown anything. Nothing of the outputs is
kept but counts: elements, how many of them are NaN or infinite, and the one value that all have, as long as they do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bnfold.equality.measure import describe_constant, is_float, widened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(slots=True)
class Seen:
    """One output on all batches so far. `constants` holds what it was everywhere on a batch, None where it varied."""

    constants: set[str | None] = field(default_factory=set)
    batches: int = 0
    elements: int = 0
    strange: int = 0
    largest: int = 0
    is_float: bool = False

    def add(self, value: np.ndarray) -> None:
        """Count one batch's output."""
        self.batches += 1
        self.elements += value.size
        self.largest = max(self.largest, value.size)
        self.is_float = self.is_float or is_float(value)
        if is_float(value):
            self.strange += int(value.size - np.isfinite(value).sum())
        if value.size:
            self.constants.add(_constant(value))

    @property
    def shows_nothing(self) -> bool:
        """Whether no element could be told from another one's: none at all, or NaN and infinity alone."""
        return self.elements == self.strange

    def constant(self) -> str | None:
        """The value that every element had on every batch, if that is more than one element."""
        several = self.largest > 1 or self.batches > 1
        return next(iter(self.constants)) if several and len(self.constants) == 1 else None


def shows_nothing(seen: Mapping[str, Seen]) -> bool:
    """Whether a comparison of these outputs shows nothing at all, whatever it finds."""
    return all(one.shows_nothing for one in seen.values())


def weaknesses(seen: Mapping[str, Seen], *, takes_inputs: bool) -> Iterator[str]:
    """What is to be said of the outputs as evidence."""
    if seen and not takes_inputs:
        yield "the model takes no inputs: its outputs are always the same, and were computed once"
    if seen and not any(one.is_float for one in seen.values()):
        yield "no output is floating point: values were compared for equality alone"
    for name, one in seen.items():
        constant = one.constant() if takes_inputs else None
        if not one.elements:
            yield f"output {name!r} is empty on every input tried, which is weak evidence"
        elif constant is not None:
            yield f"output {name!r} is {constant} everywhere on every input tried, which is weak evidence"
        elif one.strange:
            yield (
                f"output {name!r} of the original is NaN or infinite in {one.strange:,} of {one.elements:,} elements, "
                "which must be so in both models and show no more"
            )


def _constant(value: np.ndarray) -> str | None:
    if is_float(value) and value.size > 1:
        return describe_constant(value)
    first = value.reshape(-1)[0]
    if not bool(np.all(value == first)):
        return None
    return (
        f"{float(widened(first).real):.6g}"
        if is_float(value)
        else repr(first.item() if value.dtype.kind in "biu" else first)
    )
