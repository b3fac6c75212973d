"""Training tables: one Parquet file that carries its own description."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fti.common.errors import SourceError
from fti.common.files import atomic_file

if TYPE_CHECKING:
    import polars as pl

DType = Literal["float32", "int64", "bool", "string"]
_KEY = b"fti"


@dataclass(frozen=True)
class Feature:
    """One input of a model.

    Attributes:
        name: The column's name, and the input's name when served.
        dtype: `float32`, `int64` and `bool` are numbers to a model; `string` is a category.
        source: `request` when the caller sends it, else `view:feature` in the feature store.
    """

    name: str
    dtype: DType
    source: str = "request"


@dataclass(frozen=True)
class TableSpec:
    """What a training table means; travels in the Parquet file's own metadata, so no artifact store can lose it.

    Attributes:
        label: The column to predict.
        features: The inputs, in order.
        entity_keys: Join keys by which the features were looked up, in order.
        event_timestamp: The time of prediction, UTC.
        feature_service: Feast's name of the set of features.
    """

    label: str
    features: tuple[Feature, ...]
    entity_keys: tuple[str, ...] = field(default=())
    event_timestamp: str = ""
    feature_service: str = ""


def write_table(frame: "pl.DataFrame", path: str | Path, spec: TableSpec) -> None:
    """Writes a frame and its description as one Parquet file, whole or not at all."""
    import pyarrow.parquet as pq

    table = frame.to_arrow()
    table = table.replace_schema_metadata({_KEY: json.dumps(asdict(spec)).encode()})
    with atomic_file(path) as scratch:
        pq.write_table(table, scratch, compression="zstd")


def read_spec(path: str | Path) -> TableSpec | None:
    """Reads the description of a training table, or None where a Parquet file has none.

    Raises:
        SourceError: The file is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(
            f"{path} is not a readable Parquet file: {error}", remedy="Pass an output of retrieve, or a Parquet file"
        ) from error
    if _KEY not in metadata:
        return None
    raw = json.loads(metadata[_KEY])
    features = tuple(Feature(**feature) for feature in raw.pop("features"))
    return TableSpec(features=features, entity_keys=tuple(raw.pop("entity_keys")), **raw)
