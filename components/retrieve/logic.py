"""Training, validation and test sets: entity rows joined with the features known at their time."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.errors import ConfigError, FeatureStoreError
from fti.common.files import atomic_file
from fti.common.settings import Settings
from fti.common.tables import DType, Feature, TableSpec, write_table
from fti.retrieve.entities import REASON, TIME, read_entities, reject
from fti.retrieve.missing import apply_policies
from fti.retrieve.split import SETS, Split

if TYPE_CHECKING:
    import polars as pl
    from feast import FeatureService, FeatureStore

logger = logging.getLogger(__name__)
MOST_MISSING_SHOWN = 20


@dataclass(frozen=True)
class Outputs:
    """Where the sets go: four Parquet files."""

    train: str | Path
    validation: str | Path
    test: str | Path
    rejected: str | Path


def retrieve(
    feature_repo: str,
    feature_service: str,
    *,
    entities: str,
    label: str,
    request_features: Sequence[str],
    outputs: Outputs,
    split: Split,
    settings: Settings,
) -> dict[str, float]:
    """Joins entity rows with a feature service, point in time, and splits them.

    What a feature view's `on_missing` says of rows without a value holds here as it does when a model is served:
    defaults are filled in, and rows that are refused are rejected.

    Args:
        feature_repo: Folder with `feature_store.yaml`.
        feature_service: The features to look up, by the name of their service.
        entities: Table of the offline store, or path or URI of Parquet, with join keys, `event_timestamp` (the time
            of prediction), request features, the label and optionally `no_label_reason`.
        label: The column to predict.
        request_features: Columns of the entity rows that callers will send.
        outputs: Where the sets go. Each is written whole or not at all.
        split: How to split.
        settings: Where the offline store is.

    Returns:
        Metrics: rows and positive share (of a yes/no label) of each set, rejected rows, and the largest shares of
        missing values.

    Raises:
        ConfigError: A column is missing, or named twice.
        FeatureStoreError: Unknown service or entity table, no row with a label, an empty set, or Feast fails.
    """
    import polars as pl

    from fti.common.feature_store import open_store, service_of
    from fti.common.online.plan import make_plan

    store = open_store(feature_repo, settings)
    service = service_of(store, feature_service)
    plan = make_plan(store, service)
    keys = list(plan.key_types)
    _no_overlap(label, request_features, keys)
    asked_by = list(dict.fromkeys([*keys, TIME, *plan.request_data]))
    columns = list(dict.fromkeys([*asked_by, *request_features, label, *([split.group] if split.group else [])]))
    rows, rejected = reject(read_entities(entities, columns, [REASON], settings), label)
    joined = rows.hstack(look_up(store, service, rows.select(asked_by)))
    joined, refused = apply_policies(joined, [view for view in plan.views if view.shown])
    rejected = pl.concat([rejected, refused.select(rejected.columns)], how="vertical_relaxed")
    table, features = _typed(joined, label, request_features, store, service)
    sets = _split(table, split)
    spec = TableSpec(label, features, tuple(keys), TIME, feature_service)
    kept = list(dict.fromkeys([*keys, TIME, *(feature.name for feature in features), label]))
    for name, part in sets.items():
        write_table(part.select(kept), getattr(outputs, name), spec)
    with atomic_file(outputs.rejected) as scratch:
        rejected.write_parquet(scratch)
    return _metrics(sets, rejected, label, [feature.name for feature in features])


def look_up(store: "FeatureStore", service: "FeatureService", rows: "pl.DataFrame") -> "pl.DataFrame":
    """The features of a service for entity rows, point in time, row by row aligned.

    Raises:
        FeatureStoreError: Feast cannot join them.
    """
    import polars as pl

    from fti.common.feature_store import reason

    try:
        job = store.get_historical_features(entity_df=rows, features=service, full_feature_names=True)
        found = pl.DataFrame(pl.from_arrow(job.to_arrow()))
    except FeatureStoreError:
        raise
    except Exception as error:
        raise FeatureStoreError(
            f"Feast cannot join the features of {service.name!r}: {reason(error)}", remedy="Run featurize first"
        ) from error
    return found.drop(rows.columns)


def _no_overlap(label: str, request_features: Sequence[str], keys: Sequence[str]) -> None:
    twice = sorted({name for name in request_features if list(request_features).count(name) > 1})
    if twice:
        raise ConfigError(f"request_features names {', '.join(twice)} more than once")
    if label in [*request_features, *keys, TIME]:
        raise ConfigError(f"the label {label!r} is also a feature, a join key or the time", remedy="Take it out there")


def _typed(
    joined: "pl.DataFrame",
    label: str,
    request_features: Sequence[str],
    store: "FeatureStore",
    service: "FeatureService",
) -> "tuple[pl.DataFrame, tuple[Feature, ...]]":
    """Brings features to the four types that models know."""
    import polars as pl

    sources = dict.fromkeys(request_features, "request") | {
        f"{projection.name_to_use()}__{field.name}": f"{projection.name_to_use()}:{field.name}"
        for projection in service.feature_view_projections
        for field in projection.features
    }
    targets: Mapping[DType, pl.DataType] = {
        "float32": pl.Float32(),
        "int64": pl.Int64(),
        "bool": pl.Boolean(),
        "string": pl.String(),
    }
    features = tuple(Feature(name, _dtype(name, joined.schema[name]), source) for name, source in sources.items())
    return joined.with_columns(pl.col(each.name).cast(targets[each.dtype]) for each in features), features


def _dtype(name: str, dtype: "pl.DataType") -> DType:
    import polars as pl

    if dtype == pl.Boolean:
        return "bool"
    if dtype.is_integer():
        return "int64"
    if dtype.is_float() or dtype.is_decimal():
        return "float32"
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        return "string"
    raise ConfigError(
        f"the feature {name!r} is of type {dtype}",
        allowed="numbers, booleans and strings",
        remedy="Turn it into one of them where it is made",
    )


def _split(table: "pl.DataFrame", split: Split) -> "dict[str, pl.DataFrame]":
    assigned = split.assign(table, TIME)
    sets = {name: table.filter(assigned == position) for position, name in enumerate(SETS)}
    empty = [name for name, part in sets.items() if part.is_empty()]
    if empty:
        raise FeatureStoreError(
            f"no row falls into {' and '.join(empty)}; rows span {table[TIME].min()!s} to {table[TIME].max()!s}",
            remedy="Move the boundaries or change the fractions",
        )
    return sets


def _metrics(
    sets: "dict[str, pl.DataFrame]", rejected: "pl.DataFrame", label: str, features: Sequence[str]
) -> dict[str, float]:
    """Few enough for the KFP UI: of the features, only those that are missing most."""
    import numpy as np
    import polars as pl

    metrics: dict[str, float] = {f"{name}_rows": len(part) for name, part in sets.items()}
    for name, part in sets.items():
        values = part[label].unique()
        if len(values) == 1:
            logger.warning("%s holds one value of %s only: %s", name, label, values[0])
        if part.schema[label] == pl.Boolean or set(values.to_list()) <= {0, 1}:
            metrics[f"{name}_positive_share"] = round(float(np.mean(part[label].cast(pl.Float64).to_numpy())), 6)
        metrics[f"{name}_classes"] = min(len(values), 1000)
    metrics["rejected_rows"] = len(rejected)
    whole = pl.concat([part.select(features) for part in sets.values()])
    missing = {name: whole[name].null_count() / len(whole) for name in features}
    largest = sorted(missing, key=lambda name: (-missing[name], name))[:MOST_MISSING_SHOWN]
    return metrics | {f"missing_{name}": round(missing[name], 6) for name in largest if missing[name]}
