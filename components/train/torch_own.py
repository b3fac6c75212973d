"""torch modules of the user's own: fitted as the perceptron is, served by ONNX Runtime where it can, else by torch.

A module takes numbers and codes as the perceptron does (see `Whole.prepare`) and gives logits [N, k], or for regression
one value [N, 1] in standard deviations from the mean. Whatever else a prediction takes — scaling, marks of missing
numbers, the softmax — is wrapped around it and served with it.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fti.common.devices import torch_device
from fti.common.errors import TrainingError
from fti.common.scoring import open_backend, run_backend
from fti.train.data import Rows, TrainingData
from fti.train.encoding import Context
from fti.train.fitted import TOLERANCE, Fitted
from fti.train.hyperparameters import Fitting
from fti.train.torch_mlp import deterministic, fit_network, scaling
from fti.train.torch_program import to_program

if TYPE_CHECKING:
    import numpy as np
    import torch

log = logging.getLogger(__name__)


def fit_module(
    data: TrainingData,
    context: Context,
    make: "Callable[[], torch.nn.Module]",
    fitting: Fitting,
    *,
    hyperparameters: Mapping[str, object],
    notes: Mapping[str, object],
) -> Fitted:
    """Fits a module with AdamW, on a GPU when there is one, until the validation loss stops falling.

    Args:
        data: The rows.
        context: What the module's maker was told.
        make: Builds the module; called under the seed.
        fitting: How to fit.
        hyperparameters: The module's own.
        notes: See `Fitted`.

    Raises:
        TrainingError: The module cannot be called or fitted, or exports in neither way.
    """
    import torch

    device = torch_device("auto")
    with deterministic(context.seed):
        whole = whole_of(make(), data, context).to(device)
        try:
            tensors = [_tensors(whole, rows, data, context, device) for rows in (data.train, data.validation)]
            epochs = fit_network(whole.module, tensors[0], tensors[1], fitting)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:  # somebody else's module
            raise TrainingError(f"{type(whole.module).__name__} cannot be fitted: {error}") from error
    whole = whole.cpu().eval()

    def score(feed: "Mapping[str, np.ndarray]") -> "np.ndarray":
        with torch.no_grad():
            scores: np.ndarray = whole(*whole_inputs(feed, context)).numpy()
        return scores[:, 0] if data.signature.task == "regression" else scores

    onnx, native = _exported(whole, data, context, score)
    return Fitted(
        onnx=onnx,
        native=native,
        score=score,
        hyperparameters={**asdict(fitting), **hyperparameters},
        notes={**notes, "epochs": epochs, "device": device.type, "served_by": "onnxruntime" if onnx else "torch"},
    )


def whole_of(module: "torch.nn.Module", data: TrainingData, context: Context) -> Any:
    """Wraps a module from raw inputs, numbers [N, n] with NaN and codes [N, m], to probabilities [N, k] or [N, 1]."""
    import torch

    rows = len(data.train.target)
    numeric = _numeric(data.train.feed, rows)[:, list(context.numeric)]
    mean, std = scaling(numeric)
    regression = data.signature.task == "regression"
    target = (float(data.train.target.mean()), float(data.train.target.std()) or 1.0) if regression else (0.0, 1.0)

    class Whole(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
        def __init__(self) -> None:
            super().__init__()
            self.module = module
            self.register_buffer("columns", torch.tensor(context.numeric, dtype=torch.int64))
            self.register_buffer("mean", torch.from_numpy(mean))
            self.register_buffer("std", torch.from_numpy(std))

        def prepare(self, numeric: torch.Tensor) -> torch.Tensor:
            """Numbers in standard deviations, missing ones as the mean, then a mark of each that is missing."""
            chosen = numeric.index_select(1, self.columns)
            missing = torch.isnan(chosen)
            scaled = (torch.where(missing, self.mean, chosen) - self.mean) / self.std
            return torch.cat([scaled.clamp(-8.0, 8.0), missing.to(torch.float32)], dim=1)

        def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            output = self.module(self.prepare(numeric), codes)
            return output * target[1] + target[0] if regression else torch.softmax(output, dim=1)

    return Whole()


def whole_inputs(feed: "Mapping[str, np.ndarray]", context: Context) -> "tuple[torch.Tensor, torch.Tensor]":
    """Raw inputs as the wrapped module takes them: a text is its place among the categories, from 1; else 0."""
    import numpy as np
    import torch

    rows = len(next(iter(feed.values())))
    codes = np.zeros((rows, len(context.categories)), dtype=np.int64)
    for position, column in enumerate(context.categories):
        code = {value: number for number, value in enumerate(column, start=1)}
        codes[:, position] = [code.get(value, 0) for value in feed["categorical"][:, position]]
    return torch.from_numpy(_numeric(feed, rows)), torch.from_numpy(codes)


def _exported(
    whole: Any, data: TrainingData, context: Context, score: "Callable[[Mapping[str, np.ndarray]], np.ndarray]"
) -> tuple[bytes, dict[str, bytes]]:
    """The ONNX graph and the weights; or no graph, and the program that torch serves."""
    from safetensors.torch import save

    from fti.train.torch_export import quiet, to_graph

    inputs = whole_inputs({name: part[:8] for name, part in data.validation.feed.items()}, context)
    graph = to_graph(whole, inputs, data.signature, context)
    if graph and _differs(graph, data, score) is None:
        weights = {name: tensor.contiguous() for name, tensor in sorted(whole.state_dict().items())}
        return graph, {"model.safetensors": save(weights)}
    log.info("%s has no ONNX form that answers as it does: torch is to serve it", type(whole.module).__name__)
    with quiet():
        return b"", to_program(whole, inputs, context.categories)


def _differs(
    graph: bytes, data: TrainingData, score: "Callable[[Mapping[str, np.ndarray]], np.ndarray]"
) -> Exception | float | None:
    """What keeps a graph from standing in for the module; None where nothing does."""
    import numpy as np

    feed = {name: part[:1000] for name, part in data.validation.feed.items()}
    try:
        scores = run_backend(open_backend({"model.onnx": graph}, data.signature.task, threads=1), feed)
    except Exception as error:  # ONNX Runtime's errors share no base
        return error
    native = score(feed)
    scale = max(float(data.train.target.std()), 1e-12) if data.signature.task == "regression" else 1.0
    worst = float(np.abs(scores.reshape(native.shape) - native).max()) / scale
    return None if worst <= TOLERANCE else worst


def _tensors(
    whole: Any, rows: Rows, data: TrainingData, context: Context, device: "torch.device"
) -> "tuple[torch.Tensor, ...]":
    import torch

    target = torch.tensor(rows.target)
    if data.signature.task == "regression":
        mean, std = float(data.train.target.mean()), float(data.train.target.std()) or 1.0
        target = ((target - mean) / std).float()
    with torch.no_grad():
        numeric, codes = whole_inputs(rows.feed, context)
        numbers = whole.prepare(numeric.to(device))
    return numbers, codes.to(device), target.to(device)


def _numeric(feed: "Mapping[str, np.ndarray]", rows: int) -> "np.ndarray":
    import numpy as np

    return feed.get("numeric", np.empty((rows, 0), dtype=np.float32))
