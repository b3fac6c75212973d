"""The held-out rows, checked, and the scores that models give them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.errors import ConfigError, RejectedDataError
from fti.common.model_package import ModelPackage, Signature
from fti.common.scoring import Scorer, columns_of, target_of
from fti.common.tables import read_spec

if TYPE_CHECKING:
    import numpy as np
    import polars as pl


def read_test(path: str | Path, signature: Signature, slices: Sequence[str]) -> "pl.DataFrame":
    """Reads the test table.

    Args:
        path: A Parquet file with the inputs, the label, and the columns to slice by.
        signature: Of the model to judge.
        slices: Names of columns.

    Raises:
        SourceError: The file is no Parquet file.
        ConfigError: A column is absent.
        RejectedDataError: No rows, labels missing, or one class only: nothing could be judged.
    """
    import polars as pl

    read_spec(path)
    frame = pl.read_parquet(path)
    needed = [*(feature.name for feature in signature.inputs), signature.label, *slices]
    absent = [name for name in dict.fromkeys(needed) if name not in frame.columns]
    if absent:
        raise ConfigError(f"the test table lacks {', '.join(absent)}", allowed=", ".join(frame.columns))
    _check_labels(frame, signature)
    return frame


def score_rows(package: ModelPackage, frame: "pl.DataFrame") -> "np.ndarray":
    """Scores a frame: probabilities [N, k] or values [N].

    Raises:
        ConfigError: The frame lacks an input, or holds text where the model takes numbers.
    """
    scorer = Scorer(package, threads=1)
    return scorer.score(columns_of(frame, [feature.name for feature in package.signature.inputs]))


def scores_in_order(package: ModelPackage, frame: "pl.DataFrame", signature: Signature) -> "np.ndarray":
    """Another model's scores, its classes in the order of `signature`.

    Raises:
        ConfigError: It answers another question, or cannot score these rows.
    """
    theirs = package.signature
    if (theirs.task, theirs.label) != (signature.task, signature.label):
        raise ConfigError(
            f"it is a {theirs.task} model of {theirs.label!r}", allowed=f"{signature.task} of {signature.label!r}"
        )
    if set(theirs.classes) != set(signature.classes):
        raise ConfigError(
            f"its classes are {', '.join(map(str, theirs.classes))}", allowed=", ".join(map(str, signature.classes))
        )
    scores = score_rows(package, frame)
    if theirs.classes == signature.classes:
        return scores
    return scores[:, [theirs.classes.index(value) for value in signature.classes]]


def _check_labels(frame: "pl.DataFrame", signature: Signature) -> None:
    remedy = "Pass held-out rows with known labels of at least two kinds"
    if not frame.height:
        raise RejectedDataError("the test table has no rows", remedy=remedy)
    labels = frame[signature.label]
    bad = labels.null_count()
    if labels.dtype.is_float():
        bad += int((~labels.drop_nulls().is_finite()).sum())
    if bad:
        raise RejectedDataError(
            f"{bad:,} of {frame.height:,} test rows have no finite label {signature.label}", remedy=remedy
        )
    target_of(signature, labels)
    if labels.n_unique() < 2 and signature.task != "regression":
        raise RejectedDataError(f"label {signature.label} is {labels[0]!r} in every test row", remedy=remedy)
