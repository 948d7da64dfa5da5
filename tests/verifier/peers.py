"""Models rewritten by other tools, which run in a Python of their own: see `peers_child`.

A tool may fold wrongly. `right` judges a result without the verifier: both models in float64, where nothing but the
rounding of the written constants is left, in units of how far the original moves when its constants move by a unit.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from exact import Unsupported, values_of
from onnx import numpy_helper

CHILD = Path(__file__).with_name("peers_child.py")
MOST = 10.0
"""Above this many times the jitter a model is another one; rounding the constants of each layer twice gives about 1."""
DRAWS = 3
TIMEOUT = 300.0


class PeerFailed(Exception):
    """The tool raised, crashed or gave no model; the sentence says which."""


class Peers:
    """A process with the other tools, started anew after a crash. A context manager."""

    def __init__(self, python: str) -> None:
        self.python = python
        self.child: subprocess.Popen[str] | None = None
        self.folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.folder.cleanup()

    def stop(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
        self.child = None

    def ask(self, tool: str, source: str = "", target: str = "") -> dict[str, Any]:
        """One request; raises PeerFailed where the process dies of it."""
        if self.child is None:
            self.child = subprocess.Popen(
                [self.python, "-W", "ignore", str(CHILD)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        try:
            self.child.stdin.write(json.dumps({"tool": tool, "source": source, "target": target}) + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        except OSError:
            line = ""
        if not line:
            self.stop()
            raise PeerFailed(f"{tool} ended its process")
        answer: dict[str, Any] = json.loads(line)
        if answer.get("error"):
            raise PeerFailed(f"{tool}: {answer['error']}")
        return answer

    def tools(self) -> tuple[dict[str, str], dict[str, str]]:
        """Versions of the tools that are there, and why the others are not."""
        answer = self.ask("tools")
        return answer["tools"], answer["missing"]

    def rewritten(self, tool: str, model: onnx.ModelProto) -> onnx.ModelProto:
        """The model as the tool leaves it."""
        source, target = (str(Path(self.folder.name) / name) for name in ("before.onnx", "after.onnx"))
        onnx.save(model, source)
        self.ask(tool, source, target)
        return onnx.load(target)

    def right(self, before: onnx.ModelProto, after: onnx.ModelProto, feeds: dict[str, np.ndarray] | None) -> bool:
        """Whether a rewriting is right, by float64 where every operator is known, else by running both."""
        try:
            return feeds is not None and ratio(before, after, feeds) <= MOST
        except Unsupported:
            return self.right_when_run(before, after)

    def right_when_run(self, before: onnx.ModelProto, after: onnx.ModelProto) -> bool:
        """Whether onnxruntime gives the same for both, as far as outputs show it; PeerFailed if it cannot."""
        source, target = (str(Path(self.folder.name) / name) for name in ("one.onnx", "other.onnx"))
        onnx.save(before, source)
        onnx.save(after, target)
        return bool(self.ask("compare", source, target)["ratio"] <= MOST)


def ratio(before: onnx.ModelProto, after: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> float:
    """How far apart the outputs are in float64, in units of the original's own jitter."""
    worst = 0.0
    names = [port.name for port in before.graph.output]
    here, there = values_of(before, feeds), values_of(after, feeds)
    moved = [values_of(perturbed(before, seed), feeds) for seed in range(DRAWS)]
    for name in names:
        jitter = np.sqrt(np.mean([np.linalg.norm(one[name] - here[name]) ** 2 for one in moved]))
        apart = np.linalg.norm(there[name] - here[name])
        worst = max(worst, float(apart / jitter) if apart else 0.0)
    return worst


def perturbed(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The model with every float constant moved by up to a unit of its type, in float64."""
    rng = np.random.default_rng(seed)
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    for tensor in moved.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind != "f":
            continue
        unit = {"float16": 2.0**-10}.get(array.dtype.name, 2.0**-23)
        wide = array.astype(np.float64) * (1 + rng.choice([-1, 1], array.shape) * unit * rng.random(array.shape))
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    return moved
