"""Folding twice is folding once, for chains of constants that are written by hand; also where two of them cancel."""

from __future__ import annotations

import pytest
from folding_draws import examples
from folding_support import Folded, fold, model, weights
from hypothesis import given
from hypothesis import strategies as st

STARTS = ("p = Relu (x)", "p = MatMul (x, W)", "p = Gemm (x, W)", "p = Identity (x)")
OPS = ("Add", "Sub", "Mul", "Div")

Chain = list[tuple[str, float]]


def folded_twice(start: str, chain: Chain) -> Folded:
    lines = [f"v{i + 1} = {op} ({f'v{i}' if i else 'p'}, k{i})" for i, (op, _) in enumerate(chain)]
    text = f"(float[2,4] x) => (float[2,4] v{len(chain)}) {{ {start}  {'  '.join(lines)} }}"
    before = model(text, W=weights(4, 4), **{f"k{i}": value for i, (_, value) in enumerate(chain)})
    once = fold(before)
    twice = fold(once.bytes)
    assert twice.ops == once.ops
    assert twice.bytes == once.bytes
    return once


@examples(200)
@given(
    st.sampled_from(STARTS),
    st.lists(st.tuples(st.sampled_from(OPS), st.floats(0.5, 2, width=32)), min_size=2, max_size=7, unique=True),
)
def test_a_chain_of_constants_is_folded_as_far_as_it_goes(start: str, chain: Chain) -> None:
    folded_twice(start, chain)


@pytest.mark.parametrize(
    ("chain", "ops"),
    [
        ([("Sub", 1), ("Mul", 2), ("Add", 2), ("Add", 1.5)], ["Relu", "Sub", "Mul"]),
        ([("Sub", 1), ("Mul", 2), ("Add", 2), ("Sub", 2), ("Add", 1.5)], ["Relu", "Sub", "Mul"]),
        ([("Mul", -1), ("Mul", -1), ("Mul", 0.5)], ["Relu", "Mul"]),
        ([("Mul", 0.5), ("Div", 0.5), ("Mul", -1)], ["Relu", "Mul"]),
        ([("Mul", 1), ("Mul", 1), ("Mul", 1), ("Mul", -1)], ["Relu", "Mul"]),
        ([("Sub", 1), ("Mul", 2), ("Add", 2)], ["Relu", "Sub", "Mul", "Add"]),
    ],
)
def test_what_cancels_goes_with_what_follows_it(chain: Chain, ops: list[str]) -> None:
    assert folded_twice("p = Relu (x)", [(op, float(value)) for op, value in chain]).ops == ops
