"""Running models by onnxruntime in a child process that may crash, hang or run out of memory without harm.

Invariant: between two requests there is either no child or one that waits for a request. Whatever goes wrong in
between (its death, a deadline, Ctrl-C) kills and reaps it before the exception leaves, its files go with it, and the
next request starts a fresh one. onnxruntime is imported in the child alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, Self, cast

import numpy as np

from bnfold.equality.prepare import SCRATCH, Copy
from bnfold.equality.wire import PIECE as _PIECE
from bnfold.equality.wire import Header, receive, send

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bnfold.equality.prepare import Upgrade

Kind = Literal["crash", "timeout", "memory", "refused"]

_KINDS: Final[tuple[Kind, ...]] = ("crash", "timeout", "memory", "refused")
_GIB: Final = 1 << 30
_LEAST_MEMORY: Final = 8 * _GIB
_START: Final = (
    "import sys; count = int(sys.argv[1]); sys.path[:] = sys.argv[2:2 + count]; "
    "from bnfold.equality.child import main; sys.exit(main(sys.argv[-1]))"
)

_Answer = tuple[Header, "dict[str, np.ndarray]"]


class CannotRun(Exception):
    """A model that could not be run; `sentence` says why in one printable line, `kind` what sort of obstacle it was.

    `crash`: the child died. `timeout`: the limit of time was hit. `memory`: the limit of memory was hit.
    `refused`: onnxruntime answered with an error.
    """

    def __init__(self, kind: Kind, sentence: str) -> None:
        super().__init__(sentence)
        self.kind: Kind = kind
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may take.

    `timeout`: wall-clock seconds, the child's start included. `memory`: bytes of address space of the child; 0 takes
    the larger of 8 GiB and the machine's memory, None sets no limit (neither does a provider other than the CPU's,
    whose driver reserves more address space than any machine has). An idle child with onnxruntime loaded takes 0.4 GiB.
    `threads`: threads of one operator; 0 takes the processors this process may use, at most 4. `cpu`: seconds of
    processor time per request; None takes timeout times threads. That limit ends a child whose parent was killed.
    """

    timeout: float = 600.0
    memory: int | None = 0
    threads: int = 0
    cpu: float | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as onnxruntime sees it: name, type such as `tensor(float)`, dims (None if unknown)."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives. `overridable`: initializers that a caller may replace by an input."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    overridable: tuple[Port, ...]


class Runner:
    """Runs models in one child process, which starts with the first request and is replaced after it died.

    A context manager; `close` ends the child. Not to be shared between threads.
    `provider` is an execution provider of onnxruntime, `custom_ops` are libraries with custom operators.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        provider: str = "CPUExecutionProvider",
        custom_ops: tuple[str, ...] = (),
    ) -> None:
        self._limits = limits or Limits()
        self._scratch = _scratch()
        self._settings = _settings(self._limits, provider, custom_ops, self._scratch)
        self._child: subprocess.Popen[bytes] | None = None
        self._safety: weakref.finalize[..., Runner] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the child ahead of the first request, so that it loads onnxruntime meanwhile."""
        with contextlib.suppress(CannotRun):  # the first request will say so
            self._running()

    def run(
        self,
        model: Path,
        feeds: Mapping[str, np.ndarray],
        *,
        perturb: int | None = None,
        upgrade: Upgrade = "none",
        optimise: bool = False,
    ) -> dict[str, np.ndarray]:
        """Every output of the model at `model` on `feeds`, by name, in the model's order.

        All graph optimisations are off unless `optimise`. With `perturb` every float constant is first multiplied
        elementwise by 1 + xi*2u*U[0,1], xi = +-1, u half a unit of its type, drawn from that seed. A model below
        opset 7 is first converted as `upgrade` says (see `prepare`). Sequences come as `name[0]`, `name[1]`, ..., maps
        as `name.keys` and `name.values`, strings as object arrays, bfloat16 as ml_dtypes arrays.

        Raises `CannotRun`.
        """
        header = {"ask": "run", **_target(model, perturb=perturb, upgrade=upgrade, optimise=optimise)}
        return self._ask(header, feeds)[1]

    def run_piece(
        self,
        model: Copy,
        feeds: Mapping[str, np.ndarray],
        *,
        perturb: int | None = None,
        optimise: bool = False,
    ) -> dict[str, np.ndarray]:
        """Every output of a serialised model, as `run` gives them. Raises `CannotRun`."""
        if _PIECE in feeds:
            raise CannotRun("refused", f"an input is called {_PIECE!r}")
        header = {"ask": "run", **_target(model.folder, perturb=perturb, upgrade="none", optimise=optimise)}
        return self._ask(header, {**_sent(model), **feeds})[1]

    def signature(self, model: Path | Copy, *, upgrade: Upgrade = "none") -> Signature:
        """What a model takes and gives. Raises `CannotRun`, in particular if it has no session."""
        path = model if isinstance(model, Path) else model.folder
        target = _target(path, perturb=None, upgrade=upgrade, optimise=False)
        answer, _ = self._ask({"ask": "signature", **target}, {} if isinstance(model, Path) else _sent(model))
        return Signature(
            inputs=_ports(answer.get("inputs")),
            outputs=_ports(answer.get("outputs")),
            overridable=_ports(answer.get("overridable")),
        )

    def close(self) -> None:
        """End the child, if there is one. A later request would start another."""
        child, self._child = self._child, None
        if self._safety is not None:
            self._safety.detach()
            self._safety = None
        if child is not None:
            _end(child, self._scratch)

    def _ask(self, header: Header, arrays: Mapping[str, np.ndarray]) -> _Answer:
        child = self._running()
        answers: queue.SimpleQueue[_Answer | Exception] = queue.SimpleQueue()
        thread = threading.Thread(target=_exchange, args=(child, header, arrays, answers), daemon=True)
        try:
            thread.start()
            answer = answers.get(timeout=self._limits.timeout)
        except queue.Empty:
            self._abandon(thread)
            raise CannotRun("timeout", f"onnxruntime took longer than {self._limits.timeout:g} s") from None
        except BaseException:  # Ctrl-C above all: a child with half a request can serve no other
            self._abandon(thread)
            raise
        thread.join()
        if isinstance(answer, Exception):
            raise self._buried(child, answer) from None
        return _accepted(answer)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:
            self.close()
        if self._child is None:
            self._child = _started(self._settings)
            self._safety = weakref.finalize(self, _end, self._child, self._scratch)
        return self._child

    def _abandon(self, thread: threading.Thread) -> None:
        if self._child is not None:
            self._child.kill()
        if thread.ident is not None:
            thread.join()
        self.close()

    def _buried(self, child: subprocess.Popen[bytes], error: Exception) -> CannotRun:
        """Why the exchange failed, once the child that failed is gone."""
        # A frame that is broken while the child lives is a crash as well: its memory cannot be trusted.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=1.0)
        code = child.returncode
        self.close()
        if isinstance(error, MemoryError):
            return CannotRun("memory", "the outputs do not fit into memory")
        if code is None:
            return CannotRun("crash", f"the process that runs onnxruntime sent something unreadable ({error})")
        if code == -getattr(signal, "SIGXCPU", 0) != 0:
            return CannotRun("timeout", "onnxruntime took more processor time than allowed")
        return CannotRun("crash", f"onnxruntime crashed ({_death(code)})")


def _scratch() -> Path:
    """The folder in which the child may write. It is there only while it is needed."""
    name = f"{SCRATCH}{secrets.token_hex(8)}"
    try:
        return Path(tempfile.gettempdir()).absolute() / name
    except FileNotFoundError:  # nowhere on this machine: what needs the folder will say so
        return Path.cwd() / name


def _settings(limits: Limits, provider: str, custom_ops: Sequence[str], scratch: Path) -> str:
    threads = limits.threads or min(4, _processors())
    memory = limits.memory if provider == "CPUExecutionProvider" else None
    return json.dumps(
        {
            "provider": provider,
            "custom_ops": [str(Path(library).absolute()) for library in custom_ops],
            "memory": max(_LEAST_MEMORY, _physical_memory()) if memory == 0 else memory,
            "threads": threads,
            "cpu": limits.timeout * threads if limits.cpu is None else limits.cpu,
            "scratch": str(scratch),
        }
    )


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _physical_memory() -> int:
    """Bytes of memory of the machine or of its container, 0 where the platform does not say."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
    with contextlib.suppress(OSError, ValueError):
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return physical


def _started(settings: str) -> subprocess.Popen[bytes]:
    # The child looks for modules exactly where this process does, and never in the folder it happens to start in.
    path = [entry or str(Path.cwd()) for entry in sys.path]
    command = [sys.executable, "-P", "-W", "ignore", "-c", _START, str(len(path)), *path, settings]
    # Newer versions of onnxruntime report to its makers what they run, and leave a file of their own in TMPDIR.
    environment = {"ORT_DISABLE_TELEMETRY": "1", **os.environ}
    try:
        return subprocess.Popen(  # noqa: S603  # our own interpreter with our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
    except OSError as error:
        raise CannotRun("crash", f"no process for onnxruntime could be started ({error.strerror})") from error


def _exchange(
    child: subprocess.Popen[bytes],
    header: Header,
    arrays: Mapping[str, np.ndarray],
    answers: queue.SimpleQueue[_Answer | Exception],
) -> None:
    # In a thread of its own, for a pipe can be waited for with a deadline on no platform alike.
    try:
        send(cast("BinaryIO", child.stdin), header, arrays)
        answers.put(receive(cast("BinaryIO", child.stdout)))
    except Exception as error:  # noqa: BLE001  # whatever it is, the waiting thread must hear of it
        answers.put(error)


def _end(child: subprocess.Popen[bytes], scratch: Path) -> None:
    """Kill and reap; there is nothing in the child worth a farewell. Its files cannot be in use any more."""
    child.kill()
    child.wait()
    shutil.rmtree(scratch, ignore_errors=True)
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            # Closing flushes what the child never read.
            with contextlib.suppress(OSError):
                pipe.close()


def _death(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _sent(model: Copy) -> dict[str, np.ndarray]:
    return {_PIECE: np.frombuffer(model.content, np.uint8)}


def _target(model: Path, *, perturb: int | None, upgrade: Upgrade, optimise: bool) -> Header:
    return {"model": str(model.absolute()), "perturb": perturb, "upgrade": upgrade, "optimise": optimise}


def _accepted(answer: _Answer) -> _Answer:
    header, _ = answer
    kind = next((kind for kind in _KINDS if kind == header.get("kind")), None)
    if kind is not None:
        raise CannotRun(kind, str(header.get("sentence")))
    return answer


def _ports(described: object) -> tuple[Port, ...]:
    if not isinstance(described, list):
        raise CannotRun("crash", "the process that runs onnxruntime sent no signature")
    return tuple(Port(name, kind, tuple(shape)) for name, kind, shape in described)
