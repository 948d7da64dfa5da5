"""Tier 2: both models on the same inputs, compared output by output in units of what rounding alone moves.

    ratio = ||after - before|| / floor,   floor = max(4u*||y||, RMS over draws of ||y perturbed - y||)

y is the original's output, u half a unit of the coarsest float type that it is computed in. A draw multiplies every
float constant of the original by 1 + xi*2u*U[0,1], and is made only where ||after - before|| > 8u*||y||; those that
could not change the verdict are left out (draws.py). A ratio up to 4 passes, from 4 to 10 it is undecided, above 10 the
models differ. An output behind a discrete operator is reported and never shows a difference, for there a correct fold
may move a whole step.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from bnfold.equality.branches import Search, reaching
from bnfold.equality.data import Data, data_batches
from bnfold.equality.discrete import coarsest_half_unit, discrete_upstream
from bnfold.equality.draws import draw
from bnfold.equality.inputs import Batch, CannotFeed, random_batches
from bnfold.equality.measure import distance
from bnfold.equality.nested import external_bytes
from bnfold.equality.runner import CannotRun
from bnfold.equality.seen import shows_nothing
from bnfold.equality.shipped import against_shipped
from bnfold.equality.tally import DIFFERS, PASSES, Measured, Outputs, Tally, count_hits, measured

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from pathlib import Path

    import onnx

    from bnfold.equality.prepare import Upgrade
    from bnfold.equality.runner import Port, Runner, Signature
    from bnfold.equality.verdict import Counterexample, EndToEnd

Word = Literal["equal", "within", "undecided", "differs"]
Reason = Literal["", "floor", "discrete", "nothing", "random", "inputs", "crash", "timeout", "memory", "refused"]

# Free dimensions: 1 and 2 first; the others only while onnxruntime accepts none. Then integers that may be indices.
_FILLS: Final = ((2, 1), (8,), (16,), (32,), (64,), (224,))
_INTEGERS: Final = (8, 1)
_OLDEST_KERNEL_OPSET: Final = 7
_SEPARATE_INITIALIZERS_IR: Final = 4
_FEW: Final = 3  # names in a note
_MOST_KEPT: Final = 64 << 20  # bytes of outputs that are not run for again
_MOST_OPTIMISED: Final = 2 << 30  # bytes of weights, which onnxruntime's optimiser reads and copies
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What running both models showed.

    `equal`: every output bit for bit. `within`: no ratio above 4. `differs`: `sentence` says where, and
    `counterexample` shows it if both models ran. `undecided`: `sentence` says why, and `reason` sorts it: `floor` (a
    ratio from 4 to 10, or no draws could be made), `discrete` (only outputs behind a discrete operator are apart),
    `nothing` (outputs are empty, NaN or infinite everywhere), `random` (the original disagrees with itself), `inputs`
    (none could be made up), or the kind of a `CannotRun`. `end_to_end` is None if nothing was compared. `batches` are
    one random batch and one of the data, as far as both models ran on any.
    """

    word: Word
    sentence: str = ""
    reason: Reason = ""
    counterexample: Counterexample | None = None
    end_to_end: EndToEnd | None = None
    batches: tuple[Batch, ...] = field(default=(), compare=False, repr=False)


def compare(  # noqa: PLR0913  # two models, how to run them, and each of the user's wishes by its own name
    before: Path,
    after: Path,
    *,
    runner: Runner,
    proto: onnx.ModelProto,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    data: Data | None = None,
    assume_inference: bool = False,
) -> Outcome:
    """Run the model at `before` and the one at `after` on random inputs and on `data`, and judge the difference.

    `proto` is the original; its weights may be left outside. `dims` gives symbolic dimensions by name. With
    `assume_inference` both models run what says is_test=0 below opset 7 as inference. The same seed gives the same
    outcome. Raises `UsageError` for `dims` or `data` that do not suit the model.
    """
    before.stat()
    after.stat()
    batches = data_batches(proto, data) if data is not None else ()
    pair = _Pair(before, after, runner, upgrade_of(proto, assume_inference=assume_inference))
    tally = Tally(unit=coarsest_half_unit(proto), discrete=discrete_upstream(proto))
    try:
        _compare_signatures(pair, proto, tally)
        wanted = _Wanted(proto, seed, dims or {}, batches)
        for batch, outputs in itertools.chain(_accepted(pair, wanted, tally), _further(pair, wanted, tally)):
            _compare_batch(pair, batch, outputs, tally)
        _draw(pair, tally, seed)
        _try_optimiser(pair, proto, tally, seed)
    except _Stop as stop:
        return replace(stop.outcome, end_to_end=tally.end_to_end())
    return replace(_judged(tally), batches=_one_of_each(tally, batches))


def _one_of_each(tally: Tally, data: tuple[Batch, ...]) -> tuple[Batch, ...]:
    """The first random batch and the first of the data that both models ran on."""
    given = {id(batch) for batch in data}
    first = {id(one.batch) in given: one.batch for one in reversed(tally.measured)}
    return tuple(first[origin] for origin in (False, True) if origin in first)


class _Stop(Exception):
    """The outcome stands before everything was compared."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.sentence)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class _Pair:
    """The two models, and the way to run them. What cannot be run stops the comparison, as the tier's rules say."""

    before: Path
    after: Path
    runner: Runner
    upgrade: Upgrade
    kept: dict[int, tuple[Batch, Outputs]] = field(default_factory=dict)

    def original(self, batch: Batch, *, perturb: int | None = None, optimise: bool = False) -> Outputs:
        if perturb is None and not optimise and id(batch) in self.kept:
            return self.kept[id(batch)][1]
        return self.runner.run(self.before, batch.feeds, perturb=perturb, upgrade=self.upgrade, optimise=optimise)

    def keep(self, batch: Batch, outputs: Outputs) -> None:
        """Remember what the original gave, for it will be asked for again; unless that is too much to hold."""
        held = [*self.kept.values(), (batch, outputs)]
        if sum(value.nbytes for _, values in held for value in values.values()) <= _MOST_KEPT:
            self.kept[id(batch)] = batch, outputs

    def rewritten(self, batch: Batch) -> Outputs:
        return self._stopping(lambda: self.runner.run(self.after, batch.feeds, upgrade=self.upgrade))

    def signatures(self) -> tuple[Signature, Signature]:
        try:
            original = self.runner.signature(self.before, upgrade=self.upgrade)
        except CannotRun as error:
            raise _Stop(_original_fails(error)) from error
        return original, self._stopping(lambda: self.runner.signature(self.after, upgrade=self.upgrade))

    def _stopping(self, run: Callable[[], _T]) -> _T:
        """What `run` returns. A crash counts only when it happens again in a fresh child, where nothing else lies."""
        try:
            try:
                return run()
            except CannotRun as error:
                if error.kind != "crash":
                    raise
                return run()
        except CannotRun as error:
            raise _Stop(_rewritten_fails(error, self.upgrade)) from error


def upgrade_of(proto: onnx.ModelProto, *, assume_inference: bool) -> Upgrade:
    """Whether onnxruntime has no kernel for a BatchNormalization that this model may hold, and how to make it one."""
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if not 0 < opset < _OLDEST_KERNEL_OPSET:
        return "none"
    return "inference" if assume_inference else "marked"


def _original_fails(error: CannotRun) -> Outcome:
    return Outcome("undecided", f"onnxruntime cannot run the original: {error.sentence}", error.kind)


def _rewritten_fails(error: CannotRun, upgrade: Upgrade) -> Outcome:
    if error.kind in ("timeout", "memory"):
        return Outcome("undecided", f"the rewritten model hit a limit: {error.sentence}", error.kind)
    if upgrade != "none" and error.kind == "refused":
        # It was the conversion that failed, perhaps: of onnx's converter, not of the model.
        sentence = f"the rewritten model cannot be run after conversion to opset 7: {error.sentence}"
        return Outcome("undecided", sentence, error.kind)
    sentence = f"onnxruntime runs the original but not the rewritten model: {error.sentence}"
    return Outcome("differs", sentence, error.kind)


def _compare_signatures(pair: _Pair, proto: onnx.ModelProto, tally: Tally) -> None:
    original, rewritten = pair.signatures()
    for what, one, other in (
        ("inputs", original.inputs, rewritten.inputs),
        ("outputs", original.outputs, rewritten.outputs),
    ):
        if _named_types(one) != _named_types(other):
            raise _Stop(Outcome("differs", f"the {what} were {_listed(one)} and are {_listed(other)}"))
    if not original.outputs:
        raise _Stop(Outcome("undecided", "the original has no outputs to compare", "refused"))
    if pair.upgrade != "none":
        tally.notes.append("both models were converted to opset 7 in order to run, by onnx's converter")
    if pair.upgrade == "inference":
        tally.notes.append("what says is_test=0 was run as inference, as asked")
    gone = {port.name for port in original.overridable} - {port.name for port in rewritten.overridable}
    if gone and proto.ir_version >= _SEPARATE_INITIALIZERS_IR:
        first = ", ".join(map(repr, sorted(gone)[:_FEW]))
        further = f" and {len(gone) - _FEW} more" if len(gone) > _FEW else ""
        tally.notes.append(f"initializers that a caller could replace and no longer can: {first}{further}")


def _named_types(ports: tuple[Port, ...]) -> list[tuple[str, str]]:
    return [(port.name, port.type) for port in ports]


def _listed(ports: tuple[Port, ...]) -> str:
    return ", ".join(f"{port.name!r} {port.type}" for port in ports) or "none"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The inputs asked for: random ones for `proto`, and the user's data cut into batches."""

    proto: onnx.ModelProto
    seed: int
    dims: Mapping[str, int]
    data: tuple[Batch, ...]

    def random(self, fills: tuple[int, ...], integers: int) -> tuple[Batch, ...]:
        return random_batches(self.proto, seed=self.seed, dims=self.dims, fills=fills, integers=integers)


def _accepted(pair: _Pair, wanted: _Wanted, tally: Tally) -> Iterator[tuple[Batch, Outputs]]:
    """Each batch that the original accepts, with its outputs: random ones first, then the user's."""
    refusal = None
    try:
        refusal = yield from _accepted_random(pair, wanted)
    except CannotFeed as error:
        refusal = Outcome("undecided", f"no random input can be made up: {error}", "inputs")
    if refusal is not None and not wanted.data:
        raise _Stop(refusal)
    if refusal is not None:
        tally.notes.append(f"compared on the given data alone: {refusal.sentence}")
    for batch in wanted.data:
        tally.notes.extend(batch.notes)
        try:
            outputs = pair.original(batch)
        except CannotRun as error:
            raise _Stop(_original_fails(error)) from error
        yield batch, outputs


def _further(pair: _Pair, wanted: _Wanted, tally: Tally) -> Iterator[tuple[Batch, Outputs]]:
    """Batches beyond those compared so far, that take the other branches of If nodes."""
    search = Search(pair.before, wanted.proto, pair.runner, pair.upgrade, wanted.seed, wanted.dims)
    tried = {id(one.batch): one.batch for one in tally.measured}
    notes = yield from reaching(search, tuple(tried.values()), pair.original)
    tally.notes.extend(notes)


def _accepted_random(pair: _Pair, wanted: _Wanted) -> Generator[tuple[Batch, Outputs], None, Outcome | None]:
    """Random batches of the first sizes that onnxruntime accepts; what it said if it accepts none."""
    tried: set[object] = set()
    refusal = None
    for integers, fills in itertools.product(_INTEGERS, _FILLS):
        accepted = False
        for batch in wanted.random(fills, integers):
            # Without free dimensions or integers the next attempt would be the same one.
            kinds = {value.dtype.kind for value in batch.feeds.values()}
            attempt = (batch.label, integers if kinds & {"i", "u"} else 0)
            if attempt in tried:
                continue
            tried.add(attempt)
            try:
                outputs = pair.original(batch)
            except CannotRun as error:
                if error.kind != "refused":
                    raise _Stop(_original_fails(error)) from error
                refusal = refusal or error.sentence
                continue
            accepted = True
            yield batch, outputs
        if accepted:
            return None
    return Outcome("undecided", f"onnxruntime runs the original on no random input: {refusal}", "inputs")


def _compare_batch(pair: _Pair, batch: Batch, before: Outputs, tally: Tally) -> None:
    after = pair.rewritten(batch)
    _check_layout(batch, before, after)
    found = [measured(name, batch, before[name], after[name], tally) for name in before]
    if not tally.measured or any(one.wants_draws for one in found):
        pair.keep(batch, before)
    tally.measured.extend(found)
    if not tally.repeatable and not all(one.distance.equal for one in found):
        _check_repeatable(pair, batch, before, tally)
    tally.see(batch, before)
    tally.shipped.extend(against_shipped(batch, before, after, found))
    if batch.labels is not None:
        count_hits(batch.labels, before, after, tally)


def _check_layout(batch: Batch, before: Outputs, after: Outputs) -> None:
    if list(before) != list(after):
        one, other = ", ".join(map(repr, before)), ", ".join(map(repr, after))
        raise _Stop(Outcome("differs", f"on the batch {batch.label!r} the outputs are {one}, then {other}"))
    for name, value in before.items():
        one, other = (f"{array.dtype.name}{list(array.shape)}" for array in (value, after[name]))
        if one != other:
            raise _Stop(Outcome("differs", f"output {name!r} is {one}, then {other} on the batch {batch.label!r}"))


def _check_repeatable(pair: _Pair, batch: Batch, before: Outputs, tally: Tally) -> None:
    """Stop if the original disagrees with itself: a random operator, or training."""
    try:
        again = pair.runner.run(pair.before, batch.feeds, upgrade=pair.upgrade)
    except CannotRun as error:
        raise _Stop(_original_fails(error)) from error
    for name, value in before.items():
        if again[name].shape != value.shape or not distance(value, again[name]).equal:
            sentence = f"the original gives another {name!r} each time it runs on the same inputs"
            raise _Stop(Outcome("undecided", sentence, "random"))
    tally.repeatable = True


def _draw(pair: _Pair, tally: Tally, seed: int, least: float = 0.0) -> None:
    """Find how far rounding alone moves the outputs that are further apart than rounding them once explains.

    Those whose ratio is at most `least` without it are left out.
    """
    why = draw(pair.original, (one for one in tally.measured if one.undrawn and one.ratio > least), seed)
    if why:
        tally.notes.append(f"how far rounding alone moves the original could not be measured: {why}")


def _try_optimiser(pair: _Pair, proto: onnx.ModelProto, tally: Tally, seed: int) -> None:
    """Say so if onnxruntime's own optimiser changes the original beyond rounding, for users leave it on."""
    if not tally.measured:
        return
    if external_bytes(proto) > _MOST_OPTIMISED:
        tally.notes.append("onnxruntime's own optimiser was not tried, for it would copy more than 2 GiB of weights")
        return
    batch = tally.measured[0].batch
    aside = Tally(unit=tally.unit, discrete=tally.discrete)
    try:
        plain, optimised = pair.original(batch), pair.original(batch, optimise=True)
        _check_layout(batch, plain, optimised)
    except CannotRun as error:
        tally.notes.append(f"onnxruntime's own optimiser fails on the original: {error.sentence}")
        return
    except _Stop:
        tally.notes.append("onnxruntime's own optimiser changes the shape or type of an output of the original")
        return
    aside.measured = [measured(name, batch, plain[name], optimised[name], aside) for name in plain]
    drawn = {one.name: one.jitter for one in tally.measured if one.batch is batch}
    for one in aside.measured:
        one.jitter = drawn.get(one.name)
    _draw(pair, aside, seed, least=DIFFERS)
    changed = [one for one in aside.measured if not one.operator and one.certain and one.ratio > DIFFERS]
    if changed:
        worst = max(changed, key=lambda one: one.ratio)
        tally.notes.append(
            f"onnxruntime's own optimiser changes the original: output {worst.name!r} by {worst.ratio:.3g} times "
            "what rounding explains"
        )


def _judged(tally: Tally) -> Outcome:
    evidence = tally.end_to_end()
    deciding = [one for one in tally.measured if not one.operator]
    worst = max(deciding, key=lambda one: one.ratio, default=None)
    if worst is not None and worst.ratio > DIFFERS and worst.certain:
        return Outcome("differs", _difference(worst), "", worst.counterexample(), evidence)
    if worst is not None and worst.ratio > PASSES:
        return Outcome("undecided", _difference(worst), "floor", worst.counterexample(), evidence)
    hidden = [one for one in tally.measured if one.operator and one.ratio > PASSES]
    if hidden:
        apart = max(hidden, key=lambda one: one.ratio)
        sentence = f"{_difference(apart)}; behind {apart.operator} that shows nothing"
        return Outcome("undecided", sentence, "discrete", None, evidence)
    if shows_nothing(tally.seen):
        sentence = "no output has an element that is a number, on any input tried: nothing could be compared"
        return Outcome("undecided", sentence, "nothing", None, evidence)
    equal = all(one.distance.equal for one in tally.measured)
    return Outcome("equal" if equal else "within", end_to_end=evidence)


def _difference(one: Measured) -> str:
    where = f"output {one.name!r} on the batch {one.batch.label!r}"
    if not one.distance.alike:
        what = "is not equal" if one.distance.exact else "has NaN or infinity in other places"
        return f"{where} {what}"
    explained = "what rounding explains" if one.certain else "what rounding the output once explains"
    return f"{where} is apart by {one.ratio:.3g} times {explained}"
