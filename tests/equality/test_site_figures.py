"""What the bounds at a site let pass, and what they do not: rounding of every kind, and faults of 16 half units."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.equality.magnitudes import Size
from bnfold.equality.site_figures import ENOUGH, Figures

UNITS = {"float32": 2.0**-24, "float16": 2.0**-11}


def layer(random: np.random.Generator, terms: int, cancel: float, mean: float) -> tuple[np.ndarray, ...]:
    """Data [n, K], weights [C, K] that nearly cancel if asked to, and biases [C], in float64."""
    x = random.standard_normal((600, terms)) + mean
    w = random.standard_normal((5, terms))
    w -= cancel * w.mean(1, keepdims=True)
    return x, w, random.standard_normal(5)


def computed(x: np.ndarray, w: np.ndarray, b: np.ndarray, dtype: str, order: np.ndarray) -> np.ndarray:
    """The layer in a type, its terms summed in some order."""
    total = np.zeros((len(x), len(w)), dtype)
    for k in order:
        total = (total + x[:, k, None].astype(dtype) * w[None, :, k].astype(dtype)).astype(dtype)
    return (total + b.astype(dtype)).astype(dtype)


def judged(before: np.ndarray, after: np.ndarray, s: np.ndarray, terms: int, dtype: str) -> Figures:
    figures = Figures(UNITS[dtype], Size(terms, 2, 1))
    figures.add(before, after, s)
    return figures


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("cancel", [0.0, 1.0])
@pytest.mark.parametrize("terms", [1, 9, 100])
def test_rounding_passes_in_any_order_of_summation(terms: int, cancel: float, mean: float, dtype: str) -> None:
    """A normalisation after the layer in one, and folded into weights rounded once in the other."""
    random = np.random.default_rng([terms, int(mean), int(cancel)])
    for _ in range(6):
        x, w, b = layer(random, terms, cancel if terms > 1 else 0.0, mean)
        x = x.astype(dtype).astype(np.float64)
        w, b = (a.astype(dtype).astype(np.float64) for a in (w, b))
        scale = random.uniform(0.3, 3, 5)
        plain = computed(x, w, b, dtype, random.permutation(terms))
        before = (plain * scale.astype(dtype)).astype(dtype)
        exact = scale.astype(dtype).astype(np.float64)
        after = computed(x, w * exact[:, None], b * exact, dtype, random.permutation(terms))
        s = exact * (np.abs(x) @ np.abs(w).T + np.abs(b))
        found = judged(before, after, s, terms, dtype)
        assert found.worst.share <= 1, found.worst


def faulty(kind: str, y: np.ndarray, unit: float, s: np.ndarray) -> np.ndarray:
    """y with 16 half units of a fault in channel 2."""
    wrong = y.astype(np.float64)
    if kind == "gain":
        wrong[:, 2] *= 1 + 16 * unit
    else:
        wrong[:, 2] += 16 * unit * s[:, 2].mean()
    return wrong


@pytest.mark.parametrize("kind", ["gain", "offset"])
def test_a_fault_far_below_the_bound_of_one_element_is_a_gain_or_an_offset(kind: str) -> None:
    random = np.random.default_rng(5)
    x, w, b = layer(random, 100, 0.0, 0.0)
    y, s = x @ w.T + b, np.abs(x) @ np.abs(w).T + np.abs(b)
    noise = 1 + UNITS["float32"] * random.uniform(-1, 1, y.shape)
    found = judged(y, faulty(kind, y * noise, UNITS["float32"], s), s, 100, "float32")
    assert found.worst.kind == kind
    assert found.worst.channel == 2
    assert found.worst.index[1] == 2
    assert 1 < found.worst.share < 5
    bound = (4 * np.sqrt(102) + 8) * UNITS["float32"]
    assert np.all(np.abs(faulty(kind, y, UNITS["float32"], s) - y) < bound * s)


@pytest.mark.parametrize(("values", "rows"), [("constant", 600), ("few", 600), ("many", ENOUGH - 1)])
def test_no_gain_is_asked_of_what_hardly_varies_or_is_too_little(values: str, rows: int) -> None:
    random = np.random.default_rng(6)
    columns = {"constant": np.full((rows, 4), 2.0), "few": random.integers(1, 9, (rows, 4)).astype(float)}
    y = columns.get(values, random.standard_normal((rows, 4)))
    found = judged(y, y * (1 + 15 * UNITS["float32"]), np.abs(y) + 40, 1, "float32")
    assert found.worst.kind != "gain" or found.worst.share <= 1


def test_one_element_out_of_bounds_is_named() -> None:
    y = np.random.default_rng(7).standard_normal((3, 4, 5))
    z = y.copy()
    z[2, 1, 4] += 1e-3
    found = judged(y, z, np.abs(y), 9, "float32")
    assert (found.worst.kind, found.worst.index) == ("element", (2, 1, 4))
    assert found.worst.after - found.worst.before == pytest.approx(1e-3)
    assert found.worst.bound < 1e-3


@pytest.mark.parametrize(
    ("ours", "theirs", "passes"),
    [
        (np.nan, np.nan, True),
        (np.inf, np.inf, True),
        (np.nan, 1.0, False),
        (np.inf, -np.inf, False),
        (1.0, np.inf, False),
        (np.inf, np.nan, False),
    ],
)
def test_nan_and_infinity_have_to_stand_where_they_stood(ours: float, theirs: float, passes: bool) -> None:
    y = np.ones((2, 3))
    z = y.copy()
    y[1, 1], z[1, 1] = ours, theirs
    found = judged(y, z, np.abs(np.nan_to_num(y)), 1, "float32")
    assert (found.worst.share <= 1) == passes
    if not passes:
        assert (found.worst.kind, found.worst.index) == ("special", (1, 1))


def test_batches_add_up() -> None:
    """A gain that no single batch is large enough to show."""
    random = np.random.default_rng(8)
    figures = Figures(UNITS["float32"], Size(4, 1, 1))
    for _ in range(40):
        y = random.standard_normal((8, 3))
        figures.add(y, y * (1 + 20 * UNITS["float32"]), np.abs(y) + 1)
    assert figures.fewest == 320
    assert figures.worst.kind == "gain"
    assert figures.worst.share > 1


@pytest.mark.parametrize("visible", [34.0, 50.0, 200.0])
def test_a_gain_is_seen_beside_the_rounding_of_the_original_itself(visible: float) -> None:
    """std(y) is `visible` units of S: what y itself was rounded by is no gain, a scale that is 20 half units off is."""
    random = np.random.default_rng(int(visible))
    unit = UNITS["float16"]
    for _ in range(20):
        exact = random.standard_normal((600, 5))
        s = np.full(exact.shape, 1 / (visible * unit))
        before = exact + random.standard_normal(exact.shape) * 1.5 * unit * s
        after = exact + random.standard_normal(exact.shape) * 1.5 * unit * s
        assert judged(before, after, s, 16, "float16").worst.share <= 1
    scaled = before + 20 * unit * (exact - exact.mean(0)) * np.eye(5)[2]
    found = judged(before, scaled, s, 16, "float16")
    assert (found.worst.kind, found.worst.channel) == ("gain", 2)
    assert found.worst.share > 1


def test_rounding_that_is_repeated_tells_no_more_than_once() -> None:
    """Of 8 pixels that are enlarged to 512, what rounding did to them stands 64 times each: no gain, and no offset."""
    random = np.random.default_rng(11)
    shares: dict[float, list[float]] = {1.0: [], 64.0: []}
    for _ in range(100):
        y = random.standard_normal((8, 3))
        s = np.full(y.shape, 8.0)
        d = UNITS["float32"] * s * random.uniform(-8, 8, y.shape)
        grown = random.standard_normal((512, 8)) ** 2
        grown /= grown.sum(1, keepdims=True)
        for repeats, found in shares.items():
            figures = Figures(UNITS["float32"], Size(64, 2, 1, repeats))
            figures.add(grown @ y, grown @ (y + d), grown @ s)
            found.append(figures.worst.share)
    assert max(shares[64.0]) <= 1
    assert max(shares[1.0]) > 1


@pytest.mark.parametrize("different", [1, 3, 400])
def test_what_is_equal_has_one_error(different: int) -> None:
    """The mean of 400 elements may be as far off as those of them that differ, each of which is rounded some way."""
    unit, terms = UNITS["float32"], 100
    y = np.resize(1 + np.arange(different) / 1000, (400, 1))
    s = np.full(y.shape, 2.0)
    for units, passes in ((9, different <= 3), (40, False)):
        figures = Figures(unit, Size(terms, 2, 1))
        figures.add(y, y + units * unit * s, s)
        assert (figures.worst.share <= 1) is passes, figures.worst


def test_a_repeated_fault_is_still_found() -> None:
    random = np.random.default_rng(12)
    y = np.repeat(random.standard_normal((512, 3)), 4, axis=0)
    figures = Figures(UNITS["float32"], Size(9, 2, 1, 4.0))
    noise = np.repeat(UNITS["float32"] * random.uniform(-1, 1, (512, 3)), 4, axis=0)
    s = np.full(y.shape, 4.0)
    figures.add(y, faulty("gain", y + noise, UNITS["float32"], s), s)
    assert figures.worst.kind == "gain"
    assert figures.worst.share > 1


def plateau(nudge: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half of y is one value, as behind strides where only a bias is seen, and d there one half unit; the rest varies.

    y hardly does, so that a half unit is a large gain; `nudge` multiplies how far the rest lies from its mean.
    """
    random = np.random.default_rng(2)
    y = np.full((200, 1), 2.0)
    y[::2, 0] += 1e-3 * (1 + 0.3 * random.standard_normal(100))
    after = y.copy()
    after[::2, 0] = 2.001 + (y[::2, 0] - 2.001) * nudge + UNITS["float32"] * random.integers(-1, 2, 100)
    after[1::2, 0] += 4 * UNITS["float32"]
    return y.astype(np.float32), after.astype(np.float32), np.full_like(y, 2.2)


def test_the_rounding_of_a_value_that_is_everywhere_is_no_gain() -> None:
    found = judged(*plateau(), 9, "float32")
    assert found.worst.share <= 1, found.worst


def test_a_wrong_scale_is_found_beside_a_value_that_is_everywhere() -> None:
    found = judged(*plateau(0.99), 9, "float32")
    assert found.worst.share > 1, "by its elements, where y hardly varies beside its size"
