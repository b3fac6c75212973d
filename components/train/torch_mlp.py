"""A multi-layer perceptron in torch, with an embedding per text feature (Guo & Berkhahn, 2016).

Missing numbers become the mean and are marked in columns of their own; unknown categories have the zero embedding.
"""

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fti.common.devices import torch_device
from fti.common.errors import TrainingError
from fti.common.model_package import as_json
from fti.train.data import Rows, TrainingData
from fti.train.encoding import context_of
from fti.train.fitted import Fitted
from fti.train.hyperparameters import Fitting, Mlp

if TYPE_CHECKING:
    import numpy as np
    import torch

log = logging.getLogger(__name__)

_LARGEST = 8.0  # standard deviations; a wild outlier must not saturate the layers


def fit_mlp(data: TrainingData, parameters: Mlp, seed: int) -> Fitted:
    """Fits the perceptron with AdamW, on a GPU when there is one, until the validation loss stops falling.

    Raises:
        TrainingError: The parameters cannot make a network, or its loss is not finite.
    """
    import torch
    from safetensors.torch import save

    from fti.train.torch_onnx import mlp_graph

    if not parameters.batch_size or not parameters.max_epochs or not all(parameters.hidden) or parameters.dropout >= 1:
        raise TrainingError(
            f"mlp cannot be built from {asdict(parameters)}",
            allowed="batch_size, max_epochs and every width at least 1, dropout below 1",
        )
    shape = _shape(data, parameters, seed)
    device = torch_device("auto")
    with deterministic(seed):
        network = build(shape).to(device)
        epochs = fit_network(
            network, _tensors(data.train, shape, device), _tensors(data.validation, shape, device), parameters
        )
    network = network.cpu().eval()

    def score(feed: "Mapping[str, np.ndarray]") -> "np.ndarray":
        with torch.no_grad():
            output = network(*mlp_inputs(feed, shape, torch.device("cpu")))
        if shape["task"] == "regression":
            values: np.ndarray = (output[:, 0] * shape["target_std"] + shape["target_mean"]).numpy()
            return values
        probability: np.ndarray = torch.softmax(output, dim=1).numpy()
        return probability

    weights = {name: tensor.contiguous() for name, tensor in sorted(network.state_dict().items())}
    return Fitted(
        onnx=mlp_graph(data.signature, shape, {name: tensor.numpy() for name, tensor in weights.items()}),
        native={"model.safetensors": save(weights), "model.json": as_json(shape)},
        score=score,
        hyperparameters=asdict(parameters) | {"hidden": list(parameters.hidden)},
        notes={"epochs": epochs, "device": device.type},
    )


def build(shape: Mapping[str, Any]) -> "torch.nn.Module":
    """The network that a package's `model.json` describes; `model.safetensors` holds its weights.

    It takes standardised numbers with marks of missing ones [N, 2n] and codes [N, m]; see `fti.train.torch_onnx` for
    the whole path from raw inputs.
    """
    import torch
    from torch import nn

    class Network(nn.Module):  # type: ignore[misc]  # torch is not followed
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = nn.ModuleList(
                nn.Embedding(len(column) + 1, width, padding_idx=0)
                for column, width in zip(shape["categories"], shape["embeddings"], strict=True)
            )
            widths = [2 * len(shape["mean"]) + sum(shape["embeddings"]), *shape["hidden"], shape["outputs"]]
            self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
            self.dropout = nn.Dropout(shape["dropout"])

        def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            parts = [embedding(codes[:, position]) for position, embedding in enumerate(self.embeddings)]
            hidden = torch.cat([numbers, *parts], dim=1)
            for layer in self.layers[:-1]:
                hidden = self.dropout(torch.relu(layer(hidden)))
            last: torch.Tensor = self.layers[-1](hidden)
            return last

    return Network()


def _shape(data: TrainingData, parameters: Mlp, seed: int) -> dict[str, Any]:
    """Everything but the weights, as JSON: the package's `model.json`."""
    import numpy as np

    categories = [sorted(column) for column in context_of(data, seed).categories]
    numeric = data.train.feed.get("numeric", np.empty((len(data.train.target), 0), dtype=np.float32))
    mean, std = scaling(numeric)
    target = data.train.target
    regression = data.signature.task == "regression"
    return {
        "task": data.signature.task,
        "mean": mean.tolist(),
        "std": std.tolist(),
        "largest": _LARGEST,
        "categories": categories,
        "embeddings": [min(parameters.embedding, (len(column) + 2) // 2) for column in categories],
        "hidden": list(parameters.hidden),
        "dropout": parameters.dropout,
        "outputs": 1 if regression else len(data.signature.classes),
        "target_mean": float(target.mean()) if regression else 0.0,
        "target_std": (float(target.std()) or 1.0) if regression else 1.0,
    }


def scaling(numeric: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
    """Mean and standard deviation of columns, float32 [n] each, over the numbers that are there; 1 for a constant."""
    import numpy as np

    known = np.isfinite(numeric)
    counts = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, numeric, 0).astype(np.float64)
    mean = filled.sum(axis=0) / counts
    std = np.sqrt((np.where(known, numeric - mean, 0) ** 2).sum(axis=0) / counts)
    std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1)
    return mean.astype(np.float32), std.astype(np.float32)


def mlp_inputs(
    feed: "Mapping[str, np.ndarray]", shape: Mapping[str, Any], device: "torch.device"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Raw inputs as the network takes them: scaled numbers with marks of missing ones [N, 2n], and codes [N, m]."""
    import numpy as np
    import torch

    rows = len(next(iter(feed.values())))
    numeric = feed.get("numeric", np.empty((rows, 0), dtype=np.float32))
    missing = np.isnan(numeric)
    mean, std = np.float32(shape["mean"]), np.float32(shape["std"])
    scaled = ((np.where(missing, mean, numeric) - mean) / std).clip(-shape["largest"], shape["largest"])
    numbers = np.concatenate([scaled, missing.astype(np.float32)], axis=1).astype(np.float32)
    codes = np.zeros((rows, len(shape["categories"])), dtype=np.int64)
    for position, column in enumerate(shape["categories"]):
        code = {value: number for number, value in enumerate(column, start=1)}
        codes[:, position] = [code.get(value, 0) for value in feed["categorical"][:, position]]
    return torch.from_numpy(numbers).to(device), torch.from_numpy(codes).to(device)


def _tensors(rows: Rows, shape: Mapping[str, Any], device: "torch.device") -> "tuple[torch.Tensor, ...]":
    import torch

    target = torch.tensor(rows.target)
    if shape["task"] == "regression":
        target = ((target - shape["target_mean"]) / shape["target_std"]).float()
    return (*mlp_inputs(rows.feed, shape, device), target.to(device))


def fit_network(
    network: "torch.nn.Module",
    train: "tuple[torch.Tensor, ...]",
    validation: "tuple[torch.Tensor, ...]",
    parameters: Mlp | Fitting,
) -> int:
    """Fits until the validation loss stops falling; keeps the best weights.

    Args:
        network: Takes all of a batch but its last tensor, the target: codes of classes, or floats.
        train: Numbers, codes and target of the rows to fit.
        validation: Of those to stop by.
        parameters: Learning rate, batch size and the like.

    Returns:
        The epoch of the best weights, from 1.

    Raises:
        TrainingError: The loss is never finite.
    """
    import torch

    optimizer = torch.optim.AdamW(
        network.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay
    )
    best, best_epoch, weights = float("inf"), 0, copy.deepcopy(network.state_dict())
    for epoch in range(1, parameters.max_epochs + 1):
        network.train()
        for rows in torch.randperm(len(train[-1])).to(train[-1].device).split(parameters.batch_size):
            optimizer.zero_grad()
            _loss(network, *(tensor[rows] for tensor in train)).backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            loss = float(_loss(network, *validation))
        log.info("epoch %d: validation loss %.5f", epoch, loss)
        if loss < best:
            best, best_epoch, weights = loss, epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= parameters.patience:
            break
    if not best_epoch:
        raise TrainingError("the loss of the network is not finite", remedy="Lower learning_rate")
    network.load_state_dict(weights)
    return best_epoch


def _loss(
    network: "torch.nn.Module", numbers: "torch.Tensor", codes: "torch.Tensor", target: "torch.Tensor"
) -> "torch.Tensor":
    from torch.nn import functional

    output = network(numbers, codes)
    if target.is_floating_point():
        return functional.mse_loss(output[:, 0], target)
    return functional.cross_entropy(output, target)


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Seeds torch and fixes the order of its sums; leaves both as they were."""
    import os

    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict)
            torch.set_num_threads(threads)
