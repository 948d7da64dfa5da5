"""The rules over data: how often they are wrong where nothing drifted, and how often right where something did."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from rule_models import model, sound

from bnfold.graph import Graph
from bnfold.model import read
from bnfold.rules import drift
from bnfold.rules.drift import FEWEST_FOR_MEANS, FEWEST_FOR_VARIANCES, LEVEL, hold_against_data
from bnfold.rules.subject import Norm, Surroundings
from bnfold.statistics import Observed

CHANNELS, LAYERS, REPETITIONS = 16, 3, 200
MEAN, DEVIATION = 3.0, 2.0
LAYER = "a{0} = BatchNormalization (x, g, b, m, v)"
NODES = " ".join(map(LAYER.format, range(LAYERS)))
TEXT = f"(float[N,{CHANNELS},6,6] x) => (float[] y) {{ {NODES} y = Sum (a0, a1, a2) }}"

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def layers(mean: float = MEAN, variance: float = DEVIATION**2, epsilon: float = 1e-5) -> tuple[Norm, ...]:
    """BatchNormalizations that all expect this mean and variance."""
    text = TEXT.replace("Normalization (", f"Normalization <epsilon = {epsilon}> (")
    return Surroundings(Graph.of(read(model(text, **sound(CHANNELS, m=mean, v=variance))))).norms


def images(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Mean 0, variance 1, and nothing independent but images: a brightness (Student's t) and contrast (log-normal) for
    each, and pixels that are sums of their neighbours'.
    """
    brightness = 0.5 * random.standard_t(5, (*shape[:2], 1, 1)) / math.sqrt(5 / 3)
    noise = random.standard_normal((*shape[:2], shape[2] + 2, shape[3] + 2))
    across = noise[..., :-2] + noise[..., 1:-1] + noise[..., 2:]
    smooth = (across[:, :, :-2] + across[:, :, 1:-1] + across[:, :, 2:]) / 3
    contrast = np.exp(0.4 * random.standard_normal((*shape[:2], 1, 1)) - 0.4**2)
    return np.asarray(brightness + math.sqrt(0.75) * contrast * smooth)


def rectified(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """What a layer behind a Relu sees of channels that few images excite."""
    level = random.standard_normal((*shape[:2], 1, 1)) + 0.5 * random.standard_normal(shape) - 1.5
    return np.asarray((np.maximum(level, 0) - RECTIFIED[0]) / RECTIFIED[1])


def _rectified_moments() -> tuple[float, float]:
    """Of max(N(-1.5, 1.25), 0), by integration."""
    z, weights = np.polynomial.hermite_e.hermegauss(200)
    values = np.maximum(math.sqrt(1.25) * z - 1.5, 0)
    mean = float(np.sum(weights * values) / math.sqrt(2 * math.pi))
    return mean, math.sqrt(float(np.sum(weights * values**2) / math.sqrt(2 * math.pi)) - mean**2)


RECTIFIED = _rectified_moments()


def show(norms: tuple[Norm, ...], random: np.random.Generator, count: int, draw: Draw = images, **by: float) -> bool:
    """Let every layer see other data, `shift` and `scale` running deviations away; whether any finding came of it."""
    for norm in norms:
        field = by.get("scale", 1.0) * draw(random, (count, CHANNELS, 6, 6)) + by.get("shift", 0.0)
        values = norm.values
        assert values is not None
        norm.observed = Observed.of(MEAN + DEVIATION * field, centre=values.mean)
    hold_against_data(norms, count)
    return any(drift.mean_drift(norm) or drift.variance_drift(norm) for norm in norms)


def most_by_chance(rate: float, repetitions: int, risk: float = 1e-3) -> int:
    """How many successes at `rate` are exceeded in so many repetitions with a probability of at most `risk`."""
    tail, count = 1.0, -1
    while tail > risk:
        count += 1
        tail -= math.comb(repetitions, count) * rate**count * (1 - rate) ** (repetitions - count)
    return count


def test_the_bound_on_chance_is_the_binomial_one() -> None:
    assert most_by_chance(0.01, 200) == 8
    assert most_by_chance(0.5, 10) == 9


def test_the_simulated_images_have_mean_0_and_variance_1() -> None:
    random = np.random.default_rng(0)
    for draw in (images, rectified):
        field = draw(random, (20_000, 4, 6, 6))
        assert abs(field.mean()) < 0.02
        assert abs(field.std() - 1) < 0.02
        assert np.corrcoef(field[:, 0, 2, 2], field[:, 0, 2, 3])[0, 1] > 0.5


@pytest.mark.parametrize("draw", [images, rectified])
@pytest.mark.parametrize("count", [FEWEST_FOR_MEANS, FEWEST_FOR_VARIANCES, 300])
def test_false_alarms_are_at_most_the_stated_rate(draw: Draw, count: int) -> None:
    """200 runs over all channels, layers and both tests, of data that did not drift."""
    random = np.random.default_rng([1, count])
    norms = layers()
    alarms = sum(show(norms, random, count, draw) for _ in range(REPETITIONS))
    assert alarms <= most_by_chance(LEVEL, REPETITIONS)


@pytest.mark.parametrize("by", [{"shift": 0.1}, {"scale": 1.1}, {"scale": 0.9}])
def test_a_drift_that_just_does_not_matter_is_no_more_often_found(by: dict[str, float]) -> None:
    random = np.random.default_rng(2)
    norms = layers()
    alarms = sum(show(norms, random, 200, **by) for _ in range(REPETITIONS))
    assert alarms <= most_by_chance(LEVEL, REPETITIONS)


@pytest.mark.parametrize(
    ("count", "by", "finds"),
    [
        (FEWEST_FOR_MEANS, {"shift": 1.0}, "mean"),
        (128, {"shift": 0.6}, "mean"),
        (360, {"shift": -0.4}, "mean"),
        (128, {"scale": 1.6}, "variance"),
        (128, {"scale": 0.5}, "variance"),
        (1000, {"scale": 1.25}, "variance"),
        (1000, {"scale": 0.8}, "variance"),
    ],
)
def test_a_drift_that_matters_is_found(count: int, by: dict[str, float], finds: str) -> None:
    """In more than half of all channels, in each of 20 runs; and the other statistic is not blamed for it."""
    random = np.random.default_rng(3)
    norms = layers()
    for _ in range(20):
        assert show(norms, random, count, **by)
        for found in (norm.drift for norm in norms):
            assert found is not None
            ours, theirs = (found.means, found.variances) if finds == "mean" else (found.variances, found.means)
            assert ours.mean() > 0.5
            assert not theirs.any()


def test_the_sentence_names_channels_and_sizes() -> None:
    norms = layers()
    show(norms, np.random.default_rng(4), 400)
    first = norms[0]
    field = images(np.random.default_rng(5), (400, CHANNELS, 6, 6))
    field[:, 3] += 1.5
    field[:, 5] *= 3
    assert first.values is not None
    first.observed = Observed.of(MEAN + DEVIATION * field, centre=first.values.mean)
    hold_against_data(norms, 400)
    assert drift.mean_drift(first) is not None
    assert "channel 3 of 16, by +1.5" in str(drift.mean_drift(first))
    assert "channel 5 of 16, 3.0" in str(drift.variance_drift(first)) or "2.9" in str(drift.variance_drift(first))
    assert drift.mean_drift(norms[1]) is drift.variance_drift(norms[1]) is None


@pytest.mark.parametrize("count", [1, 2, FEWEST_FOR_MEANS - 1])
def test_too_few_samples_are_said_and_show_nothing(count: int) -> None:
    norms = layers()
    show(norms, np.random.default_rng(6), count, shift=5.0)
    assert [drift.mean_drift(norm) for norm in norms] == [None] * LAYERS
    (remark,) = hold_against_data(norms, count)
    assert f"{count} sample(s)" in remark
    assert str(FEWEST_FOR_MEANS) in remark


def test_too_few_samples_for_variances_are_said_and_means_are_tested() -> None:
    norms = layers()
    show(norms, np.random.default_rng(7), 127, shift=2.0, scale=4.0)
    assert all(drift.mean_drift(norm) for norm in norms)
    assert not any(drift.variance_drift(norm) for norm in norms)
    assert hold_against_data(norms, 127)[0].startswith("127 samples")
    assert hold_against_data(norms, 128) == ()


def test_positions_in_the_place_of_samples_are_not_more_evidence_than_images() -> None:
    """A value of which axis 0 counts images and time: 2,000 of them, of 20 images."""
    norms = layers()
    for norm in norms:
        assert norm.values is not None
        array = MEAN + 1.0 + DEVIATION * np.random.default_rng(8).standard_normal((2000, CHANNELS))
        norm.observed = Observed.of(array, centre=norm.values.mean)
    hold_against_data(norms, 20)
    assert not any(drift.mean_drift(norm) or drift.variance_drift(norm) for norm in norms)
    hold_against_data(norms, 2000)
    assert all(drift.mean_drift(norm) for norm in norms)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_running_variance_of_zero_divides_nothing_by_zero(value: float) -> None:
    norms = layers(mean=value, variance=0.0)
    for norm in norms:
        assert norm.values is not None
        array = np.full((200, CHANNELS, 2, 2), np.float32(value))
        norm.observed = Observed.of(array, centre=norm.values.mean)
    hold_against_data(norms, 200)
    for norm in norms:
        assert drift.mean_drift(norm) is drift.variance_drift(norm) is drift.not_normalised(norm) is None
        assert "all channels 0, 1, 2 and 13 more of 16" in str(drift.constant_channels(norm))


def test_a_running_variance_of_zero_does_not_hold_for_data_that_vary() -> None:
    norms = layers(variance=0.0)
    assert show(norms, np.random.default_rng(9), 200)
    assert all(drift.variance_drift(norm) for norm in norms)


def test_a_constant_channel_is_a_note_and_one_that_barely_varies_is_not() -> None:
    norm = layers()[0]
    assert norm.values is not None
    field = MEAN + DEVIATION * images(np.random.default_rng(10), (200, CHANNELS, 6, 6)).astype(np.float32)
    field[:, 4] = 0.1
    field[:, 7] = 1.0 + 1e-4 * field[:, 7]
    norm.observed = Observed.of(field, centre=norm.values.mean)
    assert "channel 4 of 16" in str(drift.constant_channels(norm))


def test_values_that_are_not_finite_are_remarked_and_not_tested() -> None:
    norms = layers()
    norm = norms[0]
    assert norm.values is not None
    field = MEAN + DEVIATION * images(np.random.default_rng(11), (200, CHANNELS, 6, 6))
    field[0, 2, 0, 0] = np.nan
    with np.errstate(all="ignore"):
        norm.observed = Observed.of(field, centre=norm.values.mean)
    hold_against_data(norms, 200)
    assert drift.mean_drift(norm) is drift.variance_drift(norm) is None
    assert len(drift.not_observed(norms)) == 1
    assert drift.constant_channels(norm) is None


def test_a_layer_as_a_whole_is_blamed_only_if_most_of_it_is_grossly_off() -> None:
    norms = layers()
    show(norms, np.random.default_rng(12), 300, shift=1.0)
    assert "16 of 16 channels" in str(drift.not_normalised(norms[0]))
    show(norms, np.random.default_rng(12), 300, shift=0.4)
    assert [drift.not_normalised(norm) for norm in norms] == [None] * LAYERS
    show(norms, np.random.default_rng(12), 300, scale=2.0)
    assert all(drift.not_normalised(norm) for norm in norms)
    show(norms, np.random.default_rng(12), 20, shift=1.0)
    assert not any(drift.not_normalised(norm) for norm in norms), "too few samples show nothing"


def test_data_of_another_number_of_channels_are_not_compared() -> None:
    norms = layers()
    for norm in norms:
        norm.observed = Observed.of(np.random.default_rng(13).standard_normal((200, 3)))
    assert hold_against_data(norms, 200) == ()
    assert all(norm.drift is None for norm in norms)


def rare(active: int, count: int, share: float) -> Norm:
    """A layer of which each channel is 1 in `active` of `count` samples, and 0 else; `share` of all are expected so."""
    norm = layers(mean=share, variance=share * (1 - share))[0]
    array = np.zeros((count, CHANNELS))
    array[:active] = 1.0
    assert norm.values is not None
    norm.observed = Observed.of(array, centre=norm.values.mean)
    hold_against_data([norm], count)
    return norm


def test_rare_events_that_stay_away_are_no_drift() -> None:
    """One sample in 20: of 40 none has it with a probability of 13 %, and then nothing seems to vary at all."""
    norm = rare(0, 40, 0.05)
    assert drift.mean_drift(norm) is drift.variance_drift(norm) is None


def test_few_of_the_expected_events_are_no_smaller_variance() -> None:
    """One or two of seven (1 % and 2 %, in each channel); of 200 expected, 60 are another thing."""
    for active in (1, 2):
        assert drift.variance_drift(rare(active, 140, 0.05)) is None
    assert drift.variance_drift(rare(60, 4000, 0.05)) is not None


def test_each_layer_is_told_its_own_drift() -> None:
    norms = layers()
    show(norms, np.random.default_rng(14), 200)
    last = norms[-1]
    assert last.values is not None
    field = 2.0 * images(np.random.default_rng(15), (200, CHANNELS, 6, 6)) + 1.0
    last.observed = Observed.of(MEAN + DEVIATION * field, centre=last.values.mean)
    hold_against_data(norms, 200)
    assert [bool(drift.mean_drift(norm)) for norm in norms] == [False, False, True]
    assert drift.variance_drift(norms[0]) is drift.variance_drift(norms[1]) is None
