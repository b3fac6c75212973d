"""Reading entity rows, and telling those that can be learnt from from those that cannot."""

import glob
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.errors import ConfigError, FeatureStoreError
from fti.common.feature_store import reason
from fti.common.settings import Settings
from fti.common.storage import exists, local_copy

if TYPE_CHECKING:
    import polars as pl

TIME, REASON = "event_timestamp", "no_label_reason"


def read_entities(entities: str, columns: list[str], optional: list[str], settings: Settings) -> "pl.DataFrame":
    """Reads entity rows.

    Args:
        entities: A table of the offline store, or path or URI of a Parquet file or folder.
        columns: Columns needed.
        optional: Columns read where there are any.
        settings: Where the offline store is.

    Returns:
        The rows, ordered by time and in the order of the files among equal times; `event_timestamp` is UTC.

    Raises:
        FeatureStoreError: There is no such table, no row, or `event_timestamp` is no time.
        ConfigError: A column is missing.
    """
    import polars as pl

    from fti.retrieve.times import utc

    plain = "/" not in entities and not entities.endswith(".parquet")
    uri = f"{settings.offline_uri}/{entities}" if plain else entities
    if not exists(uri, settings):
        raise FeatureStoreError(
            f"there is no entity table {entities!r}",
            allowed="a table in the offline store, or a path or URI of Parquet",
            remedy="Run featurize first, or check the name",
        )
    with local_copy(uri, settings) as path:
        try:
            escaped = Path(glob.escape(str(path)))
            frame = pl.scan_parquet(escaped / "**/*.parquet" if path.is_dir() else escaped, hive_partitioning=False)
            schema = frame.collect_schema()
            wanted = [*columns, *(name for name in optional if name in schema and name not in columns)]
            _require(entities, wanted, schema.names())
            rows = frame.select(wanted).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise FeatureStoreError(f"the entity table {entities!r} is not readable: {reason(error)}") from error
    if rows.is_empty():
        raise FeatureStoreError(f"the entity table {entities!r} has no row", remedy="Check what fills it")
    if not isinstance(rows.schema[TIME], pl.Datetime | pl.Date | pl.String):
        raise FeatureStoreError(f"{TIME} of {entities!r} is {rows.schema[TIME]}", allowed="a time, in UTC")
    try:
        return rows.with_columns(utc(pl.col(TIME), rows.schema[TIME])).sort(TIME, maintain_order=True)
    except pl.exceptions.PolarsError as error:
        raise FeatureStoreError(
            f"{TIME} of {entities!r} holds what is no time: {reason(error)}", allowed="ISO 8601, in UTC"
        ) from error


def reject(rows: "pl.DataFrame", label: str) -> "tuple[pl.DataFrame, pl.DataFrame]":
    """Separates rows that have no label or no time.

    Returns:
        Rows to learn from; the others, with a column `reason`.

    Raises:
        FeatureStoreError: No row is left to learn from.
    """
    import polars as pl

    empty = pl.col(label).is_null()
    if rows.schema[label].is_float():
        empty = empty | pl.col(label).is_nan() | pl.col(label).is_infinite()
    given = pl.col(REASON).cast(pl.String) if REASON in rows.columns else pl.lit(None, pl.String)
    marked = rows.with_columns(
        pl.when(pl.col(TIME).is_null())
        .then(pl.lit(f"no {TIME}"))
        .when(empty)
        .then(pl.coalesce(given, pl.lit("no label")))
        .alias("reason")
    )
    kept = marked.filter(pl.col("reason").is_null()).drop("reason", REASON, strict=False)
    rejected = marked.filter(pl.col("reason").is_not_null()).drop(REASON, strict=False)
    if kept.is_empty():
        worst = rejected["reason"].value_counts(sort=True)["reason"][0]
        raise FeatureStoreError(
            f"none of {len(rows):,} entity rows has a label and a time; most often: {worst}",
            remedy="Check the column named as label",
        )
    return kept, rejected


def _require(entities: str, wanted: list[str], present: list[str]) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise ConfigError(
            f"the entity table {entities!r} lacks {', '.join(missing)}",
            allowed=", ".join(present),
            remedy="Check label, request_features and the join keys of the feature service",
        )
