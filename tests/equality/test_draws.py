"""As many draws as it takes: the verdict is that of three, and no model is perturbed twice in the same way."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bnfold.equality.draws import DRAWS, draw
from bnfold.equality.inputs import Batch
from bnfold.equality.measure import distance
from bnfold.equality.runner import CannotRun
from bnfold.equality.tally import PASSES, Measured

UNIT = 2.0**-24
Y = np.ones(4, np.float64)


def apart(by: float, batch: Batch | None = None) -> Measured:
    """An output of four ones in float64, apart by `by` in units of the norm's half unit."""
    found = distance(Y, Y + by * UNIT)
    return Measured("y", batch or Batch("one", {}), found, UNIT, "", Y.size, 1.0, 1.0)


class Original:
    """Its output moves by moves[k], in the same units, in the k-th draw of seed 2; says which draws were asked for."""

    def __init__(self, *moves: float) -> None:
        self.moves = moves
        self.asked: list[int] = []

    def __call__(self, batch: Batch, *, perturb: int | None = None) -> dict[str, np.ndarray]:
        del batch
        if perturb is None:
            return {"y": Y}
        self.asked.append(perturb)
        return {"y": Y + self.moves[perturb - 2 * DRAWS] * UNIT}


def rms(moves: list[float]) -> float:
    return math.sqrt(sum(move**2 for move in moves) / len(moves)) * 2 * UNIT  # the norm of four ones is 2


def test_what_passes_after_one_draw_is_drawn_once() -> None:
    one, original = apart(20), Original(20)
    assert draw(original, [one], 2) == ""
    assert original.asked == [2 * DRAWS]
    assert np.isclose(one.jitter, rms([20]))
    assert np.isclose(one.ratio, 1)


def test_what_might_pass_with_more_draws_gets_them() -> None:
    one, original = apart(100), Original(20, 50, 20)
    assert draw(original, [one], 2) == ""
    assert original.asked == [2 * DRAWS, 2 * DRAWS + 1]
    assert np.isclose(one.jitter, rms([20, 50]))
    assert one.ratio <= PASSES


def test_what_does_not_pass_is_drawn_three_times() -> None:
    one, original = apart(1000), Original(20, 21, 22)
    assert draw(original, [one], 2) == ""
    assert len(original.asked) == DRAWS
    assert np.isclose(one.jitter, rms([20, 21, 22]))
    assert one.ratio > PASSES


@given(st.floats(8.5, 500), st.lists(st.floats(0, 100), min_size=3, max_size=3))
def test_the_verdict_is_that_of_three_draws(by: float, moves: list[float]) -> None:
    one = apart(by)
    draw(Original(*moves), [one], 2)
    with_all = replace(one, jitter=rms(moves))
    # At the very limit the last bit of a sum decides.
    assert (one.ratio <= PASSES) is (with_all.ratio <= PASSES) or math.isclose(with_all.ratio, PASSES, rel_tol=1e-9)


def test_one_perturbed_model_after_the_other_serves_all_batches() -> None:
    batches = [Batch(label, {}) for label in "abc"]
    original = Original(1, 1, 1)
    wanting = [apart(1000, batches[0]), apart(10, batches[1]), apart(1000, batches[2])]
    assert draw(original, wanting, 2) == ""
    first = 2 * DRAWS
    assert original.asked == [first, first, first, first + 1, first + 1, first + 2, first + 2]
    assert [np.isclose(one.jitter, rms([1])) for one in wanting] == [True] * 3


def test_nothing_is_run_for_nothing() -> None:
    original = Original()
    assert draw(original, [], 2) == ""
    assert original.asked == []


def test_a_draw_that_fails_leaves_unknown_what_was_not_settled_before() -> None:
    class Failing(Original):
        def __call__(self, batch: Batch, *, perturb: int | None = None) -> dict[str, np.ndarray]:
            if perturb == 2 * DRAWS + 1:
                raise CannotRun("memory", "there is none left")
            return super().__call__(batch, perturb=perturb)

    settled, unknown = apart(20, Batch("a", {})), apart(1000, Batch("b", {}))
    assert draw(Failing(20, 0, 0), [settled, unknown], 2) == "there is none left"
    assert settled.jitter is not None
    assert unknown.jitter is None
    assert not unknown.certain


def test_a_constant_that_decides_a_shape_leaves_it_unknown() -> None:
    class Growing(Original):
        def __call__(self, batch: Batch, *, perturb: int | None = None) -> dict[str, np.ndarray]:
            del batch
            return {"y": Y if perturb is None else np.ones(5)}

    one = apart(20)
    assert draw(Growing(), [one], 2) == "a constant decides the shape of an output"
    assert one.jitter is None
