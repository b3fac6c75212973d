"""A model whose explanations are known by hand: x·y + 3z, whatever u is."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from fti.common.model_package import ModelPackage, Signature, write_package
from fti.common.tables import Feature

_MADE: dict[str, ModelPackage] = {}


def graph() -> bytes:
    nodes = [
        helper.make_node("Split", ["numeric"], ["x", "y", "z", "u"], axis=1, num_outputs=4),
        helper.make_node("Mul", ["x", "y"], ["xy"]),
        helper.make_node("Mul", ["z", "three"], ["3z"]),
        helper.make_node("Add", ["xy", "3z"], ["value"]),
    ]
    inputs = [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, 4])]
    outputs = [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])]
    three = numpy_helper.from_array(np.float32([3]), "three")
    made = helper.make_graph(nodes, "products", inputs, outputs, [three])
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString())


def package(factory: pytest.TempPathFactory) -> ModelPackage:
    """The package; in its background x and y are alike."""
    if "made" not in _MADE:
        rng = np.random.default_rng(0)
        columns = rng.normal(size=(10, 4)).astype(np.float32)
        mirrored = np.concatenate([columns, columns[:, [1, 0, 2, 3]]])
        _MADE["made"] = write_package(
            factory.mktemp("products") / "package",
            signature=Signature(
                name="products", task="regression", inputs=tuple(Feature(name, "float32") for name in "xyzu"), label="v"
            ),
            onnx=graph(),
            native={},
            examples={"inputs": [{"x": 1.0, "y": 2.0, "z": 3.0, "u": 4.0}], "outputs": [11.0]},
            provenance={},
            card="",
            background={name: mirrored[:, at].tolist() for at, name in enumerate("xyzu")},
        )
    return _MADE["made"]


def never_run(values: object) -> object:
    """Must not be called, nor found."""
    raise AssertionError
