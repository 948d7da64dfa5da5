"""`fold` and `plan`: what is done with each BatchNormalization of a model, and what would be."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from bnfold.api.wishes import CPU, Source, check_runs, silent, target_of
from bnfold.apply import Rewrite, rewrite
from bnfold.equality.runner import Limits, Runner
from bnfold.errors import BatchNormsLeft, UsageError, WouldFold
from bnfold.graph import Graph
from bnfold.model import Candidate, ExternalData, ModelFile, Subject, read, staged, subject_of
from bnfold.moves import Plan
from bnfold.nodes import Site
from bnfold.ops.facts import Facts
from bnfold.planning import make_plan
from bnfold.proving import Job, Level, Progress, Wishes, evidence_of, shown
from bnfold.result import FoldResult, totals_before
from bnfold.selecting import Selection

if TYPE_CHECKING:
    from bnfold.equality.data import Data


def plan(  # noqa: PLR0913  # each of a user's wishes by its own name, the same as on the command line
    model: Source,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    bn_only: bool = False,
    freeze_inputs: bool = False,
    inline: bool = False,
    assume_inference: bool = False,
    merge_branches: bool = False,
    max_bytes: int | None = None,
) -> Plan:
    """What `fold` would do with each BatchNormalization of a model; writes nothing, runs nothing.

    `model`: a path, the bytes of a model file, or an onnx.ModelProto. `only`, `skip`, `bn_only`, `freeze_inputs`,
    `inline`, `assume_inference`, `merge_branches`: as for `fold`. The plan is for the model with inputs frozen and
    functions inlined, if that is asked for, and bears its fingerprint: the SHA-256 of what fold would write if nothing
    could be folded.
    Raises InputRefused for what is no model, UsageError for a glob that names nothing.
    """
    subject = subject_of(read(model, max_bytes=max_bytes), inline=inline, freeze_inputs=freeze_inputs)
    selection = Selection(tuple(only), tuple(skip))
    return make_plan(
        Graph.of(subject.model),
        selection,
        bn_only=bn_only,
        assume_inference=assume_inference,
        merge_branches=merge_branches,
    )


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
    merge_branches: bool = False,
    strict: bool = False,
    max_left: int | None = None,
    external_data: ExternalData = "auto",
    verify: Level = "full",
    drop_mismatched: bool = False,
    data: Data | None = None,
    certificate: str | os.PathLike[str] | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    provider: str = CPU,
    custom_ops: Sequence[str] = (),
    threads: int = 0,
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
    though is_test is 0, as old exporters wrote it. `merge_branches` makes one of parallel convolutions of the same data
    whose outputs are added, once everything has folded.
    `external_data`: "auto" leaves data inside or beside the model as they are (in a file where the model would pass
    2 GiB), "inline" takes all into the model, "file" puts large initializers into one file beside it.
    `strict` (none) and `max_left` (at most so many) raise BatchNormsLeft if more stay; the model is written all the
    same. `verify`: "full" recomputes every constant and runs both models, "certificate" only recomputes, "off" trusts.
    `drop_mismatched` leaves a BatchNormalization whose fold is found to differ, or cannot be followed by the
    certificate, where it is, instead of raising.
    What `inline` did is shown by running alone: with verify="certificate" a model with functions is undecided.
    `data` are run besides random inputs: a path (an .npz of inputs by name, with `labels` or without, an .npy, a folder
    of those or of ONNX test sets), the name of a function `pkg.mod:function`, a function, arrays by name, or an
    iterable of those (the first 64). `certificate`: where to write the certificate as JSON. `seed`, `dims` (sizes of
    symbolic dimensions), `provider`, `custom_ops` (libraries), `threads` (of onnxruntime; 0: up to 4), `timeout`
    (seconds per run) concern the runs; `max_bytes` refuses larger files; `progress` is told each stage.

    Raises InputRefused, UsageError, CannotWrite; NotVerified where the rewritten model differs and Undecided where
    that could not be shown either way, both with the verdict and with nothing written.
    """
    _check_choice("verify", verify, Level)
    _check_choice("external_data", external_data, ExternalData)
    check_runs(seed, threads, timeout, data, custom_ops)
    tell = progress or silent
    tell("reading")
    original = read(model, max_bytes=max_bytes)
    target = target_of(original, output, in_place=in_place, check=check)
    _check_certificate(certificate, original, target)
    if certificate is not None and check:
        raise UsageError("check writes nothing, and no certificate either")
    if certificate is not None and target is None and (original.has_external_data or external_data == "file"):
        raise UsageError("a certificate names the files that are written: with external data it needs an output")
    subject = subject_of(original, inline=inline, freeze_inputs=freeze_inputs)
    subject.model.hash_ahead()  # for the plan
    graph = Graph.of(subject.model)
    facts = Facts(graph, assume_inference=assume_inference)
    tell("planning")
    selection = Selection(tuple(only), tuple(skip))

    def planned(mismatched: frozenset[Site] = frozenset()) -> Plan:
        return make_plan(
            graph,
            selection,
            bn_only=bn_only,
            assume_inference=assume_inference,
            merge_branches=merge_branches,
            mismatched=mismatched,
            facts=facts,
        )

    decided = planned()
    most = 0 if strict else max_left
    if check:
        return _within_limits(_checked(subject, decided), most)
    wishes = Wishes(verify, data, seed, dims, assume_inference, tell, external_data)
    job = Job(subject, graph, decided, rewrite(graph, decided, facts), wishes, planned)
    stays = in_place and job.changes_nothing and external_data == "auto"  # the file is right as it is
    if stays and certificate is None:
        return _within_limits(_unchanged(subject, decided), most)
    # Beside its data a candidate that changes nothing has the bytes that the certificate is to name.
    beside = target if original.has_external_data or not stays else None
    with ExitStack() as stack:
        runner = stack.enter_context(Runner(Limits(timeout=timeout, threads=threads), provider, tuple(custom_ops)))
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


def _check_choice(name: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        raise UsageError(f"{name} is {value!r}, and must be one of {', '.join(get_args(choices))}")


def _check_certificate(certificate: str | os.PathLike[str] | None, original: ModelFile, target: Path | None) -> None:
    """A certificate must not take the place of the model that is read, of its data, or of the one that is written."""
    taken = [path.resolve() for path in (original.path, target, *original.data_files) if path is not None]
    if certificate is not None and Path(certificate).resolve() in taken:
        raise UsageError(f"the certificate would overwrite {os.fspath(certificate)!r}")


def _unchanged(subject: Subject, decided: Plan) -> FoldResult:
    """The answer where nothing is rewritten: the file that was read."""
    read_ = Subject(subject.original, subject.original, subject.original)
    now = totals_before(subject, Graph.of(subject.model), decided)
    return FoldResult(decided, now, now, (), None, None, subject.original.sha256, None, read_, Rewrite({}, ()))


def _checked(subject: Subject, decided: Plan) -> FoldResult:
    """The answer of check."""
    result = _unchanged(subject, decided)
    if not decided.changes_nothing:
        by_hand = len(decided.by_hand.moves)
        further = f" and {by_hand} affine(s) written by hand" if by_hand else ""
        merged = f" and {len(decided.merges)} parallel convolution(s) be merged" if decided.merges else ""
        raise WouldFold(f"{len(decided.batch_norms.moves)} BatchNormalization(s){further} would fold{merged}", result)
    return result


def _left_behind(job: Job, made: Candidate) -> tuple[Path, ...]:
    """The data files that the model named before, and names no longer."""
    # Where no edit moved the data, the model that was written names the files that the one planned for names.
    moved = not job.plan.changes_nothing or job.wishes.external_data != "auto"
    named = {made.data_path} if moved else {*job.subject.model.data_files}
    return tuple(path for path in job.subject.original.data_files if path not in named)


def _within_limits(result: FoldResult, most: int | None) -> FoldResult:
    left = result.plan.left
    if most is not None and left > most:
        raise BatchNormsLeft(f"{left} BatchNormalization(s) stay, {most} allowed", result)
    return result
