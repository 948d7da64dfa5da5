"""How far rounding alone moves the outputs of a model, drawn as often as it takes to know whether they pass.

    jitter = RMS over the draws of ||y perturbed - y||, of three draws at most

The squares of the draws that are left out could only add to the sum, so an output that passes with the sum so far
over three passes with all three: drawing stops there, and the verdict is the one of three draws. What is reported is
the RMS of the draws that were made.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bnfold.equality.measure import DRAWS, distance, floor_of
from bnfold.equality.runner import CannotRun
from bnfold.equality.tally import PASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bnfold.equality.tally import Measured, Outputs


def draw(run: Callable[..., Outputs], wanting: Iterable[Measured], seed: int) -> str:
    """Set the jitter of each of `wanting`; "" if that went well, else why the jitter of some stays unknown.

    `run(batch)` gives the original's outputs, `run(batch, perturb=...)` those with its constants perturbed. One
    perturbed model after the other is run, each on all the batches that need it.
    """
    pending = list(wanting)
    squares = {id(one): 0.0 for one in pending}
    for number in range(DRAWS):
        why = _add_squares(run, pending, squares, DRAWS * seed + number)
        if why:
            return why
        for one in pending:
            if number == DRAWS - 1 or _passes(one, squares[id(one)]):
                one.jitter = math.sqrt(squares[id(one)] / (number + 1))
        pending = [one for one in pending if one.jitter is None]
    return ""


def _passes(one: Measured, squares: float) -> bool:
    """Whether it would pass if all draws to come moved nothing."""
    least = floor_of(one.distance, one.unit, math.sqrt(squares / DRAWS))
    return one.distance.ratio(least) <= PASSES


def _add_squares(run: Callable[..., Outputs], pending: Sequence[Measured], squares: dict[int, float], seed: int) -> str:
    for batch in {id(one.batch): one.batch for one in pending}.values():
        try:
            plain, moved = run(batch), run(batch, perturb=seed)
        except CannotRun as error:
            return error.sentence
        if [value.shape for value in plain.values()] != [value.shape for value in moved.values()]:
            return "a constant decides the shape of an output"
        for one in pending:
            if one.batch is batch:
                squares[id(one)] += distance(plain[one.name], moved[one.name]).difference ** 2
    return ""
