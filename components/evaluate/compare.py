"""Metrics with confidence intervals, and the difference of two models on the same rows.

Each metric is a mean of per-row influence values, or a smooth function of one, so that its variance, and that of a
paired difference, follow from theirs: DeLong et al. (1988) for the area under the ROC curve, with mid-ranks as in
Sun & Xu (2014); the delta method for the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fti.common.errors import ConfigError
from fti.common.metrics import ERRORS
from fti.common.model_package import Task

if TYPE_CHECKING:
    import numpy as np

_Z95 = 1.959964  # half the width of a 95 % interval, in standard errors

# The first of each is compared unless another is asked for.
COMPARABLE: dict[Task, tuple[str, ...]] = {
    "binary": ("roc_auc", "log_loss", "brier"),
    "multiclass": ("accuracy", "log_loss"),
    "regression": ("rmse", "mae"),
}


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def metric_to_compare(task: Task, metric: str) -> str:
    """The metric by which models of a task are compared; empty or `auto` means the task's own.

    Raises:
        ConfigError: It cannot be compared row by row.
    """
    if metric in ("", "auto"):
        return COMPARABLE[task][0]
    if metric not in COMPARABLE[task]:
        raise ConfigError(f"{task} models cannot be compared by {metric!r}", allowed=", ".join(COMPARABLE[task]))
    return metric


def estimate(metric: str, target: "np.ndarray", scores: "np.ndarray") -> Interval:
    """A metric with its 95 % interval, for rows that are independent of one another.

    Rows that share a day or a storm are not quite: then the interval is somewhat too narrow.

    Args:
        metric: One of `COMPARABLE`.
        target: [N]: codes of classes, or values.
        scores: Probabilities [N, k], or values [N].
    """
    value, influence = _influence(metric, target, scores)
    return _interval(value, influence)


def improvement(metric: str, target: "np.ndarray", new: "np.ndarray", old: "np.ndarray") -> Interval:
    """By how much the new scores are better than the old ones on the same rows; positive is better for any metric."""
    (value, influence), (old_value, old_influence) = (_influence(metric, target, scores) for scores in (new, old))
    paired = [ours - theirs for ours, theirs in zip(influence, old_influence, strict=True)]
    difference = _interval(value - old_value, paired)
    if metric in ERRORS:
        return Interval(-difference.value, -difference.high, -difference.low)
    return difference


def _interval(value: float, influence: "Sequence[np.ndarray]") -> Interval:
    if any(len(part) < 2 for part in influence):  # one row says nothing of the spread
        return Interval(value, -math.inf, math.inf)
    variance = sum(float(part.var(ddof=1)) / len(part) for part in influence)
    half = _Z95 * variance**0.5
    return Interval(value, value - half, value + half)


def _influence(metric: str, target: "np.ndarray", scores: "np.ndarray") -> "tuple[float, list[np.ndarray]]":
    """A metric and the values per row, in independent groups, whose means' variances add up to its variance."""
    import numpy as np

    if metric == "roc_auc":
        positive, negative = _placements(target, scores[:, 1])
        return float(positive.mean()), [positive, negative]
    rows = np.arange(len(target))
    if metric == "accuracy":
        losses = (scores.argmax(axis=1) == target).astype(float)
    elif metric == "log_loss":
        losses = -np.log(np.clip(scores[rows, target].astype(float), 1e-7, 1))
    elif metric == "brier":
        losses = (scores[:, 1].astype(float) - target) ** 2
    elif metric == "mae":
        losses = np.abs(scores - target)
    else:
        losses = (scores - target) ** 2
        root = max(float(losses.mean()) ** 0.5, 1e-12)
        return root, [losses / (2 * root)]
    return float(losses.mean()), [losses]


def _placements(target: "np.ndarray", probability: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
    """For each positive row the share of negatives below it, and for each negative the share of positives above."""
    from scipy.stats import rankdata

    positive, negative = probability[target == 1], probability[target == 0]
    ranks = rankdata(probability)
    above = (ranks[target == 1] - rankdata(positive)) / len(negative)
    below = 1 - (ranks[target == 0] - rankdata(negative)) / len(positive)
    return above, below
