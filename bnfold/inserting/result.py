"""What an insertion gives back: where BatchNormalizations were put, what was left out, and what was shown."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from bnfold.equality.verdict import EndToEnd, Same
from bnfold.errors import UsageError
from bnfold.inserting.parameters import Init
from bnfold.inserting.places import Skipped
from bnfold.inserting.splicing import Insertion
from bnfold.model import Edits, ModelFile, candidate, to_bytes
from bnfold.nodes import Site
from bnfold.result import refuse_overwriting
from bnfold.statistics import Moments


@dataclass(frozen=True, slots=True)
class Inserted:
    """One BatchNormalization that was put behind the node at `site`, at its value `tensor`.

    `axis` is that of the channels, `exact` in how many of them onnxruntime's factor is exactly 1, `constant` how many
    of them do not vary on the data, and `count` how many elements per channel were measured (0 without data).
    """

    site: Site
    tensor: str
    channels: int
    axis: int
    epsilon: float
    exact: int
    constant: int
    count: int

    @classmethod
    def of(cls, insertion: Insertion, seen: Moments | None) -> Inserted:
        """The report of one insertion."""
        place, parameters = insertion.place, insertion.parameters
        return cls(
            place.site,
            place.tensor,
            place.channels,
            place.axis,
            parameters.epsilon,
            parameters.exact,
            parameters.constant,
            0 if seen is None else seen.count,
        )


@dataclass(frozen=True, slots=True)
class Normalised:
    """What normalising came to, measured on the written model over the data.

    `mean` is the largest distance of a channel's mean from 0, `variance` the largest distance of a channel's variance
    from 1, of all channels that are not constant; `change` is how much the outputs of the model moved.
    """

    mean: float
    variance: float
    change: EndToEnd | None

    @classmethod
    def of(cls, seen: tuple[Moments, ...], constant: tuple[np.ndarray, ...], change: EndToEnd | None) -> Normalised:
        """The worst of all channels that vary."""
        means = [np.abs(one.mean[~still]) for one, still in zip(seen, constant, strict=True)]
        variances = [np.abs(one.variance[~still] - 1) for one, still in zip(seen, constant, strict=True)]
        return cls(
            max((float(each.max()) for each in means if each.size), default=0.0),
            max((float(each.max()) for each in variances if each.size), default=0.0),
            change,
        )


@dataclass(frozen=True, slots=True)
class InsertResult:
    """A model with BatchNormalizations in it.

    `verdict` is None where nothing was to be shown equal: for training, for `normalize`, with verify="off", and where
    nothing was inserted. `normalised` is there for `normalize`. `notes` are remarks on the data.
    """

    init: Init
    training: bool
    inserted: tuple[Inserted, ...]
    skipped: tuple[Skipped, ...]
    verdict: Same | None
    normalised: Normalised | None
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    sha256: str
    written: Path | None
    notes: tuple[str, ...] = ()
    _model: ModelFile | None = field(repr=False, kw_only=True)
    _edits: Edits = field(repr=False, kw_only=True)

    @property
    def is_unchanged(self) -> bool:
        """Whether nothing was inserted."""
        return not self.inserted

    def to_bytes(self) -> bytes:
        """The model file; external data are written inline."""
        return to_bytes(self._held(), self._edits)

    def to_proto(self) -> onnx.ModelProto:
        """The model as a protobuf."""
        return onnx.load_model_from_string(self.to_bytes())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model safely (temporary file, fsync, rename); raises CannotWrite."""
        target = Path(path)
        refuse_overwriting(self._held(), target)
        with candidate(self._held(), self._edits, target) as made:
            made.publish()
        return target

    def without_model(self) -> InsertResult:
        """The same without the model: small, and fit to be sent to another process. It can be saved no more."""
        return replace(self, _model=None, _edits={})

    def _held(self) -> ModelFile:
        if self._model is None:
            raise UsageError("this result holds no model any more")
        return self._model
