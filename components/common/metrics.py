"""How good scores are: the metrics of each task, and the threshold of a binary model."""

from typing import TYPE_CHECKING

from fti.common.model_package import Task

if TYPE_CHECKING:
    import numpy as np

# Metrics where less is better; of all others, more is better.
ERRORS = frozenset({"log_loss", "brier", "ece", "rmse", "mae", "mape"})


def metrics_of(
    task: Task, target: "np.ndarray", scores: "np.ndarray", threshold: float | None = None
) -> dict[str, float]:
    """The metrics of a task, by name. One that the data do not define (AUC of one class only) is left out.

    Args:
        task: The kind of problem.
        target: [N]: codes 0…k-1 of the classes, or values.
        scores: Probabilities [N, k], or values [N].
        threshold: For `binary`: the probability from which class 1 is predicted.
    """
    if task == "regression":
        return _regression(target, scores)
    if task == "binary":
        return _binary(target, scores[:, 1], 0.5 if threshold is None else threshold)
    return _multiclass(target, scores)


def best_threshold(target: "np.ndarray", probability: "np.ndarray") -> float:
    """The threshold with the best F1 on these rows; 0.5 where they hold no positive row.

    Args:
        target: [N], 0 or 1.
        probability: [N], of class 1.
    """
    import numpy as np
    from sklearn.metrics import precision_recall_curve

    if not target.any():
        return 0.5
    precision, recall, thresholds = precision_recall_curve(target, probability)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[f1[:-1].argmax()])


def calibration_error(target: "np.ndarray", probability: "np.ndarray", bins: int = 15) -> float:
    """Expected calibration error over equally filled bins (Nguyen & O'Connor, 2015, adaptive binning).

    Args:
        target: [N], 0 or 1.
        probability: [N].
        bins: How many groups of rows of neighbouring probability.
    """
    import numpy as np

    order = np.argsort(probability, kind="stable")
    gaps = [
        len(rows) * abs(float(probability[rows].mean()) - float(target[rows].mean()))
        for rows in np.array_split(order, bins)
        if len(rows)
    ]
    return sum(gaps) / len(target)


def _binary(target: "np.ndarray", probability: "np.ndarray", threshold: float) -> dict[str, float]:
    import numpy as np
    from sklearn import metrics

    predicted = (probability >= threshold).astype(int)
    found = {
        "log_loss": metrics.log_loss(target, np.column_stack([1 - probability, probability]), labels=[0, 1]),
        "brier": float(np.mean((probability - target) ** 2)),
        "ece": calibration_error(target, probability),
        "accuracy": metrics.accuracy_score(target, predicted),
        "precision": metrics.precision_score(target, predicted, zero_division=0),
        "recall": metrics.recall_score(target, predicted, zero_division=0),
        "f1": metrics.f1_score(target, predicted, zero_division=0),
    }
    if 0 < target.sum() < len(target):
        ranking = {
            "roc_auc": metrics.roc_auc_score(target, probability),
            "average_precision": metrics.average_precision_score(target, probability),
        }
        found = ranking | found
    return {name: float(value) for name, value in found.items()}


def _multiclass(target: "np.ndarray", scores: "np.ndarray") -> dict[str, float]:
    import numpy as np
    from sklearn import metrics

    codes = np.arange(scores.shape[1])
    predicted = scores.argmax(axis=1)
    normal = scores / scores.sum(axis=1, keepdims=True)
    return {
        "accuracy": float(metrics.accuracy_score(target, predicted)),
        "macro_f1": float(metrics.f1_score(target, predicted, average="macro", labels=codes, zero_division=0)),
        "log_loss": float(metrics.log_loss(target, normal, labels=codes)),
    }


def _regression(target: "np.ndarray", values: "np.ndarray") -> dict[str, float]:
    import numpy as np

    error = values.astype(float) - target
    spread = float(np.sum((target - target.mean()) ** 2))
    found = {"rmse": float(np.sqrt(np.mean(error**2))), "mae": float(np.abs(error).mean())}
    if spread > 0:
        found["r2"] = 1 - float(np.sum(error**2)) / spread
    # A percentage of nearly nothing says nothing.
    if len(target) and np.abs(target).min() > 1e-3 * np.abs(target).mean() > 0:
        found["mape"] = float(np.mean(np.abs(error / target)))
    return found
