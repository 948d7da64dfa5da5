"""Tier 2: both models on the same inputs, compared output by output in units of what rounding alone moves.

    ratio = ||after - before|| / floor,   floor = max(4u*||y||, RMS over draws of ||y perturbed - y||)

y is the original's output, u half a unit of the coarsest float type that it is computed in. A draw multiplies every
float constant of the original by 1 + xi*2u*U[0,1], and is made only where ||after - before|| > 8u*||y||; those that
could not change the verdict are left out (draws.py), and all up to a ratio of 10 where every site agrees. A ratio up to
4 passes, from 4 to 10 it is undecided, above 10 the models differ. An output behind a discrete operator is reported and
never shows a difference, for there a correct fold may move a whole step.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from bnfold.equality.branches import Search, Unreached, reaching
from bnfold.equality.data import Data, data_batches
from bnfold.equality.discrete import coarsest_half_unit, discrete_upstream
from bnfold.equality.draws import draw
from bnfold.equality.inputs import FILLS, Batch, CannotFeed, advised, random_batches
from bnfold.equality.measure import distance
from bnfold.equality.nested import changes_its_constants, external_bytes
from bnfold.equality.pair import Outcome, Pair, Sites, Stop, original_fails, upgrade_of
from bnfold.equality.runner import CannotRun
from bnfold.equality.seen import shows_nothing
from bnfold.equality.shipped import against_shipped
from bnfold.equality.tally import DIFFERS, PASSES, Measured, Outputs, Tally, count_hits, measured

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    import onnx

    from bnfold.equality.prepare import Copy
    from bnfold.equality.runner import Port, Runner

# Integers that may be indices, the smaller ones once all sizes were tried.
_INTEGERS: Final = (8, 1)
_SEPARATE_INITIALIZERS_IR: Final = 4
_FEW: Final = 3  # names in a note
_UNDRAWN: Final = (
    f"how far rounding alone moves the original was not drawn, for every site agrees: a ratio up to {DIFFERS:g} says "
    "nothing then, and is one of rounding the output once"
)
_MOST_OPTIMISED: Final = 2 << 30  # bytes of weights, which onnxruntime's optimiser reads and copies


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
    light: Copy | None = None,
    sites: Sites | None = None,
) -> Outcome:
    """Run the model at `before` and the one at `after` on random inputs and on `data`, and judge the difference.

    `proto` is the original; its weights may be left outside. `dims` gives symbolic dimensions by name. With
    `assume_inference` both models run what says is_test=0 below opset 7 as inference. The same seed gives the same
    outcome. `light` is the original as a serialised model that loads faster. `sites` are asked whether they agree on
    the outcome's `batches`: if so, a ratio up to 10 decides nothing, and nothing is drawn for it. Raises `UsageError`
    for `dims` or `data` that do not suit the model.
    """
    before.stat()
    after.stat()
    batches = data_batches(proto, data) if data is not None else ()
    pair = Pair(before, after, runner, upgrade_of(proto, assume_inference=assume_inference)).lightened(light)
    tally = Tally(unit=coarsest_half_unit(proto), discrete=discrete_upstream(proto))
    try:
        _compare_signatures(pair, proto, tally)
        wanted = _Wanted(proto, seed, dims or {}, batches)
        for batch, outputs in itertools.chain(_accepted(pair, wanted, tally), _further(pair, wanted, tally)):
            _compare_batch(pair, batch, outputs, tally, None if changes_its_constants(proto) else sites)
        tally.sites_agree = sites is not None and sites.agree(_one_of_each(tally, batches))
        _draw_where_it_matters(pair, tally, seed)
        _try_optimiser(pair, proto, tally, seed)
    except Stop as stop:
        return replace(stop.outcome, end_to_end=tally.end_to_end())
    return replace(_judged(tally), batches=_one_of_each(tally, batches), unreached=tally.unreached)


def _one_of_each(tally: Tally, data: tuple[Batch, ...]) -> tuple[Batch, ...]:
    """The first random batch and the first of the data that both models ran on, and one that shows what they do not.

    That is one that reaches a branch, or a round of a loop, where outputs are apart behind a discrete operator: there
    only the sites can say what that means.
    """
    given = {id(batch) for batch in data}
    reached = {id(batch) for batch in tally.reached}
    first = {id(one.batch) in given: one.batch for one in reversed(tally.measured)}
    apart = [one for one in tally.measured if id(one.batch) in reached and one.operator and one.ratio > PASSES]
    worst = [max(apart, key=lambda one: one.ratio).batch] if apart else []
    return (*(first[origin] for origin in (False, True) if origin in first), *worst)


def _compare_signatures(pair: Pair, proto: onnx.ModelProto, tally: Tally) -> None:
    original, rewritten = pair.signatures()
    for what, one, other in (
        ("inputs", original.inputs, rewritten.inputs),
        ("outputs", original.outputs, rewritten.outputs),
    ):
        if _named_types(one) != _named_types(other):
            raise Stop(Outcome("differs", f"the {what} were {_listed(one)} and are {_listed(other)}"))
    if not original.outputs:
        raise Stop(Outcome("undecided", "the original has no outputs to compare", "refused"))
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


def _accepted(pair: Pair, wanted: _Wanted, tally: Tally) -> Iterator[tuple[Batch, Outputs]]:
    """Each batch that the original accepts, with its outputs: random ones first, then the user's."""
    refusal = None
    try:
        refusal = yield from _accepted_random(pair, wanted)
    except CannotFeed as error:
        advice = advised(wanted.proto, wanted.dims)
        refusal = Outcome("undecided", f"no random input can be made up{advice}: {error}", "inputs")
    if refusal is not None and not wanted.data:
        raise Stop(refusal)
    if refusal is not None:
        tally.notes.append(f"compared on the given data alone: {refusal.sentence}")
    for batch in wanted.data:
        tally.notes.extend(batch.notes)
        try:
            outputs = pair.original(batch)
        except CannotRun as error:
            raise Stop(original_fails(error)) from error
        yield batch, outputs


def _further(pair: Pair, wanted: _Wanted, tally: Tally) -> Iterator[tuple[Batch, Outputs]]:
    """Batches beyond those compared so far, that take the other branches of If nodes."""
    search = Search(pair.before, wanted.proto, pair.runner, pair.upgrade, wanted.seed, wanted.dims)
    tried = {id(one.batch): one.batch for one in tally.measured}
    unreached = yield from _noted(reaching(search, tuple(tried.values()), pair.original), tally.reached)
    tally.notes.extend(unreached.notes)
    tally.unreached = unreached.branches


def _noted(
    batches: Generator[tuple[Batch, Outputs], None, Unreached], known: list[Batch]
) -> Generator[tuple[Batch, Outputs], None, Unreached]:
    while True:
        try:
            batch, outputs = next(batches)
        except StopIteration as stop:
            return cast("Unreached", stop.value)
        known.append(batch)
        yield batch, outputs


def _accepted_random(pair: Pair, wanted: _Wanted) -> Generator[tuple[Batch, Outputs], None, Outcome | None]:
    """Random batches of the first sizes that onnxruntime accepts; what it said if it accepts none."""
    tried: set[object] = set()
    refusal = None
    for integers, fills in itertools.product(_INTEGERS, FILLS):
        try:
            batches = wanted.random(fills, integers)
        except CannotFeed:
            if refusal is None:  # at the first sizes, where it is not for them being large
                raise
            continue
        accepted = False
        for batch in batches:
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
                    raise Stop(original_fails(error)) from error
                refusal = refusal or error.sentence
                continue
            accepted = True
            yield batch, outputs
        if accepted:
            return None
    advice = advised(wanted.proto, wanted.dims)
    return Outcome("undecided", f"onnxruntime runs the original on no random input{advice}: {refusal}", "inputs")


def _compare_batch(pair: Pair, batch: Batch, before: Outputs, tally: Tally, sites: Sites | None) -> None:
    after = pair.rewritten(batch)
    _check_layout(batch, before, after)
    found = [measured(name, batch, before[name], after[name], tally) for name in before]
    if not tally.measured or any(one.wants_draws for one in found):
        pair.keep(batch, before)
    tally.measured.extend(found)
    if not tally.repeatable and not all(one.distance.equal for one in found):
        _check_repeatable(pair, batch, before, sites)
        tally.repeatable = True
    tally.see(batch, before)
    tally.shipped.extend(against_shipped(batch, before, after, found))
    if batch.labels is not None:
        count_hits(batch.labels, before, after, tally)


def _check_layout(batch: Batch, before: Outputs, after: Outputs) -> None:
    if list(before) != list(after):
        one, other = ", ".join(map(repr, before)), ", ".join(map(repr, after))
        raise Stop(Outcome("differs", f"on the batch {batch.label!r} the outputs are {one}, then {other}"))
    for name, value in before.items():
        one, other = (f"{array.dtype.name}{list(array.shape)}" for array in (value, after[name]))
        if one != other:
            raise Stop(Outcome("differs", f"output {name!r} is {one}, then {other} on the batch {batch.label!r}"))


def _check_repeatable(pair: Pair, batch: Batch, before: Outputs, sites: Sites | None) -> None:
    """Stop if the original disagrees with itself: a random operator, or training.

    The run that the sites need anyway may show that it does not; it is the model with more outputs, and shows no more.
    It is another session, though: what a session does to its own constants only that session shows.
    """
    if sites is not None and not _others(before, sites.again(batch)):
        return
    try:
        again = replace(pair, kept={}).original(batch)
    except CannotRun as error:
        raise Stop(original_fails(error)) from error
    for name in _others(before, again)[:1]:
        sentence = f"the original gives another {name!r} each time it runs on the same inputs"
        raise Stop(Outcome("undecided", sentence, "random"))


def _others(outputs: Outputs, again: Mapping[str, np.ndarray]) -> list[str]:
    """Outputs that are not there again with the same bits."""
    shapes = {name: value.shape for name, value in again.items()}
    return [n for n, v in outputs.items() if shapes.get(n) != v.shape or not distance(v, again[n]).equal]


def _draw_where_it_matters(pair: Pair, tally: Tally, seed: int) -> None:
    """Draw what the verdict needs: where every site agrees, only a ratio above 10 could still be a difference."""
    _draw(pair, tally, seed, least=DIFFERS if tally.sites_agree else 0.0)
    if any(map(tally.leaves_open, tally.measured)):
        tally.notes.append(_UNDRAWN)


def _draw(pair: Pair, tally: Tally, seed: int, least: float = 0.0) -> None:
    """Find how far rounding alone moves the outputs that are further apart than rounding them once explains.

    Those whose ratio is at most `least` without it are left out.
    """
    why = draw(pair.original, (one for one in tally.measured if one.undrawn and one.ratio > least), seed)
    if why:
        tally.notes.append(f"how far rounding alone moves the original could not be measured: {why}")


def _try_optimiser(pair: Pair, proto: onnx.ModelProto, tally: Tally, seed: int) -> None:
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
    except Stop:
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
    if worst is not None and worst.ratio > PASSES and not tally.leaves_open(worst):
        return Outcome("undecided", _difference(worst), "floor", worst.counterexample(), evidence)
    hidden = [one for one in tally.measured if one.operator and one.ratio > PASSES and not tally.leaves_open(one)]
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
