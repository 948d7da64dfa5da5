"""Write docs/leftovers.md: of every model of a folder, what fold leaves, by reason, and what shows each of them.

    python tests/commands/leftovers.py FOLDER [--fill PATH/zoo.py] [--print]

`--fill` runs `zoo.py fill` on each model first (for models whose weights were stripped). `--print` writes the document
to stdout instead. Exit code 1 where something is left that neither a fact nor more than 100 bounds shows, unless its
reason says that nothing can.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from survey import models, say

import bnfold
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.witnessing import CLEARLY, Witness, witnesses_of

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "leftovers.md"
HEAD = """# What fold leaves, and what shows that it must

Of every model of the collection that the project is tested on: the BatchNormalizations that stay, by reason, and what
shows each of them (`bnfold witness`): a plain fact, or the number of bounds by which the nearest fold would be off on
drawn values of the operator that is to blame: the least and the largest of those with that reason. A bound is that of
the comparison site by site; a fold that is right stays below one. Models that keep none are not listed. `by hand` are
affines written as Mul, Add, Sub, Div by a constant or Neg. "no difference found" means that the nearest fold was right
on what was drawn (an Add of an integer behind a Ceil, say): the refusal is more careful than it would have to be. "not
shown" are those where no fold comes near enough to be tried. This command writes it:

```text
python tests/commands/leftovers.py ../shared/zoo --fill ../shared/zoo.py
```

"""


@dataclass(frozen=True, slots=True)
class Left:
    """What one model keeps: witnesses of BatchNormalizations, and of what is written by hand."""

    name: str
    norms: tuple[Witness, ...]
    by_hand: tuple[Witness, ...]


def left_in(path: Path) -> Left:
    """Plan one model, and show each refusal."""
    graph = Graph.of(read(path))
    plan = bnfold.plan(path)
    norms, by_hand = plan.batch_norms.refusals, plan.by_hand.refusals
    found = witnesses_of(graph, plan, norms + by_hand)
    return Left(path.stem, found[: len(norms)], found[len(norms) :])


def told(found: Iterable[Witness]) -> str:
    """How many of each reason, and what shows them."""
    by_code: dict[str, list[Witness]] = defaultdict(list)
    for one in found:
        by_code[one.refusal.reason.code].append(one)
    return "; ".join(f"{len(group)} {code} ({shown_by(group)})" for code, group in sorted(by_code.items()))


def shown_by(group: list[Witness]) -> str:
    """The facts with their numbers, and the range of the factors."""
    plain = Counter(one.label for one in group if one.kind != "numbers")
    factors = sorted(one.numbers.bounds_off for one in group if one.kind == "numbers" and one.numbers is not None)
    parts = [label if len(plain) == 1 and not factors else f"{count} {label}" for label, count in plain.most_common()]
    if factors:
        low, high = (f"{factor:.1e}" for factor in (factors[0], factors[-1]))
        parts.append(f"{low} bounds" if low == high else f"{low} to {high} bounds")
    return ", ".join(parts)


def document(rows: list[Left]) -> str:
    """The whole page."""
    keeping = [row for row in rows if row.norms or row.by_hand]
    lines = ["| model | BatchNormalizations left | by hand |", "|---|---|---|"]
    lines += [f"| {row.name} | {told(row.norms)} | {told(row.by_hand)} |" for row in keeping]
    norms = [one for row in rows for one in row.norms]
    by_hand = [one for row in rows for one in row.by_hand]
    lines.append(f"| **{len(rows)} models**, of which {len(keeping)} keep some | {told(norms)} | {told(by_hand)} |")
    return HEAD + "\n".join(lines) + "\n"


def unshown(rows: list[Left]) -> list[str]:
    """What is left of BatchNormalizations without a fact, and with fewer bounds than leave no doubt."""
    return [
        f"{row.name}: {one.refusal.site}: {one.label}: {one.sentence}"
        for row in rows
        for one in row.norms
        if one.label in {"not shown", "no difference found"}
        or (one.numbers is not None and one.numbers.bounds_off < CLEARLY)
    ]


def main() -> int:
    """Write the page, or print it; 1 where something is not shown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fill", type=Path)
    parser.add_argument("--print", action="store_true")
    options = parser.parse_args()
    rows = [left_in(path) for path in models(options.folder, options.fill)]
    if options.print:
        say(document(rows))
    else:
        DOCUMENT.write_text(document(rows))
    missing = unshown(rows)
    for line in missing:
        sys.stderr.write(f"{line}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
