"""scikit-learn's models, and estimators and modules of the user's own, behind one interface."""

import hashlib
import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fti.common.errors import TrainingError
from fti.common.scoring import as_frame
from fti.train.data import TrainingData
from fti.train.encoding import context_of
from fti.train.export import to_onnx, to_skops
from fti.train.fitted import Fitted
from fti.train.hyperparameters import Boosting, Fitting, Forest, Linear, Logistic, parse, whole_numbers

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)


def fit_logistic(data: TrainingData, parameters: Logistic, seed: int) -> Fitted:
    """Logistic regression."""
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression(C=parameters.C, max_iter=parameters.max_iter, solver="newton-cholesky")
    return _fit(data, _pipeline(context_of(data, seed).linear_encoder(), estimator), asdict(parameters))


def fit_ridge(data: TrainingData, parameters: Linear, seed: int) -> Fitted:
    """Linear regression with an L2 penalty."""
    from sklearn.linear_model import Ridge

    estimator = Ridge(alpha=parameters.alpha, solver="cholesky")
    return _fit(data, _pipeline(context_of(data, seed).linear_encoder(), estimator), asdict(parameters))


def fit_boosting(data: TrainingData, parameters: Boosting, seed: int) -> Fitted:
    """Histogram gradient boosting, stopped by the validation rows."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingRegressor if data.signature.task == "regression" else HistGradientBoostingClassifier
    given = asdict(parameters) | {"max_depth": parameters.max_depth or None}
    patience = given.pop("patience")
    estimator = kind(**given, n_iter_no_change=patience, early_stopping=True, random_state=seed)
    encoder = context_of(data, seed).tree_encoder()
    train = encoder.fit_transform(as_frame(data.signature, data.train.feed))
    validation = encoder.transform(as_frame(data.signature, data.validation.feed))
    with _training_errors(estimator):
        estimator.fit(train, data.train.target, X_val=validation, y_val=data.validation.target)
    estimator._bin_mapper.n_threads = 1  # skops keeps it, but it is of the machine, not of the model
    return _exported(data, _pipeline(encoder, estimator), asdict(parameters), {"rounds": int(estimator.n_iter_)})


def fit_forest(data: TrainingData, parameters: Forest, seed: int) -> Fitted:
    """Random forest."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    kind = RandomForestRegressor if data.signature.task == "regression" else RandomForestClassifier
    estimator = kind(**asdict(parameters) | {"max_depth": parameters.max_depth or None}, random_state=seed, n_jobs=-1)
    return _fit(data, _pipeline(context_of(data, seed).tree_encoder(impute=True), estimator), asdict(parameters))


def fit_own(data: TrainingData, algorithm: str, hyperparameters: Mapping[str, object], seed: int) -> Fitted:
    """An estimator or a torch module of the user's own.

    Args:
        data: The rows.
        algorithm: `module:function`. The function takes the hyperparameters (a dict; whole floats as integers) and a
            `fti.train.encoding.Context`, and returns an unfitted scikit-learn estimator or pipeline over the numeric
            columns, then the text columns, chosen by position; or a torch module, see `fti.train.torch_own`.
        hyperparameters: Handed to the function; those of `hyperparameters.Fitting` also rule how a module is fitted.
        seed: Handed to the function in the context.

    Raises:
        TrainingError: The function cannot be imported or called, or what it returns cannot be fitted or exported.
    """
    function = _imported(algorithm)
    given = {name: whole_numbers(value) for name, value in hyperparameters.items()}
    context = context_of(data, seed)
    source = inspect.getsourcefile(function)
    notes = {"source": hashlib.sha256(Path(source).read_bytes()).hexdigest()} if source else {}

    def make() -> Any:
        try:
            return function(given, context)
        except Exception as error:  # somebody else's code
            raise TrainingError(f"{algorithm} failed: {type(error).__name__}: {error}") from error

    estimator = make()
    if _is_torch(estimator):
        from fti.train.torch_own import fit_module

        names = {field.name for field in fields(Fitting)}
        fitting = parse(Fitting, {name: value for name, value in given.items() if name in names}, algorithm)
        return fit_module(data, context, make, fitting, hyperparameters=given, notes=notes)
    needed = ("fit", "predict") if data.signature.task == "regression" else ("fit", "predict_proba")
    absent = [name for name in needed if not hasattr(estimator, name)]
    if absent:
        raise TrainingError(
            f"{algorithm} returned {type(estimator).__name__}, which has no {' and no '.join(absent)}",
            allowed=f"a scikit-learn estimator or pipeline with {' and '.join(needed)}, or a torch module",
        )
    return _fit(data, estimator, given, notes)


def _is_torch(made: Any) -> bool:
    """Whether something is a torch module, without importing torch for what is not."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(made, torch.nn.Module)


def _imported(algorithm: str) -> Callable[..., Any]:
    module, _, name = algorithm.partition(":")
    remedy = "Install the module in the image, or put its folder on PYTHONPATH"
    try:
        function = getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise TrainingError(f"module {module} has no function {name!r}", allowed="module:function") from error
    except Exception as error:  # somebody else's module
        raise TrainingError(f"module {module!r} cannot be imported: {error}", remedy=remedy) from error
    if not callable(function):
        raise TrainingError(f"{algorithm} is {type(function).__name__}", allowed="a function")
    return function  # type: ignore[no-any-return]


def _fit(
    data: TrainingData, estimator: Any, hyperparameters: Mapping[str, object], notes: Mapping[str, object] | None = None
) -> Fitted:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # Sums of BLAS depend on its threads; one thread gives the same bits on machines of any size.
    with _training_errors(estimator), threadpool_limits(1, "blas"):
        estimator.fit(as_frame(data.signature, data.train.feed), data.train.target)
    return _exported(data, estimator, hyperparameters, notes or {})


def _exported(
    data: TrainingData, estimator: Any, hyperparameters: Mapping[str, object], notes: Mapping[str, object]
) -> Fitted:
    regression = data.signature.task == "regression"

    def score(feed: "Mapping[str, np.ndarray]") -> "np.ndarray":
        frame = as_frame(data.signature, feed)
        scores: np.ndarray = estimator.predict(frame).reshape(-1) if regression else estimator.predict_proba(frame)
        return scores

    onnx = to_onnx(estimator, data.signature)
    return Fitted(onnx, {"model.skops": to_skops(estimator)}, score, hyperparameters, notes)


def _pipeline(encoder: Any, estimator: Any) -> Any:
    from sklearn.pipeline import Pipeline

    return Pipeline([("encoder", encoder), ("model", estimator)])


@contextmanager
def _training_errors(estimator: Any) -> Iterator[None]:
    """scikit-learn's refusals as our own error, its warnings (no convergence) as lines of the log."""
    import warnings

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise TrainingError(f"{type(estimator).__name__} cannot be fitted: {error}") from error
    for line in sorted({str(warning.message).splitlines()[0] for warning in caught}):
        log.warning("%s: %s", type(estimator).__name__, line)
