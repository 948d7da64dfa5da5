"""What bnfold and other tools make of the same models: how much each folds, and how often what it makes is wrong.

    python tests/commands/compare.py --peers-python PYTHON [--models FOLDER ...] [--fill PATH/zoo.py] [--list]

PYTHON has onnxsim, onnxslim, onnxoptimizer, onnxscript and onnxruntime, each run as its documentation says first. The
patterns are those of `tests/patterns` that onnxruntime runs. An exact fold is known of those that bnfold folds; another
tool has folded one of them if it leaves no more BatchNormalization, and no more Mul, Add, Sub, Div and Neg that depend
on an input, than bnfold does, whatever else it did to the graph. Whether a result is wrong is judged without bnfold, as
`tests/verifier/peers.py` does: in float64 if every operator is known there and the model is small, else by running both
without optimisation, each in units of how far the original moves when its constants move by one unit. A model that no
longer loads is wrong too. "input lost": an input that has a default was taken for a constant, which some do on purpose.
"failed": the tool raised an error or crashed, and made no model. Gemms that differ in the shape of C alone count as one
pattern, folded if all of them are. bnfold is run with `--verify off`, so that only the judge keeps its mistakes out of
the table.

`--models` adds the BatchNormalizations that are left in the models of a folder (which `zoo.py fill` gives weights
first), as far as onnxruntime runs them; where a tool fails, or what it makes is wrong, all of that model's count as
left. `--list` says which, and what `bnfold verify` says of what is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / beside) for beside in ("verifier", "patterns", "folding")]

import onnx  # noqa: E402  # what is beside this must be found first
from folding_support import inputs, run  # noqa: E402  # likewise
from pattern_table import PATTERNS  # noqa: E402  # likewise
from peers import PeerFailed, Peers  # noqa: E402  # likewise
from survey import models, say  # noqa: E402  # likewise

import bnfold  # noqa: E402  # likewise

OURS = "bnfold"
BY_HAND = frozenset({"Mul", "Add", "Sub", "Div", "Neg"})
NORM = "BatchNormalization"
SMALL = 1 << 16
"""Bytes of weights up to which a model is computed in float64."""
BY_DEFAULT = {"onnxoptimizer": "onnxoptimizer, by default"}
"""Other tables ask onnxoptimizer for its BatchNormalization alone."""
FOLDED, LEFT, WRONG, LOST, FAILED = "folded", "left", "wrong", "input lost", "failed"
FAULTS = (WRONG, LOST, FAILED)
WORST_FIRST = (*FAULTS, LEFT, FOLDED)
NONE_TO_FOLD = (-1, -1)


@dataclass(slots=True)
class Tally:
    """What one tool did: how each pattern ended, and how many layers are left per folder of models."""

    ends: dict[str, str] = field(default_factory=dict)
    left: Counter[str] = field(default_factory=Counter)

    def add(self, pattern: str, end: str) -> None:
        """Of several forms of one pattern the worst counts."""
        before = self.ends.get(pattern, end)
        self.ends[pattern] = min(before, end, key=WORST_FIRST.index)


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """The main graph, the functions, and all that is nested in them."""
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def affines(model: onnx.ModelProto) -> tuple[int, int]:
    """How many BatchNormalizations there are, and how many operators of affines by hand that depend on an input."""
    norms = by_hand = 0
    for graph in graphs(model):
        constant = {tensor.name for tensor in getattr(graph, "initializer", ())}
        for node in graph.node:
            if node.op_type == "Constant" or (node.input and constant >= set(filter(None, node.input))):
                constant |= set(node.output)
                continue
            norms += node.op_type == NORM
            by_hand += node.op_type in BY_HAND
    return norms, by_hand


def rewritten(peers: Peers, tool: str, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as a tool leaves it; raises PeerFailed."""
    if tool != OURS:
        after: onnx.ModelProto = peers.rewritten(BY_DEFAULT.get(tool, tool), model)
        return after
    try:
        return bnfold.fold(model, verify="off").to_proto()
    except bnfold.BnfoldError as error:
        raise PeerFailed(str(error)) from error


def end_of(peers: Peers, tool: str, before: onnx.ModelProto, most: tuple[int, int]) -> tuple[str, str, int]:
    """What became of a model, a remark, and how many layers are left; `most` may be left where it counts as folded."""
    try:
        after = rewritten(peers, tool, before)
    except PeerFailed as error:
        return FAILED, str(error), affines(before)[0]
    if not is_right(peers, before, after):
        return WRONG, f"bnfold verify: {said_by_verify(before, after)}", affines(before)[0]
    found = affines(after)
    held = {tensor.name for tensor in before.graph.initializer} if before.ir_version < 4 else set()
    if {port.name for port in before.graph.input} - held - {port.name for port in after.graph.input}:
        return LOST, "", found[0]
    return FOLDED if all(n <= few for n, few in zip(found, most, strict=True)) else LEFT, "", found[0]


def is_right(peers: Peers, before: onnx.ModelProto, after: onnx.ModelProto) -> bool:
    """Whether a rewriting is the same function, and still a model that runs."""
    try:
        as_run = bool(peers.right_when_run(before, after))
    except PeerFailed:
        return False
    if sum(tensor.ByteSize() for tensor in before.graph.initializer) > SMALL:
        return as_run
    try:
        return bool(peers.right(before, after, inputs(before)))
    except (KeyError, ValueError):  # a sparse weight, or parameters per element, which float64 does not know
        return as_run


def said_by_verify(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """What bnfold's own verifier says of the two, for comparison."""
    try:
        verdict = bnfold.verify(before, after)
    except bnfold.BnfoldError as error:
        return str(error)
    return str(verdict.word)


def runs(peers: Peers, model: onnx.ModelProto) -> bool:
    """Whether onnxruntime runs it, so that a result can be judged."""
    try:
        return bool(peers.right_when_run(model, model))
    except PeerFailed:
        return False


def runnable(peers: Peers) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The patterns that onnxruntime runs; outputs have the shapes that they have, which some tools ask for."""
    for name, pattern in PATTERNS.items():
        model = pattern.build()
        if not runs(peers, model):
            continue
        for port, array in zip(model.graph.output, run(model, inputs(model)), strict=True):
            port.type.tensor_type.shape.CopyFrom(onnx.helper.make_tensor_type_proto(1, array.shape).tensor_type.shape)
        yield name, model


def over_patterns(peers: Peers, tallies: dict[str, Tally], *, tell: bool) -> None:
    """Count over the patterns."""
    for name, before in runnable(peers):
        most = affines(rewritten(peers, OURS, before)) if PATTERNS[name].moves else NONE_TO_FOLD
        for tool, tally in tallies.items():
            end, remark, _ = end_of(peers, tool, before, most)
            tally.add(name.partition(", C ")[0], end)
            note(tell and (end in FAULTS or (end == LEFT and most != NONE_TO_FOLD)), f"{tool}: {name}: {end} {remark}")


def over_models(peers: Peers, tallies: dict[str, Tally], folder: Path, fill: Path | None, *, tell: bool) -> int:
    """Count the layers left in the models of a folder; how many there were."""
    found = 0
    for path in models(folder, fill):
        before = onnx.load(path)
        norms, _ = affines(before)
        if not norms or not runs(peers, before):
            continue
        found += norms
        for tool, tally in tallies.items():
            end, remark, left = end_of(peers, tool, before, (0, 0))
            tally.left[str(folder)] += left
            note(tell, f"{tool}: {path.stem}: {left} of {norms} left{f': {end} {remark}' if end in FAULTS else ''}")
    return found


def note(tell: bool, line: str) -> None:
    """A line on stderr, if that is asked for."""
    if tell:
        sys.stderr.write(line + "\n")


def table(tallies: dict[str, Tally], found: dict[str, int]) -> Iterator[str]:
    """The table in Markdown, a row per tool; `found` are the layers of each folder."""
    ours = Counter(tallies[OURS].ends.values())
    heads = [f"folded, of {ours[FOLDED]}", f"wrong, of {ours.total()}", LOST, FAILED]
    heads += [f"BNs left, of {count}, in {folder}" for folder, count in found.items()]
    yield f"| | {' | '.join(heads)} |"
    yield f"|{'---|' * (len(heads) + 1)}"
    for tool, tally in tallies.items():
        ends = Counter(tally.ends.values())
        cells = (tool, *(ends[end] for end in (FOLDED, WRONG, LOST, FAILED)), *(tally.left[name] for name in found))
        yield f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Print the table; 1 if bnfold makes anything wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--models", type=Path, action="append", default=[])
    parser.add_argument("--fill", type=Path)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    with Peers(options.peers_python) as peers:
        versions, missing = peers.tools()
        for tool, why in missing.items():
            note(True, f"{tool} is missing: {why}")
        tallies = {tool: Tally() for tool in (OURS, *versions)}
        over_patterns(peers, tallies, tell=options.list)
        found = {
            str(folder): over_models(peers, tallies, folder, options.fill, tell=options.list)
            for folder in options.models
        }
    for line in table(tallies, found):
        say(line)
    say("")
    say(", ".join(f"{tool} {version}" for tool, version in ({OURS: bnfold.__version__} | versions).items()))
    return 1 if WRONG in tallies[OURS].ends.values() else 0


if __name__ == "__main__":
    sys.exit(main())
