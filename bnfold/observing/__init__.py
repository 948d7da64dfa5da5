"""What values of a model are over data: mean and variance per channel, of elements and of samples.

Values may stand anywhere: in the main graph, in bodies of If, Loop and Scan, in the model's own functions. They are
reduced where they arise, in float64 and inside of onnxruntime, so that a few numbers per sample leave it and no
activation does, and memory does not depend on how much data there is.

    marks.py      values marked, so that they are found again once functions are inlined
    reducing.py   the nodes that reduce a value
    lifting.py    outputs of bodies brought up to the main graph
    levels.py     which of several values must be measured before which
    observer.py   the pieces that are run, batch by batch
"""

from __future__ import annotations

from bnfold.observing.levels import DependsOnItself, levels
from bnfold.observing.marks import Watch, marked
from bnfold.observing.observer import CannotObserve, Observer, observe

__all__ = ["CannotObserve", "DependsOnItself", "Observer", "Watch", "levels", "marked", "observe"]
