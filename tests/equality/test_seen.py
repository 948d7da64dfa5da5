from __future__ import annotations

import numpy as np
import pytest

from bnfold.equality.seen import Seen, shows_nothing, weaknesses


def seen(*values: object, dtype: str = "float32") -> Seen:
    found = Seen()
    for value in values:
        found.add(np.array(value, dtype=dtype))
    return found


@pytest.mark.parametrize(
    ("one", "constant"),
    [
        (seen([2.5, 2.5]), "2.5"),
        (seen([2.5, 2.5], [3.5, 3.5]), None),
        (seen([2.5, 3.5]), None),
        (seen(2.5), None),
        (seen(2.5, 2.5), "2.5"),
        (seen(2.5, 3.5), None),
        (seen([7, 7], dtype="int64"), "7"),
        (seen([True, True], dtype="bool"), "True"),
        (seen(["a", "a"], dtype="object"), "'a'"),
        (seen(["a", "b"], dtype="object"), None),
        (seen([np.nan, np.nan]), "not finite"),
        (seen([]), None),
    ],
)
def test_an_output_is_constant_if_more_than_one_element_agrees(one: Seen, constant: str | None) -> None:
    assert one.constant() == constant


@pytest.mark.parametrize(
    ("outputs", "nothing"),
    [
        ({"y": seen([np.nan, np.inf])}, True),
        ({"y": seen([])}, True),
        ({"y": seen([np.nan, 1])}, False),
        ({"y": seen([np.nan]), "z": seen([], dtype="int64")}, True),
        ({"y": seen([np.nan]), "z": seen([1], dtype="int64")}, False),
        ({"y": seen(["a"], dtype="object")}, False),
        ({"y": seen([np.nan], [1])}, False),
    ],
)
def test_outputs_show_nothing_if_none_of_them_is_a_number_anywhere(outputs: dict[str, Seen], nothing: bool) -> None:
    assert shows_nothing(outputs) == nothing


def test_what_is_no_weakness_is_not_remarked_on() -> None:
    assert list(weaknesses({"y": seen([1, 2])}, takes_inputs=True)) == []
    assert list(weaknesses({}, takes_inputs=False)) == []


def test_counts_are_written_for_people() -> None:
    output = seen([np.nan] * 1500 + [1] * 1500)
    (note,) = weaknesses({"y": output}, takes_inputs=True)
    assert note.startswith("output 'y' of the original is NaN or infinite in 1,500 of 3,000 elements, ")
