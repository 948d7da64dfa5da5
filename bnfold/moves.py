"""Plan, Move and Refusal: what was decided of each affine, as values, and as JSON both ways.

Every affine of a model stands in exactly one move or one refusal; `Plan.accounts_for` says so of a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from bnfold.affine import Affine
from bnfold.errors import UsageError
from bnfold.graph import Graph
from bnfold.nodes import Site
from bnfold.ops.affine import affine_nodes, is_batch_norm
from bnfold.ops.facts import Facts
from bnfold.ops.reasons import REASONS, SKIPPED, Reason
from bnfold.ops.taking import Taken

Json = str | int | float | list[Any] | dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Arrival:
    """One home of a move, and the affine that it takes over: of its output, or of its input `data_input`, if given.

    `takes_shift` is False where a shift, if there is one, stays on the way, or goes to another home.
    """

    home: Site
    after: Affine
    takes_shift: bool = True
    data_input: int | None = None
    is_tap: bool = False
    """Whether it is an affine of the home's data, which is added to its output."""


@dataclass(frozen=True, slots=True)
class Onward:
    """Where the shift of an affine went whose scale went the other way: forward to its readers, by these nodes."""

    arrivals: tuple[Arrival, ...]
    path: tuple[Site, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """One affine that goes: where it stood, the homes it settles in, and the nodes it passed, nearest first.

    It goes towards what makes its value, or forward to all that reads it, or into a convolution beside it: `joint` is
    then the sum that read it, which loses its input `lost`, and goes too where one value is left. `joined` is an input
    that is left: the one that has the convolution, if that is added there. If it is added further on, `climb` leads
    there: what stands behind the joint, up to the sum of both. `data` is the input that the affine acts on. `skips` are
    sums on the way that take the data of a home as they are (a skip connection), each with that home, which gets a tap
    for it. With `onward`, its scale alone went back, and its shift forward.
    """

    site: Site
    arrivals: tuple[Arrival, ...]
    path: tuple[Site, ...]
    data: int = 0
    joint: Site | None = None
    joined: int = 0
    skips: tuple[tuple[Site, Site], ...] = ()
    onward: Onward | None = None
    lost: int = 1
    climb: tuple[Site, ...] = ()

    @property
    def all_arrivals(self) -> tuple[Arrival, ...]:
        """Everything that arrives at a home, whichever way."""
        return self.arrivals if self.onward is None else (*self.arrivals, *self.onward.arrivals)

    @property
    def is_forward(self) -> bool:
        """Whether it went to what reads it."""
        return any(arrival.data_input is not None for arrival in self.arrivals)

    def goes_within(self, sites: Collection[Site]) -> bool:
        """Whether all its homes are among some nodes."""
        return all(arrival.home in sites for arrival in self.all_arrivals)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One affine that stays: the reason, a sentence about this case, and the node to blame (if it is another)."""

    site: Site
    reason: Reason
    detail: str
    blamed: Site | None = None

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return self.reason.remedy


@dataclass(frozen=True, slots=True)
class Merge:
    """A convolution that goes because another one of the same data takes it over, and the sum of both, which loses it.

    The sum goes too where one value is left. `joined` is the input of the sum that has the home, `lost` the other one;
    `path` are affines between both that have gone, nearest to the sum first.
    """

    site: Site
    home: Site
    joint: Site
    joined: int
    path: tuple[Site, ...] = ()
    lost: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """All that will be done to one model, and all that will not: `fingerprint` is a SHA-256.

    It is that of the model planned for: the file, or what --inline and --freeze-inputs make of it.
    `assumes_inference`: whether BatchNormalizations older than opset 7 were taken for inference unasked. `merges` are
    convolutions that become one, when all affines have found their homes.
    """

    fingerprint: str
    moves: tuple[Move, ...]
    refusals: tuple[Refusal, ...]
    assumes_inference: bool = False
    merges: tuple[Merge, ...] = ()

    @property
    def changes_nothing(self) -> bool:
        """Whether nothing goes."""
        return not self.moves and not self.merges

    def accounts_for(self, graph: Graph) -> bool:
        """Whether every affine of the graph stands in exactly one move or refusal (the invariant of a plan)."""
        ours = sorted([move.site for move in self.moves] + [refusal.site for refusal in self.refusals])
        facts = Facts(graph, assume_inference=self.assumes_inference)
        return ours == sorted(node.site for node in affine_nodes(facts))

    @property
    def left(self) -> int:
        """How many BatchNormalizations stay although nobody asked them to."""
        return sum(refusal.reason is not SKIPPED for refusal in self.batch_norms.refusals)

    @property
    def batch_norms(self) -> Plan:
        """What was decided of BatchNormalizations alone."""
        return self._part(is_batch_norm)

    @property
    def by_hand(self) -> Plan:
        """What was decided of affines that are written by hand (Mul, Add, Sub, Div, Neg)."""
        return self._part(lambda op: not is_batch_norm(op))

    def _part(self, belongs: Callable[[str], bool]) -> Plan:
        moves = tuple(move for move in self.moves if belongs(move.site.op))
        refusals = tuple(refusal for refusal in self.refusals if belongs(refusal.site.op))
        return replace(self, moves=moves, refusals=refusals)

    def to_json(self) -> dict[str, Json]:
        """This plan as JSON values; `from_json` gives an equal plan back."""
        return {
            "fingerprint": self.fingerprint,
            "assumes_inference": self.assumes_inference,
            "moves": [_move_to_json(move) for move in self.moves],
            "refusals": [_refusal_to_json(refusal) for refusal in self.refusals],
            "merges": [_merge_to_json(merge) for merge in self.merges],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The plan that `to_json` wrote; raises UsageError for anything else."""
        try:
            moves = tuple(_move_from_json(entry) for entry in value["moves"])
            refusals = tuple(_refusal_from_json(entry) for entry in value["refusals"])
            merges = tuple(_merge_from_json(entry) for entry in value.get("merges", ()))
            return cls(str(value["fingerprint"]), moves, refusals, bool(value["assumes_inference"]), merges)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"this is no plan: {error!r}") from error

    def homes(self) -> dict[Site, Taken]:
        """What each home takes over in all: the compositions of its arrivals, in the order of the moves.

        A home that goes itself has handed on what it took over.
        """
        homes: dict[Site, Taken] = {}
        for move in self.moves:
            for arrival in move.all_arrivals:
                taken = homes.get(arrival.home, Taken())
                homes[arrival.home] = (
                    taken.and_tap(arrival.after)
                    if arrival.is_tap
                    else taken.and_then(arrival.after, arrival.data_input)
                )
        went = {move.site for move in self.moves}
        return {site: taken for site, taken in homes.items() if site not in went}


def _site_to_json(site: Site) -> dict[str, Json]:
    return {"scope": site.scope, "index": site.index, "op": site.op, "name": site.name}


def _site_from_json(value: Mapping[str, Any]) -> Site:
    return Site(str(value["scope"]), int(value["index"]), str(value["op"]), str(value["name"]))


def _move_to_json(move: Move) -> dict[str, Json]:
    return {
        "site": _site_to_json(move.site),
        "homes": [_arrival_to_json(arrival) for arrival in move.arrivals],
        "path": [_site_to_json(site) for site in move.path],
        "data": move.data,
        "joint": None if move.joint is None else _site_to_json(move.joint),
        "joined": move.joined,
        "lost": move.lost,
        "climb": [_site_to_json(site) for site in move.climb],
        "skips": [[_site_to_json(joint), _site_to_json(home)] for joint, home in move.skips],
        "onward": None if move.onward is None else _onward_to_json(move.onward),
    }


def _onward_to_json(onward: Onward) -> dict[str, Json]:
    homes: list[Json] = [_arrival_to_json(arrival) for arrival in onward.arrivals]
    return {"homes": homes, "path": [_site_to_json(site) for site in onward.path]}


def _move_from_json(value: Mapping[str, Any]) -> Move:
    arrivals = tuple(_arrival_from_json(entry) for entry in value["homes"])
    path = tuple(_site_from_json(site) for site in value["path"])
    joint = None if value["joint"] is None else _site_from_json(value["joint"])
    skips = tuple((_site_from_json(one), _site_from_json(home)) for one, home in value["skips"])
    further = value["onward"]
    onward = further and Onward(
        tuple(_arrival_from_json(entry) for entry in further["homes"]),
        tuple(_site_from_json(site) for site in further["path"]),
    )
    site, data, joined = _site_from_json(value["site"]), int(value["data"]), int(value["joined"])
    lost, climb = int(value["lost"]), tuple(_site_from_json(each) for each in value["climb"])
    return Move(site, arrivals, path, data, joint, joined, skips, onward or None, lost, climb)


def _merge_to_json(merge: Merge) -> dict[str, Json]:
    sites = {"site": merge.site, "home": merge.home, "joint": merge.joint}
    found: dict[str, Json] = {name: _site_to_json(site) for name, site in sites.items()}
    path: list[Json] = [_site_to_json(site) for site in merge.path]
    return found | {"joined": merge.joined, "lost": merge.lost, "path": path}


def _merge_from_json(value: Mapping[str, Any]) -> Merge:
    site, home, joint = (_site_from_json(value[name]) for name in ("site", "home", "joint"))
    path = tuple(_site_from_json(each) for each in value["path"])
    return Merge(site, home, joint, int(value["joined"]), path, int(value["lost"]))


def _arrival_to_json(arrival: Arrival) -> dict[str, Json]:
    after = _affine_to_json(arrival.after)
    home = _site_to_json(arrival.home)
    return {
        "home": home,
        "after": after,
        "takes_shift": arrival.takes_shift,
        "data_input": arrival.data_input,
        "is_tap": arrival.is_tap,
    }


def _arrival_from_json(value: Mapping[str, Any]) -> Arrival:
    data_input = None if value["data_input"] is None else int(value["data_input"])
    after = _affine_from_json(value["after"])
    home, is_tap = _site_from_json(value["home"]), bool(value["is_tap"])
    return Arrival(home, after, bool(value["takes_shift"]), data_input, is_tap)


def _affine_to_json(affine: Affine) -> dict[str, Json]:
    return {
        name: {"shape": list(array.shape), "data": array.reshape(-1).tolist()}
        for name, array in (("scale", affine.scale), ("shift", affine.shift))
    }


def _affine_from_json(value: Mapping[str, Any]) -> Affine:
    scale, shift = (np.array(v["data"], np.float64).reshape(v["shape"]) for v in (value["scale"], value["shift"]))
    return Affine(scale, shift)


def _refusal_to_json(refusal: Refusal) -> dict[str, Json]:
    return {
        "site": _site_to_json(refusal.site),
        "code": refusal.reason.code,
        "detail": refusal.detail,
        "blamed": None if refusal.blamed is None else _site_to_json(refusal.blamed),
        "remedy": refusal.remedy,
    }


def _refusal_from_json(value: Mapping[str, Any]) -> Refusal:
    blamed = None if value["blamed"] is None else _site_from_json(value["blamed"])
    return Refusal(_site_from_json(value["site"]), REASONS[value["code"]], str(value["detail"]), blamed)
