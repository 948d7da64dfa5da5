"""`insert`: BatchNormalizations behind the layers that a user names, which change nothing or normalise."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from bnfold.api.wishes import CPU, Source, check_runs, silent, target_of
from bnfold.equality.data import Data
from bnfold.equality.data_stream import Stream, first_batches
from bnfold.equality.end_to_end import compare
from bnfold.equality.examine import Subject as Examined
from bnfold.equality.examine import examine, judged
from bnfold.equality.inputs import DISTRIBUTIONS, FILLS, CannotFeed, advised, random_batches
from bnfold.equality.runner import CannotRun, Limits, Runner
from bnfold.equality.verdict import Differs, EndToEnd, Same, Unknown, Verdict
from bnfold.errors import Undecided, UsageError
from bnfold.graph import Graph
from bnfold.inserting.measuring import Measuring
from bnfold.inserting.parameters import TEXTBOOK_EPSILON, Init, Parameters, identity, normalizing, preserving
from bnfold.inserting.places import Place, Where, chosen
from bnfold.inserting.result import Inserted, InsertResult, Normalised
from bnfold.inserting.splicing import Insertion, Spliced, inserted, nodes_added
from bnfold.model import Candidate, ModelFile, candidate, read
from bnfold.observing import CannotObserve
from bnfold.ops.facts import Facts
from bnfold.proving import Progress, on_disk
from bnfold.statistics import Moments

Level = Literal["full", "off"]
SHOWN_ON = 4
"""How many batches of the data the models are compared on."""


def insert(  # noqa: PLR0913  # each of a user's wishes by its own name, the same as on the command line
    model: Source,
    output: str | os.PathLike[str] | None = None,
    *,
    in_place: bool = False,
    after: Sequence[str] = (),
    at: Sequence[str] = (),
    skip: Sequence[str] = (),
    choose: Callable[[Place], bool] | None = None,
    axis: int | None = None,
    past_activation: bool = False,
    init: Init = "identity",
    training: bool = False,
    verify: Level = "full",
    data: Data | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    provider: str = CPU,
    custom_ops: Sequence[str] = (),
    threads: int = 0,
    timeout: float = 600.0,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> InsertResult:
    """Put BatchNormalizations behind the layers that are named, in the main graph, nested graphs and functions.

    `model`, `output`, `in_place`: as for `fold`. `after`: operators ("Conv", "Gemm"), behind the operator's own output;
    `at`: globs of node or tensor names, inputs of the graph included; `skip`: globs of what is left out; `choose`: a
    function that is asked of every place that was named, or of all there are if none was, and says True or False.
    `past_activation`: behind the activation that follows, if one does. `axis`: the axis of the channels, 1 or the last;
    by default 1, for a MatMul the last. What is followed by a BatchNormalization already is skipped.

    `init`: "identity" has epsilon 0 and changes nothing, bit for bit; "preserve" takes mean and variance (of the
    population, over all samples and positions, float64) from `data`, and scale and B such that the function stays;
    "normalize" takes them layer by layer, scale 1 and B 0, so that each output has mean 0 and variance 1 per channel on
    the data: that changes the function. `training`: training_mode=1 (five outputs before opset 14), epsilon 1e-5, and
    the running statistics as further outputs of the graph.
    `verify`: "full" runs both models and compares (for "normalize" it measures the outcome), "off" trusts. `data`, as
    for `verify`, without a limit on the number of sets. `seed`, `dims`, `provider`, `custom_ops`, `threads`,
    `timeout`, `max_bytes`, `progress`: as for `fold`.

    Raises InputRefused, UsageError (also for places where no BatchNormalization can stand, each with the reason, and
    data that have no variance), CannotWrite, NotVerified, and Undecided where onnxruntime cannot run the model.
    """
    _check_wishes(init, verify, axis)
    check_runs(seed, threads, timeout, data, custom_ops)
    if init != "identity" and data is None:
        raise UsageError(f"init {init!r} takes its statistics from data, and there are none (--data)")
    tell = progress or silent
    tell("reading")
    original = read(model, max_bytes=max_bytes)
    target = target_of(original, output, in_place=in_place)
    facts = Facts(Graph.of(original))
    where = Where(_names(after), _names(at), _names(skip), choose, axis, past_activation, training)
    places, skipped = chosen(facts, where)
    with ExitStack() as stack:
        runner = stack.enter_context(Runner(Limits(timeout=timeout, threads=threads), provider, tuple(custom_ops)))
        stream = None if data is None else Stream(original.proto, data)
        job = _Job(facts.graph, places, init, training, stream, runner, seed, dims, tell)
        parameters, seen = job.parameters()
        insertions = [Insertion(p, values, training) for p, values in zip(places, parameters, strict=True)]
        spliced = inserted(facts.graph, insertions)
        tell("writing a candidate")
        made = stack.enter_context(candidate(original, spliced.edits, _target(target, stack)))
        verdict, normalised = (None, None) if verify == "off" or not places else job.shown(made, spliced, parameters)
        stays = in_place and not places  # the file is right as it is
        if target is not None and not stays:
            tell("publishing")
            made.publish()
    report = [Inserted.of(insertion, moments) for insertion, moments in zip(insertions, seen, strict=True)]
    further = sum(nodes_added(place) for place in places)
    return InsertResult(
        init=init,
        training=training,
        inserted=tuple(report),
        skipped=skipped,
        verdict=verdict,
        normalised=normalised,
        nodes_before=len(facts.graph.nodes),
        nodes_after=len(facts.graph.nodes) + further + _constants(facts.graph, places),
        bytes_before=original.size,
        bytes_after=made.size,
        sha256=made.sha256,
        written=None if stays else target,
        notes=() if stream is None else tuple(stream.notes),
        _model=original,
        _edits=spliced.edits,
    )


def _check_wishes(init: str, verify: str, axis: int | None) -> None:
    for name, given, known in (("init", init, get_args(Init)), ("verify", verify, get_args(Level))):
        if given not in known:
            raise UsageError(f"{name} is {given!r}, and must be one of {', '.join(known)}")
    if axis == 0:
        raise UsageError("axis 0 counts samples, and cannot be that of the channels")


def _names(given: Sequence[str]) -> tuple[str, ...]:
    """A single name is one, and no sequence of letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def _target(target: Path | None, stack: ExitStack) -> Path:
    if target is not None:
        return target
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bnfold-"))) / "inserted.onnx"


def _on_data(found: EndToEnd | None) -> EndToEnd | None:
    """The figures of the user's own data alone: what becomes of noise is no news."""
    if found is None:
        return None
    ours = tuple(one for one in found.comparisons if one.batch.partition(",")[0] not in DISTRIBUTIONS)
    return replace(found, comparisons=ours or found.comparisons, notes=())


def _constants(graph: Graph, places: Sequence[Place]) -> int:
    """How many Constant nodes hold parameters: four for each place outside of the main graph."""
    return 4 * sum(place.value.scope is not graph.scopes[0] for place in places)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """One insertion: where, how it begins, over which data, and how it is run."""

    graph: Graph
    places: tuple[Place, ...]
    init: Init
    training: bool
    stream: Stream | None
    runner: Runner
    seed: int
    dims: Mapping[str, int] | None
    tell: Progress

    def parameters(self) -> tuple[tuple[Parameters, ...], tuple[Moments | None, ...]]:
        """The parameters at each place, and what they were taken from."""
        if not self.places:
            return (), ()
        if self.stream is None or self.init == "identity":
            epsilon = float(np.float32(TEXTBOOK_EPSILON)) if self.training else 0.0
            made = [identity(p.channels, p.element_type, p.value.scope.opset, epsilon=epsilon) for p in self.places]
            return tuple(made), (None,) * len(made)
        try:
            return self._measured(self.stream)
        except CannotObserve as error:
            raise Undecided(str(error), Unknown(str(error))) from error

    def _measured(self, stream: Stream) -> tuple[tuple[Parameters, ...], tuple[Moments | None, ...]]:
        measuring = Measuring(self.graph, stream, self.runner, self.tell)
        if self.init == "preserve":
            self.tell("measuring")
            seen = measuring.at_once(self.places)
            pairs = zip(self.places, seen, strict=True)
            return tuple(preserving(m, p.element_type, p.value.scope.opset) for p, m in pairs), seen
        moments: dict[int, Moments] = {}

        def parameters_of(place: Place, seen: Moments) -> Parameters:
            moments[place.value.id] = seen
            return normalizing(seen, place.element_type, place.value.scope.opset, training=self.training)

        found = measuring.by_layer(self.places, parameters_of)
        return found, tuple(moments[place.value.id] for place in self.places)

    def shown(
        self, made: Candidate, spliced: Spliced, parameters: Sequence[Parameters]
    ) -> tuple[Same | None, Normalised | None]:
        """That the function is the same; or, where it is to change, what it has become. Raises NotVerified."""
        written = read(made.path)
        with on_disk(self.graph.model) as path:
            models = Examined(self.graph.model, path), Examined(written, made.path)
            if self.training:
                self.tell("running the model")
                self._runs(written, made.path)
                return None, None
            if self.init == "normalize":
                return None, self._normalised(models, spliced, parameters)
            self.tell("running both models")
            verdict = self._compared(models)
        verdict.raise_unless_same()
        return (verdict if isinstance(verdict, Same) else None), None

    def _compared(self, models: tuple[Examined, Examined]) -> Verdict:
        found = examine(*models, runner=self.runner, seed=self.seed, dims=self.dims, data=self._some_data())
        verdict = judged(found)
        if self.init != "identity" or not isinstance(verdict, Same) or verdict.end_to_end is None:
            return verdict
        # A negative zero becomes a positive one, which is the same number.
        comparisons = verdict.end_to_end.comparisons
        moved = next((one for one in comparisons if not one.equal and one.max_difference), None)
        if moved is None:
            return verdict
        return Differs(
            f"output {moved.name!r} on the batch {moved.batch!r} is the same within rounding, and not bit for bit",
            end_to_end=verdict.end_to_end,
        )

    def _some_data(self) -> Data | None:
        """A few batches; an iterator that has been gone through has none left."""
        if self.stream is None or self.stream.is_spent:
            return None
        return first_batches(self.stream, SHOWN_ON)

    def _normalised(
        self, models: tuple[Examined, Examined], spliced: Spliced, parameters: Sequence[Parameters]
    ) -> Normalised:
        self.tell("measuring what came of it")
        if self.stream is None:
            raise UsageError("normalize needs data (--data)")
        before, after = models
        try:
            seen = Measuring(self.graph, self.stream, self.runner, self.tell).outputs_of(
                after.file, spliced.names, self.places
            )
        except CannotObserve as error:
            raise Undecided(str(error), Unknown(str(error))) from error
        outcome = compare(
            before.path,
            after.path,
            runner=self.runner,
            proto=before.file.proto,
            seed=self.seed,
            dims=self.dims,
            data=self._some_data(),
        )
        still = tuple(each.still for each in parameters)
        return Normalised.of(seen, still, _on_data(outcome.end_to_end))

    def _runs(self, written: ModelFile, path: Path) -> None:
        """Raise `Undecided` unless onnxruntime runs the model, once."""
        refusal = "no input can be made up"
        for fills in FILLS:
            try:
                batches = random_batches(written.proto, seed=self.seed, dims=self.dims or {}, fills=fills, integers=1)
                self.runner.run(path, batches[0].feeds)
            except CannotFeed as error:
                refusal = str(error)
            except CannotRun as error:
                refusal = error.sentence
            else:
                return
        advice = advised(written.proto, self.dims or {})
        sentence = f"onnxruntime cannot run the model for training{advice}: {refusal}"
        raise Undecided(sentence, Unknown(sentence))
