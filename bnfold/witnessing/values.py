"""What shows that a refusal is right: a plain fact, numbers, or the plain word that nothing can show it.

    numbers: an input, a position, original(input) and folded(input) there, and |difference| in units of the bound

The bound is that of the comparison site by site, (4*sqrt(K) + 8) * u * S: a fold that is right stays below one of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from bnfold.affine import Float64
from bnfold.moves import Json, Refusal

Kind = Literal["fact", "numbers", "none"]

CLEARLY = 100.0
"""How many bounds a wrong fold should be off, to leave no doubt."""


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """Where the nearest fold would differ: `original` and `folded` at `index` of what `at` names, and the bound there.

    `assumed` says which fold that is. `inputs` (by the name of the value) were drawn with `seed`; there are none where
    it is a weight that does not fit its type.
    """

    at: str
    assumed: str
    index: tuple[int, ...]
    original: float
    folded: float
    bound: float
    seed: int
    inputs: Mapping[str, Float64] = field(default_factory=dict, repr=False)

    @property
    def bounds_off(self) -> float:
        """The difference in units of the bound; infinite where one side is not finite, or the bound is zero."""
        difference = abs(self.original - self.folded)
        if not np.isfinite(difference):
            return float("inf")
        return difference / self.bound if self.bound else float("inf") if difference else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Witness:
    """What shows that an affine could not go: `label` in a few words, `sentence` in one, `names` of what shows it.

    `kind` is "fact" (another reader, not constant, ...), "numbers" (then `numbers` has them) or "none", with the reason
    in the sentence.
    """

    refusal: Refusal
    kind: Kind
    label: str
    sentence: str
    names: tuple[str, ...] = ()
    numbers: Numbers | None = None

    def to_json(self) -> dict[str, Json]:
        """This witness as JSON values; drawn inputs are given by their shapes and the seed."""
        site, shown = self.refusal.site, self.numbers
        return {
            "site": {"scope": site.scope, "index": site.index, "op": site.op, "name": site.name},
            "code": self.refusal.reason.code,
            "kind": self.kind,
            "label": self.label,
            "sentence": self.sentence,
            "names": list(self.names),
            "numbers": None if shown is None else _numbers(shown),
        }


def _numbers(shown: Numbers) -> dict[str, Json]:
    return {
        "at": shown.at,
        "assumed": shown.assumed,
        "index": list(shown.index),
        "original": shown.original,
        "folded": shown.folded,
        "bound": shown.bound,
        "bounds_off": shown.bounds_off,
        "seed": shown.seed,
        "inputs": {name: list(array.shape) for name, array in shown.inputs.items()},
    }
