"""Model packages small enough to write by hand: logistic regressions as ONNX graphs."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fti.common.model_package import ModelPackage, Signature, write_package
from fti.common.tables import Feature

INPUTS = (
    Feature("distance", "float32"),
    Feature("month", "int64"),
    Feature("weekend", "bool"),
    Feature("carrier", "string"),
    Feature("origin_delays__mean_delay", "float32", "origin_delays:mean_delay"),
)
ROW: dict[str, Any] = {
    "distance": 1000.5,
    "month": 7,
    "weekend": False,
    "carrier": "UA",
    "origin_delays__mean_delay": 12.0,
}
WEIGHTS = np.array([[0.001], [0.05], [0.3], [0.02]], dtype=np.float32)
CARRIERS = {"UA": 0.5, "B6": -0.5}


def expected(row: dict[str, Any], bias: float) -> float:
    """The probability of the second class, by hand."""
    numbers = [row[name] for name in ("distance", "month", "weekend", "origin_delays__mean_delay")]
    z = sum(float(w) * (0.0 if x is None else float(x)) for w, x in zip(WEIGHTS[:, 0], numbers, strict=True))
    return float(1 / (1 + np.exp(-(z + CARRIERS.get(row["carrier"], 0.0) + bias))))


def write_binary(path: Path, bias: float = 0.0, onnx: bytes = b"", **changes: Any) -> ModelPackage:
    """A binary model: sigmoid(weights · numbers + carrier + bias), missing numbers as 0."""
    fields: dict[str, Any] = {
        "name": "late",
        "task": "binary",
        "inputs": INPUTS,
        "classes": (False, True),
        "threshold": 0.5,
        "label": "late",
        **changes,
    }
    p = expected(ROW, bias)
    return write_package(
        path,
        signature=Signature(**fields),
        onnx=onnx or binary_graph(bias),
        native={"model.skops": b"none"},
        examples={"inputs": [ROW], "outputs": [[1 - p, p]]},
        provenance={"algorithm": "by hand"},
        card="# A model\n",
    )


def write_other(path: Path, task: str) -> ModelPackage:
    """A multiclass model (softmax of x, 0, -x) or a regression (2x), of one number x."""
    classes = ("early", "on time", "late") if task == "multiclass" else ()
    outputs = [np.exp([1, 0, -1]) / np.exp([1, 0, -1]).sum()] if task == "multiclass" else [np.array(2.0)]
    return write_package(
        path,
        signature=Signature(name="other", task=task, inputs=(Feature("x", "float32"),), classes=classes, label="y"),  # type: ignore[arg-type]
        onnx=softmax_graph() if task == "multiclass" else double_graph(),
        native={"model.skops": b"none"},
        examples={"inputs": [{"x": 1.0}], "outputs": [value.tolist() for value in outputs]},
        provenance={},
        card="# A model\n",
    )


def blessing(path: Path, package: ModelPackage, blessed: bool = True, reasons: tuple[str, ...] = ()) -> Path:
    """What evaluate writes."""
    path.write_text(json.dumps({"model_digest": package.digest, "blessed": blessed, "reasons": list(reasons)}))
    return path


def binary_graph(bias: float) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    one = np.array([[1.0]], dtype=np.float32)
    constants = {
        "zero": np.array(0, np.float32),
        "weights": WEIGHTS,
        "bias": np.array([[bias]], np.float32),
        "one": one,
    }
    nodes = [
        helper.make_node("IsNaN", ["numeric"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "numeric"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["linear"]),
        helper.make_node(
            "LabelEncoder",
            ["categorical"],
            ["carrier"],
            domain="ai.onnx.ml",
            keys_strings=list(CARRIERS),
            values_floats=list(CARRIERS.values()),
            default_float=0.0,
        ),
        helper.make_node("Sum", ["linear", "carrier", "bias"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["p"]),
        helper.make_node("Sub", ["one", "p"], ["q"]),
        helper.make_node("Concat", ["q", "p"], ["probability"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, 4]),
        helper.make_tensor_value_info("categorical", TensorProto.STRING, [None, 1]),
    ]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 2])]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return _graph(nodes, inputs, outputs, initializers)


def softmax_graph() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("MatMul", ["numeric", "weights"], ["z"]),
        helper.make_node("Softmax", ["z"], ["probability"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, 1])]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 3])]
    weights = numpy_helper.from_array(np.array([[1, 0, -1]], np.float32), "weights")
    return _graph(nodes, inputs, outputs, [weights])


def double_graph() -> bytes:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Add", ["numeric", "numeric"], ["value"])]
    inputs = [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, 1])]
    outputs = [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])]
    return _graph(nodes, inputs, outputs, [])


def _graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: list[Any]) -> bytes:
    from onnx import helper

    graph = helper.make_graph(nodes, "model", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    content: bytes = model.SerializeToString()
    return content
