"""Measure the models of this folder on their test data, in onnxruntime and without torch.

Prints a table, one line a model: its size, its BatchNormalization nodes, its parameters and how good it is.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
MODELS = ("digits_cnn", "digits_mlp", "digits_unet", "digits_sequence", "digits_preact")
DENOISER = "digits_unet"  # the others classify


def test_image(name: str) -> NDArray[np.float32]:
    """Return the test images (360,1,8,8) that the model `name` is to be given."""
    data = HERE / ("digits_noisy.npz" if name == DENOISER else "digits.npz")
    image: NDArray[np.float32] = np.load(data)["image"]
    return image


def run_onnx(path: Path, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the output that onnxruntime computes from the model as it stands, no graph optimization."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, {"image": image})[0]
    return output


def places_of_bns(model: onnx.ModelProto) -> Counter[str]:
    """Count the inference BatchNormalization nodes by the operator before them, also through Transpose."""
    maker = {name: node for node in model.graph.node for name in node.output}
    places: Counter[str] = Counter()
    for norm in model.graph.node:
        if norm.op_type != "BatchNormalization" or len(norm.output) != 1:
            continue
        path = [maker[norm.input[0]]]
        while path[0].op_type == "Transpose":
            path.insert(0, maker[path[0].input[0]])
        places["-".join(node.op_type for node in path)] += 1
    return places


def count_parameters(model: onnx.ModelProto) -> int:
    """Count the trained numbers: all initializers but the running means and variances."""
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    running = {name for norm in norms for name in norm.input[3:5]}
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.name not in running)


def psnr(image: NDArray[np.float32], target: NDArray[np.float32]) -> float:
    """Return the peak signal-to-noise ratio in dB over all pixels together, for values in [0,1]."""
    return float(-10 * np.log10(np.mean(np.square(image.astype(np.float64) - target))))


def quality(name: str, output: NDArray[np.float32]) -> str:
    """Say how good the `output` of the model `name` on its test images is."""
    with np.load(HERE / "digits.npz") as test:
        if name == DENOISER:
            before, after = psnr(test_image(name), test["image"]), psnr(output, test["image"])
            return f"PSNR {before:.2f} dB before, {after:.2f} dB after"
        right = int((output.argmax(axis=1) == test["labels"]).sum())
        return f"accuracy {right} of {len(output)} = {right / len(output):.2%}"


def row(name: str) -> str:
    """Return the table's line about the model `name`."""
    path = HERE / f"{name}.onnx"
    model = onnx.load(path)
    places = places_of_bns(model)
    listed = ", ".join(f"{count} after {place}" for place, count in places.most_common())
    measured = quality(name, run_onnx(path, test_image(name)))
    size = f"{path.stat().st_size / 1000:.0f} kB"
    return f"| `{path.name}` | {size} | {places.total()}: {listed} | {count_parameters(model):,} | {measured} |"


def main() -> None:
    """Print the table, in Markdown."""
    head = ["| Model | Size | BatchNormalization nodes | Parameters | On the test split |", "|---|---|---|---|---|"]
    print("\n".join([*head, *map(row, MODELS)]))  # noqa: T201  # the table is what the command is run for


if __name__ == "__main__":
    main()
