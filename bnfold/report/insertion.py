"""What `insert` has to say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from bnfold.inserting.result import Inserted, InsertResult, Normalised
from bnfold.moves import Json
from bnfold.report.document import Block, Case, Document, Fact, Line, Section
from bnfold.report.evidence import accuracy_facts, end_to_end_facts, end_to_end_fields, site_facts, verdict_fields
from bnfold.report.several import outcome_of

_WHAT = {
    "identity": "epsilon 0: nothing changes, bit for bit",
    "preserve": "the data's statistics, and the same function",
    "normalize": "the data's statistics, layer by layer: mean 0 and variance 1, another function",
}


def inserted(source: str, result: InsertResult, *, verbose: bool = False) -> Document:
    """The answer of `bnfold insert`."""
    target = "" if result.written is None else f" -> {result.written}"
    put = tuple(Line(str(one.site), _one(one)) for one in result.inserted)
    skipped = tuple(Line(str(one.site), f"{one.tensor}: {one.sentence}", one.code, "note") for one in result.skipped)
    block = Block(
        source,
        f"{source}{target}",
        tuple(_facts(result)),
        (Section("inserted behind", put, "list"), Section("left out", skipped, "groups")),
        cases=(
            *(Case(f"{one.place}: {one.sentence}") for one in put),
            *(Case(line.place, "skipped", f"{line.code}: {line.sentence}") for line in skipped),
            *_proof_cases(result),
        ),
    )
    return Document(
        "insert",
        (block,),
        lambda: _fields(source, result),
        sums=f"1 model: {len(put)} BatchNorms inserted, {len(skipped)} place(s) left out",
        outcome=outcome_of([result.written]),
        verbose=verbose,
    )


def _proof_cases(result: InsertResult) -> Iterator[Case]:
    if result.verdict is not None:
        yield Case("the model with them is the same function")


def _facts(result: InsertResult) -> Iterator[Fact]:
    kind = " for training" if result.training else ""
    yield Fact("BatchNorms", f"{len(result.inserted)} inserted{kind}, {len(result.skipped)} place(s) left out")
    if not result.inserted:
        yield Fact("model", "unchanged, byte for byte")
        return
    yield Fact("init", f"{result.init}: {_WHAT[result.init]}" if not result.training else result.init)
    yield Fact("nodes", f"{result.nodes_before:,} -> {result.nodes_after:,}")
    yield Fact("bytes", f"{result.bytes_before:,} -> {result.bytes_after:,}")
    yield from _statistics(result)
    for note in result.notes:
        yield Fact("note", note)
    yield from _shown(result)


def _statistics(result: InsertResult) -> Iterator[Fact]:
    counts = [one.count for one in result.inserted if one.count]
    if not counts:
        return
    yield Fact("statistics", f"over {min(counts):,} to {max(counts):,} elements per channel, merged in float64")
    still = sum(one.constant for one in result.inserted)
    if still:
        yield Fact("", f"{still} channel(s) are constant on the data: no variance")
    if result.init == "preserve":
        channels, exact = (sum(getattr(one, name) for one in result.inserted) for name in ("channels", "exact"))
        yield Fact("factor", f"exactly 1 in onnxruntime in {exact} of {channels} channels")


def _shown(result: InsertResult) -> Iterator[Fact]:
    if result.normalised is not None:
        yield from _changed(result.normalised)
    elif result.training:
        yield Fact("function", "in training mode it depends on each batch; onnxruntime runs it")
    elif result.verdict is None:
        yield Fact("verified", "no, as asked for", "bad")
    else:
        yield from end_to_end_facts(result.verdict.end_to_end)
        yield from site_facts(result.verdict)
        how = "bit for bit" if result.init == "identity" else "within rounding"
        yield Fact("verified", f"same, {how}, by running both models in onnxruntime", "good")


def _changed(found: Normalised) -> Iterator[Fact]:
    """What normalising came to, and how far the function is from what it was."""
    yield Fact("normalised", f"measured on what was written: means within {found.mean:.1e} of 0")
    yield Fact("", f"variances within {found.variance:.1e} of 1")
    if found.change is None or not found.change.comparisons:
        yield Fact("function", "changed, as asked for; by how much could not be measured")
        return
    furthest = max(one.relative_l2 for one in found.change.comparisons)
    yield Fact("function", f"changed, as asked for: outputs moved by up to {furthest:.2g} of their norm")
    agreements = [one.argmax_agreement for one in found.change.comparisons if one.argmax_agreement is not None]
    if agreements:
        yield Fact("", f"arg-max agreement {min(agreements):.2%} on the batch where it is least")
    yield from accuracy_facts(found.change)


def _one(each: Inserted) -> str:
    axis = "" if each.axis == 1 else f" on axis {each.axis}, between two Transposes"
    return f"{each.tensor}, {each.channels} channels{axis}"


def _fields(source: str, result: InsertResult) -> dict[str, Json]:
    normalised = result.normalised
    return {
        "source": source,
        "written": None if result.written is None else str(result.written),
        "sha256": result.sha256,
        "init": result.init,
        "training": result.training,
        "nodes": {"before": result.nodes_before, "after": result.nodes_after},
        "bytes": {"before": result.bytes_before, "after": result.bytes_after},
        "inserted": [asdict(one) for one in result.inserted],
        "skipped": [asdict(one) for one in result.skipped],
        "verdict": None if result.verdict is None else verdict_fields(result.verdict),
        "normalised": None if normalised is None else _normalised_fields(normalised),
        "notes": list(result.notes),
    }


def _normalised_fields(normalised: Normalised) -> Json:
    change = end_to_end_fields(normalised.change)
    return {"mean": normalised.mean, "variance": normalised.variance, "change": change}
