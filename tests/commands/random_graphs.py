"""Graphs with BatchNormalization drawn at random, each folded, proved, folded again, and folded in another guise.

    python tests/commands/random_graphs.py --count 100000 --seed 0 [-j 2]
    python tests/commands/random_graphs.py --only SEED [--shrink] [--save FOLDER] [--keep]

One seed is one graph. What breaks a law is printed with its seed at once; the table in the end says for each operator
and way how many affines went there, and how many stayed because of the operator. A run that was stopped goes on with
`--seed`: the progress line names the first seed that is not done. `--shrink` leaves out the blocks that are not needed
to break the law, and prints the rest as text. Exit 1 if a law was broken, or if a way of the op table stayed empty.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

# The bnfold that is tested is the one that stands beside this file.
sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1] / "generated")]
import onnx  # noqa: E402  # what is tested must be found first
from graph_cells import Cell, of_the_table  # noqa: E402  # likewise
from graph_drawn import drawn  # noqa: E402  # likewise
from graph_judge import Finding, Judge  # noqa: E402  # likewise
from graph_kept import keep  # noqa: E402  # likewise
from graph_shrinking import shrunk  # noqa: E402  # likewise

PIECE = 50
"""Graphs that one process judges before it tells of them."""


def main() -> int:
    """Judge what was asked for, print what was found, and say whether all held."""
    options = parsed()
    if options.only is not None:
        return one(options)
    start, moved, refused, broken, done = time.perf_counter(), Counter[Cell](), Counter[str](), 0, 0
    for findings in found(range(options.seed, options.seed + options.count), options.jobs):
        for finding in findings:
            moved.update(finding.moved)
            refused.update(finding.refused)
            if finding.broken:
                broken += 1
                say(str(finding))
        done += len(findings)
        pace = (time.perf_counter() - start) / done
        progress(
            f"{done:,} of {options.count:,}, {broken} broken, {pace * 1e3:.0f} ms each, --seed {options.seed + done}"
        )
    progress("")
    say(table(moved, refused))
    say(f"{broken} of {done:,} graphs break a law. {time.perf_counter() - start:.0f} s.")
    empty = sorted(cell for cell in of_the_table() if not moved[cell])
    if empty:
        say("Nothing went these ways: " + ", ".join(map(str, empty)))
    return 1 if broken or empty else 0


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="how many graphs")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--only", type=int, metavar="SEED", help="this one alone")
    parser.add_argument("--shrink", action="store_true", help="with --only: without the blocks that are not needed")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="with --only: keep the model")
    parser.add_argument("--keep", action="store_true", help="with --only: among the graphs that tests ask again")
    parser.add_argument("-j", "--jobs", type=int, default=2)
    return parser.parse_args()


def one(options: argparse.Namespace) -> int:
    """One seed: what it is made of, and what becomes of it."""
    with Judge() as judge:
        finding, graph = judge.seed(options.only), drawn(options.only)
        if finding.broken and options.shrink:
            graph, finding = shrunk(judge, finding)
    say(f"{graph.form}\nblocks: " + ", ".join(f"{name} ({number})" for number, name in graph.blocks))
    say(onnx.printer.to_text(graph.proto))
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        onnx.save(graph.proto, options.save / f"{options.only}.onnx")
    if options.keep:
        keep(graph)
    say(str(finding) if finding.broken else f"seed {options.only} breaks no law")
    return 1 if finding.broken else 0


def found(seeds: Sequence[int], jobs: int) -> Iterator[list[Finding]]:
    """What becomes of each seed, in order, piece by piece."""
    pieces = [seeds[i : i + PIECE] for i in range(0, len(seeds), PIECE)]
    if jobs == 1:
        yield from map(judged, pieces)
        return
    # Workers start afresh, for a fork would carry this process's threads along; and with one thread each for numpy.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(judged, pieces)


def judged(seeds: Sequence[int]) -> list[Finding]:
    """What becomes of some seeds, in one process, which runs the models in another."""
    with Judge() as judge:
        return [judge.seed(seed) for seed in seeds]


def table(moved: Counter[Cell], refused: Counter[str]) -> str:
    """The cells with their counts; what an operator refused stands once, with its first cell."""
    lines = ["| operator | way | moved | refused |", "|---|---|---|---|"]
    last = ""
    for cell in sorted({*moved, *of_the_table()}):
        lines.append(f"| {cell.op} | {cell.way} | {moved[cell]:,} | {refused[cell.op] if cell.op != last else ''} |")
        last = cell.op
    return "\n".join(lines)


def progress(text: str) -> None:
    """One line on a terminal, which the next one takes the place of."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def say(text: str) -> None:
    """One part of the answer, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
