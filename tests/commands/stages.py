"""Where the time of a fold without verification goes: `python tests/commands/stages.py [MODEL] [--rounds 5]`.

Without a model: 4,000 Conv+BN in a row, as in `chain.py`. Prints, stage by stage, the processor time (all threads; the
least of the rounds, which other work on the machine disturbs the least), the wall time of that round, and shares of the
whole. Starting is a process that imports what `bnfold fold` does, onnx apart from the rest; bytecode may be written.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from chain import chain

from bnfold.apply import rewrite
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.model.publish import candidate
from bnfold.ops.affine import affine_nodes
from bnfold.ops.facts import Facts
from bnfold.planning import make_plan

START = """
import sys, time
began = time.process_time(), time.perf_counter()
import onnx
between = time.process_time(), time.perf_counter()
import bnfold.cli, bnfold.commands.folding, bnfold.batch.running, bnfold.api.folding, bnfold.report.folding
ended = time.process_time(), time.perf_counter()
print(began[0], *(b - a for a, b in zip(began, between)), *(b - a for a, b in zip(between, ended)))
"""

Times = dict[str, tuple[float, float]]
"""Seconds of processor and wall time, by stage."""


def starting() -> Times:
    """What one process takes before it does anything."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", START], env=environment, capture_output=True, text=True, check=True)
    python, onnx_cpu, onnx_wall, rest_cpu, rest_wall = map(float, done.stdout.split())
    return {
        "start: Python": (python, python),
        "start: import onnx": (onnx_cpu, onnx_wall),
        "start: import bnfold": (rest_cpu, rest_wall),
    }


@contextmanager
def stage(times: Times, name: str) -> Iterator[None]:
    """Note what a stage takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    times[name] = time.process_time() - cpu, time.perf_counter() - wall


def folding(source: Path, target: Path) -> Times:
    """What one fold takes."""
    times: Times = {}
    with stage(times, "reading: skeleton, checks"):
        model = read(source)
        model.hash_ahead()
    with stage(times, "index of the graph"):
        graph = Graph.of(model)
        facts = Facts(graph)
    with stage(times, "scales and shifts"):
        affine_nodes(facts)
    with stage(times, "planning: homes, numbers that fit"):
        plan = make_plan(graph, facts=facts)
    with stage(times, "rewriting: new constants and names"):
        edits = rewrite(graph, plan, facts).edits
    with stage(times, "splicing and writing, hashed"), candidate(model, edits, target) as made:
        pass
    del made
    return times


def least(rounds: list[Times]) -> Times:
    """Of each stage the round that took the least processor time."""
    return {name: min(times[name] for times in rounds) for name in rounds[0]}


def main() -> None:
    """Print the table."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("model", nargs="?", type=Path)
    cli.add_argument("--rounds", type=int, default=5)
    options = cli.parse_args()
    gc.set_threshold(100_000)  # as the command line has it
    with tempfile.TemporaryDirectory() as folder:
        source = options.model or Path(folder) / "chain.onnx"
        if options.model is None:
            onnx.save(chain(4000), source)
        starting()  # what is compiled or read from disk the first time
        rounds = [starting() | folding(source, Path(folder) / "out.onnx") for _ in range(options.rounds)]
    found = least(rounds)
    whole = sum(cpu for cpu, _ in found.values())
    sys.stdout.write("| stage | processor, ms | share | wall, ms |\n|---|---|---|---|\n")
    for name, (cpu, wall) in found.items():
        sys.stdout.write(f"| {name} | {1000 * cpu:.0f} | {cpu / whole:.0%} | {1000 * wall:.0f} |\n")
    sys.stdout.write(f"| all | {1000 * whole:.0f} | 100% | {1000 * sum(wall for _, wall in found.values()):.0f} |\n")


if __name__ == "__main__":
    main()
