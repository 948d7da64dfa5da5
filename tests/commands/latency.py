"""What folding buys in onnxruntime, also where it buys nothing: load time and latency, original against rewritten.

    python tests/commands/latency.py FOLDER [--fill PATH/zoo.py] [--peers-python PYTHON] [--rounds 9] [--only NAME]

For a dozen models (and a RepVGG and a MobileOne that are made here) the original, bnfold's fold, the same with
`--merge-branches`, and what other tools make of it, with all of onnxruntime's optimisations and with none, one thread.
All variants of a model run by turns in one process, so that what the machine does meanwhile meets all of them. Each
figure is a ratio to the original: the median of the rounds' ratios, and half the distance between their quartiles.
What another tool makes of a model is only counted where `bnfold verify` finds it to be the same; `--peers-python` is an
interpreter that has onnxsim, onnxslim, onnxscript and onnxoptimizer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import bnfold

sys.path.insert(0, str(Path(__file__).parents[1] / "verifier"))
from peers import PeerFailed, Peers  # type: ignore[import-not-found]  # beside the tests

ZOO = (
    "torch__timm_levit_128s_dy18opt", "torch__timm_levit_128s_ts13", "torch__timm_fastvit_t8_ts17",
    "torch__timm_repghostnet_050_ts13", "torch__monai_UNet2d_ts09", "torch__pcv_unet_cityscapes_ts13",
    "torch__pcv_preresnet18_dy18", "torch__timm_cs3darknet_focus_s_dy18", "torch__pcv_fbnet_cb_dy18",
    "torch__tv_densenet121_ts11", "torch__tv_resnet18_ts13", "torch__tv_efficientnet_b0_ts17",
    "tf__tfk2_MobileNetV2_noBN_op11",
)  # fmt: skip
TOOLS = ("onnxsim", "onnxslim", "onnxscript", "onnxoptimizer")
NAMES = ("bnfold", "bnfold, merged", *TOOLS)
WHAT = {"run": "Latency", "load": "Load time"}
LEVEL_NAMES = {"all": "ENABLE_ALL", "none": "DISABLE_ALL"}
LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
ELEMENTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
LEAST_SECONDS = 0.2
"""How long the runs of one variant last at least in a round."""


@dataclass(frozen=True)
class Variant:
    """A model file, and why there is none."""

    name: str
    path: Path
    why_not: str = ""


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, for loading and for one run."""

    load: list[float]
    run: list[float]


def batch_norm(name: str, source: str, channels: int, random: np.random.Generator) -> tuple[onnx.NodeProto, list]:
    """A BatchNormalization with statistics as training leaves them, and its parameters."""
    values = {
        "gamma": random.uniform(0.5, 1.5, channels), "beta": random.normal(0, 0.1, channels),
        "mean": random.normal(0, 0.1, channels), "var": random.uniform(0.5, 1.5, channels),
    }  # fmt: skip
    tensors = [numpy_helper.from_array(v.astype(np.float32), f"{name}.{part}") for part, v in values.items()]
    return helper.make_node("BatchNormalization", [source, *(t.name for t in tensors)], [name]), tensors


def block(prefix: str, source: str, sizes: tuple[int, int, int], branches: list[tuple[int, int]]) -> tuple:
    """Parallel Conv+BN of the same data, an identity branch where sizes allow it, their sum and a Relu.

    `sizes` are the channels before and behind, and the stride; `branches` kernel and group of each.
    """
    ins, outs, stride = sizes
    random = np.random.default_rng([*map(ord, prefix)])
    nodes: list[onnx.NodeProto] = []
    tensors: list[TensorProto] = []
    ends: list[str] = []
    for place, (kernel, group) in enumerate(branches):
        name, pad = f"{prefix}.{place}", kernel // 2
        spread = np.sqrt(2 / (ins // group * kernel**2 * len(branches)))
        weight = random.normal(0, spread, (outs, ins // group, kernel, kernel)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weight, f"{name}.weight"))
        nodes.append(helper.make_node("Conv", [source, f"{name}.weight"], [f"{name}.conv"], group=group,
                                      pads=[pad] * 4, strides=[stride] * 2, kernel_shape=[kernel] * 2))  # fmt: skip
        node, parameters = batch_norm(f"{name}.bn", f"{name}.conv", outs, random)
        nodes.append(node)
        tensors += parameters
        ends.append(f"{name}.bn")
    if ins == outs and stride == 1:
        node, parameters = batch_norm(f"{prefix}.identity", source, outs, random)
        nodes.append(node)
        tensors += parameters
        ends.append(f"{prefix}.identity")
    total = ends[0]
    for place, end in enumerate(ends[1:]):
        nodes.append(helper.make_node("Add", [total, end], [f"{prefix}.sum{place}"]))
        total = f"{prefix}.sum{place}"
    nodes.append(helper.make_node("Relu", [total], [prefix]))
    return nodes, tensors, prefix


def network(name: str) -> onnx.ModelProto:
    """A RepVGG (3x3, 1x1, identity) or a MobileOne (depthwise and pointwise, several branches each) as in training."""
    widths = [(3, 48, 2), (48, 48, 2), (48, 48, 1), (48, 96, 2), *[(96, 96, 1)] * 3, (96, 192, 2), *[(192, 192, 1)] * 6]
    nodes: list[onnx.NodeProto] = []
    tensors: list[TensorProto] = []
    value = "x"
    for place, (ins, outs, stride) in enumerate(widths):
        steps = [((ins, outs, stride), [(3, 1), (1, 1)])]
        if name == "mobileone" and place:
            steps = [((ins, ins, stride), [(3, ins)] * 4 + [(1, ins)]), ((ins, outs, 1), [(1, 1)] * 4)]
        for step, (sizes, branches) in enumerate(steps):
            more, further, value = block(f"b{place}_{step}", value, sizes, branches)
            nodes += more
            tensors += further
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["y"]))
    graph = helper.make_graph(
        nodes, name, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 192, 1, 1])], tensors,
    )  # fmt: skip
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def models(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    """Each model as a file that can be run."""
    for name in ("repvgg", "mobileone"):
        onnx.save(network(name), folder / f"{name}.onnx")
        yield name, folder / f"{name}.onnx"
    for name in ZOO:
        source = options.folder / f"{name}.onnx"
        if options.fill is None:
            yield name, source
            continue
        filled = folder / source.name
        subprocess.run([sys.executable, options.fill, "fill", source, filled], check=True, capture_output=True)
        yield name, filled


def variants(path: Path, folder: Path, peers: Peers | None) -> Iterator[Variant]:
    """The model itself, what bnfold makes of it, and what others make of it."""
    yield Variant("original", path)
    for name, merge in (("bnfold", False), ("bnfold, merged", True)):
        target = folder / f"{path.stem}-{name}.onnx"
        result = bnfold.fold(path, target, merge_branches=merge)
        if not merge or result.plan.merges:
            yield Variant(name, target)
    for tool in TOOLS if peers is not None else ():
        target = folder / f"{path.stem}-{tool}.onnx"
        yield Variant(tool, target, why_not(peers, tool, path, target))


def why_not(peers: Peers, tool: str, path: Path, target: Path) -> str:
    """What keeps another tool's model from being compared; "" for nothing."""
    try:
        said = peers.ask(tool, str(path), str(target))
        if said["error"]:
            return "failed"
        return "" if bnfold.verify(path, target).is_same else "another function"
    except (PeerFailed, bnfold.BnfoldError):
        return "failed"


def feeds_of(session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    """Random numbers for every input; a free dimension is 1."""
    random = np.random.default_rng(0)
    shapes = {i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in session.get_inputs()}
    return {
        i.name: random.standard_normal(shapes[i.name]).astype(ELEMENTS.get(i.type, np.int64))
        for i in session.get_inputs()
    }


def opened(path: Path, level: str) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = LEVELS[level]
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def measured(found: list[Variant], level: str, rounds: int) -> dict[str, Timing]:
    """All variants by turns, in another order each round."""
    sessions = {one.name: opened(one.path, level) for one in found}
    feeds = feeds_of(sessions["original"])
    timings = {one.name: Timing([], []) for one in found}
    for round_ in range(rounds):
        for one in np.roll(np.array(found, object), round_):
            begun = time.perf_counter()
            opened(one.path, level)
            timings[one.name].load.append(time.perf_counter() - begun)
            timings[one.name].run.append(seconds(sessions[one.name], feeds))
    return timings


def seconds(session: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray]) -> float:
    """The median of as many runs as take LEAST_SECONDS, three at least."""
    session.run(None, feeds)
    runs: list[float] = []
    while len(runs) < 3 or sum(runs) < LEAST_SECONDS:
        begun = time.perf_counter()
        session.run(None, feeds)
        runs.append(time.perf_counter() - begun)
    return float(np.median(runs))


def ratio(ours: list[float], original: list[float]) -> str:
    """The median of the rounds' ratios, and half the distance between their quartiles."""
    each = np.array(ours) / np.array(original)
    low, middle, high = np.percentile(each, [25, 50, 75])
    return f"{middle:.2f} ±{(high - low) / 2:.2f}"


@dataclass(frozen=True)
class Row:
    """One model under one level: by variant, what is to be said of its load time and of its latency."""

    model: str
    level: str
    load: dict[str, str]
    run: dict[str, str]


def rows(name: str, path: Path, options: argparse.Namespace, peers: Peers | None) -> Iterator[Row]:
    """Of one model, one row for each level."""
    with tempfile.TemporaryDirectory() as folder:
        found = list(variants(path, Path(folder), peers))
        usable = [one for one in found if not one.why_not]
        for level in LEVELS:
            timings = measured(usable, level, options.rounds)
            original, others = timings["original"], found[1:]
            load = {v.name: v.why_not or ratio(timings[v.name].load, original.load) for v in others}
            run = {v.name: v.why_not or ratio(timings[v.name].run, original.run) for v in others}
            yield Row(name, level, load, run)


def table(found: list[Row], level: str, what: str) -> str:
    """What was measured under one level, a line for each model and a column for each tool."""
    ours = [row for row in found if row.level == level]
    cells = [(row.model, row.load if what == "load" else row.run) for row in ours]
    names = [name for name in NAMES if any(name in one for _, one in cells)]
    head = [f"| model | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    return "\n".join([*head, *(f"| {model} | {' | '.join(one.get(n, '') for n in names)} |" for model, one in cells)])


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fill", type=Path, help="zoo.py, for models whose weights were stripped")
    parser.add_argument("--peers-python")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", action="append", help="this model alone; repeatable")
    options = parser.parse_args()
    found: list[Row] = []
    peers = Peers(options.peers_python) if options.peers_python else None
    with tempfile.TemporaryDirectory() as folder:
        for name, path in models(options, Path(folder)):
            if options.only and name not in options.only:
                continue
            for row in rows(name, path, options, peers):
                found.append(row)
                sys.stderr.write(f"{row}\n")
    if peers is not None:
        peers.stop()
    for level, what in ((level, what) for what in WHAT for level in LEVELS):
        say(f"\n{WHAT[what]}, {LEVEL_NAMES[level]}\n\n{table(found, level, what)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
