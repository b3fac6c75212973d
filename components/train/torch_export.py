"""A torch module as an ONNX graph over raw inputs: torch's own exporter, with the text encoded in front of it."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fti.common.model_package import Signature
from fti.train.encoding import Context

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_OPSET, _IR = 18, 9


def to_graph(
    module: "torch.nn.Module", inputs: "tuple[torch.Tensor, torch.Tensor]", signature: Signature, context: Context
) -> bytes:
    """Exports a module that takes numbers [N, n] and codes [N, m], and gives scores [N, k].

    Args:
        module: In evaluation mode.
        inputs: Some rows to trace with.
        signature: The model's.
        context: Holds the categories whose codes are 1, 2, …

    Returns:
        The serialised graph, the same bytes each time; empty where torch cannot export the module, for whatever reason.
    """
    import torch

    output = "value" if signature.task == "regression" else "probability"
    rows = {0: torch.export.Dim.DYNAMIC}
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                input_names=["numeric", "codes"],
                output_names=[output],
                dynamic_shapes=(rows, rows),
                opset_version=_OPSET,
                verbose=False,
            )
            return _over_text(program.model_proto, signature, context)
    except Exception as error:  # torch raises whatever it meets
        log.info("torch.onnx does not export %s: %s", type(module.module).__name__, type(error).__name__)
        return b""


def _over_text(model: Any, signature: Signature, context: Context) -> bytes:
    """Puts the encoding of text in front, and drops what tells of this machine: traces name files and lines."""
    from onnx import TensorProto, checker, helper

    graph = model.graph
    inputs = {node.name: node for node in graph.input}
    del graph.input[:]
    if signature.numeric:
        graph.input.append(helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, len(signature.numeric)]))
    if signature.categorical:
        width = len(signature.categorical)
        graph.input.append(helper.make_tensor_value_info("categorical", TensorProto.STRING, [None, width]))
        nodes = [*_encoding(context), *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    elif any("codes" in node.input for node in graph.node):
        raise ValueError(f"the graph takes {', '.join(inputs)}")
    del graph.value_info[:]
    model.ir_version, model.producer_version, graph.name = _IR, "", signature.name
    if not any(opset.domain == "ai.onnx.ml" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    for held in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del held.metadata_props[:]
        held.doc_string = ""
    checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _encoding(context: Context) -> list[Any]:
    from onnx import helper

    codes = []
    nodes = []
    for position, column in enumerate(context.categories):
        at, code = f"text_{position}", f"text_code_{position}"
        nodes.append(helper.make_node("Constant", [], [f"{at}_at"], value_ints=[position]))
        nodes.append(helper.make_node("Gather", ["categorical", f"{at}_at"], [at], axis=1))
        encoder = helper.make_node(
            "LabelEncoder",
            [at],
            [code],
            domain="ai.onnx.ml",
            keys_strings=list(column),
            values_int64s=list(range(1, len(column) + 1)),
            default_int64=0,
        )
        nodes.append(encoder)
        codes.append(code)
    return [*nodes, helper.make_node("Concat", codes, ["codes"], axis=1)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences torch, which tells at length of what it cannot export; the caller needs one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
