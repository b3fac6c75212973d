"""The KFP face of featurize."""

from typing import List

from kfp.dsl import Artifact, Dataset, Input, Output

from fti.step import step


@step
def featurize(tables: Input[List[Dataset]], feature_repo: str, features: Output[Artifact]) -> None:
    """Runs the SQL transforms of a feature repository, writes feature tables and registers them with Feast.

    Every `sql/<table>.sql` becomes a table in the offline store, partitioned by the day of `event_timestamp`: the
    time at which a row's values became known. Each table is replaced whole; the same input gives the same bytes.

    Args:
        tables: Validated tables. SQL sees each as a view named after its metadata `table`.
        feature_repo: The Feast repository: a folder with `feature_store.yaml`, definitions and `sql/`.
        features: JSON: the tables written, with rows, partitions and digest of each.
    """
    from fti.common.settings import Settings
    from fti.featurize.logic import by_name, featurize

    written = featurize(
        by_name((table.metadata.get("table", ""), table.path) for table in tables),
        feature_repo,
        features.path,
        Settings.from_env(),
    )
    features.metadata.update({table.name: table.rows for table in written})
