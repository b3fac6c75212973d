"""From two Parquet files to the arrays that a model is fitted on. Everything that makes data unfit is found here."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.errors import TrainingError
from fti.common.model_package import Label, Signature, Task
from fti.common.scoring import columns_of, graph_inputs, target_of
from fti.common.tables import DType, Feature, TableSpec, read_spec

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

TASKS = ("auto", "binary", "multiclass", "regression")
_MOST_CLASSES = 20


@dataclass(frozen=True)
class Rows:
    """Rows as the model's graph takes them.

    Attributes:
        feed: `numeric` float32 [N, n] with NaN, `categorical` object [N, m] with ""; absent where without columns.
        target: int64 [N], the codes of the classes; or float64 [N], the values.
    """

    feed: "dict[str, np.ndarray]"
    target: "np.ndarray"


@dataclass(frozen=True)
class TrainingData:
    """What an algorithm is given.

    Attributes:
        signature: The model's, but for the threshold.
        train: The rows to fit.
        validation: The rows to choose by: early stopping, the threshold.
    """

    signature: Signature
    train: Rows
    validation: Rows


def read_training_data(
    train: str | Path, validation: str | Path, *, features: Sequence[str], label: str, task: str, name: str
) -> TrainingData:
    """Reads and checks both tables.

    Args:
        train: A training table (see `fti.common.tables`), or any Parquet file when `label` is given.
        validation: Another, of the same columns.
        features: Names of columns; `request` stands for all that come with the request; empty means all.
        label: The column to predict; empty means the one that the table names.
        task: `binary`, `multiclass`, `regression`, or `auto`, which follows the label: two values, text or at most
            20 whole numbers are classes, anything else is a value.
        name: The model's name.

    Raises:
        TrainingError: The data cannot train a model; says which column and why.
    """
    import polars as pl

    spec = _spec(train, label)
    chosen = _choose(spec, features)
    columns = [feature.name for feature in chosen] + [spec.label]
    frames = [pl.read_parquet(_having(path, columns), columns=columns) for path in (train, validation)]
    for frame, role in zip(frames, ("training", "validation"), strict=True):
        _check(frame, role, chosen, spec.label)
    found = _task(task, frames[0][spec.label], spec.label)
    classes = () if found == "regression" else _classes(found, frames, spec.label)
    signature = Signature(
        name=name,
        task=found,
        inputs=chosen,
        classes=classes,
        label=spec.label,
        entity_keys=spec.entity_keys,
        feature_service=spec.feature_service,
    )
    return TrainingData(signature, *(rows_of(frame, signature) for frame in frames))


def rows_of(frame: "pl.DataFrame", signature: Signature) -> Rows:
    """Arranges a frame, which holds every input and the label of the signature, for a model."""
    feed = graph_inputs(signature, columns_of(frame, [feature.name for feature in signature.inputs]))
    return Rows(feed, target_of(signature, frame[signature.label]))


def _spec(path: str | Path, label: str) -> TableSpec:
    import polars as pl

    spec = read_spec(path)
    schema = pl.read_parquet_schema(path)
    if spec is None:
        if not label:
            raise TrainingError(f"{path} names no label", remedy="Name one with `label`, or pass an output of retrieve")
        spec = TableSpec(
            label, tuple(Feature(name, _dtype(name, kind)) for name, kind in schema.items() if name != label)
        )
    chosen = label or spec.label
    if chosen not in schema:
        raise TrainingError(
            f"the table has no label column {chosen!r}{_closest(chosen, schema)}", allowed=", ".join(schema)
        )
    features = tuple(feature for feature in spec.features if feature.name != chosen)
    return TableSpec(chosen, features, spec.entity_keys, spec.event_timestamp, spec.feature_service)


def _dtype(name: str, kind: "pl.DataType") -> DType:
    import polars as pl

    if kind == pl.Boolean:
        return "bool"
    if kind.is_integer():
        return "int64"
    if kind.is_numeric():
        return "float32"
    if kind in (pl.String, pl.Categorical, pl.Enum):
        return "string"
    raise TrainingError(f"column {name} is of type {kind}", allowed="numbers, booleans and text")


def _choose(spec: TableSpec, names: Sequence[str]) -> tuple[Feature, ...]:
    known = {feature.name: feature for feature in spec.features}
    chosen: dict[str, Feature] = {}
    for name in names or known:
        if name in known:
            chosen[name] = known[name]
        elif name == "request":
            chosen |= {feature.name: feature for feature in spec.features if feature.source == "request"}
        else:
            raise TrainingError(
                f"the table has no feature {name!r}{_closest(name, known)}", allowed=", ".join([*known, "request"])
            )
    if not chosen:
        raise TrainingError(
            "the table has no feature to learn from", remedy="Pass a table with columns beside the label"
        )
    return tuple(chosen.values())


def _having(path: str | Path, columns: Sequence[str]) -> str | Path:
    import polars as pl

    read_spec(path)
    schema = pl.read_parquet_schema(path)
    absent = [name for name in columns if name not in schema]
    if absent:
        raise TrainingError(f"{path} lacks {', '.join(absent)}", allowed=f"a table with {', '.join(columns)}")
    return path


def _check(frame: "pl.DataFrame", role: str, features: Sequence[Feature], label: str) -> None:
    import polars as pl

    if not frame.height:
        raise TrainingError(f"the {role} table has no rows", remedy="Widen the split, or look at the rejected rows")
    column = frame[label]
    bad = column.null_count()
    if column.dtype.is_float():
        bad += int((~column.drop_nulls().is_finite()).sum())
    if bad:
        raise TrainingError(
            f"{bad:,} of {frame.height:,} {role} rows have no finite label {label}",
            remedy="Reject them before training",
        )
    if all(frame[feature.name].null_count() == frame.height for feature in features):
        raise TrainingError(f"every feature is missing in every {role} row", remedy="Look at the join of the features")
    for feature in features:
        kind = frame.schema[feature.name]
        if feature.dtype == "string":
            continue
        if not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
            raise TrainingError(f"feature {feature.name} is {feature.dtype}, but the {role} table holds {kind}")
        infinite = frame[feature.name].cast(pl.Float32, strict=False).is_infinite().sum()
        if infinite:
            raise TrainingError(
                f"feature {feature.name} is infinite in {infinite:,} {role} rows", allowed="numbers, NaN"
            )


def _task(task: str, label: "pl.Series", name: str) -> Task:
    import polars as pl

    if task not in TASKS:
        raise TrainingError(f"unknown task {task!r}{_closest(task, TASKS)}", allowed=", ".join(TASKS))
    numeric = label.dtype.is_numeric()
    distinct = label.n_unique()
    if task == "regression" and not numeric:
        raise TrainingError(f"label {name} is {label.dtype}, which cannot be a value", allowed="numbers for regression")
    if task == "regression":
        return "regression"
    classes = distinct == 2 or not numeric or (label.dtype.is_integer() and distinct <= _MOST_CLASSES)
    if task == "auto" and not classes and distinct > 1:
        return "regression"
    if distinct == 1:
        raise TrainingError(f"label {name} is {label[0]!r} in every training row", allowed="two classes or more")
    if task == "binary" and distinct != 2:
        raise TrainingError(f"label {name} has {distinct:,} values", allowed="two for task binary")
    if label.dtype == pl.Boolean or label.dtype.is_integer() or distinct == 2 or not numeric:
        return "binary" if distinct == 2 and task != "multiclass" else "multiclass"
    raise TrainingError(
        f"label {name} is {label.dtype} with {distinct:,} values", allowed="whole numbers or text as classes"
    )


def _classes(task: Task, frames: "Sequence[pl.DataFrame]", label: str) -> tuple[Label, ...]:
    classes = tuple(frames[0][label].unique().sort().to_list())
    unseen = set(frames[1][label].unique().to_list()) - set(classes)
    if unseen:
        raise TrainingError(
            f"the validation table has labels that training lacks: {', '.join(map(repr, sorted(unseen)))}",
            allowed=", ".join(map(repr, classes[:_MOST_CLASSES])),
        )
    return classes


def _closest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
