"""The perceptron as an ONNX graph, node by node.

torch's own exporter knows no strings, so that the encoding would have to be glued on anyway; a graph made by hand is
small, quick and the same bytes each time.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fti.common.model_package import Signature

if TYPE_CHECKING:
    import numpy as np

_OPSET, _ML_OPSET, _IR = 18, 3, 9


def mlp_graph(signature: Signature, shape: Mapping[str, Any], weights: "Mapping[str, np.ndarray]") -> bytes:
    """Builds the graph from raw inputs to probabilities or values.

    Args:
        signature: The model's.
        shape: The package's `model.json`.
        weights: The network's state, by torch's names.
    """
    from onnx import TensorProto, checker, helper

    nodes = _Nodes()
    parts = _number_nodes(nodes, shape) if signature.numeric else []
    for position, column in enumerate(shape["categories"]):
        parts.append(_embedding_nodes(nodes, position, column, weights[f"embeddings.{position}.weight"]))
    value = nodes.add("Concat", parts, axis=1)
    last = len(shape["hidden"])
    for position in range(last + 1):
        weight, bias = (nodes.constant(weights[f"layers.{position}.{kind}"]) for kind in ("weight", "bias"))
        value = nodes.add("Gemm", [value, weight, bias], transB=1)
        value = nodes.add("Relu", [value]) if position < last else value
    output = _output_nodes(nodes, shape, value)
    inputs = []
    if signature.numeric:
        inputs.append(helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, len(signature.numeric)]))
    if signature.categorical:
        inputs.append(
            helper.make_tensor_value_info("categorical", TensorProto.STRING, [None, len(signature.categorical)])
        )
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, shape["outputs"]])]
    graph = helper.make_graph(nodes.nodes, signature.name, inputs, outputs, nodes.constants)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR, producer_name="kfp-fti")
    checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


class _Nodes:
    """Nodes and constants of a graph, each named by its number."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, inputs: list[str], output: str = "", **attributes: object) -> str:
        from onnx import helper

        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}_{len(self.nodes)}", **attributes))
        return output

    def constant(self, value: "np.ndarray") -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _number_nodes(nodes: _Nodes, shape: Mapping[str, Any]) -> list[str]:
    import numpy as np
    from onnx import TensorProto

    mean, std = (nodes.constant(np.array(shape[name], dtype=np.float32)) for name in ("mean", "std"))
    low, high = (nodes.constant(np.array(sign * shape["largest"], dtype=np.float32)) for sign in (-1, 1))
    missing = nodes.add("IsNaN", ["numeric"])
    filled = nodes.add("Where", [missing, mean, "numeric"])
    scaled = nodes.add("Div", [nodes.add("Sub", [filled, mean]), std])
    return [nodes.add("Clip", [scaled, low, high]), nodes.add("Cast", [missing], to=TensorProto.FLOAT)]


def _embedding_nodes(nodes: _Nodes, position: int, column: list[str], weight: "np.ndarray") -> str:
    import numpy as np

    text = nodes.add("Gather", ["categorical", nodes.constant(np.array(position, dtype=np.int64))], axis=1)
    nodes.nodes.append(_label_encoder(text, position, column))
    return nodes.add("Gather", [nodes.constant(weight), f"code_{position}"], axis=0)


def _label_encoder(text: str, position: int, column: list[str]) -> Any:
    from onnx import helper

    return helper.make_node(
        "LabelEncoder",
        [text],
        [f"code_{position}"],
        name=f"code_{position}",
        domain="ai.onnx.ml",
        keys_strings=column,
        values_int64s=list(range(1, len(column) + 1)),
        default_int64=0,
    )


def _output_nodes(nodes: _Nodes, shape: Mapping[str, Any], value: str) -> str:
    import numpy as np

    if shape["task"] != "regression":
        return nodes.add("Softmax", [value], "probability", axis=1)
    std, mean = (nodes.constant(np.array(shape[f"target_{name}"], dtype=np.float32)) for name in ("std", "mean"))
    return nodes.add("Add", [nodes.add("Mul", [value, std]), mean], "value")
