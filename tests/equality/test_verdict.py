from __future__ import annotations

import pytest

from bnfold.equality.verdict import Counterexample, Differs, EndToEnd, OutputComparison, Same, Unknown
from bnfold.errors import NotVerified, Undecided


def comparison(name: str, ratio: float, *, decides: bool = True) -> OutputComparison:
    return OutputComparison(name, "normal", ratio, 0.0, 0.0, 0.0, None, decides=decides, equal=False)


def test_only_same_passes() -> None:
    same = Same(end_to_end=None, certified=True, executed=False)
    assert (same.word, same.is_same) == ("same", True)
    same.raise_unless_same()


def test_differs_is_not_verified() -> None:
    verdict = Differs("output 'y' is apart")
    assert (verdict.word, verdict.is_same) == ("differs", False)
    with pytest.raises(NotVerified, match="is apart") as caught:
        verdict.raise_unless_same()
    assert caught.value.verdict is verdict
    assert caught.value.exit_code == 4


def test_unknown_is_undecided() -> None:
    verdict = Unknown("no kernel")
    assert (verdict.word, verdict.is_same) == ("unknown", False)
    with pytest.raises(Undecided, match="no kernel") as caught:
        verdict.raise_unless_same()
    assert caught.value.verdict is verdict
    assert caught.value.exit_code == 6


def test_the_worst_comparison_is_one_that_decides() -> None:
    both = (comparison("y", 2.0), comparison("z", 9.0, decides=False))
    worst = EndToEnd(both).worst
    assert worst is not None
    assert worst.name == "y"
    worst = EndToEnd(both[1:]).worst
    assert worst is not None
    assert worst.name == "z"
    assert EndToEnd(()).worst is None


def test_verdicts_with_the_same_figures_are_equal() -> None:
    one, other = (Counterexample("y", (0,), 1.0, 2.0, 0.1, "normal", inputs={}) for _ in range(2))
    assert Differs("s", one) == Differs("s", other)
