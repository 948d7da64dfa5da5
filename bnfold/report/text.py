"""A few aligned lines for people: counts first, then what stayed, grouped by reason, each with its remedy."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from bnfold.equality.certificate import Certificate
from bnfold.equality.verdict import Differs, EndToEnd, Recheck, Same, Unknown, Verdict
from bnfold.moves import Move, Plan, Refusal
from bnfold.ops.reasons import Reason
from bnfold.ops.table import Row
from bnfold.report.escape import shown
from bnfold.result import Done, FoldResult

WIDTH = 100
FEW = 3
"""Sites shown per reason, unless all are asked for."""


def fold_text(done: Sequence[Done], *, verbose: bool = False, check: bool = False) -> str:
    """The answer of `bnfold fold`: a block per model, and a line of sums for several."""
    blocks = ["\n".join(_done_lines(one, verbose=verbose, check=check)) for one in done]
    if len(done) > 1:
        blocks.append("\n".join(_sums(done)))
    return "\n\n".join(blocks)


def plan_text(name: str, plan: Plan, *, verbose: bool = False) -> str:
    """The answer of `bnfold plan`."""
    lines = [shown(name), *columns(_counts(plan, folded="to fold"))]
    if verbose:
        lines += [*_moves(plan.moves)]
    return "\n".join([*lines, *_left(plan, verbose=verbose)])


def verdict_text(before: str, after: str, verdict: Verdict, *, to_save: bool = False) -> str:
    """The answer of `bnfold verify`; `to_save`: a counterexample was to be written, if there is one."""
    rows: list[tuple[str, str]] = [("verdict", verdict.word)]
    if isinstance(verdict, Differs):
        rows.append(("because", shown(verdict.sentence)))
    if isinstance(verdict, Unknown):
        rows.append(("because", shown(verdict.why)))
    rows += _rechecked(verdict.recheck)
    rows += evidence_rows(verdict.end_to_end)
    rows += site_rows(verdict) if isinstance(verdict, Same) else ()
    if isinstance(verdict, Differs) and verdict.counterexample is not None:
        shows = verdict.counterexample
        at = f"{shown(shows.output)}{list(shows.index)} on {shown(shows.batch)}"
        rows.append(("shown by", f"{at}: {shows.before!r} before, {shows.after!r} after, bound {shows.bound:.3g}"))
        if shows.saved is not None:
            rows.append(("inputs", f"written to {shown(shows.saved)}, which --data takes"))
    elif to_save:
        rows.append(("inputs", "not written: there is nothing that tells the models apart"))
    return "\n".join([f"{shown(before)} and {shown(after)}", *columns(rows)])


def ops_text(rows: Iterable[Row]) -> str:
    """The answer of `bnfold ops`: the support matrix."""
    titles = {
        "affine": "operators that are an affine",
        "linear": "operators that absorb one, after them",
        "passing": "operators that let one pass, from after them to before them",
    }
    lines: list[str] = []
    for kind, group in groupby(rows, key=lambda row: row.kind):
        lines += ["", titles[kind], *columns([line for row in group for line in _row(row)])]
    return "\n".join(lines[1:])


def _row(row: Row) -> Iterator[tuple[str, str]]:
    for name, text in ((row.op, row.rule), ("", row.unless)):
        for i, line in enumerate(textwrap.wrap(text, WIDTH, subsequent_indent="  ")):
            yield ("" if i else name), line


def reason_text(reason: Reason) -> str:
    """The answer of `bnfold explain CODE`: the page of one reason."""
    parts = [
        f"{reason.code}: {reason.summary}",
        "",
        *wrapped(reason.why),
        "",
        *wrapped(f"What to do: {reason.remedy}."),
    ]
    return "\n".join(parts)


def reasons_text(reasons: Iterable[Reason]) -> str:
    """The answer of `bnfold explain` without a code: all of them."""
    return "\n".join(columns([(reason.code, reason.summary) for reason in reasons], indent=""))


def _done_lines(done: Done, *, verbose: bool, check: bool) -> Iterator[str]:
    arrow = f" -> {shown(done.target)}" if done.target and done.result is not None and done.result.written else ""
    yield f"{shown(done.source)}{arrow}"
    if done.skipped:
        yield from columns(
            [("skipped", f"{shown(done.target)} was made before, of the same bytes by the same options")]
        )
        return
    if done.result is None:
        yield from columns([("error", shown(done.error))])
        return
    yield from columns(_result_rows(done.result, check=check))
    if verbose:
        yield from _moves(done.result.plan.moves)
    yield from _left(done.result.plan, verbose=verbose)


def _result_rows(result: FoldResult, *, check: bool) -> Iterator[tuple[str, str]]:
    yield from _counts(result.plan, folded="to fold" if check else "folded")
    if check:
        return
    before, after = result.before, result.after
    yield "nodes", f"{before.nodes:,} -> {after.nodes:,}"
    yield "bytes", f"{before.bytes:,} -> {after.bytes:,}"
    if result.cloned:
        yield "cloned", f"{len(result.cloned)} weight(s) that something else reads too"
    for path in result.left_behind:
        yield "data", f"{shown(path)} stays, though the model no longer names it"
    if result.inlined_functions:
        yield "inlined", f"{len(result.inlined_functions)} function(s)"
    if result.frozen_inputs:
        yield "frozen", f"{len(result.frozen_inputs)} input(s) that had a default: now constants"
    if result.is_unchanged:
        yield "verified", "nothing was folded: the bytes are the input's"
        return
    if result.certificate is not None:
        yield "certificate", _certificate(result.certificate)
    if result.verdict is None:
        yield "verified", "no, as asked"
        return
    yield from evidence_rows(result.verdict.end_to_end)
    yield from site_rows(result.verdict)
    yield "verified", _verified(result.verdict)


def _counts(plan: Plan, *, folded: str) -> Iterator[tuple[str, str]]:
    """BatchNormalizations, and where there are any, the affines that are written by hand."""
    yield "BatchNorms", _counted(plan.batch_norms, folded)
    if plan.by_hand.moves or plan.by_hand.refusals:
        yield "by hand", f"{_counted(plan.by_hand, folded)} (Mul, Add, Sub, Div, Neg by a constant)"


def _counted(plan: Plan, folded: str) -> str:
    found = len(plan.moves) + len(plan.refusals)
    return f"{found} found, {len(plan.moves)} {folded}, {len(plan.refusals)} left"


def _certificate(certificate: Certificate) -> str:
    numbers = sum(check.numbers for check in certificate.homes)
    return f"{numbers:,} numbers in {len(certificate.homes)} home(s) recomputed in float64, each within its bound"


def _rechecked(recheck: Recheck | None) -> Iterator[tuple[str, str]]:
    if recheck is None:
        return
    if recheck.certificate is None or recheck.why:
        yield "certificate", "shows nothing of these two models"
        return
    yield "certificate", _certificate(recheck.certificate)
    for note in recheck.notes:
        yield "note", shown(note)


def _verified(same: Same) -> str:
    if not same.executed:
        return f"{same.word}, by the certificate; not executed"
    return f"{same.word}, by the certificate and by running both models in onnxruntime"


def evidence_rows(end_to_end: EndToEnd | None) -> Iterator[tuple[str, str]]:
    """The figures of end to end."""
    if end_to_end is None:
        return
    worst = end_to_end.worst
    if worst is not None:
        outputs = len({comparison.name for comparison in end_to_end.comparisons})
        batches = len({comparison.batch for comparison in end_to_end.comparisons})
        yield (
            "end to end",
            f"{outputs} output(s) on {batches} batch(es), worst at {worst.ratio:.2f} of the rounding floor",
        )
        agreement = "" if worst.argmax_agreement is None else f", arg-max agreement {worst.argmax_agreement:.2%}"
        figures = f"relative L2 {worst.relative_l2:.1e}, largest difference {worst.max_difference:.1e}"
        yield "", f"{figures}, SNR {worst.snr_db:.0f} dB{agreement}"
    if end_to_end.accuracy is not None:
        accuracy = end_to_end.accuracy
        yield "accuracy", f"{accuracy.before:.2%} before, {accuracy.after:.2%} after ({accuracy.samples} samples)"
    for note in end_to_end.notes:
        yield "note", shown(note)


def site_rows(same: Same) -> Iterator[tuple[str, str]]:
    """What the comparison site by site showed."""
    if same.sites is None:
        return
    found = same.sites
    if not found.compared:
        yield "sites", f"none to compare: all {found.identical} values are computed alike in both models"
        return
    yield (
        "sites",
        f"{found.compared} compared, each fed what the original has there, worst at {found.worst:.2f} of its bound",
    )


def _moves(moves: Sequence[Move]) -> Iterator[str]:
    if moves:
        yield "  folded"
    for move in moves:
        homes = ", ".join(shown(arrival.home) for arrival in move.arrivals)
        through = f" through {', '.join(shown(site) for site in move.path)}" if move.path else ""
        yield f"    {shown(move.site)} into {homes}{through}"


def _left(plan: Plan, *, verbose: bool) -> Iterator[str]:
    """What stayed: BatchNormalizations, and, if all is asked for, what is written by hand."""
    yield from _refused("left", plan.batch_norms.refusals, verbose=verbose)
    if verbose:
        yield from _refused("left, by hand", plan.by_hand.refusals, verbose=verbose)


def _refused(title: str, refusals: Sequence[Refusal], *, verbose: bool) -> Iterator[str]:
    """Refusals grouped by reason, the most frequent first."""
    if not refusals:
        return
    yield f"  {title}"
    by_code = sorted(refusals, key=lambda refusal: refusal.reason.code)
    groups = [(code, list(group)) for code, group in groupby(by_code, key=lambda refusal: refusal.reason.code)]
    for code, group in sorted(groups, key=lambda entry: (-len(entry[1]), entry[0])):
        yield f"    {len(group)} x {code}: {group[0].reason.summary}"
        for refusal in group if verbose else group[:FEW]:
            blamed = "" if refusal.blamed is None else f" (at {shown(refusal.blamed)})"
            yield f"      {shown(refusal.site)}: {shown(refusal.detail)}{blamed}"
        if len(group) > FEW and not verbose:
            yield f"      and {len(group) - FEW} more (-v shows all)"
        yield from wrapped(f"remedy: {group[0].remedy}", indent="      ")


def _sums(done: Sequence[Done]) -> Iterator[str]:
    results = [one.result.plan.batch_norms for one in done if one.result is not None]
    moved, left = (sum(len(getattr(plan, kind)) for plan in results) for kind in ("moves", "refusals"))
    skipped = sum(one.skipped for one in done)
    failed = sum(one.result is None for one in done) - skipped
    counts = ((skipped, "skipped"), (failed, "failed"))
    further = "".join(f", {count} model(s) {word}" for count, word in counts if count)
    yield f"{len(done)} models: {moved} BatchNorms folded, {left} left{further}"


def columns(rows: Iterable[tuple[str, str]], indent: str = "  ") -> list[str]:
    """Names and values as aligned lines."""
    table = list(rows)
    width = max((len(name) for name, _ in table), default=0)
    return [f"{indent}{name:<{width}}  {value}".rstrip() for name, value in table]


def wrapped(text: str, indent: str = "") -> list[str]:
    """A paragraph as lines."""
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + ("  " if indent else ""))
