"""How planning and folding time grows with depth: a chain of N Conv+BN, and one twice as long, side by side.

    python tests/commands/chain.py [--length 4000] [--rounds 3]

Prints seconds (median of the rounds, whole `bnfold.fold(..., verify="off")` to a file), the ratio of the two, and
the ratio to onnx.load + onnx.save of the same file. A linear tool has a ratio of 2.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import bnfold

CHANNELS = 4


def chain(length: int, *, seed: int = 0) -> onnx.ModelProto:
    """A model of `length` Conv+BN pairs in a row, 3x3, four channels."""
    random = np.random.default_rng(seed)
    nodes, tensors = [], []
    for i in range(length):
        names = [f"{role}{i}" for role in ("w", "gamma", "beta", "mean", "var")]
        arrays = [random.standard_normal((CHANNELS, CHANNELS, 3, 3)) / 6, *random.uniform(0.5, 1.5, (4, CHANNELS))]
        tensors += [numpy_helper.from_array(a.astype(np.float32), n) for a, n in zip(arrays, names, strict=True)]
        nodes.append(helper.make_node("Conv", [f"x{i}", names[0]], [f"c{i}"], name=f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("BatchNormalization", [f"c{i}", *names[1:]], [f"x{i + 1}"], name=f"bn{i}"))
    shape = [1, CHANNELS, 8, 8]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x0", f"x{length}")]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def timed(action: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> int:
    """Measure both lengths in turn, round by round, and print the medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    lengths = (options.length, 2 * options.length)
    seconds: dict[tuple[str, int], list[float]] = {(kind, n): [] for kind in ("fold", "copy") for n in lengths}
    with tempfile.TemporaryDirectory() as folder:
        source = {n: Path(folder) / f"chain{n}.onnx" for n in lengths}
        for n in lengths:
            onnx.save(chain(n), source[n])
        target = Path(folder) / "out.onnx"
        bnfold.fold(chain(2), target, verify="off")  # what is imported late is not counted
        for _ in range(options.rounds):
            for n in lengths:
                seconds["fold", n].append(timed(lambda n=n: bnfold.fold(source[n], target, verify="off")))
                seconds["copy", n].append(timed(lambda n=n: onnx.save(onnx.load(source[n]), target)))
    fold, copy = ([statistics.median(seconds[kind, n]) for n in lengths] for kind in ("fold", "copy"))
    for n, a, b in zip(lengths, fold, copy, strict=True):
        sys.stdout.write(f"{n:6d} Conv+BN: fold {a:.2f} s, onnx.load + onnx.save {b:.2f} s, ratio {a / b:.1f}\n")
    sys.stdout.write(f"twice the length takes {fold[1] / fold[0]:.2f} times as long\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
