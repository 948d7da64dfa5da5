"""A fold that was decided: written as a candidate, and shown to be the same model before anybody publishes it.

What is shown, and by what, step by step:

    inlining             by running the original and the candidate; no certificate follows it
    freezing of inputs   by the certificate, which begins at the model with its inputs, and by running both
    folding              by the certificate, and by running both

Where running is impossible or not wanted, an inlined model is therefore undecided, whatever the certificate says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bnfold import __version__
from bnfold.apply import Rewrite, rewrite
from bnfold.equality.verdict import Differs, Recheck, Same, Unknown, Verdict
from bnfold.errors import NotVerified, UsageError
from bnfold.graph import Graph
from bnfold.model import Candidate, ExternalData, ModelFile, Subject, candidate, read
from bnfold.moves import Plan
from bnfold.nodes import Site
from bnfold.ops.reasons import MISMATCH
from bnfold.result import FoldResult, certificate_of, certified, totals_after, totals_before

if TYPE_CHECKING:
    from bnfold.equality.certificate import Certificate
    from bnfold.equality.data import Data
    from bnfold.equality.evidence import Evidence
    from bnfold.equality.examine import Examination
    from bnfold.equality.runner import Runner

Level = Literal["full", "certificate", "off"]
Progress = Callable[[str], None]

CERTIFICATE_OFFER = "verify='certificate' (--verify certificate) lets the recomputed constants alone decide"
DROP_OFFER = "drop_mismatched (--drop-mismatched) leaves such an affine where it is"
INLINING_NOT_RUN = (
    "the certificate begins at the inlined model; that inlining changed nothing is shown only by running both models"
)
FULL_OFFER = "(verify='full', --verify full)"
RECHECK_OFFER = "certificate_alone (--certificate-alone) lets the certificate decide alone"
INLINING_RUN = "functions were inlined before the certificate begins: running both models alone shows that step"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the caller said of the proof."""

    level: Level
    data: Data | None
    seed: int
    dims: Mapping[str, int] | None
    assume_inference: bool
    tell: Progress
    external_data: ExternalData = "auto"
    """Where the data of what is written are to lie."""


@dataclass(frozen=True, slots=True)
class Job:
    """One fold, decided and not yet written. `graph` is that of the model that was planned for."""

    subject: Subject
    graph: Graph
    plan: Plan
    rewrite: Rewrite
    wishes: Wishes
    replan: Callable[[frozenset[Site]], Plan]
    """The same plan, with affines left where they are."""

    def without(self, blamed: frozenset[Site]) -> Job:
        """The same job, in which further affines stay where they are because folding them was not shown to be right."""
        before = {refusal.site for refusal in self.plan.refusals if refusal.reason is MISMATCH}
        plan = self.replan(blamed | before)
        return replace(self, plan=plan, rewrite=rewrite(self.graph, plan))

    @property
    def changes_nothing(self) -> bool:
        """Whether the candidate is the file that was read, but for where its data lie."""
        return self.subject.is_original and self.plan.changes_nothing


@contextmanager
def written(job: Job, target: Path | None) -> Iterator[Candidate]:
    """The rewritten model as a file: beside its target, or in a folder of its own where there is none."""
    job.wishes.tell("writing a candidate")
    with ExitStack() as stack:
        if target is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bnfold-"))
            target = Path(folder) / "folded.onnx"
        yield stack.enter_context(candidate(job.subject.model, job.rewrite.edits, target, job.wishes.external_data))


def shown(
    job: Job, target: Path | None, runner: Runner, stack: ExitStack, *, drop_mismatched: bool
) -> tuple[Job, Candidate, FoldResult]:
    """The first attempt that is shown to be the same model, with its candidate, which lives as long as the stack.

    With `drop_mismatched`, what an attempt is found to differ by, or cannot be followed, stays where it is in the next.
    """
    while True:
        with ExitStack() as attempt:
            made = attempt.enter_context(written(job, target))
            try:
                result = proved(job, made, runner)
            except NotVerified as error:
                blamed = culprits(job, error.verdict) if drop_mismatched else frozenset()
                if not blamed:
                    raise
                job.wishes.tell(f"{len(blamed)} affine(s) do not match, or cannot be followed, and stay")
                job = job.without(blamed)
                continue
            stack.enter_context(attempt.pop_all())
            return job, made, result


def culprits(job: Job, verdict: Verdict | None) -> frozenset[Site]:
    """The affines whose moves made a model differ, or could not be followed, as far as the verdict says where.

    Those that settled in the node that a certificate blames, or the one that went there; or those through which the
    value leads, in the original, that was found to differ: the nearest ones before it.
    """
    if not isinstance(verdict, Differs | Unknown):
        return frozenset()
    moves = {move.site: move for move in job.plan.moves}
    settled = {s for s, m in moves.items() if verdict.site in {str(a.home) for a in m.arrivals} | {str(s)}}
    if isinstance(verdict, Unknown) or verdict.original is None:
        return frozenset(settled)
    pending = [v for v in job.graph.values if v.scope is job.graph.scopes[0] and v.name == verdict.original]
    seen: set[int] = set()
    found: set[Site] = set()
    while pending:
        node = job.graph.producer(pending.pop())
        if node is None or node.id in seen:
            continue
        seen.add(node.id)
        if node.site in moves:
            found.add(node.site)
        else:
            pending += [value for value in node.inputs if value is not None]
    return frozenset(found)


def proved(job: Job, made: Candidate, runner: Runner) -> FoldResult:
    """The result of a job whose candidate was shown to be the same model; raises with the verdict where it was not."""
    checked, verdict = _verdict(job, made.path, runner)
    if verdict is not None and not isinstance(verdict, Same):
        verdict.raise_unless_same()
    return FoldResult(
        plan=job.plan,
        before=totals_before(job.subject, job.graph, job.plan),
        after=totals_after(job.graph, job.plan, job.rewrite, made.size),
        cloned=job.rewrite.cloned,
        verdict=verdict,
        certificate=checked,
        sha256=made.sha256,
        written=None,
        assumed_inference=job.wishes.assume_inference,
        external_data=job.wishes.external_data,
        _subject=job.subject,
        _rewrite=job.rewrite,
    )


def _verdict(job: Job, path: Path, runner: Runner) -> tuple[Certificate | None, Verdict | None]:
    """The certificate and what follows from it and from running both models, as far as was asked for."""
    wishes = job.wishes
    if wishes.level == "off":
        return None, None
    if wishes.level == "full" and not job.changes_nothing:
        runner.start()  # it is ready by the time the constants are recomputed
    wishes.tell("recomputing every constant")
    checked = certificate_of(job.subject, job.plan, path, assume_inference=wishes.assume_inference)
    verdict = certified(checked)
    if isinstance(verdict, Unknown) and verdict.site is not None:
        verdict = replace(verdict, why=f"{verdict.why}; {DROP_OFFER}")
    if not isinstance(verdict, Same) or job.changes_nothing:
        return checked, verdict
    if wishes.level == "certificate":
        return checked, Unknown(f"{INLINING_NOT_RUN} {FULL_OFFER}") if job.subject.functions else verdict
    wishes.tell("running both models")
    from bnfold.equality.examine import judged  # noqa: PLC0415  # heavy: only where models are run

    found = _examined(job, path, runner)
    if not job.subject.functions:
        return checked, judged(found, is_certified=True, offer=CERTIFICATE_OFFER)
    # Without `is_certified`: behind a discrete operator the certificate decides, and it says nothing of inlining.
    verdict = judged(found)
    return checked, _certified_after_inlining(verdict) if isinstance(verdict, Same) else verdict


def _examined(job: Job, path: Path, runner: Runner) -> Examination:
    from bnfold.equality.examine import Subject as Examined  # noqa: PLC0415  # heavy: only where models are run
    from bnfold.equality.examine import examine  # noqa: PLC0415  # likewise

    wishes, original = job.wishes, job.subject.original
    with on_disk(original) as before:
        return examine(
            Examined(original, before),
            Examined(read(path), path),
            runner=runner,
            seed=wishes.seed,
            dims=wishes.dims,
            data=wishes.data,
            assume_inference=wishes.assume_inference,
        )


def evidence_of(job: Job, checked: Certificate | None, folded: Path) -> Evidence:
    """What goes into the certificate's file, the folded model being at `folded`; UsageError where there is none."""
    if checked is None:
        raise UsageError("there is no certificate to write with verify='off' (--verify off)")
    from bnfold.equality.evidence import Evidence, FilePin  # noqa: PLC0415  # heavy: only where it is asked for

    return Evidence(
        bnfold=__version__,
        before=FilePin.of(job.subject.original),
        after=FilePin.of(read(folded)),
        begins_at=checked.before,
        inlined_functions=job.subject.functions,
        frozen_inputs=job.subject.inputs,
        assumed_inference=job.wishes.assume_inference,
        holds=checked.holds,
        claims=checked.claims,
        mergings=checked.mergings,
        homes=checked.homes,
    )


def by_certificate(recheck: Recheck) -> Verdict:
    """What a certificate that was checked again lets one say alone.

    One that does not hold shows no difference: it may be the certificate that is wrong, and not the model.
    """
    if recheck.why or recheck.inlined:
        return Unknown(recheck.why or INLINING_NOT_RUN, recheck=recheck)
    return Same(None, certified=True, executed=False, recheck=recheck)


def concluded(found: Examination, recheck: Recheck | None) -> Verdict:
    """What running both models shows, together with a certificate that was checked again, if there is one.

    A difference that shows in running is one. Short of that, a certificate that does not hold leaves it undecided.
    """
    from bnfold.equality.examine import judged  # noqa: PLC0415  # heavy: only where models are run

    if recheck is None:
        return judged(found)
    is_certified = not (recheck.why or recheck.inlined)
    offer = RECHECK_OFFER if is_certified else ""
    verdict = replace(judged(found, is_certified=is_certified, offer=offer), recheck=recheck)
    if isinstance(verdict, Differs) or is_certified:
        return verdict
    if recheck.why:
        return Unknown(recheck.why, verdict.end_to_end, recheck)
    return _certified_after_inlining(verdict) if isinstance(verdict, Same) else verdict


def _certified_after_inlining(same: Same) -> Same:
    from bnfold.equality.examine import noted  # noqa: PLC0415  # heavy: only where models are run

    figures = None if same.end_to_end is None else noted(same.end_to_end, INLINING_RUN)
    return replace(same, certified=True, end_to_end=figures)


@contextmanager
def on_disk(file: ModelFile) -> Iterator[Path]:
    """A path under which onnxruntime can open a model that was read."""
    if file.path is not None:
        yield file.path
        return
    with (
        tempfile.TemporaryDirectory(prefix="bnfold-") as folder,
        candidate(file, {}, Path(folder) / "model.onnx") as made,
    ):
        yield made.path
