"""What `verify` has to say."""

from __future__ import annotations

from collections.abc import Iterator

from bnfold.equality.verdict import Differs, Same, Unknown, Verdict
from bnfold.report.document import Block, Case, Document, Fact, Line, Page
from bnfold.report.evidence import end_to_end_facts, recheck_facts, recheck_fields, site_facts, verdict_fields

EXIT_CODES = {"same": 0, "differs": 1, "unknown": 6}

_PAGES = {
    "differs": Page(
        "differs",
        "the two models are different functions",
        ("An output, or a value inside, is further from the original's than rounding explains.",),
        "look at the node that is named first; --save-counterexample writes inputs that show the difference",
        "error",
    ),
    "unknown": Page(
        "unknown",
        "the two models were neither shown equal nor different",
        ("What could not be decided counts as neither.",),
        "remove what the sentence names: give data, an operator library, more time, or a certificate",
        "error",
    ),
}


def compared(before: str, after: str, verdict: Verdict, *, to_save: bool = False, verbose: bool = False) -> Document:
    """The answer of `bnfold verify`; `to_save`: a counterexample was to be written, if there is one."""
    failure = None
    case = Case(f"the same function as {before}")
    if not isinstance(verdict, Same):
        sentence = _because(verdict)
        failure = Line(
            getattr(verdict, "site", None) or "", sentence, verdict.word, "error", _PAGES[verdict.word].remedy
        )
        case = Case(case.name, "failed" if isinstance(verdict, Differs) else "error", sentence)
    facts = tuple(_facts(verdict, to_save=to_save))
    fields = {"before": before, "after": after, **verdict_fields(verdict), "recheck": recheck_fields(verdict.recheck)}
    return Document(
        "verify",
        (Block(after, f"{before} and {after}", facts, failure=failure, cases=(case,)),),
        lambda: fields,
        exit_code=EXIT_CODES[verdict.word],
        pages=_PAGES,
        sums=f"verdict: {verdict.word}",
        verbose=verbose,
    )


def _because(verdict: Differs | Unknown) -> str:
    return verdict.sentence if isinstance(verdict, Differs) else verdict.why


def _facts(verdict: Verdict, *, to_save: bool) -> Iterator[Fact]:
    yield Fact("verdict", verdict.word, "good" if isinstance(verdict, Same) else "bad")
    if not isinstance(verdict, Same):
        yield Fact("because", _because(verdict))
    yield from recheck_facts(verdict.recheck)
    yield from end_to_end_facts(verdict.end_to_end)
    yield from site_facts(verdict) if isinstance(verdict, Same) else ()
    if isinstance(verdict, Differs) and verdict.counterexample is not None:
        shows = verdict.counterexample
        at = f"{shows.output}{list(shows.index)} on {shows.batch}"
        yield Fact("shown by", f"{at}: {shows.before!r} before, {shows.after!r} after, bound {shows.bound:.3g}")
        if shows.saved is not None:
            yield Fact("inputs", f"written to {shows.saved}, which --data takes")
    elif to_save:
        yield Fact("inputs", "not written: there is nothing that tells the models apart")
