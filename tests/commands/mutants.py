"""Models with a few things wrong in them, by the thousand: each is folded and certified, or refused in one sentence.

    python tests/commands/mutants.py [--count 20000] [--seed 0] [FILE.onnx ...]

Mutates the models in models/ (or those given): inputs, outputs, attributes, operators, domains, constants, opset, IR
version, dimensions, the order of nodes. Prints how many were folded, left alone and refused. Exit 1 if anything but
a BnfoldError was raised, or if a certificate did not hold: a plan that is wrong or that cannot be followed.
"""

from __future__ import annotations

import argparse
import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper

import bnfold

MODELS = Path(__file__).resolve().parents[2] / "models"
OPERATORS = (
    "Conv", "ConvTranspose", "Gemm", "BatchNormalization", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze",
    "Flatten", "Dropout", "Relu", "Nope",
)  # fmt: skip
INTEGERS = (-(1 << 40), -1, 0, 1, 2, 3, 1 << 40)
FLOATS = (0.0, -1.0, 1e30, 1e-30, float("nan"), float("inf"))


def mutant(models: Sequence[ModelProto], seed: int) -> ModelProto:
    """A copy of one of the models with one to four things wrong in it; the same seed gives the same one."""
    chance = random.Random(seed)
    model = ModelProto()
    model.CopyFrom(chance.choice(models))
    for _ in range(chance.randint(1, 4)):
        chance.choice(MUTATIONS)(model, chance)
    return model


def other_input(model: ModelProto, chance: random.Random) -> None:
    node = chance.choice(model.graph.node)
    names = ["", "nothing", *chance.choice(model.graph.node).output, *(t.name for t in model.graph.initializer[:1])]
    if node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(names)


def further_output(model: ModelProto, chance: random.Random) -> None:
    chance.choice(model.graph.node).output.append(chance.choice(["", f"further{chance.random()}"]))


def other_attribute(model: ModelProto, chance: random.Random) -> None:
    for attribute in chance.choice(model.graph.node).attribute:
        if attribute.type == AttributeProto.INT:
            attribute.i = chance.choice(INTEGERS)
        elif attribute.type == AttributeProto.FLOAT:
            attribute.f = chance.choice(FLOATS)
        elif attribute.type == AttributeProto.INTS:
            attribute.ints[:] = chance.choices((-2, -1, 0, 1, 2, 3, 7), k=chance.randint(0, 5))


def no_attribute(model: ModelProto, chance: random.Random) -> None:
    node = chance.choice(model.graph.node)
    if node.attribute:
        del node.attribute[chance.randrange(len(node.attribute))]


def other_operator(model: ModelProto, chance: random.Random) -> None:
    chance.choice(model.graph.node).op_type = chance.choice(OPERATORS)


def other_domain(model: ModelProto, chance: random.Random) -> None:
    chance.choice(model.graph.node).domain = chance.choice(("", "ai.onnx", "elsewhere"))


def other_versions(model: ModelProto, chance: random.Random) -> None:
    model.ir_version = chance.choice((3, 4, 7, 8, 10))
    model.opset_import[0].version = chance.choice((6, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20))


def other_dimension(model: ModelProto, chance: random.Random) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if dims:
        chance.choice(dims).dim_value = chance.choice((-1, 0, 1, 2, 5))


def other_order(model: ModelProto, chance: random.Random) -> None:
    first, second = (chance.choice(model.graph.node) for _ in range(2))
    kept = NodeProto()
    kept.CopyFrom(first)
    first.CopyFrom(second)
    second.CopyFrom(kept)


def other_result(model: ModelProto, chance: random.Random) -> None:
    model.graph.output[0].name = chance.choice(chance.choice(model.graph.node).output or [""])


def other_constant(model: ModelProto, chance: random.Random) -> None:
    if not model.graph.initializer:
        return
    tensor = chance.choice(model.graph.initializer)
    array = numpy_helper.to_array(tensor)
    changes: list[Callable[[], np.ndarray]] = [
        lambda: array.reshape(-1),
        lambda: array[np.newaxis],
        lambda: array[:-1] if array.ndim else array,
        lambda: array.T,
        lambda: array[:0] if array.ndim else array,
        lambda: array.astype(chance.choice((np.float16, np.float32, np.float64, np.int32))),
        lambda: np.where(np.arange(array.size).reshape(array.shape) == 0, np.float32(chance.choice(FLOATS)), array),
    ]
    with np.errstate(all="ignore"):
        changed = chance.choice(changes)()
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), tensor.name))


MUTATIONS: tuple[Callable[[ModelProto, random.Random], None], ...] = (
    other_input, further_output, other_attribute, no_attribute, other_operator, other_domain, other_versions,
    other_dimension, other_order, other_result, other_constant, other_constant,
)  # fmt: skip


def outcome(model: ModelProto) -> str:
    """`folded`, `left alone` or `refused`; a certificate that does not hold, or any other error, raises."""
    try:
        result = bnfold.fold(model, verify="certificate")
    except bnfold.InputRefused:
        return "refused"
    return "folded" if result.plan.moves else "left alone"


def loaded(files: Sequence[Path]) -> list[ModelProto]:
    """The models to mutate, those with external data left out."""
    models = [onnx.load(file, load_external_data=False) for file in files]
    external = TensorProto.EXTERNAL
    return [m for m in models if all(t.data_location != external for t in m.graph.initializer) and m.graph.node]


def main() -> int:
    """Run as many as asked for; print the seed of each that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    models = loaded(options.files or sorted(MODELS.glob("*.onnx")))
    counts: Counter[str] = Counter()
    for seed in range(options.seed, options.seed + options.count):
        try:
            counts[outcome(mutant(models, seed))] += 1
        except Exception:  # noqa: BLE001  # whatever it is, it is what this command looks for
            counts["failed"] += 1
            sys.stdout.write(f"seed {seed}:\n{traceback.format_exc(limit=-3)}\n")
    sys.stdout.write(", ".join(f"{count} {what}" for what, count in sorted(counts.items())) + "\n")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
