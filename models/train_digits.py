"""Train the small digits network of this folder, export it to ONNX and check the export.

A development script: bnfold itself never imports torch. It writes two files beside itself,
`digits_cnn.onnx` (BatchNormalization nodes kept) and `digits.npz` (the labelled test split), and prints
the test accuracy in torch and in onnxruntime. The number of epochs and the learning rate are fixed: the
test split takes no part in the training, nor in choosing among checkpoints.
"""

import warnings
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
SEED = 0
EPOCHS = 40
BATCH = 64
PEAK_LEARNING_RATE = 0.01
OPSET = 17
TOLERANCE = 1e-4  # largest difference of a logit between torch and onnxruntime, both in float32


class Split(NamedTuple):
    """Images (N,1,8,8) with values in [0,1], and their labels (N,)."""

    image: NDArray[np.float32]
    labels: NDArray[np.int64]


def with_bn(conv: nn.Conv2d) -> nn.Sequential:
    """Return `conv` directly followed by a BatchNorm2d: the pair that folding merges."""
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(conv.out_channels)))


class Residual(nn.Module):
    """Conv-BN-ReLU-Conv-BN, plus the input, then ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = with_bn(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        self.second = with_bn(nn.Conv2d(channels, channels, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the input's shape."""
        return torch.relu(self.second(torch.relu(self.first(x))) + x)


class DigitsNet(nn.Module):
    """A small classifier in which every BatchNorm directly follows a convolution or a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = with_bn(nn.Conv2d(1, 16, 3, padding=1, bias=False))
        self.depthwise = with_bn(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False))
        self.pointwise = with_bn(nn.Conv2d(16, 32, 1, bias=False))
        self.down = with_bn(nn.Conv2d(32, 32, 3, stride=2, padding=1, bias=True))
        self.grouped = with_bn(nn.Conv2d(32, 32, 3, padding=1, groups=4, bias=False))
        self.residual = Residual(32)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Linear(32, 32)  # its bias makes the export a Gemm: without one it is a MatMul
        self.hidden_bn = nn.BatchNorm1d(32)
        self.classifier = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (batch,10) of the images (batch,1,8,8)."""
        x = image
        for block in (self.stem, self.depthwise, self.pointwise, self.down, self.grouped):
            x = torch.relu(block(x))
        x = torch.flatten(self.pool(self.residual(x)), 1)
        x = torch.relu(self.hidden_bn(self.hidden(x)))
        logits: Tensor = self.classifier(x)
        return logits


def make_deterministic() -> None:
    """Seed torch and numpy, and keep torch to one thread and to deterministic kernels."""
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def load_splits() -> tuple[Split, Split]:
    """Return the stratified training (80 %) and test (20 %) splits of scikit-learn's digits."""
    digits = load_digits()
    image = (digits.images[:, None] / 16).astype(np.float32)  # the pixels are whole numbers 0..16
    labels = digits.target.astype(np.int64)
    train_image, test_image, train_labels, test_labels = train_test_split(
        image, labels, test_size=0.2, stratify=labels, random_state=SEED
    )
    return Split(train_image, train_labels), Split(test_image, test_labels)


def train(net: DigitsNet, split: Split) -> None:
    """Train `net` in place for a fixed number of epochs, and leave it in eval mode."""
    image, labels = torch.from_numpy(split.image), torch.from_numpy(split.labels)
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.01)
    steps = -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, epochs=EPOCHS, steps_per_epoch=steps)
    net.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(BATCH):
            loss = nn.functional.cross_entropy(net(image[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()


def export(net: DigitsNet, path: Path) -> None:
    """Write `net`, in eval mode, to `path` with its BatchNormalization nodes kept.

    The TorchScript exporter folds a BatchNorm into its Conv only as a part of constant folding, so with that
    off all stay. The default exporter (dynamo=True) folds them too; with optimize=False it leaves them,
    but among computed zero biases and a decomposed pooling.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch announces the other exporter: see above
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, 8, 8),),
            str(path),
            dynamo=False,
            do_constant_folding=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )


def count_foldable(path: Path) -> int:
    """Check the model at `path`, and count the inference BatchNormalization nodes behind a Conv or Gemm."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    maker = {name: node.op_type for node in model.graph.node for name in node.output}
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    inference = [node for node in norms if len(node.output) == 1]
    return sum(maker.get(node.input[0]) in {"Conv", "Gemm"} for node in inference)


def run_onnx(path: Path, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits that onnxruntime computes from the model as it stands, no graph optimization."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], {"image": image})[0]
    return logits


def report(net: DigitsNet, path: Path, test: Split) -> None:
    """Print sizes and accuracies; raise RuntimeError if the exported model is not the trained one."""
    with torch.no_grad():
        in_torch = net(torch.from_numpy(test.image)).numpy()
    in_onnx = run_onnx(path, test.image)
    difference = float(np.abs(in_torch - in_onnx).max())
    norms = sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in net.modules())
    foldable = count_foldable(path)
    lines = [
        f"parameters: {sum(parameter.numel() for parameter in net.parameters())}",
        f"BatchNormalization nodes behind a Conv or Gemm: {foldable} of {norms}",
        f"largest difference of a logit, torch to onnxruntime: {difference:.1e}",
    ]
    for runtime, logits in (("torch", in_torch), ("onnxruntime", in_onnx)):
        right = int((logits.argmax(axis=1) == test.labels).sum())
        lines.append(f"test accuracy in {runtime}: {right} of {len(test.labels)} = {right / len(test.labels):.2%}")
    print("\n".join(lines))  # noqa: T201 - the report is what the command is run for
    if foldable != norms or difference > TOLERANCE:
        raise RuntimeError(f"{path.name} is not the network that was trained")


def main() -> None:
    """Train, write both files beside this script, and report."""
    make_deterministic()
    training, test = load_splits()
    net = DigitsNet()
    train(net, training)
    model = HERE / "digits_cnn.onnx"
    export(net, model)
    np.savez_compressed(HERE / "digits.npz", image=test.image, labels=test.labels)
    report(net, model, test)


if __name__ == "__main__":
    main()
