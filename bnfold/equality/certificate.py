"""Tier 0: every constant of the written file against a float64 recomputation from the original's, without data.

It is independent of the code that folds: it reads the two files, its own reference of each operator, and a list of
claims (which node went where). Everything outside the claims has to be unchanged (structure.py), every claim becomes
a step at each of its homes (steps.py), and a home's constants are what its steps make of the original's, rounded once
(homes.py, numbers.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from bnfold.equality.ahead import composed
from bnfold.equality.bounds import numbers_checked, numbers_stay, steps_in_order
from bnfold.equality.claim import Claim, DeviationError, Merging, UncertainError, handed_on, homes_of, of_site
from bnfold.equality.constants import Constants
from bnfold.equality.covering import covers
from bnfold.equality.homes import Behind, Home, HomeCheck
from bnfold.equality.merging import branches_of, grids_of_merged, merging_trees
from bnfold.equality.numbers import WrongNumberError
from bnfold.equality.references import Reference
from bnfold.equality.settling import Settled, with_those_that_go
from bnfold.equality.steps import reads_alone
from bnfold.equality.structure import pair
from bnfold.equality.trees import crossed_by, in_order, trees_of
from bnfold.graph import Graph
from bnfold.nodes import Site


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was recomputed: the SHA-256 of both files, the claims, and one check per home. `failure` says what is wrong.

    `uncertain` says what could not be followed; a certificate with either does not hold. `failed_site` is the home, or
    the node that went, at which either was found, where that is known.
    """

    before: str
    after: str
    claims: tuple[Claim, ...]
    mergings: tuple[Merging, ...] = ()
    homes: tuple[HomeCheck, ...] = ()
    failure: str | None = None
    failed_site: Site | None = None
    uncertain: str | None = None

    @property
    def holds(self) -> bool:
        """Whether every number passed and nothing else changed."""
        return self.failure is None and self.uncertain is None

    def to_json(self) -> dict[str, object]:
        """This certificate as JSON values: both hashes, each claim, and each home's worst share of its bound."""
        return {
            "before": self.before,
            "after": self.after,
            "holds": self.holds,
            "failure": self.failure,
            "uncertain": self.uncertain,
            "claims": [asdict(claim) for claim in self.claims],
            "mergings": [asdict(merging) for merging in self.mergings],
            "homes": [asdict(check) for check in self.homes],
        }


def certify(
    before: Graph,
    after: Graph,
    claims: tuple[Claim, ...],
    mergings: tuple[Merging, ...] = (),
    *,
    assume_inference: bool = False,
) -> Certificate:
    """Check the claims on two models; the answer is in the certificate, nothing is raised for a wrong fold.

    `mergings` are convolutions that became one, after all that the claims say.

    With `assume_inference` a BatchNormalization of before opset 7 is one at inference, whatever its `is_test` says.
    """
    for graph in (before, after):
        graph.model.hash_ahead()
    checks: list[HomeCheck] = []
    failure = failed_site = uncertain = None
    try:
        _check(before, after, claims, mergings, checks, assume_inference=assume_inference)
    except (DeviationError, WrongNumberError) as error:
        failure, failed_site = str(error), error.site
    except UncertainError as error:
        uncertain, failed_site = str(error), error.site
    hashes = before.model.sha256, after.model.sha256
    return Certificate(*hashes, claims, mergings, tuple(checks), failure, failed_site, uncertain)


def _check(  # noqa: PLR0913  # two models, and all that is said of them
    before: Graph,
    after: Graph,
    claims: tuple[Claim, ...],
    mergings: tuple[Merging, ...],
    checks: list[HomeCheck],
    *,
    assume_inference: bool,
) -> None:
    """Adds one check per home to `checks`; raises at the first thing that is wrong or cannot be followed."""
    trees = trees_of(before, claims)
    merged = merging_trees(before, mergings, trees)
    chains = tuple(chain for tree in trees for chain in tree.chains)
    pairing = pair(before, after, in_order(before, (*trees, *merged)))
    originals = Constants(before, assume_inference=assume_inference)
    for tree in (tree for tree in trees if tree.chains):
        with of_site(tree.claim.site):
            covers(originals, tree)
    written = Constants(after, assume_inference=assume_inference)
    went = handed_on((*trees, *merged))
    named = {node.id: node for tree in (*trees, *merged) for node in homes_of(tree) if node.id not in went}
    behind = Behind.of(trees)
    homes: dict[int, Home] = {}
    for id_, node in named.items():
        with of_site(node.site):
            homes[id_] = Home.of(originals, node, written, pairing, behind)
    for link in (chain.links[place] for chain in chains for place in chain.stops):
        if link.node.id in homes and link.data == homes[link.node.id].before.linear.bias_index:
            raise UncertainError(f"the data of {link.node.site} are constant themselves")
    numbers_stay(trees)
    for link in crossed_by(before, in_order(before, trees)):
        reads_alone(before, link)
    grids = grids_of_merged(originals, merged) | {id_: home.grid for id_, home in homes.items()}
    weights = {id_: home.before.linear.weight_index for id_, home in homes.items()}
    settled = Settled.of(originals, trees, with_those_that_go(originals, trees, grids), weights)
    steps, fed = settled.steps, {id_: composed(each) for id_, each in settled.data.items()}
    branches = branches_of(originals, merged, steps, fed)
    for id_, home in homes.items():
        with of_site(home.site):
            home.reads_what_it_read(pairing.rewired[id_])
            if home.before.linear.bounds:
                whole = tuple(steps_in_order(trees, home.before.node, steps.get(id_, []), settled.data.get(id_, [])))
                checks.append(numbers_checked(home, whole))
                continue
            own = Reference(home.before, home.grid, steps.get(id_, []), fed.get(id_), branches.get(id_, ()))
            checks.append(home.checked(own))
