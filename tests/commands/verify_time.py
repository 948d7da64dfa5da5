"""How long full verification takes, in units of loading and running both models once in onnxruntime.

    python tests/commands/verify_time.py [MODEL ...] [--zoo FOLDER --fill PATH/zoo.py] [--rounds 5]

Without models: those in models/, a synthetic Conv+BN network of 189 MB, and three of the zoo where one is given.
"once" is a session of the original and one of its fold at DISABLE_ALL, with the threads and settings of bnfold's
child, and one run of each on the first random batch. Verification runs four batches or so, draws the rounding floor
and tries onnxruntime's own optimiser besides. All are measured in turn, round by round, in this one process with
everything imported; medians, and in brackets the smallest and the largest. What starting a child costs is a column of
its own, and is in the ratio of "verify" but not in the one of "net". "command" is `bnfold verify` as a process.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.equality.inputs import random_batches
from bnfold.equality.runner import Limits, Runner

MODELS = Path(__file__).parents[2] / "models"
FROM_ZOO = ("torch__tv_resnet18_ts13", "torch__tv_efficientnet_b0_ts17", "torch__monai_UNet2d_ts09")
STEPS = ("once", "start", "verify", "command")


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
        nodes.append(helper.make_node("Relu", [f"n{i}"], [f"x{i + 1}"]))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", channels, side, side]) for n in ("x0", "y")]
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(nodes, "synthetic", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def session(path: Path) -> ort.InferenceSession:
    """A session with the settings of bnfold's child."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = min(4, len(_processors()))
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.use_deterministic_compute = True
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _processors() -> set[int]:
    import os  # noqa: PLC0415  # used here alone

    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def once(paths: tuple[Path, Path], feeds: Mapping[str, np.ndarray]) -> None:
    """Load and run both models."""
    for path in paths:
        session(path).run(None, dict(feeds))


def started(path: Path) -> None:
    """A child that has made its first session, of a small model."""
    with Runner(Limits()) as runner:
        runner.signature(path)


def measured(paths: tuple[Path, Path], tiny: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each step, round by round."""
    feeds = random_batches(onnx.load(paths[0], load_external_data=False), seed=0, dims={})[0].feeds
    command = [sys.executable, "-m", "bnfold", "verify", *map(str, paths), "-q"]
    actions: dict[str, Callable[[], object]] = {
        "once": lambda: once(paths, feeds),
        "start": lambda: started(tiny),
        "verify": lambda: bnfold.verify(*paths).raise_unless_same(),
        "command": lambda: subprocess.run(command, check=True),
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds + 1):
        for step in STEPS:
            began = time.perf_counter()
            actions[step]()
            seconds[step].append(time.perf_counter() - began)
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
    median = {step: statistics.median(spent) for step, spent in seconds.items()}
    cells = [f"{median[s]:6.2f} [{min(seconds[s]):.2f}..{max(seconds[s]):.2f}]" for s in STEPS]
    net = (median["verify"] - median["start"]) / median["once"]
    ratios = f"{median['verify'] / median['once']:5.1f}  {net:5.1f}  {median['command'] / median['once']:5.1f}"
    return f"{name:32.32} {size / 1e6:7.1f}  " + "  ".join(f"{cell:20}" for cell in cells) + f"  {ratios}"


def main() -> int:
    """Measure every model and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", type=Path)
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--fill", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    heads = "  ".join(f"{step + ' s':20}" for step in STEPS)
    say(f"{'model':32} {'MB':>7}  {heads}  ratio to once: verify, net, command")
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder) / "tiny.onnx"
        onnx.save(onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) '
                                          "{ y = Neg(x) }"), tiny)  # fmt: skip
        for path in sources(options, Path(folder)):
            target = Path(folder) / "folded.onnx"
            bnfold.fold(path, target, verify="off")
            say(row(path.stem, path.stat().st_size, measured((path, target), tiny, options.rounds)))
    return 0


def say(line: str) -> None:
    """One line of the answer, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
