"""What was found about two models: the same function, different, or undecided, with the evidence.

A verdict has exactly three values. `Unknown` is never counted as either of the others: `raise_unless_same` passes for
`Same` alone, so whoever forgets to read a verdict fails loudly. Nothing here needs onnx, onnxruntime or numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NoReturn

from bnfold.errors import NotVerified, Undecided

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from bnfold.equality.certificate import Certificate


@dataclass(frozen=True, slots=True)
class Counterexample:
    """One element of one value that tells two models apart, and the feeds that show it.

    `output` is an output of both models, or a value inside them; `index` is the element's place in it, `before` and
    `after` its value in either model. `bound` is how far the element may move (for an output, when all elements move
    alike and it still passes); 0 where values must be identical. `batch` names the input distribution, `inputs` holds
    the feeds by input name, and `saved` is the .npz to which they were written, if they were.
    """

    output: str
    index: tuple[int, ...]
    before: float
    after: float
    bound: float
    batch: str
    inputs: Mapping[str, np.ndarray] = field(compare=False, repr=False)
    saved: Path | None = None


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output of both models on one batch.

    `ratio` is the L2 norm of the difference in units of the floor (what rounding alone moves), `relative_l2` the same
    in units of the output's own norm, `max_difference` the largest absolute difference, `snr_db` the ratio of the
    powers of output and difference in decibels (infinite if equal). `argmax_agreement` is the share of rows with the
    same arg-max, None unless the output is floating point and a table (rank 2) of at least two columns.
    `decides` is False for an output behind a discrete operator; `equal` means equal bit for bit.
    """

    name: str
    batch: str
    ratio: float
    relative_l2: float
    max_difference: float
    snr_db: float
    argmax_agreement: float | None
    decides: bool
    equal: bool


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Top-1 accuracy, between 0 and 1, of both models over the same `samples` labelled samples."""

    before: float
    after: float
    samples: int


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """Everything measured end to end: each output on each batch, accuracy if labels were given, and remarks."""

    comparisons: tuple[OutputComparison, ...]
    accuracy: Accuracy | None = None
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> OutputComparison | None:
        """The comparison with the largest ratio among those that decide, or among all if none does."""
        deciding = tuple(comparison for comparison in self.comparisons if comparison.decides)
        return max(deciding or self.comparisons, key=lambda comparison: comparison.ratio, default=None)


@dataclass(frozen=True, slots=True)
class SiteBySite:
    """What comparing the two models site by site showed (tier 1).

    `compared`: how many values are computed otherwise in the rewritten model and were compared, each fed what the
    original has there. `identical`: how many both compute alike, bit for bit. `worst`: the largest deviation as a share
    of its bound, at the node `worst_at`; at most 1 where all sites agree.
    """

    compared: int
    identical: int
    worst: float
    worst_at: str


@dataclass(frozen=True, slots=True)
class Recheck:
    """What became of a certificate's file that was checked again against two models.

    `certificate` is what was recomputed, None where the file is of other models. `why` says in one sentence why it
    shows nothing, "" where it does. `inlined`: functions were inlined before it begins, which it does not show.
    `notes` are remarks, such as figures that were recomputed otherwise than they are written.
    """

    certificate: Certificate | None
    why: str = ""
    inlined: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Same:
    """The two models are the same function, as far as the evidence goes.

    `certified`: the constants were recomputed and agree (tier 0). `executed`: both models were run; `end_to_end` holds
    the figures then, and `sites` those of the comparison site by site, if it was possible. `recheck` is there where the
    claims came from a certificate's file.
    """

    end_to_end: EndToEnd | None
    certified: bool
    executed: bool
    sites: SiteBySite | None = None
    recheck: Recheck | None = None

    word: ClassVar[Literal["same"]] = "same"
    is_same: ClassVar[bool] = True

    def raise_unless_same(self) -> None:
        """Return: these are the same."""


@dataclass(frozen=True, slots=True)
class Differs:
    """The two models are different functions; `sentence` says where, `counterexample` shows it where one exists.

    `site` is the first node of the rewritten model that computes something else, as `Op#index 'name'`, if it is known;
    `value` is the name of what that node puts out, and `original` that of the original's value that it differs from.
    """

    sentence: str
    counterexample: Counterexample | None = None
    end_to_end: EndToEnd | None = None
    site: str | None = None
    value: str | None = None
    original: str | None = None
    recheck: Recheck | None = None

    word: ClassVar[Literal["differs"]] = "differs"
    is_same: ClassVar[bool] = False

    def raise_unless_same(self) -> NoReturn:
        """Raise `NotVerified` with this verdict."""
        raise NotVerified(self.sentence, self)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Neither shown equal nor different; `why` says in one sentence what stood in the way.

    `site` is the node of the original whose fold could not be followed, where it was that.
    """

    why: str
    end_to_end: EndToEnd | None = None
    recheck: Recheck | None = None
    site: str | None = None

    word: ClassVar[Literal["unknown"]] = "unknown"
    is_same: ClassVar[bool] = False

    def raise_unless_same(self) -> NoReturn:
        """Raise `Undecided` with this verdict."""
        raise Undecided(self.why, self)


Verdict = Same | Differs | Unknown
