"""Correct folds of a `Net` by a few lines of float64, rounded once, under every name that a tool may leave.

names   "norm": the folded operator gives the BatchNormalization's output (bnfold).
        "home": it keeps its own output's name, and the readers are led there (onnxsim, onnxoptimizer).
        "fresh": no name inside is that of the original.
        "clashing": the names inside are the original's, each on another value: a name means nothing.
bias    "merged": in the operator. "added": an Add behind it.
order   nodes that do not depend on each other change places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from exact import Array
from layers import Layer, Net
from onnx import helper, numpy_helper

Names = Literal["norm", "home", "fresh", "clashing"]


@dataclass(frozen=True, slots=True)
class Constants:
    """A folded layer in float64: its weight as rows, and its bias."""

    rows: Array
    bias: Array


@dataclass(frozen=True, slots=True)
class Style:
    """How a fold is written; `order` is the seed of the shuffle, None for none."""

    names: Names = "norm"
    added: bool = False
    order: int | None = None


def right(layer: Layer) -> Constants:
    """W' = a*W, b' = a*(b - mean) + beta."""
    scale = layer.scale
    return Constants(layer.rows * scale[:, None], (layer.offset - layer.mean) * scale + layer.beta)


def folded(net: Net, style: Style, wrong: Mapping[str, Constants] | None = None) -> onnx.ModelProto:
    """The net without its BatchNormalizations; `wrong` has constants to be taken instead, by the norm's name."""
    made = _Folding(net, style)
    for layer in net.layers:
        made.layer(layer, (wrong or {}).get(layer.norm) or right(layer))
    return made.model()


class _Folding:
    """A copy of the net's model in the making."""

    def __init__(self, net: Net, style: Style) -> None:
        self.net, self.style = net, style
        self.nodes = {node.name: [_copied(node)] for node in net.model.graph.node}
        self.tensors: list[onnx.TensorProto] = []
        self.renamed: dict[str, str] = {}
        self.outputs = {port.name for port in net.model.graph.output}

    def layer(self, layer: Layer, constants: Constants) -> None:
        [home] = self.nodes[layer.home]
        weight = self.tensor(layer.raw(constants.rows), f"{layer.home}_folded_weight")
        del home.input[1:]
        home.input.append(weight)
        self.nodes[layer.norm] = []
        last = home
        if layer.adder or layer.op == "MatMul" or self.style.added:
            rank = 2 if layer.op in {"MatMul", "Gemm"} else len(layer.shape)
            shape = (-1,) if rank == 2 else (-1, *[1] * (rank - 2))
            bias = self.tensor(constants.bias.reshape(shape), f"{layer.home}_folded_bias")
            if layer.adder:
                [last] = self.nodes[layer.adder]
                del last.input[1:]
                last.input.append(bias)
            else:
                home.output[0] = f"{layer.home}_product"
                last = helper.make_node("Add", [home.output[0], bias], [layer.total], name=f"{layer.home}_bias")
                self.nodes[layer.home].append(last)
        else:
            home.input.append(self.tensor(constants.bias / layer.bias_factor, f"{layer.home}_folded_bias"))
        if self.style.names == "home" and layer.result not in self.outputs:
            self.renamed[layer.result] = layer.total
        else:
            last.output[0] = layer.result

    def tensor(self, array: Array, name: str) -> str:
        with np.errstate(over="ignore"):
            stored = np.array(array.astype(self.net.dtype), order="C")
        self.tensors.append(numpy_helper.from_array(stored, name))
        return name

    def model(self) -> onnx.ModelProto:
        nodes = [node for group in self.nodes.values() for node in group]
        for node in nodes:
            node.input[:] = [self.renamed.get(name, name) for name in node.input]
        read = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in self.net.model.graph.initializer if tensor.name in read]
        model = onnx.ModelProto()
        model.CopyFrom(self.net.model)
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(nodes if self.style.order is None else shuffled(nodes, self.style.order))
        model.graph.initializer.extend([*kept, *self.tensors])
        if self.style.names in {"fresh", "clashing"}:
            rename(model, self._names(model))
        onnx.checker.check_model(model)
        return model

    def _names(self, model: onnx.ModelProto) -> dict[str, str]:
        inner = inner_names(model)
        if self.style.names == "fresh":
            return {name: f"fresh{k}" for k, name in enumerate(inner)}
        taken = inner_names(self.net.model)
        others = np.random.default_rng(self.style.order).permutation(taken)
        # A plain layer's bias is a tensor more than there were: those beyond the original's names get new ones.
        return {name: str(others[k]) if k < len(others) else f"fresh{k}" for k, name in enumerate(inner)}


def shuffled(nodes: list[onnx.NodeProto], seed: int) -> list[onnx.NodeProto]:
    """Another order in which every node still comes after those that it reads."""
    rng = np.random.default_rng(seed)
    waiting, made, order = list(nodes), set[str](), list[onnx.NodeProto]()
    given = {name for node in nodes for name in node.output}
    while waiting:
        ready = [k for k, node in enumerate(waiting) if all(name in made or name not in given for name in node.input)]
        chosen = waiting.pop(int(rng.choice(ready)))
        made.update(chosen.output)
        order.append(chosen)
    return order


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def inner_names(model: onnx.ModelProto) -> list[str]:
    """The names that a tool may choose: of values that are no input or output, and of initializers."""
    ports = {port.name for port in (*model.graph.input, *model.graph.output)}
    made = [*(tensor.name for tensor in model.graph.initializer), *(n for o in model.graph.node for n in o.output)]
    return [name for name in made if name not in ports]


def rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Values and initializers by other names, in place; nodes by number."""
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for k, node in enumerate(model.graph.node):
        node.name = f"n{k}"
        for held in (node.input, node.output):
            held[:] = [names.get(name, name) for name in held]
