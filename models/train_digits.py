"""Train the small networks of this folder, export them to ONNX and check the exports.

A development script: bnfold itself never imports torch. Without arguments it makes everything, else the models
named, say `python models/train_digits.py digits_mlp`. It writes beside itself `digits.npz` (the labelled test
split), `digits_noisy.npz` (the same images with noise) and the models, BatchNormalization nodes kept, and prints
how good each is on the test split in torch and in onnxruntime. The numbers of epochs and the learning rate are
fixed: the test split takes no part in the training, nor in choosing among checkpoints.
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import measure
import networks
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
SEED = 0
NOISE_OF_TRAINING, NOISE_OF_TEST = 1, 2  # the seeds of two streams that share nothing
BATCH = 64
PEAK_LEARNING_RATE = 0.01
GREYS = 16  # a pixel is one of the whole numbers 0..16
NOISE = 0.25  # standard deviation, where black and white are 0 and 1
OPSET = 17
TOLERANCE = 1e-4  # largest difference of an output between torch and onnxruntime, both in float32


class Split(NamedTuple):
    """Images (N,1,8,8) with values in [0,1], and their labels (N,)."""

    image: NDArray[np.float32]
    labels: NDArray[np.int64]


Examples = Callable[[Split, np.random.Generator], tuple[NDArray[np.float32], NDArray[np.generic]]]
Loss = Callable[[Tensor, Tensor], Tensor]


class Recipe(NamedTuple):
    """A network, what its output is called, what it is to learn, and for how long."""

    network: Callable[[], nn.Module]
    output: str
    examples: Examples
    loss: Loss
    epochs: int


def labelled(split: Split, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    """Return the images and their labels."""
    del rng
    return split.image, split.labels


def with_noise(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return `image` with Gaussian noise, clipped to [0,1] and rounded to the greys that a pixel can have."""
    noisy = image + NOISE * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.round(np.clip(noisy, 0, 1) * GREYS) / GREYS).astype(np.float32)


def noisy(split: Split, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    """Return the images with noise, and without."""
    return with_noise(split.image, rng), split.image


RECIPES = {
    "digits_cnn": Recipe(networks.DigitsCnn, "logits", labelled, nn.functional.cross_entropy, 40),
    "digits_mlp": Recipe(networks.DigitsMlp, "logits", labelled, nn.functional.cross_entropy, 40),
    "digits_unet": Recipe(networks.DigitsUnet, "clean", noisy, nn.functional.mse_loss, 60),
    "digits_sequence": Recipe(networks.DigitsSequence, "logits", labelled, nn.functional.cross_entropy, 60),
    "digits_preact": Recipe(networks.DigitsPreact, "logits", labelled, nn.functional.cross_entropy, 40),
}


def make_deterministic() -> None:
    """Seed torch and numpy, and keep torch to one thread and to deterministic kernels."""
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def load_splits() -> tuple[Split, Split]:
    """Return the stratified training (80 %) and test (20 %) splits of scikit-learn's digits."""
    digits = load_digits()
    image = (digits.images[:, None] / GREYS).astype(np.float32)
    labels = digits.target.astype(np.int64)
    train_image, test_image, train_labels, test_labels = train_test_split(
        image, labels, test_size=0.2, stratify=labels, random_state=SEED
    )
    return Split(train_image, train_labels), Split(test_image, test_labels)


def train(net: nn.Module, recipe: Recipe, split: Split) -> None:
    """Train `net` in place for a fixed number of epochs, and leave it in eval mode."""
    rng = np.random.default_rng(NOISE_OF_TRAINING)
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.01)
    steps = -(-len(split.labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, epochs=recipe.epochs, steps_per_epoch=steps
    )
    net.train()
    for _ in range(recipe.epochs):
        image, target = (torch.from_numpy(array) for array in recipe.examples(split, rng))
        for rows in torch.randperm(len(target)).split(BATCH):
            loss = recipe.loss(net(image[rows]), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()


def export(net: nn.Module, output: str, path: Path) -> None:
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
            output_names=[output],
            dynamic_axes={"image": {0: "batch"}, output: {0: "batch"}},
        )


def check(net: nn.Module, name: str, path: Path) -> str:
    """Say how good `net` and its export are; raise RuntimeError if the export is not what was trained."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    image = measure.test_image(name)
    with torch.no_grad():
        in_torch = net(torch.from_numpy(image)).numpy()
    in_onnx = measure.run_onnx(path, image)
    difference = float(np.abs(in_torch - in_onnx).max())
    norms = sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in net.modules())
    kept = measure.places_of_bns(model).total()
    parameters = sum(parameter.numel() for parameter in net.parameters())
    if kept != norms or measure.count_parameters(model) != parameters or difference > TOLERANCE:
        raise RuntimeError(f"{path.name} is not the network that was trained")
    return "\n".join(
        [
            f"{name}: {parameters} parameters, {kept} BatchNormalization nodes",
            f"  in torch        {measure.quality(name, in_torch)}",
            f"  in onnxruntime  {measure.quality(name, in_onnx)}, largest difference to torch {difference:.1e}",
        ]
    )


def make(name: str, training: Split) -> str:
    """Train, export and check one model, each from the same seed; return the report on it."""
    recipe = RECIPES[name]
    make_deterministic()
    net = recipe.network()
    train(net, recipe, training)
    path = HERE / f"{name}.onnx"
    export(net, recipe.output, path)
    return check(net, name, path)


def main() -> None:
    """Write the data and the models beside this script, and report."""
    parser = argparse.ArgumentParser(description="Train and export the models of this folder.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(RECIPES)}; none means all")
    names = parser.parse_args().models or list(RECIPES)
    if unknown := set(names) - set(RECIPES):
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    training, test = load_splits()
    np.savez_compressed(HERE / "digits.npz", image=test.image, labels=test.labels)
    rng = np.random.default_rng(NOISE_OF_TEST)
    np.savez_compressed(HERE / "digits_noisy.npz", image=with_noise(test.image, rng))
    for name in names:
        print(make(name, training), flush=True)  # noqa: T201  # the report is what the command is run for


if __name__ == "__main__":
    main()
