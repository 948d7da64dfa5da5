"""How long bnfold takes to start, in units of `python -c "import onnx"`: `python tests/commands/startup.py`.

Each command runs in a process of its own, all in turn, again and again; the table has medians of wall-clock time, and
the median of the ratios of each round with the quarter and three-quarter points. Bytecode may be written, as pip does
when it installs (PYTHONDONTWRITEBYTECODE is not handed on), and each has run once before. `--importtime` shows, for
`bnfold --help`, the modules that took longest to import by themselves (`python -X importtime`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "models" / "digits_cnn.onnx")
BNFOLD = [sys.executable, "-m", "bnfold"]
UNIT = 'python -c "import onnx"'
COMPLETION = {"_BNFOLD_COMPLETE": "complete_bash", "COMP_WORDS": "bnfold fold --", "COMP_CWORD": "2"}
TARGET = 0.6

COMMANDS: dict[str, tuple[list[str], dict[str, str]]] = {
    UNIT: ([sys.executable, "-c", "import onnx"], {}),
    'python -c "pass"': ([sys.executable, "-c", "pass"], {}),
    'python -c "import typer"': ([sys.executable, "-c", "import typer"], {}),
    "bnfold --help": ([*BNFOLD, "--help"], {}),
    "bnfold --version": ([*BNFOLD, "--version"], {}),
    "bnfold fold --help": ([*BNFOLD, "fold", "--help"], {}),
    "completion of bnfold fold --": (BNFOLD, COMPLETION),
    "bnfold plan MODEL": ([*BNFOLD, "plan", MODEL], {}),
    "bnfold fold MODEL --verify off": ([*BNFOLD, "fold", MODEL, "-o", os.devnull + "/none", "--verify", "off"], {}),
}


def seconds(command: list[str], more: dict[str, str]) -> float:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, check=False, cwd=ROOT)
    return time.perf_counter() - began


def table(rounds: int) -> Iterator[str]:
    """The lines of the table."""
    for command, more in COMMANDS.values():  # what is read from disk the first time
        seconds(command, more)
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, (command, more) in COMMANDS.items():
            taken[name].append(seconds(command, more))
    yield "| command | median, ms | of `import onnx` | half of all rounds within |"
    yield "|---|---|---|---|"
    for name, times in taken.items():
        low, middle, high = statistics.quantiles(ratios(times, taken[UNIT]), n=4)
        yield f"| `{name}` | {1000 * statistics.median(times):.0f} | {middle:.2f} | {low:.2f} to {high:.2f} |"
    ratio = statistics.median(ratios(taken["bnfold --help"], taken[UNIT]))
    yield f"\n`bnfold --help` takes {ratio:.2f} of `import onnx`; the target is {TARGET}."


def ratios(times: list[float], units: list[float]) -> list[float]:
    """Round by round: what slows the machine down slows both."""
    return [one / unit for one, unit in zip(times, units, strict=True)]


def imports(count: int) -> Iterator[str]:
    """The modules that `bnfold --help` imports, those first that take longest by themselves."""
    command = [sys.executable, "-X", "importtime", "-m", "bnfold", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    rows = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if "|" in line][1:]
    found = sorted(((int(own), int(whole), name.strip()) for own, whole, name in rows), reverse=True)
    yield f"{len(found)} modules, {sum(own for own, _, _ in found) / 1000:.1f} ms"
    yield "| by itself, ms | with what it imports, ms | module |"
    yield "|---|---|---|"
    for own, whole, name in found[:count]:
        yield f"| {own / 1000:.1f} | {whole / 1000:.1f} | {name} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--importtime", action="store_true")
    given = parser.parse_args()
    for line in imports(20) if given.importtime else table(given.rounds):
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
