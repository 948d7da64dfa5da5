"""The child process: reads requests from its standard input, runs models by onnxruntime, writes the answers.

Started by `runner` as `python -m bnfold.equality.child SETTINGS`; it ends when its standard input does. The real
standard output is moved away first, so that whatever native code prints cannot reach the protocol. Every run has graph
optimisations off (from BASIC on, onnxruntime folds BatchNormalization itself), a fixed number of threads and
deterministic kernels: the same model on the same feeds gives the same bits.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import math
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from bnfold.equality.prepare import Copy, Upgrade, prepared, prepared_piece, upgrade_called
from bnfold.equality.wire import PIECE, Header, dtype_called, receive, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    import onnxruntime

_MOST_SESSIONS: Final = 4
_PR_SET_PDEATHSIG: Final = 1
_LONGEST_SENTENCE: Final = 300
# What numpy has no type for: elements by onnxruntime's type, and TensorProto's number of that type.
_FOREIGN: Final = {
    "bfloat16": ("tensor(bfloat16)", 16),
    "float8_e4m3fn": ("tensor(float8e4m3fn)", 17),
    "float8_e4m3fnuz": ("tensor(float8e4m3fnuz)", 18),
    "float8_e5m2": ("tensor(float8e5m2)", 19),
    "float8_e5m2fnuz": ("tensor(float8e5m2fnuz)", 20),
}
_FOREIGN_TYPES: Final = {kind: name for name, (kind, _) in _FOREIGN.items()}
_NO_MEMORY: Final = re.compile(r"bad_alloc|bad allocation|Failed to allocate memory|out of memory", re.IGNORECASE)
_ERROR_PREFIX: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ")
_SOURCE_PLACE: Final = re.compile(r"\S*\.(?:cc|h|hpp|cpp|cu):\d+:? (?:[^()]*\([^()]*\)(?: const)?:? ?)?")

_Output = tuple[str, np.ndarray]


class Refusal(Exception):
    """A request that cannot be met; the parent learns the sentence."""


class Sessions:
    """onnxruntime's sessions, the few used last, and one at most of a model with perturbed constants.

    `scratch` is a folder that is made where such a model needs one, and is gone again once it has its session.
    """

    def __init__(self, provider: str, custom_ops: tuple[str, ...], threads: int, scratch: Path) -> None:
        self._provider = provider
        self._custom_ops = custom_ops
        self._threads = threads
        self._scratch = scratch
        self._open: dict[object, onnxruntime.InferenceSession] = {}
        self._asked: object = None
        self._perturbed: object = None

    def session(
        self, path: Path, *, perturb: int | None, upgrade: Upgrade, optimise: bool
    ) -> onnxruntime.InferenceSession:
        """The session of the model at `path`, or of its copy as `prepare` makes it."""
        found = path.stat()
        # The inode too: a rewritten file is renamed into place, perhaps within one tick of the clock.
        key = (path, found.st_ino, found.st_mtime_ns, found.st_size, perturb, upgrade, optimise)
        return self._kept(
            key,
            lambda: prepared(path, perturb=perturb, upgrade=upgrade, scratch=self._scratch),
            is_perturbed=perturb is not None,
            optimise=optimise,
        )

    def session_of_piece(
        self, model: bytes, folder: Path, *, perturb: int | None, optimise: bool
    ) -> onnxruntime.InferenceSession:
        """The session of a serialised model whose external data lie in `folder`."""
        return self._kept(
            (hashlib.sha256(model).digest(), folder, perturb, optimise),
            lambda: prepared_piece(model, folder, perturb=perturb, scratch=self._scratch),
            is_perturbed=perturb is not None,
            optimise=optimise,
        )

    def _kept(
        self,
        key: object,
        prepare: Callable[[], AbstractContextManager[Path | Copy]],
        *,
        is_perturbed: bool,
        optimise: bool,
    ) -> onnxruntime.InferenceSession:
        self._asked = key
        session = self._open.pop(key, None)
        if session is None:
            self._make_way(is_perturbed=is_perturbed)
            tidily = _ended_by_exception() if is_perturbed else contextlib.nullcontext()
            with tidily, prepare() as model:
                session = self._made(model, optimise=optimise)
        self._open[key] = session
        if is_perturbed:
            self._perturbed = key
        return session

    def forget_others(self) -> bool:
        """Close all sessions, for their memory; whether there were others than the one asked for last."""
        others = any(key != self._asked for key in self._open)
        self._open.clear()
        return others

    def _make_way(self, *, is_perturbed: bool) -> None:
        # A copy with other constants takes as much room on the disk as its weights, and is not asked for again.
        if is_perturbed:
            self._open.pop(self._perturbed, None)
        while len(self._open) >= _MOST_SESSIONS:
            del self._open[next(iter(self._open))]

    def _made(self, model: Path | Copy, *, optimise: bool) -> onnxruntime.InferenceSession:
        # Late: a session that cannot be made for want of onnxruntime is an answer, not a crash.
        import onnxruntime as ort  # noqa: PLC0415  # as said above

        if self._provider not in ort.get_available_providers():
            raise Refusal(f"this onnxruntime has no {self._provider}")
        ort.set_default_logger_severity(4)
        options = ort.SessionOptions()
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.use_deterministic_compute = True
        # The arena doubles what it takes: then a limit of memory would hit models that fit.
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for library in self._custom_ops:
            options.register_custom_ops_library(library)
        if isinstance(model, Path):
            return ort.InferenceSession(str(model), options, providers=[self._provider])
        # The copy has no path of its own, and its external data lies beside the original.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(model.folder))
        return ort.InferenceSession(model.content, options, providers=[self._provider])


def main(settings: str) -> int:
    """Serve requests until standard input ends. `settings` is the JSON object that `runner` passes."""
    # Ctrl-C reaches the whole foreground group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever the parent has made of it
    _die_with_parent()
    requests, replies = _take_pipes()
    given = json.loads(settings)
    _limit_memory(given["memory"])
    with contextlib.suppress(Exception):  # the first request will say so
        import onnxruntime  # noqa: F401, PLC0415  # before there is a request, while the parent has other things to do
    sessions = Sessions(given["provider"], tuple(given["custom_ops"]), given["threads"], Path(given["scratch"]))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            request, feeds = receive(requests)
            _limit_processor_time(given["cpu"])
            send(replies, *_answer(sessions, request, feeds))
    return 0


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent is killed, even in the middle of a run."""
    if not sys.platform.startswith("linux"):
        return  # elsewhere the end of standard input, or the limit of processor time, ends it
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _ended_by_exception() -> Iterator[None]:
    """While files are written, what would end this process at once (its parent's death too) unwinds it instead."""

    def stop(*_: object) -> None:
        raise SystemExit

    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _answer(
    sessions: Sessions, request: Header, feeds: Mapping[str, np.ndarray]
) -> tuple[Header, dict[str, np.ndarray]]:
    answer = _attempt(sessions, request, feeds)
    # Perhaps only the sessions of earlier requests were in the way.
    if answer[0].get("kind") == "memory" and sessions.forget_others():
        return _attempt(sessions, request, feeds)
    return answer


def _attempt(
    sessions: Sessions, request: Header, feeds: Mapping[str, np.ndarray]
) -> tuple[Header, dict[str, np.ndarray]]:
    path = Path(str(request["model"]))
    try:
        return _served(sessions, path, request, feeds)
    except Exception as error:  # noqa: BLE001  # onnxruntime raises by no common base; the parent learns what it was
        return _failure(error, path), {}


def _served(
    sessions: Sessions, path: Path, request: Header, feeds: Mapping[str, np.ndarray]
) -> tuple[Header, dict[str, np.ndarray]]:
    session = _asked(sessions, path, request, feeds)
    if request["ask"] == "signature":
        return {
            "inputs": [[port.name, port.type, port.shape] for port in session.get_inputs()],
            "outputs": [[port.name, port.type, port.shape] for port in session.get_outputs()],
            "overridable": [[port.name, port.type, port.shape] for port in session.get_overridable_initializers()],
        }, {}
    feeds = {name: value for name, value in feeds.items() if name != PIECE}
    names = [port.name for port in session.get_outputs()]
    types = [port.type for port in (*session.get_inputs(), *session.get_outputs())]
    if any(kind in _FOREIGN_TYPES for kind in types):
        return {}, dict(zip(names, _run_foreign(session, names, feeds), strict=True))
    values = session.run(names, dict(feeds))
    return {}, dict(pair for name, value in zip(names, values, strict=True) for pair in _flattened(name, value))


def _asked(
    sessions: Sessions, path: Path, request: Header, feeds: Mapping[str, np.ndarray]
) -> onnxruntime.InferenceSession:
    """The session that a request is about: of a file, or of a model that came with it."""
    perturb = request["perturb"] if isinstance(request["perturb"], int) else None
    optimise = bool(request["optimise"])
    if PIECE in feeds:
        return sessions.session_of_piece(feeds[PIECE].tobytes(), path, perturb=perturb, optimise=optimise)
    upgrade = upgrade_called(request["upgrade"])
    return sessions.session(path, perturb=perturb, upgrade=upgrade, optimise=optimise)


def _run_foreign(
    session: onnxruntime.InferenceSession, names: list[str], feeds: Mapping[str, np.ndarray]
) -> Iterator[np.ndarray]:
    """A run whose inputs or outputs have types that numpy lacks: their bits go in and out as they are."""
    import onnxruntime as ort  # noqa: PLC0415  # see `Sessions`

    def fed(value: np.ndarray) -> onnxruntime.OrtValue:
        if value.dtype.name not in _FOREIGN:
            return ort.OrtValue.ortvalue_from_numpy(value)
        bits = value.view(f"u{value.dtype.itemsize}")
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _FOREIGN[value.dtype.name][1])

    values = session.run_with_ort_values(names, {name: fed(value) for name, value in feeds.items()})
    for value in values:
        if not value.is_tensor():
            raise Refusal("sequences beside bfloat16 or float8 values are not supported")
        yield _foreign_array(value) if value.data_type() in _FOREIGN_TYPES else value.numpy()


def _foreign_array(value: onnxruntime.OrtValue) -> np.ndarray:
    dtype, shape = dtype_called(_FOREIGN_TYPES[value.data_type()]), value.shape()
    size = math.prod(shape) * dtype.itemsize
    return np.frombuffer(ctypes.string_at(value.data_ptr(), size) if size else b"", dtype=dtype).reshape(shape)


def _flattened(name: str, value: object) -> Iterator[_Output]:
    """Arrays out of what onnxruntime returns for one output: a tensor, a sequence, a map, or nothing."""
    if isinstance(value, np.ndarray):
        yield name, value
    elif isinstance(value, list | tuple):
        for place, element in enumerate(value):
            yield from _flattened(f"{name}[{place}]", element)
    elif isinstance(value, dict):
        keys = sorted(value)
        yield f"{name}.keys", np.array(keys)
        yield f"{name}.values", np.array([value[key] for key in keys])
    elif value is not None:
        yield name, np.asarray(value)


def _failure(error: Exception, path: Path) -> Header:
    sentence = _sentence(str(error), path)
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return {"kind": "memory", "sentence": f"onnxruntime ran out of the memory it may use ({sentence})"}
    if isinstance(error, Refusal):
        return {"kind": "refused", "sentence": sentence}
    if isinstance(error, OSError):
        return {"kind": "refused", "sentence": f"the model cannot be read ({error.strerror})"}
    if isinstance(error, ImportError):
        return {"kind": "refused", "sentence": f"onnxruntime cannot be imported ({sentence})"}
    return {"kind": "refused", "sentence": sentence or type(error).__name__}


def _sentence(message: str, path: Path) -> str:
    """One printable line out of an error's message, without places in onnxruntime's sources or on this machine."""
    line = next((line for line in message.splitlines() if line.strip()), "")
    line = _ERROR_PREFIX.sub(r"\1: ", line)
    line = _SOURCE_PLACE.sub("", line).replace(f"Load model from {path} failed:", "").replace(str(path), path.name)
    line = " ".join(line.split())
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return escaped if len(escaped) <= _LONGEST_SENTENCE else escaped[: _LONGEST_SENTENCE - 3] + "..."


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to the parent, moved to where no library prints or reads by accident."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)
    return requests, replies


def _limit_memory(most: int | None) -> None:
    try:
        import resource  # noqa: PLC0415  # not on Windows, where the parent's deadline is the only limit
    except ImportError:
        return
    # A system may refuse a limit (macOS does): the parent's deadline remains.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if most is None:
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_processor_time(seconds: float) -> None:
    """End this process by SIGXCPU when one request takes more: nobody else would once the parent is killed."""
    try:
        import resource  # noqa: PLC0415  # see `_limit_memory`
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
