"""What `witness` has to say: of each BatchNormalization that stays, what shows that it must."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bnfold.report.document import Block, Case, Document, Fact
from bnfold.witnessing import Numbers, Witness

MOST_NAMES = 4
"""Names of what shows a fact that are written out."""


def witnessed(name: str, found: Sequence[Witness], by_hand: int = 0) -> Document:
    """The answer of `bnfold witness`: a block for each, in the order of the plan.

    `by_hand`: how many affines that are written by hand stay besides, of which nothing is told.
    """
    nothing = "no BatchNormalization stays" if by_hand else "nothing stays"
    more = f"{by_hand} written by hand (Mul, Add, Sub, Div, Neg by a constant) stay: --at '*' shows them too"
    closing = (*([] if found else [nothing]), *([more] if by_hand else []))
    blocks = (Block(name, name, closing=closing), *(_block(name, one) for one in found))
    return Document(
        "witness", blocks, lambda: {"model": name, "witnesses": [one.to_json() for one in found], "by_hand": by_hand}
    )


def _block(name: str, one: Witness) -> Block:
    title = f"{one.refusal.site}: {one.refusal.reason.code}"
    cases = (Case(title, "passed", one.sentence),)
    return Block(name, title, facts=tuple(_facts(one)), cases=cases, is_reference=True)


def _facts(one: Witness) -> Iterator[Fact]:
    yield Fact(one.kind, one.sentence)
    if one.names:
        more = f" and {len(one.names) - MOST_NAMES} more" if len(one.names) > MOST_NAMES else ""
        yield Fact("shown by", ", ".join(one.names[:MOST_NAMES]) + more)
    if one.numbers is not None:
        yield from _figures(one.numbers)
    yield Fact("remedy", one.refusal.remedy)


def _figures(numbers: Numbers) -> Iterator[Fact]:
    yield Fact("fold", numbers.assumed)
    for drawn, array in numbers.inputs.items():
        yield Fact("input", f"{drawn} of shape {list(array.shape)}, drawn with seed {numbers.seed}")
    at = f"{numbers.at} at {list(numbers.index)}"
    yield Fact("differs", f"{at}: {numbers.original:.6g} in the original, {numbers.folded:.6g} folded")
    yield Fact("", f"{numbers.bounds_off:.3g} times the bound of {numbers.bound:.3g}")
