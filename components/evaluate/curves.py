"""What KFP's ClassificationMetrics and the plots draw: bounded in size, finite in value."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ROC_POINTS = 100  # KFP's UI fails on metrics of some megabytes
CONFUSION_CLASSES = 20


def roc_points(target: "np.ndarray", probability: "np.ndarray") -> "tuple[list[float], list[float], list[float]]":
    """The ROC curve as false positive rates, true positive rates and thresholds, at most `ROC_POINTS` of each.

    Points are taken at even steps along the curve. The first threshold, infinite by convention, is given as 1.
    """
    import numpy as np
    from sklearn.metrics import roc_curve

    false, true, thresholds = roc_curve(target, probability)
    along = false + true  # rises from 0 to 2 along the curve
    chosen = np.unique(np.searchsorted(along, np.linspace(0, 2, ROC_POINTS)).clip(0, len(along) - 1))
    finite = np.minimum(thresholds, 1.0)
    return false[chosen].tolist(), true[chosen].tolist(), [float(value) for value in finite[chosen]]


def confusion(target: "np.ndarray", predicted: "np.ndarray", classes: int) -> "np.ndarray":
    """Counts [k, k]: rows are true classes, columns predicted ones."""
    import numpy as np

    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (target, predicted), 1)
    return counts


def calibration_points(
    target: "np.ndarray", probability: "np.ndarray", bins: int = 12
) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """Mean probability, share of positives and its standard error in equally filled bins."""
    import numpy as np

    groups = [rows for rows in np.array_split(np.argsort(probability, kind="stable"), bins) if len(rows)]
    mean = np.array([probability[rows].mean() for rows in groups])
    share = np.array([target[rows].mean() for rows in groups])
    size = np.array([len(rows) for rows in groups])
    return mean, share, np.sqrt(share * (1 - share) / size)


def predicted_codes(scores: "np.ndarray", threshold: float | None) -> "np.ndarray":
    """Predicted classes [N] as codes: by the threshold, else by the largest probability."""
    return scores.argmax(axis=1) if threshold is None else (scores[:, 1] >= threshold).astype(int)
