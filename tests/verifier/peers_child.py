"""Runs in the Python that has the other tools, and rewrites model files as told, one request a line; it may crash.

    {"tool": "onnxsim", "source": PATH, "target": PATH}   -> {"error": "" or why not}
    {"tool": "tools"}                                     -> {"tools": {name: version}, "missing": {name: why}}
    {"tool": "compare", "source": PATH, "target": PATH}   -> {"error": ..., "ratio": distance in units of the jitter}

`compare` runs both files in onnxruntime without optimisation: ||after - before|| against max(4u*||y||, how far the
original moves when its constants move by up to a unit). Nothing of bnfold is imported here.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper

ELEMENTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11}
DRAWS = 3
FEW = 8
"""Constants of fewer elements stay: the scales of a Resize are no weights, and decide shapes."""
FREE = (1, 64, 224)
"""Sizes tried for free dimensions from the third on; the others are 1."""


def onnxsim(source: str, target: str) -> None:
    import onnxsim as tool  # noqa: PLC0415  # may be absent

    simplified, _ = tool.simplify(onnx.load(source))
    onnx.save(simplified, target)


def onnxslim(source: str, target: str) -> None:
    import onnxslim as tool  # noqa: PLC0415  # may be absent

    onnx.save(tool.slim(onnx.load(source)), target)


def onnxscript(source: str, target: str) -> None:
    from onnxscript import optimizer, rewriter  # noqa: PLC0415  # may be absent

    onnx.save(rewriter.rewrite(optimizer.optimize(onnx.load(source))), target)


def onnxoptimizer(source: str, target: str) -> None:
    import onnxoptimizer as tool  # noqa: PLC0415  # may be absent

    passes = ["fuse_bn_into_conv", "fuse_add_bias_into_conv", "eliminate_identity", "eliminate_deadend"]
    onnx.save(tool.optimize(onnx.load(source), passes), target)


def onnxoptimizer_by_default(source: str, target: str) -> None:
    import onnxoptimizer as tool  # noqa: PLC0415  # may be absent

    onnx.save(tool.optimize(onnx.load(source)), target)


def onnxruntime_basic(source: str, target: str) -> None:
    options = _options(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    options.optimized_model_filepath = target
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


TOOLS: dict[str, tuple[str, Callable[[str, str], None]]] = {
    "onnxsim": ("onnxsim", onnxsim),
    "onnxslim": ("onnxslim", onnxslim),
    "onnxscript": ("onnxscript", onnxscript),
    "onnxoptimizer": ("onnxoptimizer", onnxoptimizer),
    "onnxruntime BASIC": ("onnxruntime", onnxruntime_basic),
}
FURTHER = {"onnxoptimizer, by default": ("onnxoptimizer", onnxoptimizer_by_default)}
"""What is only done where it is asked for by name."""


def available() -> dict[str, dict[str, str]]:
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, (package, _) in TOOLS.items():
        try:
            importlib.import_module(package)
            found[name] = importlib.metadata.version(package)
        except Exception as error:  # noqa: BLE001  # a package can fail to import in any way; it is said aloud
            missing[name] = f"{type(error).__name__}: {error}"
    return {"tools": found, "missing": missing}


def compare(source: str, target: str) -> dict[str, Any]:
    before, after = _session(source), _session(target)
    feeds, original = _accepted(before)
    moved = [_session(_perturbed(source, seed)).run(None, feeds) for seed in range(DRAWS)]
    ratio = 0.0
    for place, (one, other) in enumerate(zip(original, after.run(None, feeds), strict=True)):
        if one.dtype.name not in UNITS:
            ratio = max(ratio, 0.0 if np.array_equal(one, other) else float("inf"))
            continue
        jitter = np.sqrt(np.mean([_norm(draw[place], one) ** 2 for draw in moved]))
        floor = max(4 * UNITS[one.dtype.name] * _norm(one, 0 * one), jitter)
        apart = _norm(other, one)
        ratio = max(ratio, apart / floor if apart else 0.0)
    return {"ratio": ratio}


def answer(request: dict[str, str]) -> dict[str, Any]:
    if request["tool"] == "tools":
        return available()
    try:
        if request["tool"] == "compare":
            return {"error": "", **compare(request["source"], request["target"])}
        (TOOLS | FURTHER)[request["tool"]][1](request["source"], request["target"])
    except Exception as error:  # noqa: BLE001  # whatever a tool raises, the next request is served
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    return {"error": ""}


def _norm(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm((one.astype(np.float64) - other.astype(np.float64)).ravel()))


def _options(level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return options


def _session(model: str | bytes) -> onnxruntime.InferenceSession:
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, _options(level), providers=["CPUExecutionProvider"])


def _accepted(session: onnxruntime.InferenceSession) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Feeds of the first size of free dimensions that the model accepts, with its outputs."""
    refused: Exception | None = None
    for free in FREE:
        rng = np.random.default_rng(0)
        feeds = {port.name: _feed(rng, port, free) for port in session.get_inputs()}
        try:
            return feeds, session.run(None, feeds)
        except Exception as error:  # noqa: BLE001  # onnxruntime has a class for each of its errors
            refused = error
    raise ValueError(f"no input is accepted: {refused}")


def _feed(rng: np.random.Generator, port: onnxruntime.NodeArg, free: int) -> np.ndarray:
    shape = [size if isinstance(size, int) else free if place > 1 else 1 for place, size in enumerate(port.shape)]
    if port.type in ELEMENTS:
        return rng.standard_normal(shape).astype(ELEMENTS[port.type])
    return np.ones(shape, {"tensor(bool)": np.bool_, "tensor(int64)": np.int64}.get(port.type, np.int32))


def _perturbed(source: str, seed: int) -> bytes:
    model = onnx.load(source)
    rng = np.random.default_rng(seed)
    constants = [a.t for node in model.graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
    for tensor in (*model.graph.initializer, *constants):
        if tensor.data_type not in {TensorProto.FLOAT, TensorProto.FLOAT16}:
            continue
        array = numpy_helper.to_array(tensor)
        if array.size < FEW:
            continue
        factor = 1 + rng.choice([-1, 1], array.shape) * 2 * UNITS[array.dtype.name] * rng.random(array.shape)
        tensor.CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), tensor.name))
    return model.SerializeToString()


def main() -> int:
    """Serve requests until stdin ends. What the tools print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
