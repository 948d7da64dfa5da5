"""Data that a user's own Python makes: a function by its name `pkg.mod:function`, a callable, or an iterable.

It runs in this process, as the user's code; nothing of it reaches the process that runs onnxruntime but arrays. At most
64 sets of samples are taken, and each is copied, for a generator may fill one buffer again and again. Whatever it
raises becomes one sentence that names it; Ctrl-C and being told to end do not.
"""

from __future__ import annotations

import importlib
import logging
import re
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from bnfold.equality.data_fitting import Given
from bnfold.errors import UsageError

logger = logging.getLogger("bnfold")

MOST_SETS: Final = 64
_NAME: Final = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_LONGEST_REASON: Final = 300
_ENDED: Final = frozenset({128 + signal.SIGTERM, 128 + getattr(signal, "SIGHUP", signal.SIGTERM)})


def is_function_name(text: str) -> bool:
    """Whether a text has the form `pkg.mod:function`."""
    return _NAME.fullmatch(text) is not None


def sets_of_function(name: str, most: int) -> tuple[tuple[Given, ...], bool]:
    """What the function called `name` gives, as `sets_of` does."""
    function = function_called(name)
    with current_folder_importable():
        return sets_of(f"the function {name!r}", name.partition(":")[2], function, most)


def function_called(name: str) -> Callable[[], object]:
    """The function called `name`, which is looked for where Python looks, and here. Raises `UsageError`."""
    title = f"the function {name!r}"
    with current_folder_importable(), _told(title):
        module, _, path = name.partition(":")
        found: object = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{title} is of the type {type(found).__name__} and cannot be called")
    return found


def sets_of(title: str, label: str, source: object, most: int) -> tuple[tuple[Given, ...], bool]:
    """The sets of samples that a callable, an iterable, a mapping or an array gives, and whether there were more.

    `title` and `label` as in `Given`; `most`: how many bytes all arrays may take. Raises `UsageError`.
    """
    sets: list[Given] = []
    left = most
    with closing(each_set(title, label, source)) as taken:
        for given in taken:
            if len(sets) == MOST_SETS:
                return tuple(sets), True
            left -= sum(value.nbytes for value in given.arrays.values())
            if left < 0:
                raise UsageError(f"{title} gives more than the {most} bytes that are read")
            sets.append(given)
    return tuple(sets), False


def each_set(title: str, label: str, source: object) -> Generator[Given, None, None]:
    """The sets of `sets_of` one after the other, however many there are. Raises `UsageError`, of none at all too."""
    count = 0
    with closing(_taken(title, source)) as taken:
        for given in taken:
            yield Given(title, f"{label}[{count}]", _arrays(title, given))
            count += 1
    if not count:
        raise UsageError(f"{title} gives no data")


def _taken(title: str, source: object) -> Generator[object, None, None]:
    """Each set; the user's code runs inside of `next`, and in nothing else."""
    with _told(title):
        made = source() if callable(source) and not _is_one_set(source) else source
        if _is_one_set(made):
            yield made
            return
        if not isinstance(made, Iterable) or isinstance(made, str | bytes):
            raise UsageError(f"{title} gives {_typed(made)}, and must give arrays by name, or several of those")
        yield from made


def _is_one_set(made: object) -> bool:
    return isinstance(made, Mapping | np.ndarray | np.generic) or hasattr(made, "__array__")


def _arrays(title: str, given: object) -> dict[str, np.ndarray]:
    if isinstance(given, Mapping):
        return {_checked_name(title, name): _array(title, f" for {name!r}", value) for name, value in given.items()}
    if _is_one_set(given):
        return {"": _array(title, "", given)}
    raise UsageError(f"{title} gives {_typed(given)}, and must give arrays by name, or arrays")


def _checked_name(title: str, name: object) -> str:
    if not isinstance(name, str):
        raise UsageError(f"{title} gives arrays by {name!r}, and must give them by name")
    return name


def _array(title: str, what: str, value: object) -> np.ndarray:
    with _told(title):
        array = np.array(value)
    if array.dtype.hasobject and not all(isinstance(element, str) for element in array.reshape(-1).tolist()):
        raise UsageError(f"{title} gives {_typed(value)}{what}, which is no array of numbers")
    return array


def _typed(value: object) -> str:
    return f"something of the type {type(value).__name__}"


@contextmanager
def _told(title: str) -> Iterator[None]:
    """Whatever the user's code raises, as one sentence."""
    try:
        yield
    except UsageError:
        raise
    except SystemExit as stop:
        if stop.code in _ENDED:  # it is this process that is to end
            raise
        raise UsageError(f"{title} failed: it left with exit code {stop.code!r}") from stop
    except Exception as error:  # it is not our code, so that anything may come
        logger.debug("the traceback of the function", exc_info=error)
        reason = next((f": {line.strip()}" for line in str(error).splitlines() if line.strip()), "")
        raise UsageError(f"{title} failed: {type(error).__name__}{reason[:_LONGEST_REASON]}") from error


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """While it lasts, modules in the current folder are found."""
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
