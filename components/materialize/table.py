"""Reading the latest rows of a feature view's table, through whatever offline store the profile has."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fti.common.errors import FeatureStoreError, FtiError

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore, FeatureView

# What pandas, and so Feast, can still hold in nanoseconds.
FIRST, LAST = datetime(1678, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)


def latest(store: "FeatureStore", view: "FeatureView", since: datetime | None, until: datetime | None) -> "pa.Table":
    """The latest row of each key.

    Args:
        store: An open store.
        view: The feature view.
        since: The earliest event, included; None: the first.
        until: The latest event, included; None: the last.

    Returns:
        Join keys, features, event timestamp and, where the source has one, created timestamp, by Feast's names.

    Raises:
        FeatureStoreError: The table cannot be read.
    """
    from feast.feature_view import DUMMY_ENTITY_ID
    from feast.infra.offline_stores.offline_utils import get_offline_store_from_config

    from fti.common.feature_store import reason

    source = view.batch_source
    column_of = {feature: column for column, feature in source.field_mapping.items()}
    keys = [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]
    created = source.created_timestamp_column or None
    try:
        found = (
            get_offline_store_from_config(store.config.offline_store)
            .pull_latest_from_table_or_query(
                config=store.config,
                data_source=source,
                join_key_columns=[column_of.get(name, name) for name in keys],
                feature_name_columns=[column_of.get(field.name, field.name) for field in view.features],
                timestamp_field=column_of.get(source.timestamp_field, source.timestamp_field),
                created_timestamp_column=column_of.get(created, created),
                start_date=since or FIRST,
                end_date=until or LAST,
            )
            .to_arrow()
        )
    except FtiError:
        raise
    except Exception as error:
        raise FeatureStoreError(
            f"the table of the feature view {view.name!r} cannot be read: {reason(error)}",
            remedy="Run featurize first",
        ) from error
    return found.rename_columns([source.field_mapping.get(name, name) for name in found.column_names])
