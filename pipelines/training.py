"""The training pipeline: features and labels in, a model package with or without a blessing out.

The blessing is that of infra_validate, which needs evaluate's: a model that is good, on a server that serves it so.
"""

from typing import Any, Dict, List, NamedTuple

from kfp import dsl

from fti.evaluate.component import evaluate
from fti.infra_validate.component import infra_validate
from fti.pipelines import reference
from fti.retrieve.component import retrieve
from fti.step import uncached
from fti.train.component import train


class Trained(NamedTuple):
    """What training leaves: the model, the judgement on it and its server, and whether it is blessed.

    The last is named `Output` because KFP's local runner skips, silently, a condition on an output of another name.
    """

    model: dsl.Model
    blessing: dsl.Artifact
    Output: bool


@dsl.pipeline(name="fti-training", display_name="Training")
def training(
    algorithm: str = "hist_gradient_boosting",
    hyperparameters: Dict[str, Any] = {},
    baseline_algorithm: str = "logistic_regression",
    feature_repo: str = reference.FEATURE_REPO,
    feature_service: str = reference.FEATURE_SERVICE,
    entities: str = reference.ENTITIES,
    label: str = reference.LABEL,
    request_features: List[str] = reference.REQUEST_FEATURES,
    boundaries: List[str] = reference.BOUNDARIES,
    floor: Dict[str, float] = reference.FLOOR,
    slices: List[str] = reference.SLICES,
    service: str = reference.SERVICE,
    latency_budget_ms: float = reference.LATENCY_BUDGET_MS,
    memory_limit_mb: float = reference.MEMORY_LIMIT_MB,
    seed: int = 0,
) -> Trained:
    """Joins features to labels as of each prediction time, trains, judges the model on data it has not seen, and serves
    it on trial.

    Args:
        algorithm: logistic_ or linear_regression, hist_gradient_boosting, random_forest, mlp, module:function.
        hyperparameters: The algorithm's own, by name; the rest keep their defaults.
        baseline_algorithm: What the model must beat: this algorithm, given only what comes with the request.
        feature_repo: The Feast repository: a path or URI.
        feature_service: The set of features, by its name in Feast.
        entities: The table of entity rows with their labels.
        label: The column to predict.
        request_features: Columns of the entity table that come with each request; the baseline uses only these.
        boundaries: Two times: where validation begins and where test begins.
        floor: The least that a metric on the test set must reach, by the metric's name.
        slices: Columns by which the report breaks the test set down.
        service: The InferenceService whose stable model the new one must match; it may not exist yet.
        latency_budget_ms: Within which the server on trial answers 99 % of requests of one row.
        memory_limit_mb: What the server on trial may hold in memory, MiB.
        seed: Makes training repeatable.
    """
    tables = uncached(
        retrieve(
            feature_repo=feature_repo,
            feature_service=feature_service,
            entities=entities,
            label=label,
            request_features=request_features,
            boundaries=boundaries,
        )
    ).outputs
    baseline = train(
        train=tables["train"],
        validation=tables["validation"],
        algorithm=baseline_algorithm,
        features=["request"],
        name=service,
        seed=seed,
    ).set_display_name("train baseline")
    candidate = train(
        train=tables["train"],
        validation=tables["validation"],
        algorithm=algorithm,
        hyperparameters=hyperparameters,
        name=service,
        seed=seed,
    )
    judged = uncached(
        evaluate(
            model=candidate.outputs["model"],
            test=tables["test"],
            baseline=baseline.outputs["model"],
            service=service,
            floor=floor,
            slices=slices,
        )
    )
    served = uncached(
        infra_validate(
            model=candidate.outputs["model"],
            test=tables["test"],
            blessing=judged.outputs["blessing"],
            feature_repo=feature_repo,
            latency_budget_ms=latency_budget_ms,
            memory_limit_mb=memory_limit_mb,
            seed=seed,
        )
    )
    return Trained(
        model=candidate.outputs["model"],
        blessing=served.outputs["infra_blessing"],
        Output=served.outputs["Output"],
    )
