"""A table of what fold does with every model of a folder: BNs found, removed, left by reason, and the verdict.

    python tests/commands/survey.py FOLDER [--fill PATH/zoo.py] [--verify full|certificate] [--markdown]

`--fill` runs `zoo.py fill` on each model first (for models whose weights were stripped). A model's row ends with
`!` where a BatchNormalization stays although it comes straight from a Conv, ConvTranspose or Gemm with constant
weights that nothing else reads: found here by reading the protobuf alone, independently of the planner.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

import bnfold

HOMES = {"Conv", "ConvTranspose", "Gemm"}


@dataclass(frozen=True, slots=True)
class Row:
    """One model's line."""

    name: str
    found: int
    removed: int
    left: dict[str, int]
    by_hand: tuple[int, int]
    verdict: str
    overlooked: tuple[str, ...]


def survey(path: Path, *, level: str) -> Row:
    """Fold one model and say what became of it."""
    plan = bnfold.plan(path)
    ours, by_hand = plan.batch_norms, plan.by_hand
    left = Counter(refusal.reason.code for refusal in ours.refusals)
    overlooked = tuple(sorted({r.site.name or str(r.site) for r in ours.refusals} & straight(path)))
    return Row(
        name=path.stem,
        found=len(ours.moves) + len(ours.refusals),
        removed=len(ours.moves),
        left=left,
        by_hand=(len(by_hand.moves), len(by_hand.moves) + len(by_hand.refusals)),
        verdict=verdict_of(path, level),
        overlooked=overlooked,
    )


def verdict_of(path: Path, level: str) -> str:
    """`same`, with the worst ratio to the rounding floor; or the error's kind and sentence."""
    try:
        result = bnfold.fold(path, verify=level)
    except bnfold.BnfoldError as error:
        return f"{type(error).__name__}: {error}"
    if not result.plan.moves or result.verdict is None:
        return "unchanged"
    worst = result.verdict.end_to_end.worst if result.verdict.end_to_end is not None else None
    return "same" if worst is None else f"same ({worst.ratio:.2f})"


def straight(path: Path) -> set[str]:
    """Names of BNs in the main graph that nobody could call hard: constants everywhere, one reader, a home before."""
    graph = onnx.load(path, load_external_data=False).graph
    opset = max(
        e.version for e in onnx.load(path, load_external_data=False).opset_import if e.domain in {"", "ai.onnx"}
    )
    overridable = {value.name for value in graph.input} if onnx.load(path).ir_version >= 4 else set()
    constants = {t.name for t in graph.initializer} - overridable
    constants |= {n.output[0] for n in graph.node if n.op_type == "Constant"}
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    found = set()
    for node in graph.node:
        if node.op_type != "BatchNormalization" or opset < 7 or not constants >= set(node.input[1:]):
            continue
        trains = any(a.name == "training_mode" and a.i for a in node.attribute) or any(node.output[1:])
        home = makers.get(node.input[0])
        if trains or home is None or home.op_type not in HOMES or readers[node.input[0]] != 1:
            continue
        if constants >= {name for name in home.input[1:] if name}:
            found.add(node.name)
    return found


def models(folder: Path, fill: Path | None) -> Iterator[Path]:
    """Every model of a folder, filled into a temporary one where that is asked for."""
    paths = sorted(folder.glob("**/*.onnx"))
    if fill is None:
        yield from paths
        return
    with tempfile.TemporaryDirectory() as filled:
        for path in paths:
            target = Path(filled) / path.name
            subprocess.run([sys.executable, str(fill), "fill", str(path), str(target)], check=True)
            yield target
            target.unlink()


def main() -> int:
    """Print the table; 1 if anything was overlooked or not verified."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fill", type=Path)
    parser.add_argument("--verify", choices=("full", "certificate"), default="full")
    options = parser.parse_args()
    rows = []
    say("| model | BNs | removed | left | by hand | verdict |\n|---|---|---|---|---|---|")
    for path in models(options.folder, options.fill):
        row = survey(path, level=options.verify)
        rows.append(row)
        left = ", ".join(f"{count} {code}" for code, count in sorted(row.left.items()))
        by_hand = "{} of {}".format(*row.by_hand) if any(row.by_hand) else ""
        verdict = row.verdict + " !" * bool(row.overlooked)
        say(f"| {row.name} | {row.found} | {row.removed} | {left} | {by_hand} | {verdict} |")
    codes: Counter[str] = Counter()
    for row in rows:
        codes.update(row.left)
    found, removed = sum(row.found for row in rows), sum(row.removed for row in rows)
    left = ", ".join(f"{count} {code}" for code, count in codes.most_common())
    by_hand = "{} of {}".format(*(sum(counts) for counts in zip(*(row.by_hand for row in rows), strict=True)))
    say(f"| **{len(rows)} models** | {found} | {removed} | {left} | {by_hand} | |")
    failed = [row for row in rows if row.overlooked or not row.verdict.startswith(("same", "unchanged"))]
    return 1 if failed else 0


def say(line: str) -> None:
    """One line of the answer, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
