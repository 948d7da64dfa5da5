"""The public functions: each reads as the story of the command that bears its name.

    fold       read, plan, rewrite, prove, and only then write
    plan       what fold would do with each BatchNormalization, and why not
    verify     whether two models are the same function
    operators  what may move where, from the op table (the command is `ops`)
    explain    the page of one reason

A function that changes a model returns a new one. Whatever a caller could overlook raises.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import onnx

from bnfold.apply import Rewrite, rewrite
from bnfold.equality.certificate import Certificate, certify
from bnfold.equality.end_to_end import Outcome, compare
from bnfold.equality.runner import Limits, Runner
from bnfold.equality.verdict import Differs, Same, Unknown, Verdict
from bnfold.errors import BatchNormsLeft, UsageError, WouldFold
from bnfold.graph import Graph
from bnfold.model import Candidate, ModelFile, candidate, read, staged
from bnfold.ops import TABLE
from bnfold.ops.reasons import REASONS, Reason
from bnfold.ops.table import Row
from bnfold.planning import Plan, make_plan
from bnfold.result import FoldResult, certified, claims, refuse_overwriting, totals_after, totals_before
from bnfold.selecting import Selection

Source = str | os.PathLike[str] | bytes | onnx.ModelProto
Level = Literal["full", "certificate", "off"]
Progress = Callable[[str], None]

CPU = "CPUExecutionProvider"
LONGEST_TIMEOUT = 366 * 24 * 3600
CERTIFICATE_OFFER = "verify='certificate' (--verify certificate) lets the recomputed constants alone decide"


def plan(model: Source, *, only: Sequence[str] = (), skip: Sequence[str] = (), max_bytes: int | None = None) -> Plan:
    """What `fold` would do with each BatchNormalization of a model; writes nothing, runs nothing.

    `model`: a path, the bytes of a model file, or an onnx.ModelProto. `only`, `skip`: globs as for `fold`. Raises
    InputRefused for what is no model, UsageError for a glob that names nothing.
    """
    return make_plan(Graph.of(read(model, max_bytes=max_bytes)), Selection(tuple(only), tuple(skip)))


def fold(  # noqa: PLR0913  # each of a user's wishes by its own name, the same as on the command line
    model: Source,
    output: str | os.PathLike[str] | None = None,
    *,
    in_place: bool = False,
    check: bool = False,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    strict: bool = False,
    max_left: int | None = None,
    verify: Level = "full",
    data: str | os.PathLike[str] | None = None,
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
    `strict` (none) and `max_left` (at most so many) raise BatchNormsLeft if more stay; the model is written all the
    same. `verify`: "full" recomputes every constant and runs both models, "certificate" only recomputes, "off" trusts.
    `data`: an .npz of inputs by name (and `labels`), run besides random inputs. `certificate`: where to write the
    certificate as JSON. `seed`, `dims` (sizes of symbolic dimensions), `provider`, `custom_ops` (libraries),
    `timeout` (seconds per run) concern the runs; `max_bytes` refuses larger files; `progress` is told each stage.

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
    graph = Graph.of(original)
    tell("planning")
    decided = make_plan(graph, Selection(tuple(only), tuple(skip)))
    most = 0 if strict else max_left
    if check:
        return _within_limits(_checked(graph, decided), most)
    if in_place and not decided.moves:
        target = None  # the file is right as it is
        if certificate is None:
            return _within_limits(_unchanged(graph, decided), most)
    job = _Job(graph, decided, rewrite(graph, decided), _Wishes(verify, data, seed, dims, tell))
    with ExitStack() as stack:
        made = stack.enter_context(_candidate(job, target))
        runner = stack.enter_context(Runner(Limits(timeout=timeout), provider, tuple(custom_ops)))
        result = _proved(job, made, runner)
        evidence = None
        if certificate is not None:  # staged now, so that it fails before the model is published
            evidence = stack.enter_context(staged(_certificate_of(result), Path(certificate)))
        if target is not None:
            tell("publishing")
            made.publish()
            behind = () if not in_place else _left_behind(original, made)
            result = replace(result, written=target, left_behind=behind)
        if evidence is not None:
            evidence.publish()
    return _within_limits(result, most)


def verify(  # noqa: PLR0913  # each of a user's wishes by its own name, the same as on the command line
    before: Source,
    after: Source,
    *,
    data: str | os.PathLike[str] | None = None,
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
    `fold`. Returns Same, Differs (with a counterexample) or Unknown (with the reason); `raise_unless_same()` on the
    verdict turns the latter two into NotVerified and Undecided. Raises InputRefused and UsageError.
    """
    _check_runs(seed, timeout, data, custom_ops)
    tell = progress or _silent
    tell("reading")
    first, second = (read(source, max_bytes=max_bytes) for source in (before, after))
    tell("running both models")
    with ExitStack() as stack:
        paths = [stack.enter_context(_on_disk(file)) for file in (first, second)]
        runner = stack.enter_context(Runner(Limits(timeout=timeout), provider, tuple(custom_ops)))
        where = None if data is None else Path(data)
        outcome = compare(*paths, runner=runner, proto=first.proto, seed=seed, dims=dims, data=where)
    return _judged(outcome, is_certified=False)


def operators() -> tuple[Row, ...]:
    """The support matrix: every operator of the op table, what it does with an affine, and under which conditions."""
    return tuple(TABLE)


def explain(code: str) -> Reason:
    """The page of a reason that a refusal bears; raises UsageError for a code that there is none of."""
    if code not in REASONS:
        raise UsageError(f"there is no reason {code!r}; there are: {', '.join(sorted(REASONS))}")
    return REASONS[code]


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What the caller said of the proof."""

    level: Level
    data: str | os.PathLike[str] | None
    seed: int
    dims: Mapping[str, int] | None
    tell: Progress


@dataclass(frozen=True, slots=True)
class _Job:
    """One fold, decided and not yet written."""

    graph: Graph
    plan: Plan
    rewrite: Rewrite
    wishes: _Wishes


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


def _check_runs(seed: int, timeout: float, data: str | os.PathLike[str] | None, libraries: Sequence[str]) -> None:
    """What no generator of random numbers and no clock accepts, and files that are not there."""
    if seed < 0:
        raise UsageError(f"the seed is {seed}, and must be 0 or more")
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise UsageError(f"the timeout is {timeout:g} s, and must be more than 0 and at most {LONGEST_TIMEOUT:,} s")
    for file in (*libraries, *([] if data is None else [data])):
        if not Path(file).is_file():
            raise UsageError(f"{os.fspath(file)!r} is no file")


def _check_certificate(certificate: str | os.PathLike[str] | None, original: ModelFile, target: Path | None) -> None:
    """A certificate must not take the place of the model that is read, of its data, or of the one that is written."""
    taken = [path.resolve() for path in (original.path, target, *original.data_files) if path is not None]
    if certificate is not None and Path(certificate).resolve() in taken:
        raise UsageError(f"the certificate would overwrite {os.fspath(certificate)!r}")


def _unchanged(graph: Graph, decided: Plan) -> FoldResult:
    """The answer where nothing is rewritten."""
    now = totals_before(graph, decided)
    return FoldResult(decided, now, now, (), None, None, graph.model.sha256, None, graph.model, Rewrite({}, ()))


def _checked(graph: Graph, decided: Plan) -> FoldResult:
    """The answer of check."""
    result = _unchanged(graph, decided)
    if decided.moves:
        raise WouldFold(f"{len(decided.moves)} BatchNormalization(s) would fold", result)
    return result


@contextmanager
def _candidate(job: _Job, target: Path | None) -> Iterator[Candidate]:
    """The rewritten model as a file: beside its target, or in a folder of its own where there is none."""
    job.wishes.tell("writing a candidate")
    with ExitStack() as stack:
        if target is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bnfold-"))
            target = Path(folder) / "folded.onnx"
        yield stack.enter_context(candidate(job.graph.model, job.rewrite.edits, target))


def _proved(job: _Job, made: Candidate, runner: Runner) -> FoldResult:
    """The result of a job whose candidate was shown to be the same model; raises with the verdict where it was not."""
    checked, verdict = _verdict(job, made.path, runner)
    if verdict is not None and not isinstance(verdict, Same):
        verdict.raise_unless_same()
    before = totals_before(job.graph, job.plan)
    return FoldResult(
        plan=job.plan,
        before=before,
        after=totals_after(before, job.plan, job.rewrite, made.size),
        cloned=job.rewrite.cloned,
        verdict=verdict,
        certificate=checked,
        sha256=made.sha256,
        written=None,
        _model=job.graph.model,
        _rewrite=job.rewrite,
    )


def _verdict(job: _Job, path: Path, runner: Runner) -> tuple[Certificate | None, Verdict | None]:
    """The certificate and what follows from it and from running both models, as far as was asked for."""
    wishes = job.wishes
    if wishes.level == "off":
        return None, None
    wishes.tell("recomputing every constant")
    checked = certify(job.graph, Graph.of(read(path)), claims(job.plan))
    verdict = certified(checked)
    if wishes.level == "certificate" or not isinstance(verdict, Same) or not job.plan.moves:
        return checked, verdict
    wishes.tell("running both models")
    data = None if wishes.data is None else Path(wishes.data)
    with _on_disk(job.graph.model) as before:
        proto = job.graph.model.proto
        outcome = compare(before, path, runner=runner, proto=proto, seed=wishes.seed, dims=wishes.dims, data=data)
    return checked, _judged(outcome, is_certified=True)


def _judged(outcome: Outcome, *, is_certified: bool) -> Verdict:
    """What an outcome of running both models means. A certificate decides behind a discrete operator."""
    if outcome.word in {"equal", "within"} or (is_certified and outcome.reason == "discrete"):
        return Same(outcome.end_to_end, certified=is_certified, executed=True)
    if outcome.word == "differs":
        return Differs(outcome.sentence, outcome.counterexample, outcome.end_to_end)
    offer = f"; {CERTIFICATE_OFFER}" if is_certified else ""
    return Unknown(outcome.sentence + offer, outcome.end_to_end)


@contextmanager
def _on_disk(file: ModelFile) -> Iterator[Path]:
    """A path under which onnxruntime can open a model."""
    if file.path is not None:
        yield file.path
        return
    with (
        tempfile.TemporaryDirectory(prefix="bnfold-") as folder,
        candidate(file, {}, Path(folder) / "model.onnx") as made,
    ):
        yield made.path


def _left_behind(original: ModelFile, made: Candidate) -> tuple[Path, ...]:
    """The data files of a model that was replaced by one with a data file of its own."""
    return tuple(path for path in original.data_files if path != made.data_path)


def _certificate_of(result: FoldResult) -> bytes:
    """What goes into the certificate's file; raises UsageError where the fold made none."""
    if result.certificate is None:
        raise UsageError("there is no certificate to write with verify='off' (--verify off)")
    return (json.dumps(result.certificate.to_json(), indent=2) + "\n").encode()


def _within_limits(result: FoldResult, most: int | None) -> FoldResult:
    left = result.plan.left
    if most is not None and left > most:
        raise BatchNormsLeft(f"{left} BatchNormalization(s) stay, {most} allowed", result)
    return result


def _silent(stage: str) -> None:
    del stage
