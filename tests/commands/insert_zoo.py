"""A table of what insert does with every model of a folder, and whether fold gives the weights back bit for bit.

    python tests/commands/insert_zoo.py FOLDER [--fill PATH/zoo.py]

Each model is folded first; then BatchNormalizations that change nothing go behind every Conv, ConvTranspose, Gemm and
MatMul where one may stand, which verifies that the outputs are equal bit for bit; and what came out is folded again.
Each layer's constants must be those of the first fold, bit for bit. `--fill` runs `zoo.py fill` on each model first.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
from survey import models, say

import bnfold
from bnfold.graph import Graph
from bnfold.model import read
from bnfold.ops.facts import Constant, Facts

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Row:
    """One model's line: `equal` and `back` are "yes", "" where nothing was inserted, or a reason."""

    name: str
    inserted: int
    left: Counter[str]
    equal: str
    back: str

    @property
    def is_right(self) -> bool:
        """Whether nothing went wrong: a model may be refused, and a layer without constant weights keeps its norm."""
        is_told = not self.equal or self.equal.startswith(("yes", "InputRefused", "Undecided"))
        return is_told and "differ" not in self.back


def row(path: Path) -> Row:
    """Insert into one model, and fold again."""
    try:
        folded = bnfold.fold(path, verify="off").to_bytes()
        ops = {node.op_type for node in onnx.load_model_from_string(folded).graph.node}
        after = [op for op in LAYERS if op in ops]
        if not after:
            return Row(path.stem, 0, Counter(), "", "")
        result = bnfold.insert(folded, after=after, choose=lambda _: True)
    except bnfold.BnfoldError as error:
        return Row(path.stem, 0, Counter(), f"{type(error).__name__}: {error}", "")
    left = Counter(one.code for one in result.skipped)
    if result.is_unchanged:
        return Row(path.stem, 0, left, "", "")
    equal = "yes" if result.verdict is not None else "not shown"
    return Row(path.stem, len(result.inserted), left, equal, back(folded, result.to_bytes()))


def back(folded: bytes, with_norms: bytes) -> str:
    """Whether a second fold takes out what was put in, and leaves each layer's constants as the first had them."""
    again = bnfold.fold(with_norms, verify="off")
    first, second = layers(folded), layers(again.to_bytes())
    differ = sum(second[output] != held for output, held in first.items() if output in second)
    if differ:
        return f"{differ} differ"
    if first.keys() <= second.keys():
        return "yes"
    old = {refusal.site.name for refusal in bnfold.plan(folded).batch_norms.refusals}
    why = Counter(r.reason.code for r in again.plan.batch_norms.refusals if r.site.name not in old)
    return f"stay: {listed(why)}"


def layers(content: bytes) -> dict[str, dict[int, tuple[str, tuple[int, ...], bytes]]]:
    """By the name of each layer's output: types, shapes and bits of the operands that are constant."""
    facts = Facts(Graph.of(read(content)))
    found: dict[str, dict[int, tuple[str, tuple[int, ...], bytes]]] = {}
    for node in facts.graph.nodes:
        if node.op in LAYERS:
            held = {place: facts.constant(value) for place, value in enumerate(node.inputs) if value is not None}
            arrays = {place: one.array() for place, one in held.items() if isinstance(one, Constant)}
            found[node.proto.output[0]] = {p: (a.dtype.str, a.shape, a.tobytes()) for p, a in arrays.items()}
    return found


def line(*cells: object) -> str:
    """A row of the table."""
    return f"| {' | '.join(map(str, cells))} |"


def listed(left: Counter[str]) -> str:
    """What was left out, by reason."""
    return ", ".join(f"{count} {code}" for code, count in sorted(left.items()))


def main() -> int:
    """Print the table; 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fill", type=Path)
    options = parser.parse_args()
    say(line("model", "inserted", "left out", "equal", "folded back") + "\n|---|---|---|---|---|")
    rows = []
    for path in models(options.folder, options.fill):
        rows.append(row(path))
        one = rows[-1]
        say(line(one.name, one.inserted, listed(one.left), one.equal, one.back))
    left: Counter[str] = Counter()
    for one in rows:
        left.update(one.left)
    with_some = [one for one in rows if one.inserted]
    equal, folded = (sum(getattr(one, what).startswith("yes") for one in with_some) for what in ("equal", "back"))
    total = sum(one.inserted for one in rows)
    say(line(f"**{len(rows)} models, {len(with_some)} with layers**", total, listed(left), equal, folded))
    return 0 if all(one.is_right for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
