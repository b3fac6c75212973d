"""Fitted scikit-learn models as ONNX graphs and as skops files, byte for byte the same each time."""

import io
import json
import warnings
import zipfile
from typing import Any

from fti.common.errors import TrainingError
from fti.common.model_package import Signature

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold


def to_onnx(model: Any, signature: Signature) -> bytes:
    """Converts a fitted estimator or pipeline over the columns `numeric`, then `categorical`.

    Raises:
        TrainingError: skl2onnx cannot convert it.
    """
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    inputs: list[tuple[str, Any]] = []
    if signature.numeric:
        inputs.append(("numeric", FloatTensorType([None, len(signature.numeric)])))
    if signature.categorical:
        inputs.append(("categorical", StringTensorType([None, len(signature.categorical)])))
    regression = signature.task == "regression"
    _register_missing_indicator()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = skl2onnx.to_onnx(
                model, initial_types=inputs, name=signature.name, options=None if regression else {"zipmap": False}
            )
    except Exception as error:  # converters raise whatever they meet
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"{type(model).__name__} cannot be exported to ONNX: {reason}",
            allowed="what skl2onnx converts; columns chosen by position, numeric ones first",
        ) from error
    named = _with_output(graph, "value" if regression else "probability")
    _in_order(named.opset_import)
    return bytes(named.SerializeToString(deterministic=True))


def _in_order(opsets: Any) -> None:
    """skl2onnx lists the operator sets in the random order of a Python set."""
    listed = sorted(opsets, key=lambda opset: opset.domain)
    del opsets[:]
    opsets.extend(listed)


def to_skops(model: Any) -> bytes:
    """Serialises a fitted estimator without pickle, without times and without memory addresses.

    Raises:
        TrainingError: skops cannot hold it.
    """
    import skops.io

    try:
        archive = zipfile.ZipFile(io.BytesIO(skops.io.dumps(model)))
    except Exception as error:  # skops raises whatever a foreign class throws
        raise TrainingError(f"{type(model).__name__} cannot be kept by skops: {error}") from error
    schema = json.loads(archive.read("schema.json"))
    numbers: dict[int, int] = {}
    names: dict[str, str] = {}
    _renumber(schema, numbers, names)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for old, new in names.items():
            target.writestr(zipfile.ZipInfo(new, _EPOCH), archive.read(old), zipfile.ZIP_DEFLATED)
        target.writestr(zipfile.ZipInfo("schema.json", _EPOCH), json.dumps(schema), zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _renumber(node: Any, numbers: dict[int, int], names: dict[str, str]) -> None:
    """Replaces object ids, and file names made of them, by the order in which they appear."""
    if isinstance(node, list):
        for item in node:
            _renumber(item, numbers, names)
    elif isinstance(node, dict):
        if isinstance(node.get("__id__"), int):
            node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
        if isinstance(node.get("file"), str):
            suffix = node["file"].rpartition(".")[2]
            node["file"] = names.setdefault(node["file"], f"{len(names)}.{suffix}")
        for item in node.values():
            _renumber(item, numbers, names)


def _with_output(graph: Any, name: str) -> Any:
    """Keeps the last output (after a classifier's label) and gives it the name that every package uses.

    Sums of float32 leave probabilities of trees a little above 1, which is then no probability.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    old = graph.graph.output[-1]
    kept = helper.make_tensor_value_info(name, old.type.tensor_type.elem_type, [None, _width(old)])
    del graph.graph.output[:]
    graph.graph.output.append(kept)
    if name == "value":
        graph.graph.node.append(helper.make_node("Identity", [old.name], [name], name=name))
        return graph
    bounds = {"probability_least": 0.0, "probability_most": 1.0}
    graph.graph.initializer.extend(numpy_helper.from_array(np.float32(at), bound) for bound, at in bounds.items())
    graph.graph.node.append(helper.make_node("Clip", [old.name, *bounds], [name], name=name))
    return graph


def _width(output: Any) -> int | None:
    dimensions = output.type.tensor_type.shape.dim
    return dimensions[1].dim_value or None if len(dimensions) == 2 else 1


def _register_missing_indicator() -> None:
    """Teaches skl2onnx scikit-learn's MissingIndicator over all columns of floats."""
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.impute import MissingIndicator

    def shape(operator: Any) -> None:
        columns = operator.inputs[0].type.shape[1]
        operator.outputs[0].type = FloatTensorType([None, columns])

    def convert(scope: Any, operator: Any, container: Any) -> None:
        missing = scope.get_unique_variable_name("missing")
        container.add_node("IsNaN", [operator.inputs[0].full_name], [missing], op_version=13)
        container.add_node("Cast", [missing], [operator.outputs[0].full_name], to=1, op_version=13)

    skl2onnx.update_registered_converter(MissingIndicator, "FtiMissingIndicator", shape, convert)
