"""The KFP face of materialize."""

from kfp.dsl import Metrics, Output

from fti.step import step


@step
def materialize(feature_repo: str, metrics: Output[Metrics], end: str = "") -> None:
    """Makes the online store hold what the feature tables say. Incremental, and safe to run twice or after a crash.

    Each feature view goes on where it stopped, or from the first day that has changed; only the latest row of each key
    is written. Corrections win; what was streamed in since stays.

    Args:
        feature_repo: The Feast repository: a folder with `feature_store.yaml`.
        metrics: For each feature view, how many keys got new values, and how many seconds ago its latest event was;
            and the seconds in all.
        end: Until when, ISO 8601, UTC; empty for the latest event in the offline tables.
    """
    from fti.common.settings import Settings
    from fti.materialize.logic import materialize

    settings = Settings.from_env()
    done = materialize(feature_repo, end, settings)
    for view in done:
        metrics.log_metric(f"{view.view}_keys", view.keys)
        metrics.log_metric(f"{view.view}_freshness", round((settings.clock() - view.end).total_seconds()))
    metrics.log_metric("seconds", round(sum(view.seconds for view in done), 3))
