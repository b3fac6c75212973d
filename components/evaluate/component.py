"""The KFP face of evaluation."""

from typing import Dict, List

from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from fti.step import step


@step
def evaluate(
    model: Input[Model],
    test: Input[Dataset],
    baseline: Input[Model],
    metrics: Output[Metrics],
    classification: Output[ClassificationMetrics],
    report: Output[HTML],
    blessing: Output[Artifact],
    service: str = "",
    floor: Dict[str, float] = {},
    metric: str = "auto",
    baseline_margin: float = 0.0,
    served_tolerance: float = 0.01,
    slices: List[str] = [],
) -> bool:
    """Judges a model on held-out data: against a floor, against a baseline and against the model now served.

    Blessed when every floor holds, the lower end of the 95 % interval of the improvement over the baseline is above
    `baseline_margin`, and that over the served model above minus `served_tolerance`.

    Args:
        model: The model package to judge.
        test: Held-out rows that training has never seen.
        baseline: The package of a simpler model that must be beaten.
        metrics: Every metric of the task on the test rows; those of the baseline and of the served model with a prefix.
        classification: ROC curve (binary) and confusion matrix.
        report: The verdict with its reasons, comparison, plots and slices.
        blessing: The verdict as JSON; `push` asks for it.
        service: The InferenceService whose stable model is the one now served; empty means none.
        floor: Bounds by metric, such as `{"roc_auc": 0.75, "log_loss": 0.5}`; for errors an upper bound.
        metric: By which models are compared; `auto` is roc_auc, accuracy or rmse by task.
        baseline_margin: By how much the baseline must be beaten, in units of the metric.
        served_tolerance: By how much the model may be worse than the served one, in units of the metric: choose it
            for rmse and mae, which are in units of the label.
        slices: Columns by which the metric is broken down in the report.

    Returns:
        Whether the model is blessed.
    """
    from fti.evaluate.logic import evaluate_model, kfp_confusion, kfp_roc, write_blessing
    from fti.evaluate.report import write_report

    evaluation = evaluate_model(
        model.path,
        test.path,
        baseline=baseline.path,
        service=service,
        floor=floor,
        metric=metric,
        baseline_margin=baseline_margin,
        served_tolerance=served_tolerance,
        slices=slices,
    )
    write_report(evaluation, report.path)
    write_blessing(evaluation, blessing.path)
    for name, value in evaluation.all_metrics.items():
        metrics.log_metric(name, value)
    if roc := kfp_roc(evaluation):
        classification.log_roc_curve(*roc)
    if confusion := kfp_confusion(evaluation):
        classification.log_confusion_matrix(*confusion)
    return evaluation.blessed
