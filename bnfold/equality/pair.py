"""The two models of a comparison end to end, the way to run them, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

from bnfold.equality.inputs import Batch
from bnfold.equality.runner import CannotRun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    import onnx

    from bnfold.equality.conditions import Place
    from bnfold.equality.prepare import Copy, Upgrade
    from bnfold.equality.runner import Runner, Signature
    from bnfold.equality.tally import Outputs
    from bnfold.equality.verdict import Counterexample, EndToEnd

Word = Literal["equal", "within", "undecided", "differs"]
Reason = Literal["", "floor", "discrete", "nothing", "random", "inputs", "crash", "timeout", "memory", "refused"]

_OLDEST_KERNEL_OPSET: Final = 7
_MOST_KEPT: Final = 64 << 20  # bytes of outputs that are not run for again
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What running both models showed.

    `equal`: every output bit for bit. `within`: no ratio above 4. `differs`: `sentence` says where, and
    `counterexample` shows it if both models ran. `undecided`: `sentence` says why, and `reason` sorts it: `floor` (a
    ratio from 4 to 10, or no draws could be made), `discrete` (only outputs behind a discrete operator are apart),
    `nothing` (outputs are empty, NaN or infinite everywhere), `random` (the original disagrees with itself), `inputs`
    (none could be made up), or the kind of a `CannotRun`. `end_to_end` is None if nothing was compared. `batches` are
    one random batch and one of the data, as far as both models ran on any, and what else the sites should see.
    `unreached` are branches of If nodes that no input tried took.
    """

    word: Word
    sentence: str = ""
    reason: Reason = ""
    counterexample: Counterexample | None = None
    end_to_end: EndToEnd | None = None
    batches: tuple[Batch, ...] = field(default=(), compare=False, repr=False)
    unreached: tuple[Place, ...] = field(default=(), compare=False)


class Stop(Exception):
    """The outcome stands before everything was compared."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.sentence)
        self.outcome = outcome


class Sites(Protocol):
    """The comparison site by site, as far as the one end to end has a use for it."""

    def again(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """The original's outputs, run once more with all that its sites will need; none where that is not possible."""

    def agree(self, batches: tuple[Batch, ...]) -> bool:
        """Whether every site was compared on these batches, and agrees."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two models, and the way to run them. What cannot be run stops the comparison, as the tier's rules say.

    `light` is the original in a form that onnxruntime loads faster. The rewritten model is run as the file it is.
    """

    before: Path
    after: Path
    runner: Runner
    upgrade: Upgrade
    light: Copy | None = None
    kept: dict[int, tuple[Batch, Outputs]] = field(default_factory=dict)

    def lightened(self, light: Copy | None) -> Pair:
        """The same pair, its original in another form, if onnxruntime takes that."""
        if light is None or self.upgrade != "none":
            return self
        try:
            self.runner.signature(light)
        except CannotRun:
            return self
        return replace(self, light=light)

    def original(self, batch: Batch, *, perturb: int | None = None, optimise: bool = False) -> Outputs:
        """What the original gives; raises `CannotRun`."""
        if perturb is None and not optimise and id(batch) in self.kept:
            return self.kept[id(batch)][1]
        if perturb is None and self.light is not None:
            return self.runner.run_piece(self.light, batch.feeds, optimise=optimise)
        return self.runner.run(self.before, batch.feeds, perturb=perturb, upgrade=self.upgrade, optimise=optimise)

    def keep(self, batch: Batch, outputs: Outputs) -> None:
        """Remember what the original gave, for it will be asked for again; unless that is too much to hold."""
        held = [*self.kept.values(), (batch, outputs)]
        if sum(value.nbytes for _, values in held for value in values.values()) <= _MOST_KEPT:
            self.kept[id(batch)] = batch, outputs

    def rewritten(self, batch: Batch) -> Outputs:
        """What the rewritten model gives."""
        return self._stopping(lambda: self.runner.run(self.after, batch.feeds, upgrade=self.upgrade))

    def signatures(self) -> tuple[Signature, Signature]:
        """What each of the two takes and gives."""
        try:
            original = self.runner.signature(self.light or self.before, upgrade=self.upgrade)
        except CannotRun as error:
            raise Stop(original_fails(error)) from error
        return original, self._stopping(lambda: self.runner.signature(self.after, upgrade=self.upgrade))

    def _stopping(self, run: Callable[[], _T]) -> _T:
        """What `run` returns. A crash counts only when it happens again in a fresh child, where nothing else lies."""
        try:
            try:
                return run()
            except CannotRun as error:
                if error.kind != "crash":
                    raise
                return run()
        except CannotRun as error:
            raise Stop(_rewritten_fails(error, self.upgrade)) from error


def upgrade_of(proto: onnx.ModelProto, *, assume_inference: bool) -> Upgrade:
    """Whether onnxruntime has no kernel for a BatchNormalization that this model may hold, and how to make it one."""
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if not 0 < opset < _OLDEST_KERNEL_OPSET:
        return "none"
    return "inference" if assume_inference else "marked"


def original_fails(error: CannotRun) -> Outcome:
    """What follows where the original does not run."""
    return Outcome("undecided", f"onnxruntime cannot run the original: {error.sentence}", error.kind)


def _rewritten_fails(error: CannotRun, upgrade: Upgrade) -> Outcome:
    if error.kind in ("timeout", "memory"):
        return Outcome("undecided", f"the rewritten model hit a limit: {error.sentence}", error.kind)
    if upgrade != "none" and error.kind == "refused":
        # It was the conversion that failed, perhaps: of onnx's converter, not of the model.
        sentence = f"the rewritten model cannot be run after conversion to opset 7: {error.sentence}"
        return Outcome("undecided", sentence, error.kind)
    sentence = f"onnxruntime runs the original but not the rewritten model: {error.sentence}"
    return Outcome("differs", sentence, error.kind)
