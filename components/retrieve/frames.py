"""Entity rows, in whatever form they are given to Feast."""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa

from fti.common.errors import FeatureStoreError
from fti.common.feature_store import reason
from fti.retrieve.source import Location, scan

_TIME = "event_timestamp"
_ALLOWED = "a pandas or Polars DataFrame, an Arrow table, or the path or URI of Parquet"


def entity_rows(given: Any) -> pl.LazyFrame:
    """Opens entity rows; those of a path are read only when they are needed.

    Args:
        given: A pandas or Polars data frame, an Arrow table, or the path or URI of a Parquet file or folder.

    Raises:
        FeatureStoreError: It is something else, or cannot be read.
    """
    if isinstance(given, str | Path):
        return _at(str(given))
    try:
        if isinstance(given, pd.DataFrame):
            return pl.from_pandas(given).lazy()
        if isinstance(given, pa.Table):
            return pl.DataFrame(pl.from_arrow(given)).lazy()
        if isinstance(given, pl.DataFrame):
            return given.lazy()
    except (pa.ArrowException, pl.exceptions.PolarsError, TypeError) as error:
        raise FeatureStoreError(
            f"the entity rows hold what is no column: {reason(error)}", allowed="values of one type in each column"
        ) from error
    raise FeatureStoreError(f"the entity rows came as {type(given).__name__}", allowed=_ALLOWED)


def time_of(rows: pl.LazyFrame) -> str:
    """The column with the time asked about: `event_timestamp`, or the only one that holds times.

    Raises:
        FeatureStoreError: There is none, or more than one.
    """
    schema = rows.collect_schema()
    times = [_TIME] if _TIME in schema else [name for name, dtype in schema.items() if isinstance(dtype, pl.Datetime)]
    if len(times) != 1 or not isinstance(schema[times[0]], pl.Datetime | pl.Date | pl.String):
        raise FeatureStoreError(
            f"the entity rows have the columns {', '.join(f'{name} ({dtype})' for name, dtype in schema.items())}",
            allowed=f"the time asked about in {_TIME}, or in the only column of times",
        )
    return times[0]


def _at(path: str) -> pl.LazyFrame:
    uri = path.rstrip("/")
    if "://" not in uri and not os.path.exists(uri):  # noqa: PTH110  # Path.exists raises where a text is too long
        raise FeatureStoreError(
            f"the entity rows came as the text {path[:60]!r}, which is no file",
            allowed=_ALLOWED,
            remedy="SQL is not understood: run the query, and pass its result",
        )
    return scan(Location(f"entity rows {uri}", uri))
