"""Time, memory and outcome of folding, beside other tools, a plain copy, and loading and saving with onnx.

    python tests/commands/benchmark.py [--rounds 5] [--models NAME ...] [--peers VENV | --no-peers] [--no-check]

Makes four models: `large` (20 Conv+BN, 189 MB in the file), `deep` (4,000 Conv+BN, 3.5 MB), `external` (20 Conv+BN,
763 MB in a file beside it) and `usual` (53 Conv+BN, 18 MB). Each tool runs as a process of its own, imports and all, by
turns, round by round. onnxsim, onnxslim, onnxoptimizer and onnxscript are installed into an environment made for them;
it is kept, and used again, at VENV if that is given. Every output is then held against its model by `bnfold verify`.

bnfold is compiled to bytecode first, as pip does with what it installs, and PYTHONDONTWRITEBYTECODE is not handed on:
with it a checkout is compiled anew by every process, which takes longer than all that is imported.

Times are ratios to onnx.load + onnx.save: the median of the rounds' ratios, in brackets the smallest and the largest.
Memory is the resident peak of the largest process of a tool. A tool that fails says so in its row.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path

# This process starts the others, and what it holds itself would count as theirs: so nothing heavy is imported here.

PEERS = ("onnxsim", "onnxslim", "onnxoptimizer", "onnxscript")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
LONGEST = 300.0
"""Seconds after which a tool is stopped."""

SAVE = """
def save(m, target, source):
    more = dict(save_as_external_data=True, location=os.path.basename(target) + ".data")
    onnx.save(m, target, **(more if os.path.exists(source + ".data") else {}))
"""
HEAD = f"import os, sys, onnx\nsource, target = sys.argv[1:]\n{SAVE}"
BASIC = """
import os, sys, onnxruntime as o
source, target = sys.argv[1:]
s = o.SessionOptions()
s.graph_optimization_level = o.GraphOptimizationLevel.ORT_ENABLE_BASIC
s.optimized_model_filepath = target
if os.path.exists(source + ".data"):
    key = "session.optimized_model_external_initializers_file_name"
    s.add_session_config_entry(key, os.path.basename(target) + ".data")
o.InferenceSession(source, s, providers=["CPUExecutionProvider"])
"""
COPY = """
import os, shutil, sys, onnx
source, target = sys.argv[1:]
for end in ("", ".data"):
    if os.path.exists(source + end):
        shutil.copyfile(source + end, target + end)
"""
PASSES = '["fuse_bn_into_conv", "fuse_add_bias_into_conv"]'
SCRIPTS = {
    "onnx.load + onnx.save": HEAD + "save(onnx.load(source), target, source)",
    "cp + import onnx": COPY,
    "onnxruntime BASIC": BASIC,
    "onnxsim": HEAD + "import onnxsim\nsave(onnxsim.simplify(onnx.load(source))[0], target, source)",
    "onnxslim": HEAD + "import onnxslim\nsave(onnxslim.slim(onnx.load(source)), target, source)",
    "onnxoptimizer": HEAD + f"import onnxoptimizer as t\nsave(t.optimize(onnx.load(source), {PASSES}), target, source)",
    "onnxscript": HEAD
    + "from onnxscript import optimizer, rewriter\n"
    + "save(rewriter.rewrite(optimizer.optimize(onnx.load(source))), target, source)",
}
UNIT = "onnx.load + onnx.save"
LEVELS = {"bnfold, --verify off": "off", "bnfold, --verify certificate": "certificate", "bnfold": "full"}
VERIFY = "bnfold verify"
MAKE = """
import sys, numpy as np, onnx
from onnx import helper, numpy_helper
path, layers, channels, side, outside = sys.argv[1], *map(int, sys.argv[2:])
random = np.random.default_rng(0)
nodes, tensors = [], []
for i in range(layers):
    names = [f"{role}{i}" for role in ("w", "gamma", "beta", "mean", "var")]
    weight = random.standard_normal((channels, channels, 3, 3), np.float32) / np.float32(3 * channels**0.5)
    rest = random.uniform(0.5, 1.5, (4, channels)).astype(np.float32)
    tensors += [numpy_helper.from_array(a, n) for a, n in zip((weight, *rest), names)]
    nodes.append(helper.make_node("Conv", [f"x{i}", names[0]], [f"c{i}"], name=f"conv{i}", pads=[1] * 4))
    nodes.append(helper.make_node("BatchNormalization", [f"c{i}", *names[1:]], [f"x{i + 1}"], name=f"bn{i}"))
ports = [helper.make_tensor_value_info(n, 1, [1, channels, side, side]) for n in ("x0", f"x{layers}")]
graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
more = dict(save_as_external_data=True, location=path.rpartition("/")[2] + ".data") if outside else {}
onnx.save(model, path, **more)
"""
MODELS = {"large": (20, 512, 14, 0), "deep": (4000, 4, 8, 0), "external": (20, 1030, 8, 1), "usual": (53, 96, 14, 0)}
LEFT = """
import sys, onnx
m = onnx.load(sys.argv[1], load_external_data=False)
print(sum(n.op_type == "BatchNormalization" for n in m.graph.node))
"""


@dataclass(slots=True)
class Figures:
    """What the rounds of one tool took: wall seconds, and MB of memory at most."""

    seconds: list[float] = field(default_factory=list)
    memory: float = 0.0
    failure: str = ""


def run(command: list[str], folder: Path) -> tuple[float, float, str]:
    """Seconds, MB, and what went wrong."""
    began = time.perf_counter()
    with (folder / "said").open("w+b") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, env=ENVIRONMENT)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            spent = time.perf_counter() - began
            if pid:
                break
            if spent > LONGEST:
                process.kill()
                os.wait4(process.pid, 0)
                process.returncode = -9
                return spent, 0.0, f"stopped after {LONGEST:.0f} s"
            time.sleep(0.002)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    failure = "" if process.returncode == 0 else f"exit {process.returncode}: {lines[-1] if lines else ''}"[:90]
    return spent, usage.ru_maxrss / 1024, failure


def commands(python: str, source: Path, folder: Path) -> dict[str, list[str]]:
    """The command of each tool; `python` has the peers, or is empty."""
    found: dict[str, list[str]] = {}
    for name, script in SCRIPTS.items():
        if name not in PEERS or python:
            interpreter = python if name in PEERS else sys.executable
            found[name] = [interpreter, "-c", script, str(source), str(output_of(name, folder))]
    for name, level in LEVELS.items():
        target = str(output_of(name, folder))
        found[name] = [sys.executable, "-m", "bnfold", "fold", str(source), "-o", target, "-q", "--verify", level]
    found[VERIFY] = [sys.executable, "-m", "bnfold", "verify", str(source), str(output_of("bnfold", folder)), "-q"]
    return found


def output_of(name: str, folder: Path) -> Path:
    """Where a tool writes."""
    return folder / "".join(c if c.isalnum() else "_" for c in name) / "out.onnx"


def measured(tools: dict[str, list[str]], folder: Path, rounds: int) -> dict[str, Figures]:
    """Run all tools by turns; one that failed does not run again."""
    figures = {name: Figures() for name in tools}
    for _ in range(rounds):
        for name, command in tools.items():
            if figures[name].failure:
                continue
            place = output_of(name, folder).parent
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            seconds, memory, figures[name].failure = run(command, folder)
            figures[name].seconds.append(seconds)
            figures[name].memory = max(figures[name].memory, memory)
    return figures


def outcome(name: str, source: Path, folder: Path, *, check: bool) -> tuple[str, str]:
    """How many BatchNormalizations are left in what a tool wrote, and whether it is the same function."""
    target = output_of(name, folder)
    if name == VERIFY or not target.exists():
        return "", ""
    counted = subprocess.run([sys.executable, "-c", LEFT, target], capture_output=True, text=True, check=False)
    if not check:
        return counted.stdout.strip(), ""
    verify = [sys.executable, "-m", "bnfold", "verify", str(source), str(target), "-q"]
    _, _, failure = run(verify, folder)
    return counted.stdout.strip(), "same" if not failure else {"exit 1": "differs"}.get(failure[:6], "undecided")


def table(name: str, folder: Path, python: str, options: argparse.Namespace) -> None:
    """Make a model, measure, check and print."""
    source = folder / f"{name}.onnx"
    numbers = [str(number) for number in MODELS[name]]
    subprocess.run([sys.executable, "-c", MAKE, str(source), *numbers], check=True)
    figures = measured(commands(python, source, folder), folder, options.rounds)
    unit = figures[UNIT].seconds
    say(f"\n{name}: {UNIT} takes {statistics.median(unit):.2f} s\n")
    say("| tool | time | memory, MB | BNs left | `bnfold verify` |\n|---|---|---|---|---|")
    for tool, found in figures.items():
        if found.failure:
            say(f"| {tool} | fails: {found.failure} | | | |")
            continue
        ratios = [ours / theirs for ours, theirs in zip(found.seconds, unit, strict=False)]
        spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        left, same = outcome(tool, source, folder, check=options.check)
        say(f"| {tool} | {spread} | {found.memory:.0f} | {left} | {same} |")


def start_up(folder: Path, rounds: int) -> None:
    """What it takes to begin, in units of importing onnx."""
    unit = [sys.executable, "-c", "import onnx"]
    tools = {f"bnfold {word}": [sys.executable, "-m", "bnfold", word] for word in ("--help", "--version")}
    tools["import bnfold; bnfold.fold"] = [sys.executable, "-c", "import bnfold; bnfold.fold"]
    tools["import bnfold; bnfold.verify"] = [sys.executable, "-c", "import bnfold; bnfold.verify"]
    figures = measured({"import onnx": unit, **tools}, folder, rounds)
    say(f"\nstart-up: importing onnx takes {statistics.median(figures['import onnx'].seconds):.2f} s\n")
    say("| | time | memory, MB |\n|---|---|---|")
    for tool in (tool for tool in tools if not figures[tool].failure):
        ratios = [a / b for a, b in zip(figures[tool].seconds, figures["import onnx"].seconds, strict=True)]
        spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        say(f"| {tool} | {spread} | {figures[tool].memory:.0f} |")


def peers_python(place: Path) -> str:
    """An interpreter that has the peers, installed where they are not yet."""
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
    install = [str(python), "-m", "pip", "install", "-q", "onnxruntime", *PEERS]
    subprocess.run(install, check=True, stdout=sys.stderr, stderr=subprocess.DEVNULL)
    return str(python)


def main() -> int:
    """Print a table for each model, and one of start-up."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    cli.add_argument("--peers", type=Path, help="where the environment of the other tools is, or is to be")
    cli.add_argument("--no-peers", action="store_true")
    cli.add_argument("--no-check", dest="check", action="store_false")
    cli.add_argument("--folder", type=Path, help="where to make the models; 10 GB must be free")
    options = cli.parse_args()
    package = Path(__file__).resolve().parents[2] / "bnfold"
    subprocess.run([sys.executable, "-m", "compileall", "-q", package], env=ENVIRONMENT, check=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        peers = (options.peers or Path(folder) / "peers").absolute()
        python = "" if options.no_peers else peers_python(peers)
        start_up(Path(folder), options.rounds)
        for name in options.models:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                table(name, Path(place), python, options)
    return 0


def say(line: str) -> None:
    """One line of the answer, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
