"""The feature pipeline: sources in, feature tables and a filled online store out."""

from typing import Dict, List

from kfp import dsl

from fti.featurize.component import featurize
from fti.ingest.component import ingest
from fti.materialize.component import materialize
from fti.pipelines import reference
from fti.require.component import require
from fti.step import uncached
from fti.validate.component import validate


@dsl.pipeline(name="fti-features", display_name="Features")
def features(
    tables: List[Dict[str, str]] = reference.TABLES,
    null_values: List[str] = reference.NULL_VALUES,
    feature_repo: str = reference.FEATURE_REPO,
) -> None:
    """Reads sources, checks them against their contracts, computes features and fills the online store.

    Args:
        tables: One entry per source: `table` (the name SQL sees), `source` (path, glob or URI) and `contract` (YAML).
        null_values: Texts that mean "missing" in CSV files.
        feature_repo: The Feast repository with its SQL transforms: a path or URI.
    """
    with dsl.ParallelFor(tables, parallelism=2) as entry:
        raw = uncached(ingest(source=entry.source, table=entry.table, null_values=null_values))
        checked = uncached(validate(raw=raw.outputs["raw"], contract=entry.contract))
        uncached(require(verdict=checked.outputs["Output"]))  # a refusal fails the loop, and featurize never starts
    computed = uncached(featurize(tables=dsl.Collected(checked.outputs["valid"]), feature_repo=feature_repo))
    uncached(materialize(feature_repo=feature_repo)).after(computed)
