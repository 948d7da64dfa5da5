"""`witness`: what shows that the BatchNormalizations that stay could not go."""

from __future__ import annotations

from collections.abc import Sequence

from bnfold.api.wishes import Source
from bnfold.errors import UsageError
from bnfold.graph import Graph
from bnfold.model import read, subject_of
from bnfold.moves import Plan, Refusal
from bnfold.planning import make_plan
from bnfold.selecting import Selection, matched, names_of, near
from bnfold.witnessing import Witness, witnesses_of


def witness(  # noqa: PLR0913  # each of a user's wishes by its own name, the same as on the command line
    model: Source,
    *,
    at: Sequence[str] = (),
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    bn_only: bool = False,
    freeze_inputs: bool = False,
    inline: bool = False,
    assume_inference: bool = False,
    seed: int = 0,
    max_bytes: int | None = None,
) -> tuple[Witness, ...]:
    """A witness for each BatchNormalization that `fold` would leave; writes nothing, and onnxruntime is not started.

    A witness is a fact (something else reads the value, a parameter is not constant), or numbers: a drawn input of the
    operator that is to blame, what the original gives there, what the nearest fold would, and how many bounds (those of
    the comparison site by site) lie between; or it says why there is none. `at`: globs of node, tensor or scope names,
    only what they name, and then also what is written by hand. `only`, `skip`, `bn_only`, `freeze_inputs`, `inline`,
    `assume_inference`, `max_bytes`: as for `plan`. `seed` of the drawn inputs: the same gives the same.
    Raises InputRefused for what is no model, UsageError for a glob that names nothing.
    """
    found, _ = witnesses_and_rest(
        model, at=at, only=only, skip=skip, bn_only=bn_only, freeze_inputs=freeze_inputs, inline=inline,
        assume_inference=assume_inference, seed=seed, max_bytes=max_bytes,
    )  # fmt: skip
    return found


def witnesses_and_rest(  # noqa: PLR0913  # likewise
    model: Source,
    *,
    at: Sequence[str],
    only: Sequence[str],
    skip: Sequence[str],
    bn_only: bool,
    freeze_inputs: bool,
    inline: bool,
    assume_inference: bool,
    seed: int,
    max_bytes: int | None,
) -> tuple[tuple[Witness, ...], int]:
    """The witnesses, and how many affines that are written by hand stay and were not asked about (without `at`)."""
    if seed < 0:
        raise UsageError(f"the seed is {seed}, and must be 0 or more")
    subject = subject_of(read(model, max_bytes=max_bytes), inline=inline, freeze_inputs=freeze_inputs)
    graph = Graph.of(subject.model)
    selection = Selection(tuple(only), tuple(skip))
    decided = make_plan(graph, selection, bn_only=bn_only, assume_inference=assume_inference)
    rest = 0 if at else len(decided.by_hand.refusals)
    return witnesses_of(graph, decided, _asked(graph, decided, at), seed), rest


def _asked(graph: Graph, decided: Plan, at: Sequence[str]) -> tuple[Refusal, ...]:
    """The refusals that are asked about."""
    if not at:
        return decided.batch_norms.refusals
    names = {refusal.site: frozenset(names_of(graph.at(refusal.site))) for refusal in decided.refusals}
    everything = sorted({name for those in names.values() for name in those})
    for glob in at:
        if not matched([glob], everything):
            raise UsageError(f"--at {glob!r} names nothing that stays{near(glob, everything)}")
    return tuple(refusal for refusal in decided.refusals if matched(at, names[refusal.site]))
