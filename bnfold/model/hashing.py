"""SHA-256 beside other work: a thread hashes while another reads, computes or writes; hashlib lets both run."""

from __future__ import annotations

import hashlib
from queue import SimpleQueue
from threading import Semaphore, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from bnfold.model.content import Content

_BLOCKS_AHEAD = 8
_WORTH_A_THREAD = 4 << 20


class Hash:
    """The hash (hex) of a content: computed when it is asked for, or from now on if it is `ahead`."""

    def __init__(self, content: Content, *, ahead: bool = False) -> None:
        self._content = content
        self._answer: str | Exception | None = None
        self._thread: Thread | None = None
        if ahead and len(content) >= _WORTH_A_THREAD:
            self._thread = Thread(target=self._compute, daemon=True)
            self._thread.start()

    def hex(self) -> str:
        """The hash. Raises InputRefused where the content cannot be read."""
        if self._thread is not None:
            self._thread.join()
        if self._answer is None:
            self._compute()
        if isinstance(self._answer, str):
            return self._answer
        raise self._answer or ValueError("nothing was hashed")

    def _compute(self) -> None:
        digest = hashlib.sha256()
        try:
            for block in self._content.blocks(0, len(self._content)):
                digest.update(block)
        except Exception as error:  # noqa: BLE001  # whoever asks for the hash is to hear of it
            self._answer = error
            return
        self._answer = digest.hexdigest()


class Digest:
    """The hash of blocks that come one by one; those that wait are not to change. A context manager."""

    def __init__(self, expected: int) -> None:
        self._digest = hashlib.sha256()
        self._waiting: SimpleQueue[bytes | memoryview | None] = SimpleQueue()
        self._room = Semaphore(_BLOCKS_AHEAD)
        self._thread = Thread(target=self._work, daemon=True) if expected >= _WORTH_A_THREAD else None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._finish()

    def update(self, block: bytes | memoryview) -> None:
        """Hash a further block."""
        if self._thread is None:
            self._digest.update(block)
            return
        self._room.acquire()
        self._waiting.put(block)

    def hex(self) -> str:
        """The hash (hex) of all blocks; none may follow."""
        self._finish()
        return self._digest.hexdigest()

    def _finish(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join()

    def _work(self) -> None:
        while (block := self._waiting.get()) is not None:
            self._digest.update(block)
            self._room.release()
