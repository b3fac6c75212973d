"""The KFP face of retrieve."""

from typing import List

from kfp.dsl import Dataset, Metrics, Output

from fti.step import step


@step
def retrieve(
    feature_repo: str,
    feature_service: str,
    entities: str,
    label: str,
    request_features: List[str],
    train: Output[Dataset],
    validation: Output[Dataset],
    test: Output[Dataset],
    rejected: Output[Dataset],
    metrics: Output[Metrics],
    split: str = "time",
    boundaries: List[str] = [],
    fractions: List[float] = [],
    group: str = "",
    seed: int = 0,
) -> None:
    """Makes training, validation and test sets: entity rows joined with the features known at their time.

    Every row gets the feature values that were known at its `event_timestamp`, never later ones. Rows without a
    label go to `rejected` with the reason.

    Args:
        feature_repo: The Feast repository: a folder with `feature_store.yaml`.
        feature_service: The features to look up, such as `late_arrival_v1`.
        entities: Table of the offline store (or path or URI of Parquet) with join keys, `event_timestamp`, request
            features, the label and optionally `no_label_reason`.
        label: The column to predict.
        request_features: Columns of the entity rows that callers will send with a request.
        train: Parquet; describes its own columns.
        validation: As train.
        test: As train.
        rejected: Rows that cannot be learnt from, with the column `reason`.
        metrics: Rows and share of positives of each set, rejected rows, the features missing most.
        split: `time`, `random` or `group`.
        boundaries: For a split by time: the first instants of validation and of test, ISO 8601, UTC.
        fractions: For a split at random or by group: shares of training, validation and test.
        group: For a split by group: the column whose equal values stay together.
        seed: For a split at random or by group.
    """
    from fti.common.settings import Settings
    from fti.retrieve.logic import Outputs, retrieve
    from fti.retrieve.split import Split

    measured = retrieve(
        feature_repo,
        feature_service,
        entities=entities,
        label=label,
        request_features=request_features,
        outputs=Outputs(train.path, validation.path, test.path, rejected.path),
        split=Split(split, boundaries, fractions, group, seed),
        settings=Settings.from_env(),
    )
    for name, value in measured.items():
        metrics.log_metric(name, value)
