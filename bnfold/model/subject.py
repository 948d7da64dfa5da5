"""What is planned for: the model that was read, with functions inlined and inputs frozen where that was asked for.

Inlining comes first. A plan's fingerprint is the SHA-256 of `model`: of the file that was read, or of the one that
fold would write, with the same options, if no BatchNormalization could go.
"""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.model.freezing import frozen, overridable
from bnfold.model.inlining import function_names, without_functions
from bnfold.model.modelfile import ModelFile


@dataclass(frozen=True, slots=True)
class Subject:
    """The file that was read, what inlining made of it, and the model to plan for, made of that by freezing.

    Where a step had nothing to do, the models before and after it are one. All have the path of the file that was
    read, and find their external data beside it.
    """

    original: ModelFile
    inlined: ModelFile
    model: ModelFile

    @property
    def is_original(self) -> bool:
        """Whether nothing was done to the file that was read."""
        return self.model is self.original

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that were inlined."""
        return () if self.inlined is self.original else function_names(self.original.proto)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs that were frozen, in the order of the file."""
        if self.model is self.inlined:
            return ()
        names = overridable(self.inlined.proto)
        return tuple(entry.name for entry in self.inlined.proto.graph.input if entry.name in names)


def subject_of(original: ModelFile, *, inline: bool = False, freeze_inputs: bool = False) -> Subject:
    """The model to plan for. Raises InputRefused where functions cannot be inlined, CannotWrite beyond 2 GiB."""
    inlined = without_functions(original) if inline else original
    return Subject(original, inlined, frozen(inlined) if freeze_inputs else inlined)
