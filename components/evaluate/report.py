"""The HTML report of an evaluation."""

from pathlib import Path

from fti.common.metrics import ERRORS, calibration_error
from fti.common.report import Report
from fti.evaluate import plots
from fti.evaluate.compare import estimate
from fti.evaluate.curves import confusion, predicted_codes
from fti.evaluate.logic import Evaluation

_FACTS = {
    "binary": ("roc_auc", "average_precision", "log_loss", "ece", "f1"),
    "multiclass": ("accuracy", "macro_f1", "log_loss"),
    "regression": ("rmse", "mae", "r2", "mape"),
}


def write_report(evaluation: Evaluation, path: str | Path) -> None:
    """Writes the report: the verdict and its reasons, comparison, plots, slices, and what was judged."""
    signature = evaluation.package.signature
    report = Report(
        title=f"Evaluation of {signature.name}",
        summary=f"{signature.task.capitalize()} of {signature.label} by "
        f"{evaluation.package.provenance.get('algorithm', 'an unknown algorithm')},"
        f" on {len(evaluation.target):,} held-out rows.",
        verdict="blessed" if evaluation.blessed else "not blessed",
        good=evaluation.blessed,
    )
    shown = [name for name in _FACTS[signature.task] if name in evaluation.metrics]
    report.facts({"test rows": len(evaluation.target), **{name: evaluation.metrics[name] for name in shown}})
    _verdict(report, evaluation)
    _comparison(report, evaluation)
    _plots(report, evaluation)
    if evaluation.slices:
        _slices(report, evaluation)
    report.heading("What was judged")
    made = evaluation.package.provenance.get("data", {}).get("train", {})
    report.table(
        ["", "SHA-256"],
        [
            ["model package", evaluation.package.digest],
            ["test table", evaluation.test_digest],
            ["training table", made.get("sha256", "unknown")],
        ],
    )
    report.write(path)


def _verdict(report: Report, evaluation: Evaluation) -> None:
    report.heading("Verdict", "Blessed means: every check below holds. Only a blessed model can be pushed.")
    for passed in (False, True):
        reasons = [check.reason for check in evaluation.checks if check.passed == passed]
        if reasons:
            report.points(reasons, good=passed)
    if not evaluation.checks:
        report.points(evaluation.reasons, good=False)


def _comparison(report: Report, evaluation: Evaluation) -> None:
    report.heading(
        "Comparison",
        f"All models on the same rows. The improvement of {evaluation.metric} is paired, with its 95 % interval"
        " (DeLong 1988 for the area under the ROC curve, delta method otherwise); above zero is better."
        f" Less is better for {', '.join(name for name in evaluation.metrics if name in ERRORS)}.",
    )
    rivals = [rival for rival in evaluation.rivals if rival.improvement]
    rows: list[list[object]] = [
        [name, value, *(rival.metrics.get(name) for rival in rivals)] for name, value in evaluation.metrics.items()
    ]
    ours = str(estimate(evaluation.metric, evaluation.target, evaluation.scores))
    rows.append([f"{evaluation.metric}, 95 % interval", ours, *["" for _ in rivals]])
    if rivals:
        rows.append([f"improvement of {evaluation.metric}", "", *(str(rival.improvement) for rival in rivals)])
    report.table(["metric", "this model", *(rival.role.removeprefix("the ") for rival in rivals)], rows)


def _plots(report: Report, evaluation: Evaluation) -> None:
    signature, target, scores = evaluation.package.signature, evaluation.target, evaluation.scores
    report.heading("Closer")
    if signature.task == "regression":
        report.figures(plots.predicted_and_actual(target, scores), plots.residuals(target, scores))
        return
    counts = confusion(target, predicted_codes(scores, signature.threshold), len(signature.classes))
    matrix = plots.confusion_matrix(counts, signature.classes)
    if signature.task == "multiclass":
        right = (scores.argmax(axis=1) == target).astype(int)
        report.figures(
            matrix,
            plots.calibration(right, scores.max(axis=1), calibration_error(right, scores.max(axis=1))),
            captions=["", "Of the predicted class: how often it is right."],
        )
        report.table(
            ["class", "rows", "precision", "recall", "F1"],
            [
                [
                    str(value),
                    int(counts[code].sum()),
                    *_class_figures(counts[:, code].sum(), counts[code].sum(), counts[code, code]),
                ]
                for code, value in enumerate(signature.classes)
            ],
        )
        return
    probability, threshold = scores[:, 1], signature.threshold if signature.threshold is not None else 0.5
    report.figures(
        plots.roc(target, probability, evaluation.metrics["roc_auc"]),
        plots.precision_recall(target, probability, threshold),
        plots.calibration(target, probability, evaluation.metrics["ece"]),
        plots.score_distribution(target, probability, threshold, signature.classes),
        matrix,
    )


def _class_figures(predicted: int, true: int, right: int) -> list[float | None]:
    precision = float(right / predicted) if predicted else None
    recall = float(right / true) if true else None
    return [precision, recall, float(2 * right / (predicted + true)) if predicted + true else None]


def _slices(report: Report, evaluation: Evaluation) -> None:
    report.heading(
        "Slices",
        f"{evaluation.metric} with its 95 % interval, by column: the largest slices, numbers of many values by fifths."
        " A dash: one class only.",
    )
    report.table(
        ["column", "value", "rows", evaluation.metric, "from", "to"],
        [
            [
                part.column,
                part.value,
                part.rows,
                *((part.metric.value, part.metric.low, part.metric.high) if part.metric else (None,) * 3),
            ]
            for part in evaluation.slices
        ],
    )
