"""The answer of `bnfold witness`: of each BatchNormalization that stays, what shows it, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bnfold.report.envelope import written
from bnfold.report.escape import shown
from bnfold.report.text import columns, wrapped
from bnfold.witnessing import Numbers, Witness

MOST_NAMES = 4
"""Names of what shows a fact that are written out."""


def witnesses_json(name: str, found: Sequence[Witness]) -> str:
    """The same as JSON."""
    return written("witness", model=name, witnesses=[one.to_json() for one in found])


def witnesses_text(name: str, found: Sequence[Witness]) -> str:
    """A block for each, in the order of the plan."""
    blocks = [shown(name) if found else f"{shown(name)}\n  nothing stays"]
    return "\n\n".join([*blocks, *("\n".join(_block(one)) for one in found)])


def _block(one: Witness) -> Iterator[str]:
    refusal = one.refusal
    yield f"{shown(refusal.site)}: {refusal.reason.code}"
    rows: list[tuple[str, str]] = [(one.kind, shown(one.sentence))]
    if one.names:
        more = f" and {len(one.names) - MOST_NAMES} more" if len(one.names) > MOST_NAMES else ""
        rows.append(("shown by", ", ".join(shown(each) for each in one.names[:MOST_NAMES]) + more))
    yield from columns(rows + (list(_figures(one.numbers)) if one.numbers is not None else []))
    yield from wrapped(f"remedy: {refusal.remedy}", indent="  ")


def _figures(numbers: Numbers) -> Iterator[tuple[str, str]]:
    yield "fold", shown(numbers.assumed)
    for drawn, array in numbers.inputs.items():
        yield "input", f"{shown(drawn)} of shape {list(array.shape)}, drawn with seed {numbers.seed}"
    at = f"{shown(numbers.at)} at {list(numbers.index)}"
    yield "differs", f"{at}: {numbers.original:.6g} in the original, {numbers.folded:.6g} folded"
    yield "", f"{numbers.bounds_off:.3g} times the bound of {numbers.bound:.3g}"
