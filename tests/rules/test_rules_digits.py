"""Trained networks over their own data are clean, and over inverted images the layers that drift are named.

What every BatchNormalization is fed is observed here by onnxruntime itself, its input made an output of the model: the
findings of `bnfold.validate` with `data` must be those of these observations.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import bnfold
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.rules.checking import findings_of
from bnfold.rules.choosing import Choice
from bnfold.rules.drift import hold_against_data
from bnfold.rules.subject import Surroundings
from bnfold.statistics import Observed

MODELS = Path(__file__).resolve().parents[2] / "models"
DIGITS = np.load(MODELS / "digits.npz")["image"]
NOISY = np.load(MODELS / "digits_noisy.npz")["image"]
OWN = {"cnn": DIGITS, "mlp": DIGITS, "sequence": DIGITS, "preact": DIGITS, "unet": NOISY}


def observed(name: str, images: np.ndarray) -> Surroundings:
    """A model, each BatchNormalization with what it was fed."""
    path = MODELS / f"digits_{name}.onnx"
    around = Surroundings(Graph.of(read(path)))
    proto = onnx.load(path)
    fed = [norm.data.name for norm in around.norms if norm.data is not None]
    present = {port.name for port in (*proto.graph.output, *proto.graph.input)}
    proto.graph.output.extend(onnx.ValueInfoProto(name=value) for value in {*fed} - present)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for norm, value in zip(around.norms, fed, strict=True):
        assert norm.values is not None
        array = images if value == "image" else session.run([value], {"image": images})[0]
        norm.observed = Observed.of(array, centre=norm.values.mean)
    hold_against_data(around.norms, len(images))
    return around


@pytest.mark.parametrize("name", OWN)
def test_a_trained_network_over_its_own_data_is_clean(name: str) -> None:
    found = findings_of(observed(name, OWN[name]), Choice.of(ignore=["BN016", "BN017"]))
    assert list(found) == []
    assert found.looked_at >= 3


@pytest.mark.parametrize("name", OWN)
def test_half_of_its_own_data_are_enough_to_be_clean(name: str) -> None:
    for half in (slice(None, None, 2), slice(1, None, 2)):
        assert not findings_of(observed(name, OWN[name][half]), Choice.of(ignore=["BN016", "BN017"])).fails


@pytest.mark.parametrize("name", OWN)
def test_inverted_images_drift_and_the_layers_are_named(name: str) -> None:
    """The first layer of each sees another mean; of a network with many layers, most do."""
    around = observed(name, 1 - OWN[name])
    found = findings_of(around, Choice.of(["BN101", "BN102"]))
    drifting = {one.site for one in found if one.code == "BN101"}
    assert around.norms[0].site in drifting
    assert 2 * len(drifting) > len(around.norms)


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_the_scale_of_the_images_matters(name: str) -> None:
    """Images of 0 to 255 where 0 to 1 was trained: the classic mistake in preprocessing."""
    found = findings_of(observed(name, 255 * DIGITS), Choice.of(["BN1"]))
    assert {one.code for one in found} >= {"BN101", "BN102", "BN104"}
    assert {one.site for one in found if one.code == "BN104"} == {norm.site for norm in observed(name, DIGITS).norms}


@pytest.mark.parametrize("images", [DIGITS, 1 - DIGITS], ids=["own", "inverted"])
@pytest.mark.parametrize("name", ["cnn", "preact"])
def test_validate_observes_the_same(name: str, images: np.ndarray) -> None:
    ours = bnfold.validate(MODELS / f"digits_{name}.onnx", data={"image": images})
    theirs = findings_of(observed(name, images), Choice.of())
    assert [(one.code, one.site) for one in ours] == [(one.code, one.site) for one in theirs]
    assert ours.remarks == ()
