"""The whole loop: from sources to a served model, in one pipeline."""

from typing import Any, Dict, List

from kfp import dsl

from fti.pipelines import reference
from fti.pipelines.features import features
from fti.pipelines.training import training
from fti.push.component import push
from fti.step import uncached


@dsl.pipeline(name="fti-loop", display_name="The whole loop")
def loop(
    tables: List[Dict[str, str]] = reference.TABLES,
    null_values: List[str] = reference.NULL_VALUES,
    feature_repo: str = reference.FEATURE_REPO,
    feature_service: str = reference.FEATURE_SERVICE,
    entities: str = reference.ENTITIES,
    label: str = reference.LABEL,
    request_features: List[str] = reference.REQUEST_FEATURES,
    boundaries: List[str] = reference.BOUNDARIES,
    algorithm: str = "hist_gradient_boosting",
    hyperparameters: Dict[str, Any] = {},
    baseline_algorithm: str = "logistic_regression",
    floor: Dict[str, float] = reference.FLOOR,
    slices: List[str] = reference.SLICES,
    service: str = reference.SERVICE,
    canary_percent: int = 100,
    latency_budget_ms: float = reference.LATENCY_BUDGET_MS,
    memory_limit_mb: float = reference.MEMORY_LIMIT_MB,
    seed: int = 0,
) -> None:
    """Runs the feature pipeline, the training pipeline and, where the model is blessed, the push.

    Args:
        tables: One entry per source: `table` (the name SQL sees), `source` (path, glob or URI) and `contract` (YAML).
        null_values: Texts that mean "missing" in CSV files.
        feature_repo: The Feast repository with its SQL transforms: a path or URI.
        feature_service: The set of features, by its name in Feast.
        entities: The table of entity rows with their labels.
        label: The column to predict.
        request_features: Columns of the entity table that come with each request; the baseline uses only these.
        boundaries: Two times: where validation begins and where test begins.
        algorithm: logistic_ or linear_regression, hist_gradient_boosting, random_forest, mlp, module:function.
        hyperparameters: The algorithm's own, by name; the rest keep their defaults.
        baseline_algorithm: What the model must beat: this algorithm, given only what comes with the request.
        floor: The least that a metric on the test set must reach, by the metric's name.
        slices: Columns by which the report breaks the test set down.
        service: The InferenceService to create or change.
        canary_percent: Share of the traffic for the new model, 0 to 100; 100 makes it the stable one.
        latency_budget_ms: Within which the server on trial answers 99 % of requests of one row.
        memory_limit_mb: What the server on trial may hold in memory, MiB.
        seed: Makes training repeatable.
    """
    computed = features(tables=tables, null_values=null_values, feature_repo=feature_repo)
    trained = training(
        algorithm=algorithm,
        hyperparameters=hyperparameters,
        baseline_algorithm=baseline_algorithm,
        feature_repo=feature_repo,
        feature_service=feature_service,
        entities=entities,
        label=label,
        request_features=request_features,
        boundaries=boundaries,
        floor=floor,
        slices=slices,
        service=service,
        latency_budget_ms=latency_budget_ms,
        memory_limit_mb=memory_limit_mb,
        seed=seed,
    ).after(computed)
    with dsl.If(trained.outputs["Output"] == True, "blessed"):  # noqa: E712 - KFP compiles the comparison
        uncached(
            push(
                model=trained.outputs["model"],
                blessing=trained.outputs["blessing"],
                service=service,
                canary_percent=canary_percent,
                feature_repo=feature_repo,
            )
        )
