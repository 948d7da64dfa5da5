"""What was inserted against PyTorch's own BatchNorm, in eval and in train mode.

PyTorch's running variance is the unbiased one, n/(n-1) times that of the population, and its momentum is ONNX's
complement: running = (1-momentum)*old + momentum*batch.
"""

from __future__ import annotations

import numpy as np
import pytest
from inserting_support import attribute, inserted, model, noise, norms, parameters, run

torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing was compared with its BatchNorm")

TWO = "(float[N,3,9,9] x) => (float[N,5,7,7] y) { c = Conv(x, w, b) y = Relu(c) }"
ONE = "(float[N,6] x) => (float[N,5] y) { c = Gemm(x, w, b) y = Relu(c) }"


def subject(dimensions: int, opset: int) -> tuple[object, np.ndarray]:
    if dimensions == 2:
        return model(TWO, opset=opset, w=noise(5, 3, 3, 3), b=noise(5, seed=1)), 2 * noise(24, 3, 9, 9, seed=2) + 1
    return model(ONE, opset=opset, w=noise(6, 5), b=noise(5, seed=1)), 2 * noise(50, 6, seed=2) + 1


def layer(dimensions: int, epsilon: float) -> object:
    kind = torch.nn.BatchNorm2d if dimensions == 2 else torch.nn.BatchNorm1d
    return kind(5, eps=epsilon, momentum=0.1)


def loaded(made: object, after: object) -> None:
    """Put the parameters of the inserted BatchNormalization into a layer of PyTorch's, by the names they bear."""
    names = [name.split(".", 1)[1] for name in norms(after)[0].input[1:]]  # type: ignore[arg-type]
    state = {name: torch.tensor(array.copy()) for name, array in zip(names, parameters(after), strict=True)}  # type: ignore[arg-type]
    assert names == ["weight", "bias", "running_mean", "running_var"]
    made.load_state_dict(state, strict=False)  # type: ignore[attr-defined]


@pytest.mark.parametrize("opset", [7, 14, 17])
@pytest.mark.parametrize("init", ["identity", "preserve", "normalize"])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_eval_mode(dimensions: int, init: str, opset: int) -> None:
    before, x = subject(dimensions, opset)
    _, after = inserted(before, after=["Conv" if dimensions == 2 else "Gemm"], init=init, data=x)  # type: ignore[arg-type]
    made = layer(dimensions, attribute(norms(after)[0], "epsilon"))
    loaded(made, after)
    values = run(before, {"x": x}, ["c"])["c"]  # type: ignore[arg-type]
    with torch.no_grad():
        theirs = made.eval()(torch.tensor(values)).numpy()  # type: ignore[attr-defined]
    ours = run(after, {"x": x}, ["c"])["c"]
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6 * np.abs(theirs).max())


@pytest.mark.parametrize("dimensions", [1, 2])
def test_one_pass_over_all_data_in_train_mode_keeps_the_same_statistics(dimensions: int) -> None:
    """With momentum None PyTorch averages over batches: of one batch, that is the batch's own statistics."""
    before, x = subject(dimensions, 17)
    _, after = inserted(before, after=["Conv" if dimensions == 2 else "Gemm"], init="preserve", data=x)  # type: ignore[arg-type]
    values = torch.tensor(run(before, {"x": x}, ["c"])["c"].astype(np.float64))  # type: ignore[arg-type]
    made = layer(dimensions, 1e-5).double()  # type: ignore[attr-defined]
    made.momentum = None
    made.train()(values)
    count = values.numel() // 5
    _, _, mean, variance = parameters(after)
    np.testing.assert_allclose(mean, made.running_mean.numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, made.running_var.numpy() * (count - 1) / count, rtol=2e-6)


@pytest.mark.parametrize("opset", [9, 13, 14, 17])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_train_mode(dimensions: int, opset: int) -> None:
    before, x = subject(dimensions, opset)
    _, after = inserted(before, after=["Conv" if dimensions == 2 else "Gemm"], training=True)  # type: ignore[arg-type]
    made = layer(dimensions, 1e-5)
    loaded(made, after)
    values = run(before, {"x": x}, ["c"])["c"]  # type: ignore[arg-type]
    theirs = made.train()(torch.tensor(values)).detach().numpy()  # type: ignore[attr-defined]
    outputs = run(after, {"x": x}, ["c", "c_bn.running_mean.updated", "c_bn.running_var.updated"])
    count = values.size // 5
    np.testing.assert_allclose(outputs["c"], theirs, rtol=1e-5, atol=1e-5)
    running_mean = made.running_mean.numpy()  # type: ignore[attr-defined]
    unbiased = made.running_var.numpy()  # type: ignore[attr-defined]
    np.testing.assert_allclose(outputs["c_bn.running_mean.updated"], running_mean, rtol=1e-4, atol=1e-6)
    population = 0.9 + (unbiased - 0.9) * (count - 1) / count
    np.testing.assert_allclose(outputs["c_bn.running_var.updated"], population, rtol=1e-5)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_normalised_is_what_train_mode_puts_out(dimensions: int) -> None:
    before, x = subject(dimensions, 17)
    _, after = inserted(before, after=["Conv" if dimensions == 2 else "Gemm"], init="normalize", data=x)  # type: ignore[arg-type]
    values = torch.tensor(run(before, {"x": x}, ["c"])["c"].astype(np.float64))  # type: ignore[arg-type]
    theirs = layer(dimensions, 1e-5).double().train()(values).detach().numpy()  # type: ignore[attr-defined]
    np.testing.assert_allclose(run(after, {"x": x}, ["c"])["c"], theirs, rtol=1e-5, atol=1e-5)
