"""Training: read, fit, prove the export, package."""

import hashlib
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.files import sha256_of
from fti.common.metrics import best_threshold, metrics_of
from fti.common.model_package import ModelPackage, Signature, write_package
from fti.train.algorithms import check_algorithm, fit
from fti.train.card import model_card
from fti.train.data import Rows, TrainingData, read_training_data
from fti.train.fitted import graph_scores

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

_EXAMPLES = 5
_BACKGROUND = 100  # as shap takes by default: explanations cost in proportion, and are as good as it is representative
_GOLDEN_RATIO = (5**0.5 - 1) / 2
_LIBRARIES = ("kfp-fti", "numpy", "onnx", "onnxruntime", "scikit-learn", "skl2onnx", "torch")


@dataclass(frozen=True)
class Training:
    """What training made.

    Attributes:
        package: The model package.
        metrics: On the validation rows.
        rows: Of training and validation.
        seconds: How long it took; not part of the package.
    """

    package: ModelPackage
    metrics: dict[str, float]
    rows: dict[str, int]
    seconds: float


def train_model(
    train: str | Path,
    validation: str | Path,
    path: str | Path,
    *,
    algorithm: str,
    hyperparameters: Mapping[str, object] | None = None,
    features: Sequence[str] = (),
    label: str = "",
    task: str = "auto",
    name: str = "model",
    seed: int = 0,
) -> Training:
    """Trains a model and writes its package; the same data, parameters and seed give the same digest.

    Args:
        train: The table to fit.
        validation: The table to choose by: when to stop, the threshold.
        path: The package's folder; written whole or not at all.
        algorithm: A name of `fti.train.algorithms`, or `module:function` (see `sklearn_models.fit_own`).
        hyperparameters: Of the algorithm; whole floats serve as integers.
        features: See `read_training_data`.
        label: See `read_training_data`.
        task: See `read_training_data`.
        name: The model's name.
        seed: For everything random.

    Raises:
        TrainingError: Data, algorithm or hyperparameters cannot train a model.
        StorageError: The package cannot be written.
    """
    start = time.perf_counter()
    # Before scikit-learn loads OpenMP: threads that spin at barriers run 20 times slower on cores that others share.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    seed, hyperparameters = int(seed), hyperparameters or {}
    check_algorithm(algorithm, hyperparameters)
    data = read_training_data(train, validation, features=features, label=label, task=task, name=name or "model")
    rows = {"train": len(data.train.target), "validation": len(data.validation.target)}
    log.info("fitting %s on %d rows of %d features", algorithm, rows["train"], len(data.signature.inputs))
    fitted = fit(algorithm, data, hyperparameters, seed)
    scores = graph_scores(fitted, data, data.validation)
    signature = _with_threshold(data, scores)
    metrics = metrics_of(signature.task, data.validation.target, scores, signature.threshold)
    provenance = {
        "algorithm": algorithm,
        "hyperparameters": dict(fitted.hyperparameters),
        "seed": seed,
        "notes": dict(fitted.notes),
        "data": {
            role: {"sha256": sha256_of(file), "rows": rows[role]}
            for role, file in (("train", train), ("validation", validation))
        },
        "code": _code_version(),
        "versions": {library: version(library) for library in _LIBRARIES},
        "metrics": {metric: round(value, 6) for metric, value in metrics.items()},
    }
    package = write_package(
        path,
        signature=signature,
        onnx=fitted.onnx,
        native=fitted.native,
        background=_background(signature, data.train),
        examples=_examples(signature, data.validation, scores),
        provenance=provenance,
        card=model_card(signature, provenance),
    )
    seconds = time.perf_counter() - start
    log.info("%s: %s in %.1f s", package.digest[:12], _line(metrics), seconds)
    return Training(package, metrics, rows, seconds)


def _with_threshold(data: TrainingData, scores: "np.ndarray") -> Signature:
    if data.signature.task != "binary":
        return data.signature
    return replace(data.signature, threshold=best_threshold(data.validation.target, scores[:, 1]))


def _examples(signature: Signature, rows: Rows, scores: "np.ndarray") -> dict[str, object]:
    """The first rows as a caller would send them, with their scores."""
    columns = _columns(signature, rows, range(min(_EXAMPLES, len(rows.target))))
    inputs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {"inputs": inputs, "outputs": scores[:_EXAMPLES].round(6).tolist()}


def _background(signature: Signature, rows: Rows) -> dict[str, list[object]]:
    """Rows spread evenly over all, in no rhythm that time could have, and without a random generator of any version.

    Multiples of the golden ratio, modulo 1, are spread as evenly as points can be (Weyl's sequence).
    """
    count = len(rows.target)
    places = {int(number * _GOLDEN_RATIO % 1 * count) for number in range(1, min(_BACKGROUND, count) + 1)}
    return _columns(signature, rows, sorted(places))


def _columns(signature: Signature, rows: Rows, places: Sequence[int]) -> dict[str, list[object]]:
    """Some rows by column, as a caller would send their values."""
    found: dict[str, list[object]] = {}
    for part, names in (("numeric", signature.numeric), ("categorical", signature.categorical)):
        for position, name in enumerate(names):
            found[name] = rows.feed[part][list(places), position].tolist()
    return {
        feature.name: [_plain(value, feature.dtype) for value in found[feature.name]] for feature in signature.inputs
    }


def _plain(value: object, dtype: str) -> object:
    if isinstance(value, str):
        return value or None
    if not isinstance(value, float) or math.isnan(value):
        return None
    return {"bool": bool, "int64": int}.get(dtype, float)(value)


def _code_version() -> str:
    """The digest of this step's source: names the code where no version control is at hand."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))).hexdigest()


def _line(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in list(metrics.items())[:3])
