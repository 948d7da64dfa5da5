"""Graphs that once broke a law, kept as files: what a seed draws changes with the blocks that there are, these do not.

`python tests/commands/random_graphs.py --only SEED --keep` keeps one more.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from graph_builder import Form
from graph_drawn import Drawn
from onnx import helper

FOLDER = Path(__file__).with_name("once_broken")
SAID = FOLDER / "drawn.json"


def kept_seeds() -> list[int]:
    """The seeds that they once had."""
    return sorted(int(path.stem) for path in FOLDER.glob("*.onnx"))


def kept(seed: int) -> Drawn:
    """One of them."""
    proto, said = onnx.load(FOLDER / f"{seed}.onnx"), json.loads(SAID.read_text())[str(seed)]
    data = helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type).type
    opset = next(each.version for each in proto.opset_import if not each.domain)
    form = Form(data, data, opset, len(said["shape"]) - 2, proto.ir_version)
    return Drawn(seed, proto, (), tuple(said["shape"]), said["sizes"], form, said["merge"])


def keep(one: Drawn) -> None:
    """Write one more."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{one.seed}.onnx").write_bytes(one.proto.SerializeToString(deterministic=True))
    said = json.loads(SAID.read_text()) if SAID.exists() else {}
    said[str(one.seed)] = {"merge": one.merge, "shape": list(one.shape), "sizes": one.sizes}
    SAID.write_text(json.dumps(dict(sorted(said.items(), key=lambda entry: int(entry[0]))), indent=1) + "\n")
