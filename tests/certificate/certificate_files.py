"""Certificates as files, written by a real fold, and ways to tamper with them and with the models that they name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from certificate_folds import parameters, parsed, put

import bnfold

TEXT = "(float[N,4,8] x) => (float[N,4,6] y) { c = Conv(x,w) n = BatchNormalization(c,g,e,m,v) y = Relu(n) }"
LONGER = (
    "(float[N,4,8] x) => (float[N,6,4] y) { c = Conv(x,w) t = Transpose<perm=[0,2,1]>(c) "
    "u = Transpose<perm=[0,2,1]>(t) n = BatchNormalization(u,g,e,m,v) r = Relu(n) d = Conv(r,w2) "
    "p = BatchNormalization(d,g2,e2,m2,v2) y = Transpose<perm=[0,2,1]>(p) }"
)
Json = Any


def layer(text: str = TEXT) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    arrays = {"w": random.standard_normal((4, 4, 3)).astype("f"), **parameters(random, 4)}
    if "w2" in text:
        arrays |= {"w2": random.standard_normal((4, 4, 1)).astype("f"), **parameters(random, 4, "2")}
    return put(parsed(text), **arrays)


@dataclass(frozen=True)
class Files:
    """A model, its fold, and the certificate, as files of one folder."""

    folder: Path

    @property
    def before(self) -> Path:
        return self.folder / "before.onnx"

    @property
    def after(self) -> Path:
        return self.folder / "after.onnx"

    @property
    def certificate(self) -> Path:
        return self.folder / "c.json"

    @property
    def said(self) -> Json:
        return json.loads(self.certificate.read_text())

    def say(self, said: Json) -> None:
        self.certificate.write_text(json.dumps(said))

    def tamper(self, change: Callable[[Json], object]) -> None:
        """Change the certificate."""
        said = self.said
        change(said)
        self.say(said)

    def change(self, path: Path, change: Callable[[onnx.ModelProto], object], *, repin: bool) -> None:
        """Change a model; with `repin` the certificate names its new bytes."""
        model = onnx.load(path, load_external_data=False)
        change(model)
        content = model.SerializeToString()
        path.write_bytes(content)
        if repin:
            self.tamper(lambda said: said[path.stem].update(pin(content)))
            self.tamper(lambda said: said.update(begins_at=said["before"]["sha256"]))

    def verdict(self, **options: bool) -> bnfold.Verdict:
        """What the certificate alone says now."""
        return bnfold.verify(self.before, self.after, certificate=self.certificate, certificate_alone=True, **options)


def pin(content: bytes) -> dict[str, object]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def files(folder: Path, model: onnx.ModelProto | None = None, *, external: bool = False, **options: object) -> Files:
    """A fold, written with its certificate; the model is not run unless `verify` says so."""
    made = Files(folder)
    given = layer() if model is None else model
    if external:
        onnx.save_model(given, made.before, save_as_external_data=True, location="w.bin", size_threshold=16)
    else:
        onnx.save(given, made.before)
    bnfold.fold(made.before, made.after, certificate=made.certificate, **{"verify": "certificate", **options})
    return made
