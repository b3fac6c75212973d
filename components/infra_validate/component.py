"""The KFP face of infra validation."""

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from fti.step import step


@step
def infra_validate(
    model: Input[Model],
    test: Input[Dataset],
    blessing: Input[Artifact],
    report: Output[HTML],
    metrics: Output[Metrics],
    infra_blessing: Output[Artifact],
    feature_repo: str = "",
    sample: int = 200,
    feature_tolerance: float = 1e-6,
    prediction_tolerance: float = 1e-5,
    latency_budget_ms: float = 100.0,
    memory_limit_mb: float = 2048.0,
    ready_within_s: float = 120.0,
    seed: int = 0,
) -> bool:
    """Starts the server on a model package and holds it against training: features, predictions, latency, memory.

    Starts the predictor that will serve, as a process in this step's own pod, and replays test rows: with full feature
    vectors, and with entity keys at the historical time, for which an online store of its own holds what the feature
    tables say was known last. Blessed when evaluate has blessed the model, and every feature and prediction is
    training's within its tolerance, the latency within its budget and the memory within its limit.

    Args:
        model: The model package, from train.
        test: Held-out rows, from retrieve.
        blessing: The verdict of evaluate on this model; where it is a refusal nothing is tried.
        report: The verdict with its reasons, plots, and each feature in training and in serving.
        metrics: Rows compared, differences, latency, memory.
        infra_blessing: The verdict as JSON, of evaluate and of this step together; `push` asks for it.
        feature_repo: The Feast repository in which the predictor looks features up; empty: full vectors only.
        sample: How many test rows are replayed.
        feature_tolerance: How far a served feature may be from training's, as a share of its value (at least of 1).
        prediction_tolerance: How far a prediction may be from the model's own, as a share of it (at least of 1).
        latency_budget_ms: For the 99th percentile of requests of one row, in milliseconds.
        memory_limit_mb: For the resident memory of the predictor at its peak, in MiB.
        ready_within_s: Seconds within which the predictor must answer.
        seed: Of the sample.

    Returns:
        Whether the model is blessed.
    """
    from fti.common.settings import Settings
    from fti.infra_validate.limits import Limits
    from fti.infra_validate.logic import infra_validate, write_infra_blessing
    from fti.infra_validate.report import write_report

    limits = Limits(
        sample=int(sample),
        feature_tolerance=feature_tolerance,
        prediction_tolerance=prediction_tolerance,
        latency_budget_ms=latency_budget_ms,
        memory_limit_mb=memory_limit_mb,
        ready_within_s=ready_within_s,
        seed=int(seed),
    )
    trial = infra_validate(
        model.path, test.path, blessing.path, feature_repo=feature_repo, settings=Settings.from_env(), limits=limits
    )
    write_report(trial, report.path)
    write_infra_blessing(trial, infra_blessing.path)
    for name, value in trial.metrics.items():
        metrics.log_metric(name, value)
    return trial.blessed
