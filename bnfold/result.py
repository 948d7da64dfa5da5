"""What a fold gives back: the folded model with its plan and its proof, and what became of each model of a batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import onnx

from bnfold.apply import Rewrite
from bnfold.equality.claim import Claim, Merging, Part, Skip
from bnfold.equality.verdict import Differs, Same, Unknown, Verdict
from bnfold.errors import BUG_EXIT_CODE, BnfoldError, UsageError
from bnfold.graph import Graph
from bnfold.model import ExternalData, ModelFile, Subject, candidate, read, to_bytes
from bnfold.moves import Move, Plan

if TYPE_CHECKING:
    from bnfold.equality.certificate import Certificate

SEVERITY = (BUG_EXIT_CODE, 5, 4, 3, 6, 2, 1, 0)
"""Exit codes, the most severe first."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Nodes of all graphs and functions, BatchNormalizations among them, and bytes of the model file."""

    nodes: int
    batch_norms: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Told:
    """What a report says of a model that was read, where the model itself is not held any more."""

    functions: tuple[str, ...]
    inputs: tuple[str, ...]
    is_original: bool
    sha256: str


@dataclass(frozen=True, slots=True)
class FoldResult:
    """A folded model: what was decided, what it was before and after, and how it was shown to be the same.

    `verdict` and `certificate` are None with verify="off", and where nothing was to be written because there was
    nothing to fold in place. If nothing changed at all, the model is certified to be the input, and not run. `written`
    is the file that was written, if one was. `left_behind` are files of external data that the model named before it
    was replaced in place, and names no longer: bnfold did not make them, and does not remove them. `external_data` is
    where the data were asked to lie.

    The certificate begins where inlining ended: that the inlined functions mean the same is shown by running both
    models, and by nothing else.
    """

    plan: Plan
    before: Totals
    after: Totals
    cloned: tuple[str, ...]
    verdict: Same | None
    certificate: Certificate | None
    sha256: str
    written: Path | None
    left_behind: tuple[Path, ...] = field(default=(), kw_only=True)
    assumed_inference: bool = field(default=False, kw_only=True)
    external_data: ExternalData = field(default="auto", kw_only=True)
    _subject: Subject | Told = field(repr=False)
    _rewrite: Rewrite = field(repr=False)

    @property
    def inlined_functions(self) -> tuple[str, ...]:
        """The model's own functions that were inlined, as `domain.name`."""
        return self._subject.functions

    @property
    def frozen_inputs(self) -> tuple[str, ...]:
        """The inputs whose defaults became constants, in the order of the file."""
        return self._subject.inputs

    @property
    def is_unchanged(self) -> bool:
        """Whether the folded model is the input, byte for byte."""
        return self._subject.is_original and self.plan.changes_nothing and self.external_data == "auto"

    @property
    def sha256_read(self) -> str:
        """The SHA-256 of the model file that was read."""
        return self._subject.sha256 if isinstance(self._subject, Told) else self._subject.original.sha256

    def without_model(self) -> FoldResult:
        """The same without the model: small, and fit to be sent to another process. It can be saved no more."""
        told = Told(self.inlined_functions, self.frozen_inputs, self._subject.is_original, self.sha256_read)
        return replace(self, _subject=told, _rewrite=Rewrite({}, ()))

    def to_bytes(self) -> bytes:
        """The folded model file; external data are written inline."""
        return to_bytes(self._held().model, self._rewrite.edits)

    def to_proto(self) -> onnx.ModelProto:
        """The folded model as a protobuf."""
        return onnx.load_model_from_string(self.to_bytes())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the folded model safely (temporary file, fsync, rename); raises CannotWrite.

        The bytes are the ones that were verified. Where they cannot be, because a file of external data beside the
        model has another name now, the constants are recomputed from the new files before they are published.
        """
        target, subject = Path(path), self._held()
        refuse_overwriting(subject.original, target)
        with candidate(subject.model, self._rewrite.edits, target, self.external_data) as made:
            if self.certificate is not None and made.sha256 != self.sha256:
                again = certificate_of(subject, self.plan, made.path, assume_inference=self.assumed_inference)
                certified(again).raise_unless_same()
            made.publish()
        return target

    def _held(self) -> Subject:
        if isinstance(self._subject, Told):
            raise UsageError("this result holds no model any more")
        return self._subject


T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)  # with slots, Python 3.11 cannot call an alias such as `Done` below
class Outcome(Generic[T_co]):
    """What became of one model of a batch: a result, an error, or (for a finding) both.

    Neither, if it was `skipped`: its output was made before, from the same bytes by the same options.
    """

    source: str
    target: str | None
    result: T_co | None
    error: BnfoldError | None
    skipped: bool = False

    @property
    def exit_code(self) -> int:
        """What the command would have ended with for this model alone."""
        return 0 if self.error is None else self.error.exit_code


Done = Outcome[FoldResult]
"""What became of one model that was to be folded."""


def exit_code(done: Sequence[Outcome[object]]) -> int:
    """The most severe code of a batch."""
    return most_severe(one.exit_code for one in done)


def most_severe(codes: Iterable[int]) -> int:
    """The most severe of some exit codes, 0 of none."""
    given = set(codes)
    return next((code for code in SEVERITY if code in given), 0)


def totals_before(subject: Subject, graph: Graph, plan: Plan) -> Totals:
    """What a report says of the model that was read; a plan accounts for every affine.

    `graph` is that of the model planned for, which has other nodes if functions were inlined.
    """
    nodes = Graph.of(subject.original).nodes if subject.functions else graph.nodes
    ours = plan.batch_norms
    return Totals(len(nodes), len(ours.moves) + len(ours.refusals), subject.original.size)


def totals_after(graph: Graph, plan: Plan, rewrite: Rewrite, size: int) -> Totals:
    """What a report says of the model that was written."""
    edits = rewrite.edits.values()
    dropped = sum(edit is None for changes in edits for edit in changes.nodes.values())
    inserted = sum(len(nodes) for changes in edits for nodes in changes.inserted.values())
    return Totals(len(graph.nodes) - dropped + inserted, len(plan.batch_norms.refusals), size)


def claims(decided: Plan) -> tuple[Claim, ...]:
    """What a plan did, in the certificate's own words."""
    return tuple(claim for move in decided.moves for claim in _claims(move))


def _claims(move: Move) -> Iterator[Claim]:
    """Where all of it went; or its scale, and then its shift."""
    yield _claim(move, "" if move.onward is None else "scale")
    if move.onward is not None:
        homes = tuple(arrival.home for arrival in move.onward.arrivals)
        yield Claim(move.site, move.onward.path, homes, ahead=True, data=move.data, part="shift")


def _claim(move: Move, part: Part) -> Claim:
    return Claim(
        move.site,
        (*move.climb, *move.path),
        tuple(arrival.home for arrival in move.arrivals if not arrival.is_tap or move.joint is not None),
        tuple(arrival.home for arrival in move.arrivals if not arrival.takes_shift),
        move.is_forward,
        move.data,
        () if move.joint is None else (move.joint,),
        tuple(Skip(joint, home) for joint, home in move.skips),
        part,
    )


def mergings(decided: Plan) -> tuple[Merging, ...]:
    """What a plan merged, in the certificate's own words."""
    return tuple(Merging(merge.site, merge.home, merge.joint) for merge in decided.merges)


def certificate_of(subject: Subject, decided: Plan, path: Path, *, assume_inference: bool) -> Certificate:
    """The certificate of the model written at `path`.

    It begins before the inputs were frozen, so that this step is checked as well, by code that did not take it.
    """
    from bnfold.equality.certificate import certify  # noqa: PLC0415  # heavy: only where it is asked for

    before = Graph.of(subject.inlined, freeze_inputs=bool(subject.inputs))
    said = claims(decided), mergings(decided)
    return certify(before, Graph.of(read(path)), *said, assume_inference=assume_inference)


def certified(checked: Certificate) -> Verdict:
    """What a certificate alone lets one say."""
    blamed = None if checked.failed_site is None else str(checked.failed_site)
    if checked.failure is not None:
        return Differs(checked.failure, site=blamed)
    if checked.uncertain is not None:
        return Unknown(f"the certificate cannot follow the rewriting: {checked.uncertain}", site=blamed)
    return Same(None, certified=True, executed=False)


def refuse_overwriting(original: ModelFile, target: Path) -> None:
    """Raise UsageError where the target is the very file that was read."""
    if original.path is not None and target.exists() and target.samefile(original.path):
        raise UsageError(f"{str(target)!r} is the input itself; use in_place (--in-place) to replace it")
