"""`validate`: what may be wrong with the BatchNormalizations of a model, alone and over data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bnfold.api.wishes import CPU, Source, check_runs, silent
from bnfold.equality.data import Data, data_batches
from bnfold.equality.inputs import Batch, check_dims
from bnfold.equality.measure import is_float
from bnfold.equality.runner import Limits, Runner
from bnfold.equality.verdict import Unknown
from bnfold.errors import Undecided, UsageError
from bnfold.graph import Graph
from bnfold.model import ModelFile, read
from bnfold.observing import CannotObserve, Watch, observe
from bnfold.proving import Progress
from bnfold.rules import drift, running
from bnfold.rules.checking import findings_of
from bnfold.rules.choosing import Choice
from bnfold.rules.rule import RULES, Findings
from bnfold.rules.subject import Norm, Surroundings
from bnfold.statistics import Observed

OLDEST_KERNEL_OPSET = 7
"""onnxruntime has no BatchNormalization older than that."""


def validate(  # noqa: PLR0913  # each of a user's wishes by its own name, the same as on the command line
    model: Source,
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    per_site_ignores: Mapping[str, Sequence[str]] | None = None,
    assume_inference: bool = False,
    data: Data | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    provider: str = CPU,
    custom_ops: Sequence[str] = (),
    threads: int = 0,
    timeout: float = 600.0,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> Findings:
    """What may be wrong with the BatchNormalizations of a model: a sequence of `Finding`, which is the answer itself.

    `model`: a path, bytes, or an onnx.ModelProto. `select` and `ignore` are codes of rules (`bnfold.explain("BN005")`
    has its page) or how codes begin (`"BN1"`); what is ignored is not selected. `per_site_ignores`: codes by globs of
    node, tensor or scope names, where those rules are silent; the command line reads it from pyproject.toml.
    `assume_inference` takes BatchNormalizations below opset 7 with one output for inference. With `data` (see `fold`)
    the model is run, and the rules BN1.. hold its running statistics against the data. Without, only places are run
    that onnxruntime's optimiser may compute wrongly, on inputs drawn from `seed`. `dims`, `provider`, `custom_ops`,
    `threads`, `timeout` concern the runs; `max_bytes` refuses larger files; `progress` is told each stage.

    Raises InputRefused; UsageError for a code that there is none of, and for data that do not suit the model, that hold
    NaN, or that are missing or too few for a rule that `select` names; Undecided where the model cannot be run on them.
    """
    choice = Choice.of(select, ignore, per_site_ignores)
    check_runs(seed, threads, timeout, data, custom_ops)
    if data is None:
        _check_without_data(choice)
    tell = progress or silent
    tell("reading")
    file = read(model, max_bytes=max_bytes)
    check_dims(file.proto, dims or {})
    batches = () if data is None else _finite(data_batches(file.proto, data))
    _check_samples(choice, batches)
    around = Surroundings(Graph.of(file), assume_inference=assume_inference)
    remarks = tuple(note for batch in batches for note in batch.notes)
    with Runner(Limits(timeout=timeout, threads=threads), provider, tuple(custom_ops)) as runner:
        if running.CODE in choice.codes:
            tell("running what onnxruntime may compute wrongly")
            remarks += running.measure(around.norms, runner, seed=seed, dims=dims or {})
        if batches and any(rule.needs_data for rule in choice.rules):
            tell("running on the data")
            remarks += _held_against(around, batches, runner)
    tell("looking")
    return findings_of(around, choice, remarks, mute=_mute(batches))


def _mute(batches: Sequence[Batch]) -> frozenset[str]:
    """The rules that can say nothing of these data."""
    there = _images(batches)
    return frozenset(code for code in RULES if RULES[code].needs_data and there < drift.FEWEST.get(code, 1))


def _check_without_data(choice: Choice) -> None:
    """A rule that was asked for, and that can say nothing, must not look as if it had found nothing."""
    wanting = sorted(code for code in choice.named if RULES[code].needs_data)
    if not wanting and choice.rules and all(rule.needs_data for rule in choice.rules):
        wanting = [rule.code for rule in choice.rules]
    if wanting:
        raise UsageError(f"{', '.join(wanting)}: needs data (--data)")


def _check_samples(choice: Choice, batches: Sequence[Batch]) -> None:
    """The same of rules that need more data than there are."""
    for code, fewest in drift.FEWEST.items():
        if batches and code in choice.named and _images(batches) < fewest:
            raise UsageError(f"{code}: takes {fewest} samples at least, the data have {_images(batches)}")


def _images(batches: Sequence[Batch]) -> int:
    """How many samples there are: the first axis of the inputs."""
    return sum(max((len(array) for array in batch.feeds.values() if array.ndim), default=1) for batch in batches)


def _finite(batches: tuple[Batch, ...]) -> tuple[Batch, ...]:
    """The batches, if every number in them is one."""
    for batch in batches:
        for name, array in batch.feeds.items():
            if is_float(array) and not bool(np.all(np.isfinite(array))):
                raise UsageError(f"the data hold NaN or infinity in {name!r} ({batch.label})")
    return batches


def _held_against(around: Surroundings, batches: tuple[Batch, ...], runner: Runner) -> tuple[str, ...]:
    """Observe what every BatchNormalization normalises, and hold its statistics against that."""
    watched = [norm for norm in around.norms if norm.values is not None and norm.mode != "training"]
    try:
        seen = _observed(around.graph.model, watched, batches, runner)
    except CannotObserve as error:
        why = f"the model cannot be run on the data: {error}"
        raise Undecided(why, Unknown(why)) from error
    for norm in watched:
        norm.observed = seen.get(norm.node.id)
    unseen = [norm for norm in around.norms if norm.observed is None and norm.mode != "training"]
    remarks = tuple(f"{norm.site}: what it normalises was not observed" for norm in unseen)
    return remarks + drift.not_observed(watched) + drift.hold_against_data(watched, _images(batches))


def _observed(
    file: ModelFile, watched: Sequence[Norm], batches: Sequence[Batch], runner: Runner
) -> Mapping[int, Observed]:
    """What each BatchNormalization was given over the data, by the id of its node."""
    watches = [
        Watch(norm.node.id, norm.data, norm.values.mean.size, centre=norm.values.mean)
        for norm in watched
        if norm.data is not None and norm.values is not None and norm.opset >= OLDEST_KERNEL_OPSET
    ]
    return observe(file, watches, batches, runner) if watches else {}
