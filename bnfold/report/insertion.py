"""What an insertion did, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby

from bnfold.inserting.places import Skipped
from bnfold.inserting.result import Inserted, InsertResult, Normalised
from bnfold.moves import Json
from bnfold.report.as_json import end_to_end_json, verdict_fields
from bnfold.report.envelope import written
from bnfold.report.escape import shown
from bnfold.report.text import FEW, columns, evidence_rows, site_rows

_WHAT = {
    "identity": "epsilon 0: nothing changes, bit for bit",
    "preserve": "the data's statistics, and the same function",
    "normalize": "the data's statistics, layer by layer: mean 0 and variance 1, another function",
}


def insertion_text(source: str, result: InsertResult, *, verbose: bool = False) -> str:
    """The answer of `bnfold insert`."""
    target = "" if result.written is None else f" -> {shown(result.written)}"
    lines = [f"{shown(source)}{target}", *columns(_rows(result))]
    return "\n".join([*lines, *_inserted(result, verbose=verbose), *_left_out(result.skipped, verbose=verbose)])


def insertion_json(source: str, result: InsertResult) -> str:
    """The same as JSON."""
    normalised = result.normalised
    return written(
        "insert",
        source=source,
        written=None if result.written is None else str(result.written),
        sha256=result.sha256,
        init=result.init,
        training=result.training,
        nodes={"before": result.nodes_before, "after": result.nodes_after},
        bytes={"before": result.bytes_before, "after": result.bytes_after},
        inserted=[asdict(one) for one in result.inserted],
        skipped=[asdict(one) for one in result.skipped],
        verdict=None if result.verdict is None else verdict_fields(result.verdict),
        normalised=None if normalised is None else _normalised_fields(normalised),
        notes=list(result.notes),
    )


def _normalised_fields(normalised: Normalised) -> Json:
    return {
        "mean": normalised.mean,
        "variance": normalised.variance,
        "change": end_to_end_json(normalised.change),
    }


def _rows(result: InsertResult) -> Iterator[tuple[str, str]]:
    kind = " for training" if result.training else ""
    yield "BatchNorms", f"{len(result.inserted)} inserted{kind}, {len(result.skipped)} place(s) left out"
    if not result.inserted:
        yield "model", "unchanged, byte for byte"
        return
    yield "init", f"{result.init}: {_WHAT[result.init]}" if not result.training else result.init
    yield "nodes", f"{result.nodes_before:,} -> {result.nodes_after:,}"
    yield "bytes", f"{result.bytes_before:,} -> {result.bytes_after:,}"
    yield from _statistics(result)
    for note in result.notes:
        yield "note", shown(note)
    yield from _shown(result)


def _statistics(result: InsertResult) -> Iterator[tuple[str, str]]:
    counts = [one.count for one in result.inserted if one.count]
    if not counts:
        return
    yield "statistics", f"over {min(counts):,} to {max(counts):,} elements per channel, merged in float64"
    still = sum(one.constant for one in result.inserted)
    if still:
        yield "", f"{still} channel(s) are constant on the data: no variance"
    if result.init == "preserve":
        channels = sum(one.channels for one in result.inserted)
        yield (
            "factor",
            f"exactly 1 in onnxruntime in {sum(one.exact for one in result.inserted)} of {channels} channels",
        )


def _shown(result: InsertResult) -> Iterator[tuple[str, str]]:
    if result.normalised is not None:
        yield from _changed(result.normalised)
    elif result.training:
        yield "function", "in training mode it depends on each batch; onnxruntime runs it"
    elif result.verdict is None:
        yield "verified", "no, as asked for"
    else:
        yield from evidence_rows(result.verdict.end_to_end)
        yield from site_rows(result.verdict)
        how = "bit for bit" if result.init == "identity" else "within rounding"
        yield "verified", f"same, {how}, by running both models in onnxruntime"


def _changed(found: Normalised) -> Iterator[tuple[str, str]]:
    """What normalising came to, and how far the function is from what it was."""
    yield "normalised", f"measured on what was written: means within {found.mean:.1e} of 0"
    yield "", f"variances within {found.variance:.1e} of 1"
    if found.change is None or not found.change.comparisons:
        yield "function", "changed, as asked for; by how much could not be measured"
        return
    furthest = max(one.relative_l2 for one in found.change.comparisons)
    yield "function", f"changed, as asked for: outputs moved by up to {furthest:.2g} of their norm"
    agreements = [one.argmax_agreement for one in found.change.comparisons if one.argmax_agreement is not None]
    if agreements:
        yield "", f"arg-max agreement {min(agreements):.2%} on the batch where it is least"
    if found.change.accuracy is not None:
        accuracy = found.change.accuracy
        yield "accuracy", f"{accuracy.before:.2%} before, {accuracy.after:.2%} after ({accuracy.samples} samples)"


def _inserted(result: InsertResult, *, verbose: bool) -> Iterator[str]:
    if not result.inserted:
        return
    yield "  inserted behind"
    some = result.inserted if verbose else result.inserted[:FEW]
    yield from (f"    {_one(each)}" for each in some)
    if len(some) < len(result.inserted):
        yield f"    and {len(result.inserted) - len(some)} more (-v shows all)"


def _one(each: Inserted) -> str:
    axis = "" if each.axis == 1 else f" on axis {each.axis}, between two Transposes"
    return f"{shown(each.site)}: {shown(each.tensor)}, {each.channels} channels{axis}"


def _left_out(skipped: Sequence[Skipped], *, verbose: bool) -> Iterator[str]:
    if not skipped:
        return
    yield "  left out"
    for code, group in groupby(sorted(skipped, key=lambda one: one.code), key=lambda one: one.code):
        ones = list(group)
        yield f"    {len(ones)} x {code}"
        for one in ones if verbose else ones[:FEW]:
            yield f"      {shown(one.site)}: {shown(one.tensor)}: {shown(one.sentence)}"
        if len(ones) > FEW and not verbose:
            yield f"      and {len(ones) - FEW} more (-v shows all)"
