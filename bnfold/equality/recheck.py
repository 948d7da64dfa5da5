"""A certificate's file against two models: is it of these two, and do its claims hold of them?

Nothing in it is believed. The hashes come first; then its claims are certified as those of a fold are, by the same code
and from the two models alone, so that a file that claims too much, too little, or something else does not hold, and
figures that were written into it show nothing. Where the claims begin at an inlined model, that is made anew.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnfold.equality.certificate import Certificate, certify
from bnfold.equality.evidence import DataPin, Evidence, FilePin
from bnfold.equality.verdict import Recheck
from bnfold.errors import CannotWrite, InputRefused
from bnfold.graph import Graph
from bnfold.model import ModelFile, Subject, subject_of

_FEW = 3  # names in a note


def rechecked(evidence: Evidence, before: ModelFile, after: ModelFile, *, assume_inference: bool) -> Recheck:
    """What `evidence` shows of these two models.

    With `assume_inference` a BatchNormalization of before opset 7 is one at inference: that is for the caller to say,
    and not for the file. Raises InputRefused where data of a model cannot be read.
    """
    for what, pin, model in (("BEFORE", evidence.before, before), ("AFTER", evidence.after, after)):
        difference = _difference(pin, FilePin.of(model))
        if difference:
            return Recheck(None, f"the certificate is of other files: {what} {difference}")
    try:
        inline, freeze = bool(evidence.inlined_functions), bool(evidence.frozen_inputs)
        subject = subject_of(before, inline=inline, freeze_inputs=freeze)
    except (InputRefused, CannotWrite) as error:
        return Recheck(None, f"what the certificate begins at cannot be made again: {error}")
    mistold = _mistold(evidence, subject)
    if mistold:
        return Recheck(None, f"the certificate does not hold: {mistold}")
    begun = Graph.of(subject.inlined, freeze_inputs=bool(subject.inputs))
    said = evidence.claims, evidence.mergings
    found = certify(begun, Graph.of(after), *said, assume_inference=assume_inference)
    inlined = bool(subject.functions)
    if not found.holds:
        return Recheck(found, _broken(evidence, found, assume_inference=assume_inference), inlined)
    notes = (*evidence.shortcomings(found), *_remarks(subject))
    return Recheck(found, inlined=inlined, notes=notes)


def _difference(pin: FilePin, found: FilePin) -> str:
    """What another file there is than the one that the certificate names; "" where it is that one."""
    if pin.sha256 != found.sha256:
        return f"has the SHA-256 {found.sha256}, it names {pin.sha256}"
    if pin.bytes != found.bytes:
        return f"has {found.bytes} bytes, it names {pin.bytes}"
    names, theirs = ([data.location for data in one.data] for one in (found, pin))
    if names != theirs:
        return f"has data in {_listed(names)}, it names {_listed(theirs)}"
    other = next((data for data, named in zip(found.data, pin.data, strict=True) if data != named), None)
    return "" if other is None else _other_data(other)


def _other_data(found: DataPin) -> str:
    return f"has other data in {found.location!r} than it names ({found.bytes} bytes, SHA-256 {found.sha256})"


def _mistold(evidence: Evidence, subject: Subject) -> str:
    """What the file says of the steps before its claims, and was not so; "" where it was."""
    told = (
        ("inlined the functions", evidence.inlined_functions, subject.functions),
        ("froze the inputs", evidence.frozen_inputs, subject.inputs),
    )
    for what, said, were in told:
        if said != were:
            return f"it {what} {_listed(said)}, and there are {_listed(were)}"
    if evidence.begins_at != subject.inlined.sha256:
        where = "what inlining makes of BEFORE here" if subject.functions else "BEFORE"
        return f"it begins at a model that is not {where}"
    return ""


def _broken(evidence: Evidence, found: Certificate, *, assume_inference: bool) -> str:
    what = "does not hold" if found.failure is not None else "cannot be followed"
    hint = ""
    if evidence.assumed_inference and not assume_inference:
        hint = " (it was made with assume_inference, --assume-inference)"
    return f"the certificate {what}: {found.failure or found.uncertain}{hint}"


def _remarks(subject: Subject) -> Iterator[str]:
    if subject.inputs:
        yield f"inputs that a caller could replace are constants now: {_listed(subject.inputs)}"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    further = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return (", ".join(map(repr, names[:_FEW])) or "none") + further
