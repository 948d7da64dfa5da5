"""What was shown of two models, as facts and as fields: the same for a fold, an insertion and a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from bnfold.equality.verdict import EndToEnd, Recheck, Same, Unknown, Verdict
from bnfold.moves import Json
from bnfold.report.document import Fact

if TYPE_CHECKING:
    from bnfold.equality.certificate import Certificate


def certificate_fact(certificate: Certificate) -> Fact:
    """How much a certificate recomputed."""
    numbers = sum(check.numbers for check in certificate.homes)
    shown = f"{numbers:,} numbers in {len(certificate.homes)} home(s) recomputed in float64, each within its bound"
    return Fact("certificate", shown)


def recheck_facts(recheck: Recheck | None) -> Iterator[Fact]:
    """What became of a certificate's file."""
    if recheck is None:
        return
    if recheck.certificate is None or recheck.why:
        yield Fact("certificate", "shows nothing of these two models", "bad")
        return
    yield certificate_fact(recheck.certificate)
    for note in recheck.notes:
        yield Fact("note", note)


def _share(ratio: float) -> str:
    """A ratio to a bound; what is far beyond it needs no digits."""
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.2g}"


def end_to_end_facts(end_to_end: EndToEnd | None) -> Iterator[Fact]:
    """The figures of end to end."""
    if end_to_end is None:
        return
    worst = end_to_end.worst
    if worst is not None:
        outputs = len({comparison.name for comparison in end_to_end.comparisons})
        batches = len({comparison.batch for comparison in end_to_end.comparisons})
        counted = f"{outputs} output(s) on {batches} batch(es)"
        yield Fact("end to end", f"{counted}, worst at {_share(worst.ratio)} of the rounding floor")
        agreement = "" if worst.argmax_agreement is None else f", arg-max agreement {worst.argmax_agreement:.2%}"
        figures = f"relative L2 {worst.relative_l2:.1e}, largest difference {worst.max_difference:.1e}"
        yield Fact("", f"{figures}, SNR {worst.snr_db:.0f} dB{agreement}")
    yield from accuracy_facts(end_to_end)
    for note in end_to_end.notes:
        yield Fact("note", note)


def accuracy_facts(end_to_end: EndToEnd) -> Iterator[Fact]:
    """The accuracy, if there were labels."""
    if end_to_end.accuracy is not None:
        found = end_to_end.accuracy
        yield Fact("accuracy", f"{found.before:.2%} before, {found.after:.2%} after ({found.samples} samples)")


def site_facts(same: Same) -> Iterator[Fact]:
    """What the comparison site by site showed."""
    if same.sites is None:
        return
    found = same.sites
    if not found.compared:
        yield Fact("sites", f"none to compare: all {found.identical} values are computed alike in both models")
        return
    fed = "each fed what the original has there"
    yield Fact("sites", f"{found.compared} compared, {fed}, worst at {_share(found.worst)} of its bound")


def verdict_fields(verdict: Verdict) -> dict[str, Json]:
    """A verdict in JSON, and what it goes by."""
    value: dict[str, Json] = {"verdict": verdict.word, "end_to_end": end_to_end_fields(verdict.end_to_end)}
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


def end_to_end_fields(end_to_end: EndToEnd | None) -> Json:
    """The figures of end to end in JSON, if there are any."""
    return None if end_to_end is None else asdict(end_to_end)


def recheck_fields(recheck: Recheck | None) -> Json:
    """What became of a certificate's file, with what was recomputed and not with what it says."""
    if recheck is None:
        return None
    return {
        "why": recheck.why or None,
        "inlined": recheck.inlined,
        "notes": list(recheck.notes),
        "certificate": None if recheck.certificate is None else dict(recheck.certificate.to_json()),
    }
