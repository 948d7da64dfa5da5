"""Where branches of a claim meet: with a row of a thousand sums, the way from each home is the way from the one before.

So what is carried to the end, and what is asked of the links on the way, is found out once from where two ways meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bnfold.equality.claim import Link
from bnfold.equality.constants import Float64
from bnfold.equality.layout import Labels
from bnfold.equality.reference import Affine

Way = tuple[Labels, Float64]
"""Labels and gain, as they are carried."""

Meeting = tuple[tuple[int, int, int, int], tuple[tuple[tuple[int, ...], bytes], ...]]
"""A link, by its node and how it is read, and what is carried there."""

_MOST_COMPARED = 1 << 12


def meeting_at(link: Link, ways: Sequence[Way], unknown: int) -> Meeting | None:
    """What names this place and what is carried there; None where that is too much to compare."""
    arrays = [array for way in ways for array in way]
    if sum(array.size for array in arrays) > _MOST_COMPARED:
        return None
    carried = tuple((array.shape, array.tobytes()) for array in arrays)
    return (link.node.id, link.data, link.output, unknown), carried


@dataclass(slots=True, eq=False)
class Known:
    """What the branches of one claim have in common: from where two of them meet, they are one.

    What a node puts out goes one way in a claim, so a link says all that lies behind it.
    """

    ends: dict[Meeting, list[Way]] = field(default_factory=dict)
    """What is carried at the end of the way from a meeting, where nothing is cut away between."""
    affines: dict[int, Affine] = field(default_factory=dict)
    factors: dict[tuple[int, int], int] = field(default_factory=dict)
    undisturbed: set[tuple[int, int]] = field(default_factory=set)
    negative: set[tuple[int, int]] = field(default_factory=set)

    @staticmethod
    def fresh(links: Iterable[Link], seen: set[tuple[int, int]]) -> Iterator[Link]:
        """The links up to the first that was seen already; they are seen then."""
        for link in links:
            if (link.node.id, link.data) in seen:
                return
            seen.add((link.node.id, link.data))
            yield link
