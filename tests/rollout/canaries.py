"""Canaries that pass their own examples, and break on `BAD_DISTANCE` as real ones do."""

from pathlib import Path
from typing import Any

import numpy as np

from fti.common.model_package import ModelPackage
from tests.serve import tiny

BAD_DISTANCE = 4000.0  # the package's own example has 1000.5


def write(path: Path, kind: str) -> ModelPackage:
    """A canary that is failing (an operator's error), slow (minutes of work) or hungry (4 TB of memory)."""
    return tiny.write_binary(path, bias=0.25, onnx=graph(kind))


def graph(kind: str) -> bytes:
    """tiny's graph, whose bias comes out of a part that works for small distances only."""
    from onnx import TensorProto, helper, load_from_string, numpy_helper

    model = load_from_string(tiny.binary_graph(0.25))
    constants: dict[str, Any] = {
        "first": np.array([0], np.int64),
        "bad": np.array(2000.0, np.float32),
        "none": np.array(0.0, np.float32),
        "nothing": np.array([0.0], np.float32),
        "huge": np.array([10**12], np.int64),
        "long": np.array(10**10, np.int64),
        "axis": np.array([0], np.int64),
        "yes": np.array(True),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    node = helper.make_node
    nodes = [
        node("Gather", ["filled", "first"], ["distances"], axis=1),
        node("ReduceMax", ["distances"], ["farthest"], keepdims=0),
        node("Greater", ["farthest", "bad"], ["breaks"]),
        node("Cast", ["breaks"], ["times"], to=TensorProto.INT64),
    ]
    if kind == "failing":
        nodes.append(node("Gather", ["nothing", "times"], ["extra"], axis=0))
    elif kind == "hungry":
        nodes += [
            node("Mul", ["times", "huge"], ["wanted"]),
            node("Expand", ["none", "wanted"], ["spread"]),
            node("ReduceSum", ["spread"], ["extra"], keepdims=0),
        ]
    else:
        nodes += [
            node("Mul", ["times", "long"], ["rounds"]),
            node("Loop", ["rounds", "yes", "none"], ["extra"], body=_round()),
        ]
    at = next(i for i, each in enumerate(model.graph.node) if each.op_type == "Sum")
    model.graph.node[at].input.append("extra")
    everything = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*everything[:at], *nodes, *everything[at:]])
    content: bytes = model.SerializeToString()
    return content


def _round() -> Any:
    from onnx import TensorProto, helper

    inputs = [
        helper.make_tensor_value_info("round", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("sum", TensorProto.FLOAT, []),
    ]
    outputs = [
        helper.make_tensor_value_info("on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("total", TensorProto.FLOAT, []),
    ]
    nodes = [
        helper.make_node("Identity", ["go"], ["on"]),
        helper.make_node("Sin", ["sum"], ["total"]),
    ]
    return helper.make_graph(nodes, "round", inputs, outputs)
