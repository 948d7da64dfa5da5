"""Copies of a model that onnxruntime can run, with the same meaning or one within rounding of it; made in the child.

Three reasons for a copy: onnxruntime dies of a BatchNormalization whose optional outputs have empty names (they are
cut, or named if others follow: an empty name and a name that nobody reads mean the same); it has no kernel for
BatchNormalization below opset 7 (upgrade.py converts such models); and the floor of a comparison is how far the model
moves when its constants do (perturb.py). A model that needs none stays a file.

What is copied is the skeleton, the model without its payloads: they are never parsed. They are put back unchanged,
or perturbed block by block into a file beside the copy (outside.py), and external data stay where they are unless
they are perturbed. So it does not matter how many gigabytes a model has.
"""

from __future__ import annotations

import itertools
import mmap
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from bnfold.equality.nested import nodes_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnx

    from bnfold.model import ModelFile

SCRATCH: Final = "bnfold-copy-"
"""How the names of folders begin in which copies lie while they are written."""

_OPERATOR: Final = b"BatchNormalization"
_EMPTY_OUTPUT: Final = b"\x12\x00"  # NodeProto.output = 2, length 0
# Room for the other fields of a node on either side of its operator's name. A node that is larger still and has such
# outputs goes undetected, and then costs a crash of the child, no more.
_NODE_BYTES: Final = 8192


Upgrade = Literal["none", "marked", "inference"]
"""Whether a model below opset 7 is converted, and in which mode what says is_test=0 then runs: as marked, or not."""

_UPGRADES: Final[tuple[Upgrade, ...]] = ("none", "marked", "inference")


@dataclass(frozen=True, slots=True)
class Copy:
    """A serialised model, and the folder in which its external data lie."""

    content: bytes
    folder: Path


def upgrade_called(word: object) -> Upgrade:
    """The `Upgrade` of that name."""
    return next(upgrade for upgrade in _UPGRADES if upgrade == word)


@contextmanager
def prepared(path: Path, *, perturb: int | None, upgrade: Upgrade, scratch: Path) -> Iterator[Path | Copy]:
    """What to run instead of the model at `path`: a copy, or that file itself where none is needed.

    A copy with perturbed constants is a file in the folder `scratch`, and both are gone when the context ends. Raises
    `CannotUpgrade`, `NoRoom`, OSError, and InputRefused for a file that is no model.
    """
    if perturb is None and upgrade == "none" and not _may_have_empty_outputs(path):
        yield path
        return
    # Late: most models never need onnx here, and importing it takes longer than running them.
    from onnx import ModelProto  # noqa: PLC0415  # as said above

    from bnfold.model import read  # noqa: PLC0415  # likewise

    file = read(path)
    model = ModelProto()
    model.CopyFrom(file.proto)
    if upgrade != "none":
        from bnfold.equality.upgrade import upgraded  # noqa: PLC0415  # it needs onnx

        model = upgraded(model, assume_inference=upgrade == "inference")
    changed = name_optional_outputs(model)
    if perturb is not None:
        with _perturbed(model, file, perturb, scratch) as copy:
            yield copy
        return
    yield Copy(_with_payloads(model, file), path.parent) if changed or upgrade != "none" else path


@contextmanager
def _perturbed(model: onnx.ModelProto, file: ModelFile, seed: int, scratch: Path) -> Iterator[Path]:
    from bnfold.equality.outside import Outside  # noqa: PLC0415  # see `prepared`

    model.ClearField("training_info")  # nothing there is run
    with Outside(scratch, file.span, file.storage) as outside:
        yield outside.perturbed(model, seed)


def _with_payloads(model: onnx.ModelProto, file: ModelFile) -> bytes:
    from bnfold.model.content import Held  # noqa: PLC0415  # see `prepared`
    from bnfold.model.relocate import restored  # noqa: PLC0415  # see `prepared`
    from bnfold.model.rope import to_bytes  # noqa: PLC0415  # likewise

    return to_bytes(restored(Held(model.SerializeToString()), file))


@contextmanager
def prepared_piece(model: bytes, folder: Path, *, perturb: int | None, scratch: Path) -> Iterator[Path | Copy]:
    """A serialised model whose external data lie in `folder`, its constants perturbed where a seed is given.

    As for `prepared`; raises `NoRoom`, InputRefused, and what protobuf raises for what is no model.
    """
    if perturb is None:
        yield Copy(model, folder)
        return
    from onnx import ModelProto  # noqa: PLC0415  # see `prepared`

    from bnfold.equality.outside import Outside, spans_in  # noqa: PLC0415  # likewise
    from bnfold.model.content import Held  # noqa: PLC0415  # likewise
    from bnfold.model.storage import Storage  # noqa: PLC0415  # likewise

    with Outside(scratch, spans_in(folder), Storage(Held(b""))) as outside:
        yield outside.perturbed(ModelProto.FromString(model), perturb)


def name_optional_outputs(model: onnx.ModelProto) -> bool:
    """Cut empty names at the end of every BatchNormalization's outputs and fill those in between; whether any was.

    In training mode the statistics are computed, read or not: there every output gets a name.
    """
    affected = [node for node in nodes_of(model) if _has_empty_outputs(node)]
    if not affected:
        return False
    taken = {name for node in nodes_of(model) for name in (*node.input, *node.output)}
    fresh = (name for name in map("unused_{}".format, itertools.count()) if name not in taken)
    for node in affected:
        names = list(node.output)
        while len(names) > 1 and not names[-1] and not _trains(node):
            names.pop()
        del node.output[:]
        node.output.extend(name or next(fresh) for name in names)
    return True


def _may_have_empty_outputs(path: Path) -> bool:
    """Whether the bytes of a file look as if it held a BatchNormalization with an empty output name."""
    with path.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            return False
        with content:
            return any(
                content.find(_EMPTY_OUTPUT, max(0, start - _NODE_BYTES), start + _NODE_BYTES) >= 0
                for start in _places(content, _OPERATOR)
            )


def _places(content: mmap.mmap, word: bytes) -> Iterator[int]:
    start = content.find(word)
    while start >= 0:
        yield start
        start = content.find(word, start + len(word))


def _trains(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)


def _has_empty_outputs(node: onnx.NodeProto) -> bool:
    standard = node.domain in ("", "ai.onnx")
    return standard and node.op_type == "BatchNormalization" and "" in list(node.output)[1:]
