"""Which affines a user wants folded: `only` those that a glob names, and none that a `skip` glob names.

A glob names a node by the node's name, by a tensor that it reads or writes, or by the scope that holds it. A glob that
names nothing is an error, for a typo would otherwise fold everything, or nothing, in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from bnfold.errors import UsageError
from bnfold.nodes import Node


@dataclass(frozen=True, slots=True)
class Selection:
    """Shell-style globs (`*`, `?`, `[abc]`), told apart by case. No `only` means all."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def left_out(self, nodes: Sequence[Node]) -> dict[int, str]:
        """The ids of the nodes that are not to be folded, each with a sentence that says which option it was.

        Raises UsageError for a glob that names none of `nodes`, with the names that come close.
        """
        if not self.only and not self.skip:
            return {}
        names = {node.id: frozenset(names_of(node)) for node in nodes}
        everything = sorted({name for those in names.values() for name in those})
        for option, globs in (("only", self.only), ("skip", self.skip)):
            for glob in globs:
                if not matched([glob], everything):
                    raise UsageError(f"--{option} {glob!r} names nothing that could fold{near(glob, everything)}")
        wanted = {id_ for id_, those in names.items() if not self.only or matched(self.only, those)}
        skipped = {id_ for id_, those in names.items() if matched(self.skip, those)}
        sentences = {node.id: "no --only glob names it" for node in nodes if node.id not in wanted}
        return sentences | dict.fromkeys(sorted(skipped), "a --skip glob names it")

    def untouched(self, nodes: Sequence[Node]) -> frozenset[int]:
        """The ids of the nodes that were asked to stay as they are: not even another affine may settle in them."""
        if not self.skip:
            return frozenset()
        return frozenset(node.id for node in nodes if matched(self.skip, frozenset(names_of(node))))


def names_of(node: Node) -> Iterable[str]:
    """What a glob may name a node by: its own name, the scope that holds it, its site, and the tensors it touches."""
    yield from (node.proto.name, node.scope.path, str(node.site))
    yield from (value.name for value in (*node.inputs, *node.outputs) if value is not None)


def matched(globs: Sequence[str], names: Iterable[str]) -> bool:
    """Whether any of these globs names any of these names."""
    return any(name and fnmatchcase(name, glob) for name in names for glob in globs)


def _near_globs(glob: str, known: Sequence[str]) -> list[str]:
    """The glob with another beginning, as deep in scopes, that names something: '/stem/*' for '/stm/*'."""
    head = re.split(r"[*?[]", glob, maxsplit=1)[0]
    if head == glob:
        return []
    # As many parts as the glob has before its first wildcard; a part that is empty there stays so.
    between = "." if "." in head and "/" not in head else "/"
    parts = head.split(between)
    kept = len(parts) - (not parts[-1])
    others = sorted({between.join([*name.split(between)[:kept], *parts[kept:]]) + glob[len(head) :] for name in known})
    return [one for one in get_close_matches(glob, others, n=3) if matched([one], known)]


def near(name: str, names: Iterable[str]) -> str:
    """What to add to a sentence about a name, or a glob, that there is not: names that come close, or nothing."""
    known = sorted(set(names))
    close = _near_globs(name, known) or get_close_matches(name, known, n=3, cutoff=0.4)
    return f"; near names are {', '.join(repr(one) for one in close)}" if close else ""
