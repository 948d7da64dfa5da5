"""How long full verification takes, in units of loading and running both models once in onnxruntime.

    python tests/commands/verify_time.py [MODEL ...] [--zoo FOLDER --fill PATH/zoo.py] [--rounds 5] [--cpu]

Without models: those in models/, a synthetic Conv+BN network of 189 MB, and three of the zoo where one is given.

    once      a session of the original and one of its fold at DISABLE_ALL, each run on the first random batch
    each      the same, each run on every random batch of the verification
    start     a child process that has made a session of a model of one node
    verify    `bnfold.verify` of both, with everything imported: each batch, the rounding floor, the optimiser
    command   `bnfold verify` as a process

Measured in turn, round by round; medians of seconds, and in brackets the smallest and the largest. The ratios are
those of verify to once and to each, and of verify without start to each. `--cpu` measures seconds of processor time,
of all processes together, which say more than seconds on a machine that is busy otherwise.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, parser

import bnfold
from bnfold.equality.inputs import Batch, random_batches
from bnfold.equality.runner import Limits, Runner

MODELS = Path(__file__).parents[2] / "models"
FROM_ZOO = ("torch__tv_resnet18_ts13", "torch__tv_efficientnet_b0_ts17", "torch__pcv_unet_cityscapes_ts13")
STEPS = ("once", "each", "start", "verify", "command")
FILLS = ((2, 1), (8,), (16,), (32,), (64,), (224,))
TINY = '<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Neg (x) }'


def synthetic(*, channels: int = 512, layers: int = 20, side: int = 14) -> onnx.ModelProto:
    """A network of `layers` Conv+BN+Relu, 3x3; as it stands 189 MB of weights."""
    random = np.random.default_rng(0)
    nodes, tensors = [], []
    for i in range(layers):
        names = [f"{role}{i}" for role in ("w", "gamma", "beta", "mean", "var")]
        weight = random.standard_normal((channels, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        arrays = [weight, *random.uniform(0.5, 1.5, (4, channels))]
        tensors += [numpy_helper.from_array(a.astype(np.float32), n) for a, n in zip(arrays, names, strict=True)]
        nodes.append(helper.make_node("Conv", [f"x{i}", names[0]], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("BatchNormalization", [f"c{i}", *names[1:]], [f"n{i}"]))
        nodes.append(helper.make_node("Relu", [f"n{i}"], [f"x{i + 1}" if i + 1 < layers else "y"]))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", channels, side, side]) for n in ("x0", "y")]
    graph = helper.make_graph(nodes, "synthetic", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def session(path: Path) -> ort.InferenceSession:
    """A session with the settings of bnfold's child."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = min(4, processors())
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.use_deterministic_compute = True
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_both(paths: tuple[Path, Path], batches: Sequence[Batch]) -> None:
    """Load both models and run each on all of the batches."""
    for path in paths:
        model = session(path)
        for batch in batches:
            model.run(None, dict(batch.feeds))


def started(path: Path) -> None:
    """A child that has made its first session."""
    with Runner(Limits()) as runner:
        runner.signature(path)


def batches_of(path: Path) -> Sequence[Batch]:
    """The random batches that verification would run: those of the first sizes that the model accepts."""
    model = onnx.load(path, load_external_data=False)
    for fills in FILLS:
        batches = random_batches(model, seed=0, dims={}, fills=fills)
        try:
            run_both((path, path), batches[:1])
        except Exception:  # noqa: BLE001, S112  # onnxruntime raises by no common base; another size may do
            continue
        return batches
    raise SystemExit(f"{path}: runs on no random batch")


def processor_seconds() -> float:
    """Of this process and of all that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measured(paths: tuple[Path, Path], tiny: Path, rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each step, round by round."""
    batches = batches_of(paths[0])
    command = [sys.executable, "-m", "bnfold", "verify", *map(str, paths), "-q"]
    actions: dict[str, Callable[[], object]] = {
        "once": lambda: run_both(paths, batches[:1]),
        "each": lambda: run_both(paths, batches),
        "start": lambda: started(tiny),
        "verify": lambda: bnfold.verify(*paths).raise_unless_same(),
        "command": lambda: subprocess.run(command, check=True),
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds + 1):
        for step in STEPS:
            began = clock()
            actions[step]()
            seconds[step].append(clock() - began)
    return {step: spent[1:] for step, spent in seconds.items()}  # the first round warms up


def sources(options: argparse.Namespace, folder: Path) -> Iterator[Path]:
    """The models to measure, one after the other; made ones in `folder`."""
    if options.model:
        yield from options.model
        return
    yield from sorted(MODELS.glob("*.onnx"))
    made = folder / "synthetic_189MB.onnx"
    onnx.save(synthetic(), made)
    yield made
    for name in FROM_ZOO if options.zoo is not None and options.fill is not None else ():
        filled = folder / f"{name}.onnx"
        fill = [sys.executable, str(options.fill), "fill", str(options.zoo / f"{name}.onnx"), str(filled)]
        subprocess.run(fill, check=True)
        yield filled


def row(name: str, size: int, seconds: Mapping[str, list[float]]) -> str:
    """One line of the table."""
    at = {step: statistics.median(spent) for step, spent in seconds.items()}
    cells = [f"{at[s]:.3f} [{min(seconds[s]):.3f}..{max(seconds[s]):.3f}]" for s in STEPS]
    ratios = (at["verify"] / at["once"], at["verify"] / at["each"], (at["verify"] - at["start"]) / at["each"])
    shown = "  ".join(f"{ratio:6.2f}" for ratio in ratios)
    return f"{name:32.32} {size / 1e6:6.1f}  " + "  ".join(f"{cell:22}" for cell in cells) + f"  {shown}"


def main() -> int:
    """Measure every model and print a line for each."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("model", nargs="*", type=Path)
    cli.add_argument("--zoo", type=Path)
    cli.add_argument("--fill", type=Path)
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--cpu", action="store_true")
    options = cli.parse_args()
    clock = processor_seconds if options.cpu else time.perf_counter
    say(f"{'model':32} {'MB':>6}  " + "  ".join(f"{step:22}" for step in STEPS) + "  v/once  v/each  net/each")
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder) / "tiny.onnx"
        onnx.save(parser.parse_model(TINY), tiny)
        for path in sources(options, Path(folder)):
            target = Path(folder) / "folded.onnx"
            bnfold.fold(path, target, verify="off")
            say(row(path.stem, path.stat().st_size, measured((path, target), tiny, options.rounds, clock)))
    return 0


def say(line: str) -> None:
    """One line of the answer, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
