"""The public functions: each reads as the story of the command that bears its name.

    fold       read, plan, rewrite, prove, and only then write
    plan       what fold would do with each BatchNormalization, and why not
    verify     whether two models are the same function
    operators  what may move where, from the op table (the command is `ops`)
    explain    the page of one reason

A function that changes a model returns a new one. Whatever a caller could overlook raises.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import get_args

import onnx

from bnfold.apply import Rewrite, rewrite
from bnfold.equality.data import Data, check_data
from bnfold.equality.evidence import evidence_at
from bnfold.equality.examine import Subject as Examined
from bnfold.equality.examine import examine
from bnfold.equality.recheck import rechecked
from bnfold.equality.runner import Limits, Runner
from bnfold.equality.saving import npz_of
from bnfold.equality.verdict import Differs, Verdict
from bnfold.errors import BatchNormsLeft, UsageError, WouldFold
from bnfold.graph import Graph
from bnfold.model import Candidate, ModelFile, Subject, read, staged, subject_of
from bnfold.moves import Plan
from bnfold.nodes import Site
from bnfold.ops import TABLE
from bnfold.ops.reasons import REASONS, Reason
from bnfold.ops.table import Row
from bnfold.planning import make_plan
from bnfold.proving import (
    Job,
    Level,
    Progress,
    Wishes,
    by_certificate,
    concluded,
    evidence_of,
    on_disk,
    shown,
)
from bnfold.result import FoldResult, refuse_overwriting, totals_before
from bnfold.selecting import Selection

Source = str | os.PathLike[str] | bytes | onnx.ModelProto

CPU = "CPUExecutionProvider"
LONGEST_TIMEOUT = 366 * 24 * 3600


def plan(  # noqa: PLR0913  # each of a user's wishes by its own name, the same as on the command line
    model: Source,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    bn_only: bool = False,
    freeze_inputs: bool = False,
    inline: bool = False,
    assume_inference: bool = False,
    max_bytes: int | None = None,
) -> Plan:
    """What `fold` would do with each BatchNormalization of a model; writes nothing, runs nothing.

    `model`: a path, the bytes of a model file, or an onnx.ModelProto. `only`, `skip`, `bn_only`, `freeze_inputs`,
    `inline`, `assume_inference`: as for `fold`. The plan is for the model with inputs frozen and functions inlined,
    if that is asked for, and bears its fingerprint: the SHA-256 of what fold would write if nothing could be folded.
    Raises InputRefused for what is no model, UsageError for a glob that names nothing.
    """
    subject = subject_of(read(model, max_bytes=max_bytes), inline=inline, freeze_inputs=freeze_inputs)
    selection = Selection(tuple(only), tuple(skip))
    return make_plan(Graph.of(subject.model), selection, bn_only=bn_only, assume_inference=assume_inference)


def fold(  # noqa: PLR0913  # each of a user's wishes by its own name, the same as on the command line
    model: Source,
    output: str | os.PathLike[str] | None = None,
    *,
    in_place: bool = False,
    check: bool = False,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    bn_only: bool = False,
    freeze_inputs: bool = False,
    inline: bool = False,
    assume_inference: bool = False,
    strict: bool = False,
    max_left: int | None = None,
    verify: Level = "full",
    drop_mismatched: bool = False,
    data: Data | None = None,
    certificate: str | os.PathLike[str] | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    provider: str = CPU,
    custom_ops: Sequence[str] = (),
    timeout: float = 600.0,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> FoldResult:
    """Fold every BatchNormalization that can go into the weights around it, and show that the model is the same.

    `model`: a path, bytes, or an onnx.ModelProto. With `output` (or `in_place`) the model is written there once it is
    verified; without, the result holds it. `check` writes nothing and raises WouldFold if anything would fold.
    `only` and `skip` are globs of node, tensor or scope names: fold those alone, and do not fold those.
    `bn_only` leaves hand-written Mul and Add alone. `freeze_inputs` makes constants of initializers that a caller may
    override, and drops their inputs; `inline` inlines the model's own functions; both are written even if nothing
    folds. `assume_inference` takes BatchNormalization (of one output) and Dropout below opset 7 for inference,
    though is_test is 0, as old exporters wrote it.
    `strict` (none) and `max_left` (at most so many) raise BatchNormsLeft if more stay; the model is written all the
    same. `verify`: "full" recomputes every constant and runs both models, "certificate" only recomputes, "off" trusts.
    `drop_mismatched` leaves a BatchNormalization whose fold is found to differ where it is, instead of raising.
    What `inline` did is shown by running alone: with verify="certificate" a model with functions is undecided.
    `data` are run besides random inputs: a path (an .npz of inputs by name, with `labels` or without, an .npy, a folder
    of those or of ONNX test sets), the name of a function `pkg.mod:function`, a function, arrays by name, or an
    iterable of those (the first 64). `certificate`: where to write the certificate as JSON. `seed`, `dims` (sizes of
    symbolic dimensions), `provider`, `custom_ops` (libraries), `timeout` (seconds per run) concern the runs;
    `max_bytes` refuses larger files; `progress` is told each stage.

    Raises InputRefused, UsageError, CannotWrite; NotVerified where the rewritten model differs and Undecided where
    that could not be shown either way, both with the verdict and with nothing written.
    """
    if verify not in get_args(Level):
        raise UsageError(f"verify is {verify!r}, and must be one of {', '.join(get_args(Level))}")
    _check_runs(seed, timeout, data, custom_ops)
    tell = progress or _silent
    tell("reading")
    original = read(model, max_bytes=max_bytes)
    target = _target(original, output, in_place=in_place, check=check)
    _check_certificate(certificate, original, target)
    if certificate is not None and check:
        raise UsageError("check writes nothing, and no certificate either")
    if certificate is not None and target is None and original.has_external_data:
        raise UsageError("a certificate names the files that are written: with external data it needs an output")
    subject = subject_of(original, inline=inline, freeze_inputs=freeze_inputs)
    graph = Graph.of(subject.model)
    tell("planning")
    selection = Selection(tuple(only), tuple(skip))

    def planned(mismatched: frozenset[Site] = frozenset()) -> Plan:
        return make_plan(graph, selection, bn_only=bn_only, assume_inference=assume_inference, mismatched=mismatched)

    decided = planned()
    most = 0 if strict else max_left
    if check:
        return _within_limits(_checked(subject, decided), most)
    wishes = Wishes(verify, data, seed, dims, assume_inference, tell)
    job = Job(subject, graph, decided, rewrite(graph, decided), wishes, planned)
    stays = in_place and job.changes_nothing  # the file is right as it is
    if stays and certificate is None:
        return _within_limits(_unchanged(subject, decided), most)
    # Beside its data a candidate that changes nothing has the bytes that the certificate is to name.
    beside = target if original.has_external_data or not stays else None
    with ExitStack() as stack:
        runner = stack.enter_context(Runner(Limits(timeout=timeout), provider, tuple(custom_ops)))
        job, made, result = shown(job, beside, runner, stack, drop_mismatched=drop_mismatched)
        evidence = None
        if certificate is not None:  # staged now, so that it fails before the model is published
            content = evidence_of(job, result.certificate, made.path).to_bytes()
            evidence = stack.enter_context(staged(content, Path(certificate)))
        if target is not None and not stays:
            tell("publishing")
            made.publish()
            behind = () if not in_place else _left_behind(job, made)
            result = replace(result, written=target, left_behind=behind)
        if evidence is not None:
            evidence.publish()
    return _within_limits(result, most)


def verify(  # noqa: PLR0913  # each of a user's wishes by its own name, the same as on the command line
    before: Source,
    after: Source,
    *,
    assume_inference: bool = False,
    certificate: str | os.PathLike[str] | None = None,
    certificate_alone: bool = False,
    save_counterexample: str | os.PathLike[str] | None = None,
    data: Data | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    provider: str = CPU,
    custom_ops: Sequence[str] = (),
    timeout: float = 600.0,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Whether two models are the same function, as far as running them on random inputs and on `data` shows.

    Both run with all graph optimisations off, on the same inputs, in a child process. The options are those of
    `fold`; `assume_inference` is for both models. `certificate`: the file of one that `fold` wrote, which is checked
    again: whether it is of these two models, and every constant, from the two alone; one that does not hold leaves
    undecided what running does not show to differ. With `certificate_alone` nothing is run. `save_counterexample`:
    where to write inputs that tell the models apart, as an .npz that `data` takes; not written unless they differ.

    Returns Same, Differs (with a counterexample) or Unknown (with the reason); `raise_unless_same()` on the verdict
    turns the latter two into NotVerified and Undecided. Raises InputRefused, UsageError, and CannotWrite where the
    counterexample cannot be written.
    """
    _check_runs(seed, timeout, data, custom_ops)
    _check_alone(certificate_alone, certificate, data, save_counterexample)
    evidence = None if certificate is None else evidence_at(Path(certificate))
    tell = progress or _silent
    with ExitStack() as stack:
        runner = stack.enter_context(Runner(Limits(timeout=timeout), provider, tuple(custom_ops)))
        if not certificate_alone:
            runner.start()  # it is ready by the time the models are read
        tell("reading")
        first, second = (read(source, max_bytes=max_bytes) for source in (before, after))
        given = [certificate, *([data] if isinstance(data, str | os.PathLike) else [])]
        _check_counterexample(save_counterexample, first, second, given)
        recheck = None
        if evidence is not None:
            tell("recomputing every constant")
            recheck = rechecked(evidence, first, second, assume_inference=assume_inference)
            if certificate_alone:
                return by_certificate(recheck)
        tell("running both models")
        models = [Examined(file, stack.enter_context(on_disk(file))) for file in (first, second)]
        found = examine(
            *models,
            runner=runner,
            seed=seed,
            dims=dims,
            data=data,
            assume_inference=assume_inference,
        )
    return _saved(concluded(found, recheck), save_counterexample)


def operators() -> tuple[Row, ...]:
    """The support matrix: every operator of the op table, what it does with an affine, and under which conditions."""
    return tuple(TABLE)


def explain(code: str) -> Reason:
    """The page of a reason that a refusal bears; raises UsageError for a code that there is none of."""
    if code not in REASONS:
        raise UsageError(f"there is no reason {code!r}; there are: {', '.join(sorted(REASONS))}")
    return REASONS[code]


def _target(original: ModelFile, output: str | os.PathLike[str] | None, *, in_place: bool, check: bool) -> Path | None:
    """Where to write, once everything is verified."""
    if sum((output is not None, in_place, check)) > 1:
        raise UsageError("output, in_place and check exclude each other")
    if in_place:
        if original.path is None:
            raise UsageError("in_place needs a model that was read from a path")
        return original.path
    if output is None:
        return None
    target = Path(output)
    refuse_overwriting(original, target)
    return target


def _check_runs(seed: int, timeout: float, data: Data | None, libraries: Sequence[str]) -> None:
    """What no generator of random numbers and no clock accepts, and what is not there."""
    if seed < 0:
        raise UsageError(f"the seed is {seed}, and must be 0 or more")
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise UsageError(f"the timeout is {timeout:g} s, and must be more than 0 and at most {LONGEST_TIMEOUT:,} s")
    for library in libraries:
        if not Path(library).is_file():
            raise UsageError(f"{os.fspath(library)!r} is no file")
    if data is not None:
        check_data(data)


def _check_certificate(certificate: str | os.PathLike[str] | None, original: ModelFile, target: Path | None) -> None:
    """A certificate must not take the place of the model that is read, of its data, or of the one that is written."""
    taken = [path.resolve() for path in (original.path, target, *original.data_files) if path is not None]
    if certificate is not None and Path(certificate).resolve() in taken:
        raise UsageError(f"the certificate would overwrite {os.fspath(certificate)!r}")


def _check_alone(alone: bool, certificate: object, data: object, counterexample: object) -> None:
    """Where nothing is run, there has to be something else to go by, and nothing that only a run can use."""
    if alone and certificate is None:
        raise UsageError("certificate_alone (--certificate-alone) needs a certificate to go by")
    if alone and (data is not None or counterexample is not None):
        raise UsageError("with certificate_alone (--certificate-alone) nothing is run: no data, no counterexample")


def _check_counterexample(
    target: str | os.PathLike[str] | None,
    before: ModelFile,
    after: ModelFile,
    others: Sequence[str | os.PathLike[str] | None],
) -> None:
    """Not in the place of anything that is read, and in one that can be written: known before anything is run."""
    if target is None:
        return
    files = [before.path, after.path, *before.data_files, *after.data_files, *(Path(file) for file in others if file)]
    if Path(target).resolve() in [path.resolve() for path in files if path is not None]:
        raise UsageError(f"the counterexample would overwrite {os.fspath(target)!r}")
    with staged(b"", Path(target)):
        pass


def _saved(verdict: Verdict, target: str | os.PathLike[str] | None) -> Verdict:
    """The verdict, the inputs of its counterexample written where that was asked for and there is one."""
    if target is None or not isinstance(verdict, Differs) or verdict.counterexample is None:
        return verdict
    with staged(npz_of(verdict.counterexample.inputs), Path(target)) as made:
        made.publish()
    return replace(verdict, counterexample=replace(verdict.counterexample, saved=Path(target)))


def _unchanged(subject: Subject, decided: Plan) -> FoldResult:
    """The answer where nothing is rewritten: the file that was read."""
    read_ = Subject(subject.original, subject.original, subject.original)
    now = totals_before(subject, Graph.of(subject.model), decided)
    return FoldResult(decided, now, now, (), None, None, subject.original.sha256, None, read_, Rewrite({}, ()))


def _checked(subject: Subject, decided: Plan) -> FoldResult:
    """The answer of check."""
    result = _unchanged(subject, decided)
    if decided.moves:
        by_hand = len(decided.by_hand.moves)
        further = f" and {by_hand} affine(s) written by hand" if by_hand else ""
        raise WouldFold(f"{len(decided.batch_norms.moves)} BatchNormalization(s){further} would fold", result)
    return result


def _left_behind(job: Job, made: Candidate) -> tuple[Path, ...]:
    """The data files that the model named before, and names no longer."""
    # Where no edit moved the data, the model that was written names the files that the one planned for names.
    named = {made.data_path} if job.plan.moves else {*job.subject.model.data_files}
    return tuple(path for path in job.subject.original.data_files if path not in named)


def _within_limits(result: FoldResult, most: int | None) -> FoldResult:
    left = result.plan.left
    if most is not None and left > most:
        raise BatchNormsLeft(f"{left} BatchNormalization(s) stay, {most} allowed", result)
    return result


def _silent(stage: str) -> None:
    del stage
