"""Every law that a graph drawn at random has to hold, asked of one after another.

    planned      each affine stands in one move or one refusal
    certified    every constant that was written is the one recomputed in float64
    same         both models, run, are the same within rounding, end to end and site by site; where not every graph is
                 asked thoroughly, a difference below 4 units of rounding on one batch is enough for the others
    once         folding again changes no byte
    disguised    under other names and in another order the same affines go, to the same numbers

The models are run in one child process for all graphs: what crashes it ends as a finding about its own graph.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import onnx
from graph_cells import Cell, moved, refused
from graph_disguise import disguised, form_of
from graph_drawn import Drawn, drawn

import bnfold
from bnfold.apply import rewrite
from bnfold.equality.certificate import certify
from bnfold.equality.examine import Subject, examine, judged
from bnfold.equality.runner import Limits, Runner
from bnfold.graph import Graph
from bnfold.model import read, to_bytes
from bnfold.moves import Move, Plan
from bnfold.planning import make_plan
from bnfold.result import claims, mergings

HOLDS = ""
COMMAND = "python tests/commands/random_graphs.py --only {seed} --shrink"


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one graph: the law that it broke (or none), a sentence, and what went where."""

    seed: int
    broken: str
    detail: str = ""
    moved: Counter[Cell] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.broken}: {self.detail}\n  {COMMAND.format(seed=self.seed)}"


class Broken(Exception):
    """A law that does not hold, and a sentence."""

    def __init__(self, law: str, detail: str) -> None:
        super().__init__(f"{law}: {detail}")
        self.law, self.detail = law, detail


class Judge:
    """Asks all laws of any number of graphs. A context manager, for the child that runs models."""

    def __init__(self, *, timeout: float = 60.0) -> None:
        self._runner = Runner(Limits(timeout=timeout, threads=1))
        self._held = tempfile.TemporaryDirectory(prefix="bnfold-graphs-")
        self._folder = Path(self._held.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._runner.close()
        self._held.cleanup()

    def seed(self, seed: int, without: frozenset[int] = frozenset(), *, thorough: bool = True) -> Finding:
        """What becomes of the graph of a seed; never raises but for Ctrl-C."""
        return self._found(seed, lambda: drawn(seed, without), thorough=thorough)

    def graph(self, one: Drawn) -> Finding:
        """What becomes of a graph that is at hand, asked thoroughly."""
        return self._found(one.seed, lambda: one, thorough=True)

    def _found(self, seed: int, make: Callable[[], Drawn], *, thorough: bool) -> Finding:
        start = time.perf_counter()
        try:
            found = self._asked(make(), thorough=thorough)
        except Broken as error:
            found = Finding(seed, error.law, error.detail)
        except Exception as error:  # noqa: BLE001  # a crash is what is looked for
            at = traceback.extract_tb(error.__traceback__)[-1]
            found = Finding(seed, "crashed", f"{error!r} at {Path(at.filename).name}:{at.lineno}")
        return replace(found, seconds=time.perf_counter() - start)

    def _asked(self, one: Drawn, *, thorough: bool) -> Finding:
        before = one.proto.SerializeToString(deterministic=True)
        graph, plan, after = folded(before, merge=one.merge)
        if not plan.accounts_for(graph):
            raise Broken("planned", "an affine stands in no move and no refusal, or in two")
        checked = certify(graph, Graph.of(read(after)), claims(plan), mergings(plan))
        if not checked.holds:
            raise Broken("certified", str(checked.failure or checked.uncertain))
        self._same(one, before, after, thorough=thorough)
        _folds_no_further(after, merge=one.merge)
        _in_disguise(one, after, plan)
        return Finding(one.seed, HOLDS, "", moved(graph, plan), refused(plan))

    def _same(self, one: Drawn, before: bytes, after: bytes, *, thorough: bool) -> None:
        paths = [self._folder / f"{name}.onnx" for name in ("before", "after")]
        for path, content in zip(paths, (before, after), strict=True):
            path.write_bytes(content)
        if not thorough and self._is_near(one, paths):
            return
        subjects = [Subject(read(path), path) for path in paths]
        found = examine(*subjects, runner=self._runner, seed=one.seed, dims=one.sizes)
        verdict = judged(found, is_certified=True)
        if not isinstance(verdict, bnfold.Same):
            told = verdict.sentence if isinstance(verdict, bnfold.Differs) else getattr(verdict, "why", "")
            raise Broken("same", f"{type(verdict).__name__}: {told}")

    def _is_near(self, one: Drawn, paths: list[Path]) -> bool:
        """Whether every output is within 4 units of rounding of the original's, in relative L2, on one batch."""
        feeds = {"x": np.random.default_rng(one.seed).standard_normal(one.shape).astype(one.form.data)}
        before, after = (self._runner.run(path, feeds) for path in paths)
        for name, value in before.items():
            ours, theirs = (array.astype(np.float64) for array in (value, after[name]))
            unit = np.finfo(one.form.data).eps / 2
            if not np.linalg.norm(ours - theirs) <= 4 * unit * np.linalg.norm(ours):
                return False
        return before.keys() == after.keys()


def folded(model: bytes, *, merge: bool = False) -> tuple[Graph, Plan, bytes]:
    """The index of a model, its plan, and the folded model; with `merge`, parallel convolutions become one."""
    graph = Graph.of(read(model))
    plan = make_plan(graph, merge_branches=merge)
    return graph, plan, to_bytes(graph.model, rewrite(graph, plan).edits)


def _folds_no_further(after: bytes, *, merge: bool) -> None:
    """A second fold finds nothing that the first did not."""
    _, further, again = folded(after, merge=merge)
    if again != after:
        went = [f"{move.site.op} to {move.arrivals[0].home.op}" for move in further.moves]
        went += [f"{merged.site.op} into {merged.home.op}" for merged in further.merges]
        raise Broken("once", f"a further fold moves {', '.join(went)}")


def _in_disguise(one: Drawn, after: bytes, plan: Plan) -> None:
    _, other, content = folded(disguised(one.proto, one.seed).SerializeToString(deterministic=True), merge=one.merge)
    if _told(other) != _told(plan):
        parts = [f"{count:+d} {what}" for what, count in _difference(_told(other), _told(plan)).items()]
        raise Broken("disguised", "other affines go: " + ", ".join(sorted(parts)))
    if form_of(onnx.load_model_from_string(content)) != form_of(onnx.load_model_from_string(after)):
        raise Broken("disguised", "the same affines go, and other numbers are written")


def _told(plan: Plan) -> Counter[str]:
    """A plan without names and order."""
    moves = Counter(f"{move.site.op} {_way(move)} {sorted(a.home.op for a in move.arrivals)}" for move in plan.moves)
    moves += Counter(f"a {merge.home.op} is merged" for merge in plan.merges)
    return moves + Counter(f"{refusal.site.op} stays ({refusal.reason.code})" for refusal in plan.refusals)


def _way(move: Move) -> str:
    return "beside" if move.joint is not None else "ahead" if move.is_forward else "back"


def _difference(ours: Counter[str], theirs: Counter[str]) -> dict[str, int]:
    return {key: ours[key] - theirs[key] for key in ours | theirs if ours[key] != theirs[key]}
