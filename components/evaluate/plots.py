"""The plots of an evaluation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fti.common.report import BLUE, GREY, ORANGE, RED, new_figure
from fti.evaluate.curves import calibration_points, roc_points

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

_SHOWN = 4000  # points of a scatter plot


def roc(target: "np.ndarray", probability: "np.ndarray", auc: float) -> "Figure":
    """The ROC curve."""
    false, true, _ = roc_points(target, probability)
    figure = new_figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes.plot(false, true, color=BLUE, linewidth=2)
    axes.set(title=f"ROC curve, area {auc:.4f}", xlabel="false positive rate", ylabel="true positive rate")
    return figure


def precision_recall(target: "np.ndarray", probability: "np.ndarray", threshold: float) -> "Figure":
    """Precision against recall, with the chosen threshold."""
    import numpy as np
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(target, probability)
    chosen = int(np.searchsorted(thresholds, threshold).clip(0, len(thresholds) - 1))
    points = np.unique(np.searchsorted(-recall, -np.linspace(1, 0, 400)).clip(0, len(recall) - 1))
    figure = new_figure()
    axes = figure.subplots()
    share = float(target.mean())
    axes.axhline(share, color=GREY, linestyle="--", linewidth=1, label=f"by chance {share:.3f}")
    axes.plot(recall[points], precision[points], color=BLUE, linewidth=2)
    axes.plot(recall[chosen], precision[chosen], "o", color=RED, label=f"threshold {threshold:.3f}")
    axes.set(title="Precision and recall", xlabel="recall", ylabel="precision", ylim=(0, 1.02))
    axes.legend()
    return figure


def calibration(target: "np.ndarray", probability: "np.ndarray", ece: float) -> "Figure":
    """Share of positives against the probability, in equally filled bins with 95 % intervals."""
    mean, share, error = calibration_points(target, probability)
    figure = new_figure()
    axes = figure.subplots()
    top = 1.05 * max(float(mean.max()), float(share.max()), 0.05)
    axes.plot([0, top], [0, top], color=GREY, linestyle="--", linewidth=1)
    axes.errorbar(mean, share, yerr=1.96 * error, fmt="o-", color=BLUE, linewidth=1.5, markersize=4)
    axes.set(title=f"Calibration, expected error {ece:.4f}", xlabel="mean probability", ylabel="share of positives")
    return figure


def score_distribution(
    target: "np.ndarray", probability: "np.ndarray", threshold: float, classes: Sequence[object]
) -> "Figure":
    """The probabilities of each class, each of area one."""
    import numpy as np

    figure = new_figure()
    axes = figure.subplots()
    edges = np.linspace(0, 1, 41).tolist()
    for code, colour in ((0, GREY), (1, ORANGE)):
        axes.hist(
            probability[target == code], edges, density=True, alpha=0.6, color=colour, label=f"true {classes[code]}"
        )
    axes.axvline(threshold, color=RED, linewidth=1.5, label=f"threshold {threshold:.3f}")
    axes.set(title="Scores by true class", xlabel=f"probability of {classes[1]}", ylabel="density")
    axes.legend()
    return figure


def confusion_matrix(counts: "np.ndarray", classes: Sequence[object]) -> "Figure":
    """A heat map of shares of each true class, with counts while they fit."""
    import numpy as np

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure()
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    ticks = range(len(classes))
    axes.set_xticks(ticks, [str(value) for value in classes], rotation=45 if len(classes) > 6 else 0)
    axes.set_yticks(ticks, [str(value) for value in classes])
    axes.set(title="Confusion, share of each true class", xlabel="predicted", ylabel="true")
    if len(classes) <= 10:
        for row, column in np.ndindex(*counts.shape):
            colour = "white" if shares[row, column] > 0.55 else "#1b1f24"
            text = f"{counts[row, column]:,}\n{shares[row, column]:.1%}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    return figure


def predicted_and_actual(target: "np.ndarray", values: "np.ndarray") -> "Figure":
    """Predictions against the truth, an even sample of the rows."""
    import numpy as np

    rows = np.linspace(0, len(target) - 1, min(len(target), _SHOWN)).astype(int)
    low, high = float(min(target.min(), values.min())), float(max(target.max(), values.max()))
    figure = new_figure()
    axes = figure.subplots()
    axes.scatter(values[rows], target[rows], s=4, alpha=0.3, color=BLUE, linewidths=0, rasterized=True)
    axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1)
    axes.set(title="Predicted and actual", xlabel="predicted", ylabel="actual")
    return figure


def residuals(target: "np.ndarray", values: "np.ndarray") -> "Figure":
    """The distribution of the errors, without the outermost 0.5 % on either side."""
    import numpy as np

    errors = values - target
    low, high = np.quantile(errors, [0.005, 0.995])
    figure = new_figure()
    axes = figure.subplots()
    axes.hist(errors, bins=60, range=(float(low), max(float(high), float(low) + 1e-9)), color=BLUE, alpha=0.8)
    axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
    axes.set(title=f"Residuals, mean {float(errors.mean()):.4g}", xlabel="predicted − actual", ylabel="rows")
    return figure
