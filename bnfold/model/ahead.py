"""Blocks that are made while the ones before them are used: reading and computing beside hashing and writing.

Invariant: the blocks come in their order, and at most BLOCKS_AHEAD of them wait; what making one raises is raised where
it would have come. numpy, hashlib and the operating system all let another thread run meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Generic, TypeVar

Block = TypeVar("Block")

BLOCKS_AHEAD = 4
WORTH_A_THREAD = 4 << 20
"""Bytes from which on it pays to start a thread."""


def made_ahead(blocks: Iterable[Block], length: int) -> Iterator[Block]:
    """The same blocks, made by a thread of their own where they are many; `length` is theirs in bytes."""
    if length < WORTH_A_THREAD:
        yield from blocks
        return
    maker = _Maker(blocks)
    thread = Thread(target=maker.work, daemon=True)
    thread.start()
    try:
        yield from maker.taken()
    finally:
        maker.stop()
        thread.join()


class _Maker(Generic[Block]):
    """`made` holds blocks in order, then None; the semaphore counts how many more there is room for."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self.blocks = blocks
        self.made: SimpleQueue[Block | None] = SimpleQueue()
        self.room = Semaphore(BLOCKS_AHEAD)
        self.stopped = False
        self.error: BaseException | None = None

    def work(self) -> None:
        try:
            for block in self.blocks:
                self.made.put(block)
                self.room.acquire()
                if self.stopped:
                    return
        except BaseException as error:  # noqa: BLE001  # it is raised again, in the thread that takes the blocks
            self.error = error
        finally:
            self.made.put(None)

    def taken(self) -> Iterator[Block]:
        while (block := self.made.get()) is not None:
            yield block
            self.room.release()
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Nobody takes any more."""
        self.stopped = True
        self.room.release()
