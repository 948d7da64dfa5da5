"""The verifier tested by wrong folds, each of which it must catch, and by correct ones, none of which it may reject.

    python tests/commands/wrong_folds.py --count 1000 --seed 0          wrong folds
    python tests/commands/wrong_folds.py --correct 400 [--peers-python PYTHON]
    python tests/commands/wrong_folds.py --zoo FOLDER [--peers-python PYTHON]   real architectures, correctly folded
    python tests/commands/wrong_folds.py --series epsilon61             61 Convs, one epsilon forgotten in one of them

The verifier is `bnfold.verify(before, after)`, with no plan and no certificate. Every case comes from one seed:
`--only SEED` runs it alone (with `--correct 0 --kind NAME` for a correct one), and `--save FOLDER` keeps both models.
PYTHON is an interpreter that has onnxsim, onnxslim, onnxscript and onnxoptimizer. Exit 1 if a wrong fold passed or a
correct one was rejected. docs/verifier.md says what counts as wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

# The bnfold that is tested is the one that stands beside this file.
sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1] / "verifier")]
import onnx  # noqa: E402  # what is tested must be found first
from cases import BNFOLD, CORRECT, Finding, combination  # noqa: E402  # likewise
from peers import Peers  # noqa: E402  # likewise
from series import Task, drawn, run  # noqa: E402  # likewise
from tables import caught_table, correct_table, listed, trait_table  # noqa: E402  # likewise

SERIES_LENGTH = 20


def main() -> int:
    """Run the series asked for, print its tables, and say whether the verifier passed."""
    options = parsed()
    tools = peers_there(options.peers_python)
    if options.zoo:
        return correct(architectures(options, tools), options, "architecture")
    if options.correct is not None:
        return correct(correct_tasks(options, tools), options, "rewriting")
    series = options.series or "wrong"
    count = SERIES_LENGTH if options.series else options.count
    seeds = options.only or range(options.seed, options.seed + count)
    chosen = [seed for seed in seeds if series != "wrong" or is_wanted(seed, options)]
    if not chosen:
        say("No seed of these has that kind and family.")
        return 2
    return wrong([Task(series, seed, names=options.names, deepest=options.deepest) for seed in chosen], options)


def is_wanted(seed: int, options: argparse.Namespace) -> bool:
    """Whether a wrong fold's seed has the kind and family asked for."""
    kind, family = combination(seed)
    return options.kind in {"", kind} and options.family in {"", family}


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="how many wrong folds")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--only", type=int, action="append", default=[], metavar="SEED", help="this one; repeatable")
    parser.add_argument("--correct", type=int, metavar="N", help="correct folds instead, N of them")
    parser.add_argument(
        "--kind", default="", help="this kind alone, of wrong folds or, with --correct, of correct ones"
    )
    parser.add_argument("--family", default="", help="wrong folds of this family alone")
    parser.add_argument("--series", choices=["epsilon61"], help=f"{SERIES_LENGTH} deep networks")
    parser.add_argument("--names", choices=["norm", "home", "fresh"], help="how wrong folds name their values")
    parser.add_argument("--deepest", type=int, default=61, help="the most layers")
    parser.add_argument("--peers-python", default="", metavar="PYTHON")
    parser.add_argument("--zoo", type=Path, metavar="FOLDER")
    parser.add_argument("--fill", type=Path, help="zoo.py, if it does not stand beside the folder")
    parser.add_argument("--zoo-count", type=int, default=24, help="the smallest so many of the folder")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="with --only: keep both models")
    parser.add_argument("-j", "--jobs", type=int, default=2)
    return parser.parse_args()


def peers_there(python: str) -> list[str]:
    """The tools that the interpreter has; what is missing is said aloud."""
    if not python:
        return []
    with Peers(python) as peers:
        found, missing = peers.tools()
    say("Tools: " + ", ".join(f"{name} {version}" for name, version in found.items()) + "\n")
    for name, why in missing.items():
        say(f"NOT TESTED, for it cannot be imported: {name} ({why})\n")
    return list(found)


def correct_tasks(options: argparse.Namespace, tools: Sequence[str]) -> list[Task]:
    """Each of our own kinds in turn, then as many cases of each tool as of each kind."""
    seeds = options.only or range(options.seed, options.seed + options.correct)
    base = Task("correct", deepest=options.deepest)
    if options.kind:
        python = options.peers_python if options.kind in tools else ""
        return [replace(base, seed=seed, kind=options.kind, python=python) for seed in seeds]
    own = [replace(base, seed=seed) for seed in seeds]
    each = range(options.seed, options.seed + max(1, options.correct // len(CORRECT)))
    return own + [replace(base, seed=k, kind=tool, python=options.peers_python) for tool in tools for k in each]


def architectures(options: argparse.Namespace, tools: Sequence[str]) -> list[Task]:
    """The smaller real architectures, each with every tool."""
    fill = options.fill or options.zoo.parent / "zoo.py"
    files = [path for path in options.zoo.glob("*.onnx") if not path.name.startswith("peers__")]
    smallest = sorted(files, key=lambda path: (path.stat().st_size, path.name))[: options.zoo_count]
    base = Task("zoo", fill=str(fill), python=options.peers_python)
    return [replace(base, model=str(path), kind=kind) for path in smallest for kind in (BNFOLD, *tools)]


def found(tasks: Sequence[Task], options: argparse.Namespace) -> list[Finding]:
    """What became of each task."""
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        for task in tasks if options.only else []:
            case = drawn(task)
            onnx.save(case.before, options.save / f"{task.seed}_before.onnx")
            onnx.save(case.after, options.save / f"{task.seed}_after.onnx")
    if options.jobs == 1 or len(tasks) == 1:
        return [run(task) for task in tasks]
    # Workers start afresh, for a fork would carry this process's threads along; and with one thread each for numpy.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(run, tasks, chunksize=2))


def wrong(tasks: Sequence[Task], options: argparse.Namespace) -> int:
    """Run wrong folds: all must be caught."""
    start = time.perf_counter()
    findings = found(tasks, options)
    drawn_ones = [one for one in findings if one.word != "not drawn"]
    missed = [one for one in findings if one.word != "differs"]
    if tasks[0].series == "wrong":
        say(caught_table(drawn_ones))
        say(trait_table(drawn_ones))
    say(f"{len(findings) - len(missed)} of {len(findings)} caught. {spent(findings, start)}\n")
    if missed:
        say("Not caught, by seed (`unknown` is not caught either):\n\n" + listed(missed))
    return 1 if missed else 0


def correct(tasks: Sequence[Task], options: argparse.Namespace, what: str) -> int:
    """Run correct rewritings: none may be rejected."""
    start = time.perf_counter()
    findings = found(tasks, options)
    say(correct_table(findings, lambda one: one.kind))
    rejected = [one for one in findings if one.word in {"differs", "error", "not drawn"}]
    say(f"{len(rejected)} of {len(findings)} rejected. {spent(findings, start)}\n")
    for title, those in (
        (f"Rejected, by {what}", rejected),
        ("Undecided", [one for one in findings if one.word == "unknown"]),
        ("The tool is wrong or failed", [one for one in findings if one.word.startswith("peer")]),
    ):
        if those:
            say(f"{title}:\n\n{listed(those)}")
    return 1 if rejected else 0


def spent(findings: Sequence[Finding], start: float) -> str:
    """The time of the run, and of one verify."""
    seconds = sum(one.seconds for one in findings) / max(1, len(findings))
    return f"{time.perf_counter() - start:.0f} s, {seconds:.2f} s for one verify."


def say(text: str) -> None:
    """One part of the answer, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
