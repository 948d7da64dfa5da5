"""The same values as JSON, for machines: `schema` counts up when a field changes its meaning or goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from bnfold.equality.verdict import Differs, EndToEnd, Recheck, Same, Unknown, Verdict
from bnfold.moves import Json, Move, Plan
from bnfold.ops.table import Row
from bnfold.report.envelope import written
from bnfold.result import Done, FoldResult, exit_code


def fold_json(done: Sequence[Done]) -> str:
    """The answer of `bnfold fold`."""
    return written("fold", models=[_done(one) for one in done], exit_code=exit_code(done))


def plan_json(name: str, plan: Plan) -> str:
    """The answer of `bnfold plan`: the plan as `Plan.from_json` reads it, and its counts."""
    return written("plan", model=name, counts=_counts(plan), plan=plan.to_json())


def verdict_json(before: str, after: str, verdict: Verdict) -> str:
    """The answer of `bnfold verify`."""
    return written("verify", before=before, after=after, **verdict_fields(verdict), recheck=_recheck(verdict.recheck))


def ops_json(rows: Iterable[Row]) -> str:
    """The answer of `bnfold ops`."""
    return written("ops", rows=[asdict(row) for row in rows])


def _done(done: Done) -> Json:
    error = None if done.error is None else {"kind": type(done.error).__name__, "sentence": str(done.error)}
    verdict = getattr(done.error, "verdict", None)
    return {
        "source": done.source,
        "target": done.target,
        "exit_code": done.exit_code,
        "skipped": done.skipped,
        "error": error,
        "result": None if done.result is None else _result(done.result),
        "verdict": verdict_fields(verdict) if isinstance(verdict, Differs | Unknown) else None,
    }


def _result(result: FoldResult) -> Json:
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
        "moves": [_move(move) for move in result.plan.moves],
        "refusals": result.plan.to_json()["refusals"],
        "certificate": None if result.certificate is None else dict(result.certificate.to_json()),
        "verdict": None if result.verdict is None else verdict_fields(result.verdict),
    }


def _move(move: Move) -> Json:
    """A move without the numbers, which `bnfold plan --format json` gives."""
    homes = [asdict(arrival.home) for arrival in move.arrivals]
    return {"site": asdict(move.site), "homes": homes, "path": [asdict(site) for site in move.path]}


def _counts(plan: Plan) -> Json:
    """BatchNormalizations, and beside them what is written by hand."""
    return _counted(plan.batch_norms) | {"by_hand": _counted(plan.by_hand)}


def _counted(plan: Plan) -> dict[str, Json]:
    return {"found": len(plan.moves) + len(plan.refusals), "folded": len(plan.moves), "left": len(plan.refusals)}


def verdict_fields(verdict: Verdict) -> dict[str, Json]:
    """A verdict and what it goes by."""
    value: dict[str, Json] = {"verdict": verdict.word, "end_to_end": end_to_end_json(verdict.end_to_end)}
    if isinstance(verdict, Same):
        sites = None if verdict.sites is None else asdict(verdict.sites)
        return value | {"certified": verdict.certified, "executed": verdict.executed, "sites": sites}
    if isinstance(verdict, Unknown):
        return value | {"why": verdict.why}
    shows = verdict.counterexample
    return value | {
        "why": verdict.sentence,
        "site": verdict.site,
        "value": verdict.value,
        "counterexample": None
        if shows is None
        else {
            "output": shows.output,
            "index": list(shows.index),
            "before": shows.before,
            "after": shows.after,
            "bound": shows.bound,
            "batch": shows.batch,
            "saved": None if shows.saved is None else str(shows.saved),
        },
    }


def _recheck(recheck: Recheck | None) -> Json:
    """What became of a certificate's file, with what was recomputed and not with what it says."""
    if recheck is None:
        return None
    return {
        "why": recheck.why or None,
        "inlined": recheck.inlined,
        "notes": list(recheck.notes),
        "certificate": None if recheck.certificate is None else dict(recheck.certificate.to_json()),
    }


def end_to_end_json(end_to_end: EndToEnd | None) -> Json:
    """The figures of end to end, if there are any."""
    return None if end_to_end is None else asdict(end_to_end)
