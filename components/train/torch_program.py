"""A torch module as the program of operators that `fti.common.torch_backend` runs."""

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fti.common.errors import TrainingError
from fti.common.model_package import PROGRAM, WEIGHTS, as_json
from fti.common.torch_backend import INPUTS, allowed, written

if TYPE_CHECKING:
    import torch

# They only check, while a program is traced, what its shapes already say.
_CHECKS = ("aten._assert", "aten.sym_constrain", "aten._assert_tensor_metadata")
_PLACES = {"device", "layout", "pin_memory", "memory_format"}


def to_program(
    module: "torch.nn.Module", inputs: "tuple[torch.Tensor, torch.Tensor]", categories: Sequence[Sequence[str]]
) -> dict[str, bytes]:
    """Traces a module into torch's own operators.

    Args:
        module: Takes numbers [N, n] and codes [N, m], and gives scores [N, k]; in evaluation mode.
        inputs: Some rows to trace with.
        categories: Of each text input, the values whose codes are 1, 2, …

    Returns:
        The files of the program.

    Raises:
        TrainingError: The module does what cannot be traced, such as loops over data, or needs an operator that a
            program may not name; says which.
    """
    from safetensors.torch import save

    exported = _traced(module, inputs)
    names, tensors = _named(exported)
    steps = []
    for node in exported.graph.nodes:
        if node.op == "call_function" and not str(node.target).startswith(_CHECKS):
            steps.append(_step(node, names))
        elif node.op not in {"placeholder", "output", "call_function"}:
            raise TrainingError(f"the module needs {node.op} {node.target}, which a program has no form for")
    (output,) = next(iter(reversed(exported.graph.nodes))).args[0]
    described = {
        "numeric": inputs[0].shape[1],
        "categories": [list(column) for column in categories],
        "steps": steps,
        "output": names[output.name],
    }
    return {PROGRAM: as_json(described), WEIGHTS: save(tensors)}


def _traced(module: "torch.nn.Module", inputs: "tuple[torch.Tensor, torch.Tensor]") -> Any:
    import torch

    rows = {0: torch.export.Dim.DYNAMIC}
    try:
        exported = torch.export.export(module, inputs, dynamic_shapes=(rows, rows)).run_decompositions()
    except Exception as error:  # torch raises whatever it meets
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"{type(module.module).__name__} exports neither to ONNX nor to torch.export: {reason}",
            allowed="a module without branches or loops over data, for any number of rows",
        ) from error
    kinds = {str(spec.kind) for spec in exported.graph_signature.output_specs}
    if kinds != {"OutputKind.USER_OUTPUT"} or len(exported.graph_signature.output_specs) != 1:
        raise TrainingError("the module changes its own buffers, or gives other than one tensor")
    return exported


def _named(exported: Any) -> "tuple[dict[str, str], dict[str, torch.Tensor]]":
    """Names of values by node, and the weights under those names, all in the order of the trace."""
    names: dict[str, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    users = iter(INPUTS)
    for spec in exported.graph_signature.input_specs:
        name = spec.arg.name
        if str(spec.kind) == "InputKind.USER_INPUT":
            names[name] = next(users)
            continue
        names[name] = f"w{len(tensors)}"
        held = exported.constants if spec.target in exported.constants else exported.state_dict
        tensors[names[name]] = held[spec.target].detach().contiguous().clone()
    for number, node in enumerate(exported.graph.nodes):
        names.setdefault(node.name, f"v{number}")
    used = {names[node.name] for node in exported.graph.nodes if node.users}
    return names, {name: tensor for name, tensor in tensors.items() if name in used}


def _step(node: Any, names: dict[str, str]) -> dict[str, object]:
    target: Any = node.target
    own = getattr(target, "__name__", "")
    name = own if own and getattr(operator, own, None) is target else str(target)
    if not allowed(name):
        raise TrainingError(
            f"the module needs {name}, which a program may not name",
            allowed="torch's pure operators; see docs/models.md",
            remedy="Write it with others, or make the module export to ONNX",
        )
    kwargs = {key: _value(value, names) for key, value in node.kwargs.items() if key not in _PLACES}
    step = {"out": names[node.name], "op": name, "args": [_value(value, names) for value in node.args]}
    return {**step, "kwargs": kwargs} if kwargs else step


def _value(value: Any, names: dict[str, str]) -> Any:
    import torch

    if isinstance(value, torch.fx.Node):
        return {"ref": names[value.name]}
    if isinstance(value, list | tuple):
        return [_value(item, names) for item in value]
    return written(value)
