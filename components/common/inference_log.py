"""The inference log: what models answered, in Parquet, one row for each predicted row.

    <uri>/<model>/<revision>/date=YYYY-MM-DD/<time>-<host>-<pid>-<n>.parquet

The predictor writes it; this module knows its schema and reads it. docs/observability.md lists the columns.
"""

import glob
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from fti.common.errors import ConfigError, StorageError
from fti.common.model_package import Signature
from fti.common.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

KeyType = Literal["string", "int64"]

KEY, FEATURE = "key__", "feature__"  # what the columns of entity keys and of features begin with
_FILE = re.compile(r"(?P<revision>[^/]+)/date=(?P<date>\d{4}-\d\d-\d\d)/\d+T\d+Z-(?P<writer>.+)-\d+\.parquet$")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def schema_of(signature: Signature, keys: Mapping[str, KeyType]) -> "pa.Schema":
    """The schema of a model's log.

    Args:
        signature: The model's.
        keys: The entity keys that requests may carry, and the type of each.
    """
    import pyarrow as pa

    number = {"bool": pa.bool_(), "string": pa.string()}
    fields = [
        *_common_fields(),
        *(pa.field(KEY + name, pa.string() if kind == "string" else pa.int64()) for name, kind in keys.items()),
        *(pa.field(FEATURE + each.name, number.get(str(each.dtype), pa.float32())) for each in signature.inputs),
        pa.field("prediction", _prediction_type(signature)),
        pa.field("score", pa.float32()),
    ]
    if signature.task == "multiclass":
        fields.append(pa.field("scores", pa.list_(pa.float32())))
    return pa.schema([*fields, pa.field("views", pa.string())])


def score_of(signature: Signature, scores: "np.ndarray") -> "np.ndarray":
    """The one number that stands for a prediction.

    Args:
        signature: The model's.
        scores: As `Scorer.score` gives them: [N, k], or [N] for regression.

    Returns:
        Float32 [N]: for binary the probability of the second class, for multiclass that of the most probable class,
        for regression the value.
    """
    if signature.task == "binary":
        return scores[:, 1]
    # By class and not by row: NumPy takes long for each of many short rows.
    best: np.ndarray = scores.T.copy().max(axis=0) if signature.task == "multiclass" else scores
    return best


def read_log(
    uri: str,
    model: str,
    settings: Settings,
    *,
    revisions: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    columns: Sequence[str] | None = None,
) -> "pl.LazyFrame":
    """Opens the log of a model. Only the files of the days and revisions asked for are opened, and lazily.

    Revisions with different features are put one below the other, with null where one has no such column.

    Args:
        uri: Where the log lies: `FTI_INFERENCE_LOG`, a folder or a URI.
        model: The model's name in the protocols' paths.
        settings: How object stores are reached.
        revisions: Of these revisions; none means all.
        since: From this instant on.
        until: Before this instant.
        columns: These columns, in this order; None means all.

    Returns:
        A row for each predicted row, in no certain order. Without any file, an empty frame of the columns that every
        log has.

    Raises:
        ConfigError: A column is in no file, an instant has no time zone, or a name is none.
        StorageError: The log cannot be listed.
    """
    import polars as pl

    for name in (model, *revisions):
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} names no model or revision", allowed="letters, digits, dots, - and _")
    for instant in (since, until):
        if instant is not None and instant.tzinfo is None:
            raise ConfigError(f"{instant} has no time zone", allowed="an instant with one, such as UTC")
    files = _files(f"{uri.rstrip('/')}/{model}", settings, revisions, since, until)
    options = _storage_options(uri, settings)
    frames = [_scanned(paths, options) for paths in files.values()]
    frame = pl.concat(frames, how="diagonal_relaxed") if frames else _empty()
    if since is not None:
        frame = frame.filter(pl.col("time") >= since.astimezone(UTC))
    if until is not None:
        frame = frame.filter(pl.col("time") < until.astimezone(UTC))
    return frame if columns is None else _chosen(frame, columns)


def _common_fields() -> "list[pa.Field]":
    import pyarrow as pa

    return [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("unit", pa.string()),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("asked", pa.bool_(), nullable=False),
    ]


def _prediction_type(signature: Signature) -> "pa.DataType":
    import pyarrow as pa

    if signature.task == "regression":
        return pa.float32()
    types = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return types.get(type(signature.classes[0]), pa.string())


def _files(
    root: str, settings: Settings, revisions: Sequence[str], since: datetime | None, until: datetime | None
) -> dict[tuple[str, str], list[str]]:
    """The files by revision and writer: those of one writer have one schema, or an earlier version's and a later's."""
    from fti.common.storage import exists, find

    first = since.astimezone(UTC).date().isoformat() if since else ""
    last = until.astimezone(UTC).date().isoformat() if until else "9999"
    found: dict[tuple[str, str], list[str]] = {}
    for folder in [f"{root}/{revision}" for revision in revisions] or [root]:
        if not exists(folder, settings):
            continue
        try:
            paths = find(f"{glob.escape(folder)}{'' if revisions else '/*'}/date=*/*.parquet", settings)
        except StorageError:
            if exists(folder, settings):  # a folder without a file is a log without a row
                continue
            raise
        for path in paths:
            match = _FILE.search(path)
            if match and first <= match["date"] <= last:
                found.setdefault((match["revision"], match["writer"]), []).append(path)
    return found


def _scanned(paths: list[str], options: dict[str, str] | None) -> "pl.LazyFrame":
    import polars as pl

    # The newest first: it says which columns there are. Earlier versions wrote fewer.
    newest = sorted(paths, reverse=True)
    return pl.scan_parquet(
        newest, glob=False, hive_partitioning=False, storage_options=options, missing_columns="insert"
    )


def _storage_options(uri: str, settings: Settings) -> dict[str, str] | None:
    """How Polars reaches S3; elsewhere it finds its way by itself."""
    if not uri.startswith("s3://"):
        return None
    options = {"aws_endpoint_url": settings.s3_endpoint, "aws_region": settings.s3_region or "us-east-1"}
    if settings.s3_endpoint.startswith("http://"):
        options["aws_allow_http"] = "true"
    if settings.s3_virtual_hosts:
        options["aws_virtual_hosted_style_request"] = "true"
    if settings.s3_access_key:
        options |= {"aws_access_key_id": settings.s3_access_key, "aws_secret_access_key": settings.s3_secret_key}
        options["aws_session_token"] = settings.s3_session_token
    elif not settings.s3_role:  # which Polars takes by itself
        options["aws_skip_signature"] = "true"
    return {name: value for name, value in options.items() if value}


def _empty() -> "pl.LazyFrame":
    import polars as pl
    import pyarrow as pa

    frame = pl.from_arrow(pa.schema(_common_fields()).empty_table())
    assert isinstance(frame, pl.DataFrame)  # noqa: S101
    return frame.lazy()


def _chosen(frame: "pl.LazyFrame", columns: Sequence[str]) -> "pl.LazyFrame":
    known = frame.collect_schema().names()
    unknown = [name for name in columns if name not in known]
    if unknown:
        raise ConfigError(f"the log has no column {', '.join(unknown)}", allowed=", ".join(known))
    return frame.select(columns)
