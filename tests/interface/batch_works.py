"""What workers are given to do in tests: at once, never, or so that it ends the process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class Odd(Exception):
    """An error that cannot be sent to another process."""

    def __reduce__(self) -> str:
        raise TypeError("not to be pickled")


def odd() -> object:
    return Odd()


@dataclass(frozen=True)
class ByName:
    """Does what the name of the model says."""

    ledger: None = None

    def __call__(self, model: str, target: Path | None, tell: Callable[[str], None]) -> object:
        del target, tell
        deeds: dict[str, Callable[[], object]] = {
            "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "crashed": lambda: os.kill(os.getpid(), signal.SIGSEGV),
            "gone": lambda: os._exit(0),
            "slow": lambda: time.sleep(1000),
            "odd": odd,
        }
        return deeds.get(model, lambda: model)()
