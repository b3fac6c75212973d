"""The algorithms by name, and the choice among them."""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from fti.common.errors import TrainingError
from fti.common.model_package import Task
from fti.train import hyperparameters as known
from fti.train.data import TrainingData
from fti.train.fitted import Fitted

CLASSIFICATION: tuple[Task, ...] = ("binary", "multiclass")
REGRESSION: tuple[Task, ...] = ("regression",)


@dataclass(frozen=True)
class Algorithm:
    """One algorithm.

    Attributes:
        tasks: What it can learn.
        parameters: The dataclass of its hyperparameters.
        fit: `module:function` of `fti.train`, imported when needed: torch and scikit-learn are heavy.
    """

    tasks: tuple[Task, ...]
    parameters: type
    fit: str


ALGORITHMS = {
    "logistic_regression": Algorithm(CLASSIFICATION, known.Logistic, "sklearn_models:fit_logistic"),
    "linear_regression": Algorithm(REGRESSION, known.Linear, "sklearn_models:fit_ridge"),
    "hist_gradient_boosting": Algorithm(CLASSIFICATION + REGRESSION, known.Boosting, "sklearn_models:fit_boosting"),
    "random_forest": Algorithm(CLASSIFICATION + REGRESSION, known.Forest, "sklearn_models:fit_forest"),
    "mlp": Algorithm(CLASSIFICATION + REGRESSION, known.Mlp, "torch_mlp:fit_mlp"),
}


def check_algorithm(name: str, hyperparameters: Mapping[str, object]) -> None:
    """Refuses an unknown algorithm or hyperparameter before any data are read.

    Raises:
        TrainingError: Lists what is allowed.
    """
    if name in ALGORITHMS:
        known.parse(ALGORITHMS[name].parameters, hyperparameters, name)
    elif not all(part.strip() for part in name.partition(":")):
        close = difflib.get_close_matches(name, ALGORITHMS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise TrainingError(f"unknown algorithm {name!r}{hint}", allowed=", ".join([*ALGORITHMS, "module:function"]))


def fit(name: str, data: TrainingData, hyperparameters: Mapping[str, object], seed: int) -> Fitted:
    """Fits an algorithm by name.

    Raises:
        TrainingError: It is unknown, cannot learn the task, or fails on these data.
    """
    check_algorithm(name, hyperparameters)
    if name not in ALGORITHMS:
        from fti.train.sklearn_models import fit_own

        return fit_own(data, name, hyperparameters, seed)
    algorithm = ALGORITHMS[name]
    task = data.signature.task
    if task not in algorithm.tasks:
        able = [other for other, candidate in ALGORITHMS.items() if task in candidate.tasks]
        raise TrainingError(
            f"{name} cannot learn the {task} task of label {data.signature.label}", allowed=", ".join(able)
        )
    module, _, function = algorithm.fit.partition(":")
    fitter = getattr(importlib.import_module(f"fti.train.{module}"), function)
    return cast(Fitted, fitter(data, known.parse(algorithm.parameters, hyperparameters, name), seed))
