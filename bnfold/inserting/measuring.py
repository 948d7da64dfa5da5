"""Statistics at the places of insertions: of the model as it is, or layer by layer, each below normalised already.

A temporary copy of the model has a BatchNormalization that changes nothing at every place, marked, with its parameters
in Constant nodes. What is measured is what these are fed. Layer by layer, the parameters of what was measured are put
into force, as var + epsilon with epsilon 0, before the next level is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto, numpy_helper

from bnfold.equality.inputs import Batch
from bnfold.equality.runner import Runner
from bnfold.errors import UsageError
from bnfold.graph import Graph
from bnfold.inserting.parameters import Parameters, identity, unfit
from bnfold.inserting.places import Place
from bnfold.inserting.splicing import Insertion, constant_mark, inserted
from bnfold.model import ModelFile, edited
from bnfold.observing import DependsOnItself, Observer, Watch, levels, observe
from bnfold.observing.observer import Shape
from bnfold.ops.affine import FIRST_OPSET_WITH_TRAINING_MODE
from bnfold.statistics import Moments

Tell = Callable[[str], None]
LEAST_ELEMENTS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Measuring:
    """A model, the data to run it over (as often as needed), and what runs it."""

    graph: Graph
    batches: Iterable[Batch]
    runner: Runner
    tell: Tell

    def at_once(self, places: Sequence[Place]) -> tuple[Moments, ...]:
        """The moments of the values at all places, in one pass. Raises `UsageError`, `CannotObserve`."""
        with self._marked_copy(places) as observer:
            seen = observer.observe(range(len(places)), self.batches)
        return tuple(_checked(place, seen[key].elements) for key, place in enumerate(places))

    def by_layer(
        self, places: Sequence[Place], parameters_of: Callable[[Place, Moments], Parameters]
    ) -> tuple[Parameters, ...]:
        """The parameters at all places, each measured with those before it in force: one pass for each level.

        Raises `UsageError`, also for places that depend on themselves, and `CannotObserve`.
        """
        found: dict[int, Parameters] = {}
        constants: dict[str, TensorProto] = {}
        with self._marked_copy(places) as observer:
            order = _order(observer, places)
            for number, keys in enumerate(order, start=1):
                self.tell(f"measuring layer {number} of {len(order)}")
                seen = observer.observe(keys, self.batches, constants)
                for key in keys:
                    found[key] = parameters_of(places[key], _checked(places[key], seen[key].elements))
                    constants.update(_in_force(key, found[key]))
        return tuple(found[key] for key in range(len(places)))

    def outputs_of(self, written: ModelFile, names: Sequence[str], places: Sequence[Place]) -> tuple[Moments, ...]:
        """The moments of what the BatchNormalizations with these node names put out in the model that was written."""
        graph = Graph.of(written)
        nodes = {node.proto.name: node for node in graph.nodes}
        watches = []
        for key, (name, place) in enumerate(zip(names, places, strict=True)):
            output = nodes[name].outputs[0]
            if output is not None:
                watches.append(Watch(key, output, place.channels))
        seen = observe(written, watches, self.batches, self.runner)
        return tuple(seen[key].elements for key in range(len(places)))

    @contextmanager
    def _marked_copy(self, places: Sequence[Place]) -> Iterator[Observer]:
        insertions = [
            Insertion(place, identity(place.channels, place.element_type, place.value.scope.opset), key=key)
            for key, place in enumerate(places)
        ]
        shapes = {key: Shape(place.channels) for key, place in enumerate(places)}
        copy = edited(self.graph.model, inserted(self.graph, insertions).edits)
        with Observer.of(copy, shapes, self.runner) as observer:
            yield observer


def _order(observer: Observer, places: Sequence[Place]) -> tuple[tuple[int, ...], ...]:
    try:
        return levels(observer.source.graph)
    except DependsOnItself as error:
        listed = ", ".join(f"{places[key].site} ({places[key].tensor!r})" for key in sorted(error.keys)[:4])
        raise UsageError(
            f"normalize cannot measure {listed} layer by layer: what it puts out comes back to it (a loop, or a "
            "function that is fed its own output); use preserve there, or leave it out with skip"
        ) from error


def _in_force(key: int, parameters: Parameters) -> Mapping[str, TensorProto]:
    """The constants of a marked copy that make a BatchNormalization act."""
    whole = parameters.variance.astype(np.float64) + parameters.epsilon
    acting = replace(parameters, variance=np.asarray(whole.astype(parameters.variance.dtype)))
    return {constant_mark(key, role): numpy_helper.from_array(array) for role, array in acting.named}


def _checked(place: Place, seen: Moments) -> Moments:
    """The same moments; raises `UsageError` where they are none, or do not fit into what they are written in."""
    where = f"{place.site} ({place.tensor!r})"
    if not seen.count:
        raise UsageError(f"the data never reach {where}: the branch or the loop that holds it did not run")
    if seen.count < LEAST_ELEMENTS:
        raise UsageError(f"the data give {where} one value per channel, which has no variance: more samples are needed")
    if not np.all(np.isfinite(seen.mean) & np.isfinite(seen.variance)):
        raise UsageError(f"{where} is NaN or infinite on the data, and has no statistics")
    dtype, lost = unfit(seen, place.element_type, place.value.scope.opset)
    if lost is not None:
        newer = place.value.scope.opset < FIRST_OPSET_WITH_TRAINING_MODE and dtype == np.float16
        advice = f"; from opset {FIRST_OPSET_WITH_TRAINING_MODE} on they may be float32: convert it" if newer else ""
        raise UsageError(f"{where} has a channel of variance {lost:.3g}, which {dtype.name} cannot hold{advice}")
    return seen
