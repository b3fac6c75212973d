"""Rows for which a feature view has no value: what the view's policy makes of them, as when it is served."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fti.common.errors import FeatureStoreError
from fti.common.online.plan import View

if TYPE_CHECKING:
    import polars as pl


def apply_policies(joined: "pl.DataFrame", views: Sequence[View]) -> "tuple[pl.DataFrame, pl.DataFrame]":
    """Fills in defaults, and takes out rows that a view refuses.

    A view has no value for a row where all of its features are null: none was known, or none within its TTL.

    Args:
        joined: Entity rows with columns `<view>__<feature>`.
        views: The feature views, with their policies.

    Returns:
        The rows to go on with; the refused ones, with a column `reason`.

    Raises:
        FeatureStoreError: No row is left.
    """
    import polars as pl

    reason, filled = pl.lit(None, pl.String), []
    for view in views:
        names = {name: f"{view.name}__{name}" for name in view.features}
        nothing = pl.all_horizontal(_absent(joined, name) for name in names.values())
        if view.policy.on_missing == "refuse":
            reason = pl.coalesce(reason, pl.when(nothing).then(pl.lit(f"no value of {view.name}")))
        elif view.policy.on_missing == "default":
            filled += [
                pl.when(nothing)
                .then(pl.lit(view.policy.defaults[name], joined.schema[column]))
                .otherwise(pl.col(column))
                .alias(column)
                for name, column in names.items()
            ]
    marked = joined.with_columns(reason.alias("reason"), *filled)
    kept = marked.filter(pl.col("reason").is_null()).drop("reason")
    refused = marked.filter(pl.col("reason").is_not_null())
    if kept.is_empty():
        raise FeatureStoreError(
            f"every entity row is refused: {refused['reason'].value_counts(sort=True)['reason'][0]}",
            remedy="Run featurize for the time of the entity rows, or let the view say on_missing: null",
        )
    return kept, refused


def _absent(joined: "pl.DataFrame", column: str) -> "pl.Expr":
    import polars as pl

    null = pl.col(column).is_null()
    # Feast stores NaN as null, so that a served model never sees the difference.
    return null | pl.col(column).is_nan() if joined.schema[column].is_float() else null
