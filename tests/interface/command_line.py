"""Running bnfold as a user does, and small models for it.

`run` starts `python -m bnfold` as a process of its own; the fixture `cli` (conftest.py) calls `bnfold.cli.main` in
this one, which is faster and lets a test break something inside. Both give an `Answer`, and `refused` checks the
promise that all errors keep: one line on stderr, nothing on stdout, the right code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

import bnfold

LONGEST = 120.0
"""Seconds after which a command has failed."""
ROOT = Path(bnfold.__file__).parents[1]
DIGITS = ROOT / "models" / "digits_cnn.onnx"
DIGITS_DATA = ROOT / "models" / "digits.npz"


@dataclass(frozen=True)
class Answer:
    """What a command left behind: exit code, stdout (bytes) and stderr (text)."""

    code: int
    stdout: bytes
    err: str

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "bnfold", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run(*arguments: object, cwd: Path, **more: str) -> Answer:
    done = subprocess.run(
        command(*arguments), cwd=cwd, env=environment(**more), capture_output=True, check=False, timeout=LONGEST
    )
    return Answer(done.returncode, done.stdout, done.stderr.decode())


def fed(content: bytes, *arguments: object, cwd: Path) -> Answer:
    """The same with something on its stdin."""
    run_ = command(*arguments)
    done = subprocess.run(run_, cwd=cwd, env=environment(), input=content, capture_output=True, check=False)
    return Answer(done.returncode, done.stdout, done.stderr.decode())


def refused(answer: Answer, code: int, *words: str) -> None:
    """The command ended with `code`, nothing on stdout and one line on stderr that has all the words."""
    assert answer.code == code, answer
    assert answer.out == ""
    assert answer.err.startswith("bnfold: ")
    assert answer.err.endswith("\n")
    assert answer.err.count("\n") == 1
    assert answer.err.count("bnfold: ") == 1
    assert "Traceback" not in answer.err
    for word in words:
        assert word in answer.err


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".bnfold-" in path.name or path.name.endswith(".tmp")]


def parsed(body: str, *, opset: int = 17, ir: int = 8, further: str = "") -> onnx.ModelProto:
    """A model from ONNX text without its header, with a weight `w` and the parameters g, e, m, v of 4 channels."""
    model = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}{further}]> g {body}')
    random = np.random.default_rng(0)
    arrays = {
        "w": random.standard_normal((4, 4, 3)),
        "g": random.uniform(0.5, 2, 4),
        "e": random.standard_normal(4),
        "m": random.standard_normal(4),
        "v": random.uniform(0.5, 2, 4),
    }
    model.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items())
    return model


FOLDABLE = "(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x,w) n = BatchNormalization(c,g,e,m,v) y = Relu(n) }"
WITHOUT = "(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x,w) y = Relu(c) }"
BLOCKED = "(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x,w) r = Relu(c) y = BatchNormalization(r,g,e,m,v) }"
TRAINING = (
    "(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x,w) y, rm, rv = BatchNormalization<training_mode=1>(c,g,e,m,v) }"
)
CUSTOM = "(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x,w) n = BatchNormalization(c,g,e,m,v) y = made.Up(n) }"
TWO = (
    "(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x,w) n = BatchNormalization(c,g,e,m,v) r = Relu(n) "
    "y = BatchNormalization(r,g,e,m,v) }"
)


def foldable() -> onnx.ModelProto:
    return parsed(FOLDABLE)


def custom() -> onnx.ModelProto:
    """A foldable model with an operator that onnxruntime does not know."""
    return parsed(CUSTOM, further=', "made" : 1')


def operators(path: Path | str) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]
