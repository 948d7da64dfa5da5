"""What `wrong_folds` runs in its worker processes: one task in, one `Finding` out.

Words of a finding beside verify's own: `peer failed` (the tool gave no model), `peer wrong: ...` (its model is another
function, judged without the verifier; then verify's word follows), `not drawn`, `error`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import onnx
from cases import BNFOLD, Case, Finding, deep_epsilon, examined, judged, right, wrong
from correct import Names
from nets import Unsuitable
from peers import PeerFailed, Peers

import bnfold

Series = Literal["wrong", "correct", "epsilon61", "zoo"]


@dataclass(frozen=True, slots=True)
class Task:
    """One case to be run. `kind` forces a kind of the correct series; `python` has the other tools."""

    series: Series
    seed: int = 0
    kind: str = ""
    names: Names | None = None
    deepest: int = 61
    python: str = ""
    model: str = ""
    fill: str = ""


def run(task: Task) -> Finding:
    """What became of one task."""
    if task.series == "zoo":
        return _architecture(task)
    if task.series == "correct" and task.python:
        return _peer(task)
    return examined(lambda _: drawn(task), task.seed)


def drawn(task: Task) -> Case:
    """The case of a seeded task; a peer's result where the task names one."""
    if task.series == "wrong":
        return wrong(task.seed, names=task.names, deepest=task.deepest)
    if task.series == "epsilon61":
        return deep_epsilon(task.seed)
    case = right(task.seed, kind=task.kind or None, deepest=task.deepest)
    return replace(case, after=_peers(task.python).rewritten(task.kind, case.before)) if task.python else case


@cache
def _peers(python: str) -> Peers:
    """One for each worker; its process ends when the worker's pipes do."""
    return Peers(python)


def _peer(task: Task) -> Finding:
    try:
        case = drawn(task)
        is_right = _peers(task.python).right(case.before, case.after, case.feeds())
    except (PeerFailed, Unsuitable) as error:
        return Finding(task.seed, task.kind, "none", (), "peer failed", str(error))
    return _apart(judged(case), is_right=is_right)


def _apart(finding: Finding, *, is_right: bool) -> Finding:
    return finding if is_right else replace(finding, word=f"peer wrong: {finding.word}")


def _architecture(task: Task) -> Finding:
    """A real architecture, rewritten by bnfold or by a peer."""
    name = Path(task.model).stem
    with tempfile.TemporaryDirectory() as folder:
        filled = Path(folder) / "model.onnx"
        subprocess.run([sys.executable, task.fill, "fill", task.model, str(filled)], check=True)
        before = onnx.load(filled)
    try:
        if task.kind == BNFOLD:
            after, is_right = bnfold.fold(before, verify="off").to_proto(), True
        else:
            after = _peers(task.python).rewritten(task.kind, before)
            is_right = _peers(task.python).right_when_run(before, after)
    except (PeerFailed, bnfold.BnfoldError) as error:
        return Finding(0, task.kind, name, (), "peer failed", str(error))
    return _apart(judged(Case(0, task.kind, name, before, after)), is_right=is_right)
