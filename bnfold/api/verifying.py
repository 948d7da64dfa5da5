"""`verify`: whether two models are the same function, whoever rewrote the one into the other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bnfold.api.wishes import CPU, Source, check_runs, silent
from bnfold.equality.data import Data
from bnfold.equality.evidence import evidence_at
from bnfold.equality.examine import Subject as Examined
from bnfold.equality.examine import examine
from bnfold.equality.recheck import rechecked
from bnfold.equality.runner import Limits, Runner
from bnfold.equality.saving import npz_of
from bnfold.equality.verdict import Differs, Verdict
from bnfold.errors import UsageError
from bnfold.model import ModelFile, read, staged
from bnfold.proving import Progress, by_certificate, concluded, on_disk


def verify(  # noqa: PLR0913  # each of a user's wishes by its own name, the same as on the command line
    before: Source,
    after: Source,
    *,
    assume_inference: bool = False,
    certificate: str | os.PathLike[str] | None = None,
    certificate_alone: bool = False,
    save_counterexample: str | os.PathLike[str] | None = None,
    data: Data | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    provider: str = CPU,
    custom_ops: Sequence[str] = (),
    threads: int = 0,
    timeout: float = 600.0,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Whether two models are the same function, as far as running them on random inputs and on `data` shows.

    Both run with all graph optimisations off, on the same inputs, in a child process. The options are those of
    `fold`; `assume_inference` is for both models. `certificate`: the file of one that `fold` wrote, which is checked
    again: whether it is of these two models, and every constant, from the two alone; one that does not hold leaves
    undecided what running does not show to differ. With `certificate_alone` nothing is run. `save_counterexample`:
    where to write inputs that tell the models apart, as an .npz that `data` takes; not written unless they differ.

    Returns Same, Differs (with a counterexample) or Unknown (with the reason); `raise_unless_same()` on the verdict
    turns the latter two into NotVerified and Undecided. Raises InputRefused, UsageError, and CannotWrite where the
    counterexample cannot be written.
    """
    check_runs(seed, threads, timeout, data, custom_ops)
    _check_alone(certificate_alone, certificate, data, save_counterexample)
    evidence = None if certificate is None else evidence_at(Path(certificate))
    tell = progress or silent
    with ExitStack() as stack:
        runner = stack.enter_context(Runner(Limits(timeout=timeout, threads=threads), provider, tuple(custom_ops)))
        if not certificate_alone:
            runner.start()  # it is ready by the time the models are read
        tell("reading")
        first, second = (read(source, max_bytes=max_bytes) for source in (before, after))
        given = [certificate, *([data] if isinstance(data, str | os.PathLike) else [])]
        _check_counterexample(save_counterexample, first, second, given)
        recheck = None
        if evidence is not None:
            tell("recomputing every constant")
            recheck = rechecked(evidence, first, second, assume_inference=assume_inference)
            if certificate_alone:
                return by_certificate(recheck)
        tell("running both models")
        models = [Examined(file, stack.enter_context(on_disk(file))) for file in (first, second)]
        found = examine(
            *models,
            runner=runner,
            seed=seed,
            dims=dims,
            data=data,
            assume_inference=assume_inference,
        )
    return _saved(concluded(found, recheck), save_counterexample)


def _check_alone(alone: bool, certificate: object, data: object, counterexample: object) -> None:
    """Where nothing is run, there has to be something else to go by, and nothing that only a run can use."""
    if alone and certificate is None:
        raise UsageError("certificate_alone (--certificate-alone) needs a certificate to go by")
    if alone and (data is not None or counterexample is not None):
        raise UsageError("with certificate_alone (--certificate-alone) nothing is run: no data, no counterexample")


def _check_counterexample(
    target: str | os.PathLike[str] | None,
    before: ModelFile,
    after: ModelFile,
    others: Sequence[str | os.PathLike[str] | None],
) -> None:
    """Not in the place of anything that is read, and in one that can be written: known before anything is run."""
    if target is None:
        return
    files = [before.path, after.path, *before.data_files, *after.data_files, *(Path(file) for file in others if file)]
    if Path(target).resolve() in [path.resolve() for path in files if path is not None]:
        raise UsageError(f"the counterexample would overwrite {os.fspath(target)!r}")
    with staged(b"", Path(target)):
        pass


def _saved(verdict: Verdict, target: str | os.PathLike[str] | None) -> Verdict:
    """The verdict, the inputs of its counterexample written where that was asked for and there is one."""
    if target is None or not isinstance(verdict, Differs) or verdict.counterexample is None:
        return verdict
    with staged(npz_of(verdict.counterexample.inputs), Path(target)) as made:
        made.publish()
    return replace(verdict, counterexample=replace(verdict.counterexample, saved=Path(target)))
