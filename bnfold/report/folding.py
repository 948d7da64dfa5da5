"""What `fold` and `plan` have to say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from bnfold.equality.verdict import Differs, Same, Unknown
from bnfold.errors import BatchNormsLeft, WouldFold
from bnfold.moves import Arrival, Json, Move, Plan, Refusal
from bnfold.nodes import Site
from bnfold.report.document import Block, Case, Document, Fact, Level, Line, Page, Section
from bnfold.report.evidence import certificate_fact, end_to_end_facts, site_facts, verdict_fields
from bnfold.report.failing import error_fields, failed_block, failure_of, page_of
from bnfold.report.reference import reason_pages
from bnfold.report.several import outcome_of
from bnfold.result import Done, FoldResult, exit_code

TO_FOLD = "to fold"
WHY_BY_HAND = "left, by hand: -v says why each stays, and bnfold witness MODEL --at NAME what shows it"
SHOWN = "the folded model is the same function"


def folded(done: Sequence[Done], *, check: bool = False, verbose: bool = False) -> Document:
    """The answer of `bnfold fold`: a block per model. `check`: nothing was to be written."""
    return Document(
        "fold",
        tuple(_done_block(one, check=check) for one in done),
        lambda: {"models": [_done_fields(one) for one in done]},
        exit_code=exit_code(done),
        pages=_pages(done),
        sums=_sums(done, TO_FOLD if check else "folded"),
        outcome=outcome_of([None if one.result is None else one.result.written for one in done]),
        is_failure=len(done) == 1 and done[0].error is not None and done[0].result is None,
        verbose=verbose,
    )


def planned(name: str, plan: Plan, *, verbose: bool = False) -> Document:
    """The answer of `bnfold plan`."""
    cases = (Case("the model is read"), *_cases(plan, "note"))
    facts, sections = tuple(_count_facts(plan, TO_FOLD)), tuple(_sections(plan, "note", TO_FOLD, WHY_BY_HAND))
    ours = plan.batch_norms
    return Document(
        "plan",
        (Block(name, name, facts, sections, cases=cases),),
        lambda: {"model": name, "counts": _counts(plan), "plan": plan.to_json()},
        pages=reason_pages(refusal.reason for refusal in plan.refusals),
        sums=f"1 model: {len(ours.moves)} BatchNorms to fold, {len(ours.refusals)} left",
        verbose=verbose,
    )


def _done_block(done: Done, *, check: bool) -> Block:
    if done.skipped:
        return _skipped_block(done)
    if done.result is None:
        return failed_block(done.source, done.error) if done.error is not None else Block(done.source, done.source)
    level: Level = "error" if isinstance(done.error, BatchNormsLeft) else "note"
    arrow = f" -> {done.target}" if done.target and done.result.written else ""
    plan = done.result.plan
    return Block(
        done.source,
        f"{done.source}{arrow}",
        tuple(_result_facts(done.result, check=check)),
        tuple(_sections(plan, level, TO_FOLD if check else "folded")),
        failure=None if done.error is None else failure_of(done.error),
        cases=(_proof_case(done, check=check), *_cases(plan, level)),
    )


def _skipped_block(done: Done) -> Block:
    sentence = f"{done.target} was made before, of the same bytes by the same options"
    case = Case(SHOWN, "skipped", sentence)
    return Block(done.source, done.source, (Fact("skipped", sentence),), cases=(case,))


def _result_facts(result: FoldResult, *, check: bool) -> Iterator[Fact]:
    yield from _count_facts(result.plan, TO_FOLD if check else "folded")
    if check:
        return
    before, after = result.before, result.after
    yield Fact("nodes", f"{before.nodes:,} -> {after.nodes:,}")
    yield Fact("bytes", f"{before.bytes:,} -> {after.bytes:,}")
    if result.cloned:
        yield Fact("cloned", f"{len(result.cloned)} weight(s) that something else reads too")
    for path in result.left_behind:
        yield Fact("data", f"{path} stays, though the model no longer names it")
    if result.inlined_functions:
        yield Fact("inlined", f"{len(result.inlined_functions)} function(s)")
    if result.frozen_inputs:
        yield Fact("frozen", f"{len(result.frozen_inputs)} input(s) that had a default: now constants")
    if result.is_unchanged:
        yield Fact("verified", "nothing was folded: the bytes are the input's", "good")
        return
    if result.certificate is not None:
        yield certificate_fact(result.certificate)
    if result.verdict is None:
        yield Fact("verified", "no, as asked", "bad")
        return
    yield from end_to_end_facts(result.verdict.end_to_end)
    yield from site_facts(result.verdict)
    yield Fact("verified", _verified(result.verdict), "good")


def _count_facts(plan: Plan, folded: str) -> Iterator[Fact]:
    """BatchNormalizations, and where there are any, the affines that are written by hand."""
    yield Fact("BatchNorms", _counted(plan.batch_norms, folded))
    if plan.by_hand.moves or plan.by_hand.refusals:
        yield Fact("by hand", f"{_counted(plan.by_hand, folded)} (Mul, Add, Sub, Div, Neg by a constant)")
    if plan.merges:
        yield Fact("branches", f"{len(plan.merges)} parallel convolution(s) merged into another")


def _counted(plan: Plan, folded: str) -> str:
    found = len(plan.moves) + len(plan.refusals)
    return f"{found} found, {len(plan.moves)} {folded}, {len(plan.refusals)} left"


def _verified(same: Same) -> str:
    if not same.executed:
        return f"{same.word}, by the certificate; not executed"
    return f"{same.word}, by the certificate and by running both models in onnxruntime"


def _sections(plan: Plan, level: Level, folded: str, instead: str = "") -> Iterator[Section]:
    """What goes, and what stays; of what is written by hand nothing is told but `instead`, unless all is asked for."""
    ours, by_hand = plan.batch_norms, plan.by_hand
    yield Section(folded, tuple(_moved(move) for move in plan.moves), "list", is_detail=True, joint=" ")
    yield Section("left", tuple(_left(refusal, level) for refusal in ours.refusals), "groups")
    hand = tuple(_left(one, None) for one in by_hand.refusals)
    yield Section("left, by hand", hand, "groups", is_detail=True, instead=instead)


def _moved(move: Move) -> Line:
    onward = "" if move.onward is None else f"; its shift {_way(move.onward.arrivals, move.onward.path)}"
    return Line(str(move.site), f"{_way(move.arrivals, move.path)}{onward}")


def _way(arrivals: Sequence[Arrival], path: Sequence[Site]) -> str:
    through = f" through {', '.join(map(str, path))}" if path else ""
    homes = dict.fromkeys(str(arrival.home) for arrival in arrivals)  # one may take a tap besides
    return f"into {', '.join(homes)}{through}"


def _left(refusal: Refusal, level: Level | None) -> Line:
    blamed = "" if refusal.blamed is None else f" (at {refusal.blamed})"
    return Line(str(refusal.site), f"{refusal.detail}{blamed}", refusal.reason.code, level, refusal.remedy)


def _cases(plan: Plan, level: Level) -> Iterator[Case]:
    """A case per BatchNormalization; one that stays is skipped, unless it was not to stay."""
    for move in plan.batch_norms.moves:
        yield Case(str(move.site))
    for line in (_left(refusal, level) for refusal in plan.batch_norms.refusals):
        told = (line.sentence, f"remedy: {line.remedy}")
        yield Case(line.place, "failed" if level == "error" else "skipped", f"{line.code}: {line.sentence}", told)


def _proof_case(done: Done, *, check: bool) -> Case:
    """The case of the model as a whole."""
    if isinstance(done.error, WouldFold):
        return Case("nothing is left to fold", "failed", str(done.error))
    if check:
        return Case("nothing is left to fold")
    if done.result is not None and done.result.verdict is None and not done.result.is_unchanged:
        return Case(SHOWN, "skipped", "it was not to be verified")
    return Case(SHOWN)


def _pages(done: Sequence[Done]) -> dict[str, Page]:
    plans = [one.result.plan for one in done if one.result is not None]
    pages = reason_pages(refusal.reason for plan in plans for refusal in plan.refusals)
    for one in done:
        pages |= {} if one.error is None else page_of(one.error)
    return pages


def _sums(done: Sequence[Done], folded: str) -> str:
    results = [one.result.plan.batch_norms for one in done if one.result is not None]
    moved, left = (sum(len(getattr(plan, kind)) for plan in results) for kind in ("moves", "refusals"))
    skipped = sum(one.skipped for one in done)
    failed = sum(one.result is None for one in done) - skipped
    models = f"{len(done)} model{'s' if len(done) != 1 else ''}"
    counts = ((skipped, "skipped"), (failed, "failed"))
    further = "".join(f", {count} model(s) {word}" for count, word in counts if count)
    return f"{models}: {moved} BatchNorms {folded}, {left} left{further}"


def _done_fields(done: Done) -> Json:
    verdict = getattr(done.error, "verdict", None)
    return {
        "source": done.source,
        "target": done.target,
        "exit_code": done.exit_code,
        "skipped": done.skipped,
        "error": error_fields(done.error),
        "result": None if done.result is None else _result_fields(done.result),
        "verdict": verdict_fields(verdict) if isinstance(verdict, Differs | Unknown) else None,
    }


def _result_fields(result: FoldResult) -> Json:
    return {
        "counts": _counts(result.plan),
        "written": None if result.written is None else str(result.written),
        "sha256": result.sha256,
        "before": asdict(result.before),
        "after": asdict(result.after),
        "cloned": list(result.cloned),
        "inlined_functions": list(result.inlined_functions),
        "frozen_inputs": list(result.frozen_inputs),
        "left_behind": [str(path) for path in result.left_behind],
        "moves": [_move_fields(move) for move in result.plan.moves],
        "refusals": result.plan.to_json()["refusals"],
        "merges": result.plan.to_json()["merges"],
        "certificate": None if result.certificate is None else dict(result.certificate.to_json()),
        "verdict": None if result.verdict is None else verdict_fields(result.verdict),
    }


def _move_fields(move: Move) -> Json:
    """A move without the numbers, which `bnfold plan --format json` gives."""
    onward = None if move.onward is None else _way_fields(move.onward.arrivals, move.onward.path)
    return {"site": asdict(move.site), **_way_fields(move.arrivals, move.path), "onward": onward}


def _way_fields(arrivals: Sequence[Arrival], path: Sequence[Site]) -> dict[str, Json]:
    return {"homes": [asdict(arrival.home) for arrival in arrivals], "path": [asdict(site) for site in path]}


def _counts(plan: Plan) -> Json:
    """BatchNormalizations, and beside them what is written by hand."""
    return _numbers(plan.batch_norms) | {"by_hand": _numbers(plan.by_hand)}


def _numbers(plan: Plan) -> dict[str, Json]:
    return {"found": len(plan.moves) + len(plan.refusals), "folded": len(plan.moves), "left": len(plan.refusals)}
