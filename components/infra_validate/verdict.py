"""The checks, each answered by one sentence with its figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fti.infra_validate.compare import FeatureSkew, PredictionSkew
from fti.infra_validate.history import Known
from fti.infra_validate.limits import Limits
from fti.infra_validate.replay import Replay
from fti.infra_validate.sample import Sample
from fti.infra_validate.server import Server

if TYPE_CHECKING:
    import numpy as np

_NAMED = 8  # features that skew, by name


@dataclass(frozen=True)
class Check:
    """One question, answered.

    Attributes:
        passed: The answer.
        reason: One sentence with the figures.
    """

    passed: bool
    reason: str


def check_answers(replay: Replay, sample: Sample) -> list[Check]:
    """Whether the server took every row."""
    refused = {row: why for row, why in replay.refused.items() if row not in replay.left_out}
    if not refused:
        return []
    rows = sorted(refused)
    where = f"{len(rows)} of {len(replay.seconds)} requests with {replay.form} are refused ({sample.rows(rows)})"
    return [Check(False, f"{where}: {refused[rows[0]]}")]


def check_predictions(skew: PredictionSkew, sample: Sample, limits: Limits) -> list[Check]:
    """Whether predictions are the model's own."""
    compared, form, tolerance = len(skew.compared), skew.form, limits.prediction_tolerance
    if not compared:
        return [Check(False, f"no prediction with {form} could be compared")]
    checks = []
    if skew.mislabelled:
        rows = sample.rows(skew.mislabelled)
        wrong = f"{len(skew.mislabelled)} of {compared} labels with {form}"
        checks.append(Check(False, f"{wrong} do not follow from their probabilities ({rows})"))
    if skew.differ:
        wrong = f"{len(skew.differ)} of {compared} predictions with {form} differ from the model's own"
        reason = f"{wrong} by up to {skew.largest:.4g} ({sample.rows(skew.differ)}); {tolerance:g} is allowed"
        return [*checks, Check(False, reason)]
    within = f"all {compared} predictions with {form} are the model's own, within {tolerance:g}"
    return [*checks, Check(True, f"{within} (largest difference {skew.largest:.2g})")]


def check_tables(histories: Sequence[Known]) -> list[Check]:
    """Whether the feature tables have a column for each feature that is asked for."""
    lacking = [
        f"{known.lookup.view.name}.{feature}"
        for known in histories
        for feature in known.lacking
        if feature in known.lookup.features
    ]
    return [Check(False, f"the feature tables have no column for {', '.join(lacking)}")] if lacking else []


def check_features(skews: Sequence[FeatureSkew], sample: Sample, limits: Limits) -> list[Check]:
    """Whether looked-up features are training's: one check for each that is not, or one for all."""
    values = sum(len(skew.pairs) for skew in skews)
    if not values:
        return []
    bad = sorted((skew for skew in skews if skew.differ), key=lambda skew: -len(skew.differ))
    if not bad:
        within = f"all {values:,} looked-up values of {len(skews)} features are training's"
        return [Check(True, f"{within}, within {limits.feature_tolerance:g}")]
    checks = [Check(False, _told(skew, sample)) for skew in bad[:_NAMED]]
    if len(bad) > _NAMED:
        names = ", ".join(skew.name for skew in bad[_NAMED:])
        checks.append(Check(False, f"{len(bad) - _NAMED} more features differ: {names}"))
    return checks


def check_latency(replay: Replay, limits: Limits) -> list[Check]:
    """Whether answers come in time."""
    if not replay.seconds:
        return []
    slow = milliseconds(replay.seconds, 0.99)
    budget = limits.latency_budget_ms
    words = f"within the budget of {budget:g} ms" if slow <= budget else f"over the budget of {budget:g} ms"
    return [Check(slow <= budget, f"99 % of requests with {replay.form} take up to {slow:.3g} ms, {words}")]


def check_memory(server: Server, limits: Limits) -> Check:
    """Whether the server's memory stays within its limit."""
    limit, peak = limits.memory_limit_mb, server.peak_mb
    words = "within" if peak <= limit else "above"
    return Check(peak <= limit, f"the predictor's memory reached {peak:,.0f} MB, {words} the limit of {limit:,g} MB")


def milliseconds(seconds: "Sequence[float] | np.ndarray", quantile: float) -> float:
    """A quantile of durations in milliseconds."""
    import numpy as np

    return 1000 * float(np.quantile(seconds, quantile)) if len(seconds) else float("nan")


def _told(skew: FeatureSkew, sample: Sample) -> str:
    first = skew.differ[0]
    ours, theirs = map(shown, skew.pairs[first])
    far = f" by up to {skew.largest:.4g}" if skew.largest else ""
    example = f"{sample.rows([first])}: {ours} in training, {theirs} served"
    return f"{skew.name} differs in {len(skew.differ)} of {len(skew.pairs)} rows{far} ({example}): {skew.cause}"


def shown(value: object) -> str:
    """A feature's value in words."""
    return "nothing" if value is None else f"{value:.6g}" if isinstance(value, float) else repr(value)
