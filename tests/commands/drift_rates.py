"""How often the rules over data are wrong where nothing drifted, by the distribution of the values.

    python tests/commands/drift_rates.py [--runs 200]

One layer of 64 channels, whose running statistics are those of 100,000 samples. Per distribution and number of samples:
the share of runs with any finding of BN101 or BN102. The stated rate is at most 1 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "rules"))
from rule_models import model, sound  # what the tests of the rules use

from bnfold.graph import Graph
from bnfold.model import read
from bnfold.rules.drift import hold_against_data
from bnfold.rules.subject import Norm, Surroundings
from bnfold.statistics import Observed

CHANNELS = 64
COUNTS = (32, 128, 360)
TEXT = f"(float[N,{CHANNELS}] x) => (float[N,{CHANNELS}] y) {{ y = BatchNormalization (x, g, b, m, v) }}"
Draw = Callable[[np.random.Generator, int], np.ndarray]


def bernoulli(random: np.random.Generator, count: int, *, share: float) -> np.ndarray:
    return (random.random((count, CHANNELS)) < share).astype(float)


def rectified(random: np.random.Generator, count: int, *, above: float) -> np.ndarray:
    return np.maximum(random.standard_normal((count, CHANNELS)) - above, 0)


def sparse_images(random: np.random.Generator, count: int) -> np.ndarray:
    return (random.random((count, CHANNELS, 1)) < 0.05) * random.exponential(size=(count, CHANNELS, 16))


def contrasts(random: np.random.Generator, count: int) -> np.ndarray:
    pixels = random.lognormal(0, 0.7, (count, CHANNELS, 1)) * random.standard_normal((count, CHANNELS, 16))
    return pixels + random.standard_t(5, (count, CHANNELS, 1))


DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda random, count: random.standard_normal((count, CHANNELS)),
    "exponential": lambda random, count: random.exponential(size=(count, CHANNELS)),
    "Student's t(5)": lambda random, count: random.standard_t(5, size=(count, CHANNELS)),
    **{f"Bernoulli {share:g}": partial(bernoulli, share=share) for share in (0.01, 0.03, 0.05, 0.1, 0.2)},
    **{f"rectified normal - {above}": partial(rectified, above=above) for above in (1, 2)},
    "images of which 1 in 20 is not 0": sparse_images,
    "images of log-normal contrast": contrasts,
    "log-normal of sigma 1": lambda random, count: random.lognormal(size=(count, CHANNELS)),
}


def expecting(mean: float, variance: float) -> Norm:
    """A layer with these running statistics."""
    return Surroundings(Graph.of(read(model(TEXT, **sound(CHANNELS, m=mean, v=variance))))).norms[0]


def alarms(norm: Norm, draw: Draw, random: np.random.Generator, count: int) -> bool:
    """Whether one run over data that did not drift finds anything."""
    assert norm.values is not None
    norm.observed = Observed.of(draw(random, count), centre=norm.values.mean)
    hold_against_data([norm], count)
    return norm.drift is not None and bool(norm.drift.means.any() or norm.drift.variances.any())


def main() -> None:
    """Print a line for each distribution."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    sys.stdout.write(f"{'samples':34}" + "".join(f"{count:>8}" for count in COUNTS) + "\n")
    for name, draw in DISTRIBUTIONS.items():
        random = np.random.default_rng(5)
        many = np.concatenate([draw(random, 4000) for _ in range(25)])
        norm = expecting(float(many.mean()), float(many.var()))
        shares = [sum(alarms(norm, draw, random, count) for _ in range(runs)) / runs for count in COUNTS]
        sys.stdout.write(f"{name:34}" + "".join(f"{share:8.1%}" for share in shares) + "\n")


if __name__ == "__main__":
    main()
