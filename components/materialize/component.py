"""The KFP face of materialize."""

from kfp.dsl import Metrics, Output

from fti.step import step


@step
def materialize(feature_repo: str, metrics: Output[Metrics], end: str = "") -> None:
    """Brings the online store up to date with the latest features. Incremental, and safe to run twice.

    Each feature view goes on where it stopped, at first from its earliest event; only the latest row of each key
    is written.

    Args:
        feature_repo: The Feast repository: a folder with `feature_store.yaml`.
        metrics: For each feature view, how many keys got new values; and the seconds in all.
        end: Until when, ISO 8601, UTC; empty for the latest event in the offline tables.
    """
    from fti.common.settings import Settings
    from fti.materialize.logic import materialize

    done = materialize(feature_repo, end, Settings.from_env())
    for view in done:
        metrics.log_metric(f"{view.view}_keys", view.keys)
    metrics.log_metric("seconds", round(sum(view.seconds for view in done), 3))
