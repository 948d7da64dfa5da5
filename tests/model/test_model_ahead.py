"""Blocks that are made ahead: the same in the same order, and nothing is left behind when something goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bnfold.model.ahead import BLOCKS_AHEAD, WORTH_A_THREAD, made_ahead

LONG = WORTH_A_THREAD


def threads() -> int:
    return threading.active_count()


@pytest.mark.parametrize("length", [0, LONG - 1, LONG])
@pytest.mark.parametrize("count", [0, 1, BLOCKS_AHEAD, 5 * BLOCKS_AHEAD])
def test_all_blocks_come_in_their_order(length: int, count: int) -> None:
    assert list(made_ahead((bytes([i]) for i in range(count)), length)) == [bytes([i]) for i in range(count)]


def test_no_thread_is_started_for_little() -> None:
    makers = {threading.current_thread() for _ in made_ahead((threading.current_thread() for _ in range(3)), LONG - 1)}
    assert makers == {threading.current_thread()}
    assert set(made_ahead((threading.current_thread() for _ in range(3)), LONG)) != makers


def test_only_a_few_blocks_wait() -> None:
    made: list[int] = []

    def making() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    for taken in made_ahead(making(), LONG):
        assert len(made) <= taken + BLOCKS_AHEAD + 2


@pytest.mark.parametrize("error", [OSError("no room"), ValueError("too short"), KeyboardInterrupt()])
@pytest.mark.parametrize("count", [0, 1, 3 * BLOCKS_AHEAD])
def test_what_making_a_block_raises_is_raised_in_its_place(error: BaseException, count: int) -> None:
    def making() -> Iterator[int]:
        yield from range(count)
        raise error

    before = threads()
    blocks = made_ahead(making(), LONG)
    for i in range(count):
        assert next(blocks) == i
    with pytest.raises(type(error)) as told:
        next(blocks)
    assert told.value is error
    assert threads() == before


@pytest.mark.parametrize("taken", [1, 2 * BLOCKS_AHEAD])
def test_who_stops_taking_leaves_no_thread_behind(taken: int) -> None:
    before = threads()
    blocks = made_ahead(iter(range(10**9)), LONG)
    assert [next(blocks) for _ in range(taken)] == list(range(taken))
    blocks.close()
    assert threads() == before
