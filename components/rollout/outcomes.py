"""What became of predictions, once it is known: the inference log joined with a table of outcomes, unit by unit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Literal

from fti.common.errors import ConfigError, StorageError
from fti.common.inference_service import CANARY, STABLE
from fti.common.settings import Settings
from fti.rollout.means import Moments

if TYPE_CHECKING:
    import polars as pl

Metric = Literal["outcome", "cost", "log_loss", "squared_error", "absolute_error"]

METRICS: tuple[Metric, ...] = ("outcome", "cost", "log_loss", "squared_error", "absolute_error")
_OF_PREDICTIONS = METRICS[2:]  # known for every prediction, also for one that nobody saw
_BUSY = 20  # reading takes at most one part of so many of the time


@dataclass(frozen=True)
class Goal:
    """What a canary shall be good for, measured on outcomes.

    Attributes:
        outcomes: A Parquet or CSV file, or a folder of them: `request_id`, `outcome` (a number; of a classification
            the class's place among the classes), and where they are known `row` (0 where it is absent) and `time`.
        metric: `outcome`: its mean, more is better; `cost`: the same, less is better; `log_loss`, `squared_error`
            (Brier's score where the score is a probability) or `absolute_error` of the score against the outcome.
        wanted: `better`, by more than the margin, or `no-worse`, by no more than it.
        margin: In the metric's own unit.
    """

    outcomes: str
    metric: Metric = "log_loss"
    wanted: Literal["better", "no-worse"] = "no-worse"
    margin: float = 0.01

    @property
    def sign(self) -> int:
        """1 where more is worse, -1 where more is better."""
        return -1 if self.metric == "outcome" else 1


@dataclass(frozen=True)
class Outcomes:
    """What is known of the predictions of a step.

    Attributes:
        means: Variant -> the metric of its units with known outcomes; requests are units where none are named.
        paired: In a shadow, where both models answer each request: the canary's metric less the stable model's.
        units: Variant -> how many units the inference log names; empty where it names none.
        requests_of_unit: The most requests of one unit.
    """

    means: Mapping[str, Moments] = field(default_factory=dict)
    paired: Moments | None = None
    units: Mapping[str, int] = field(default_factory=dict)
    requests_of_unit: int = 1


class OutcomeSource:
    """Joins the inference log with outcomes.

    Args:
        goal: What is measured; None where only units are counted.
        settings: Where the inference log lies; without one nothing is known.

    Raises:
        ConfigError: There is a goal and no inference log.
    """

    def __init__(self, goal: Goal | None, settings: Settings) -> None:
        if goal and not settings.inference_log_uri:
            raise ConfigError(
                "FTI_INFERENCE_LOG is not set, so no outcome can be joined with its prediction",
                remedy="Set it for fti serve and for fti rollout alike",
            )
        self._goal, self._settings = goal, settings
        self._read: tuple[object, Outcomes] = (None, Outcomes())
        self._again_at = 0.0

    def read(self, service: str, revisions: Mapping[str, str], since: str, shadow: bool) -> Outcomes:
        """What is known by now; what was known a moment ago, where reading takes long.

        Args:
            service: The model's name in the log.
            revisions: Variant -> revision.
            since: When the step began, ISO 8601.
            shadow: Whether both variants answer every request.

        Raises:
            ConfigError: The table of outcomes has other columns.
            StorageError: Log or outcomes cannot be read.
        """
        asked = (service, since, shadow)
        if not self._settings.inference_log_uri:
            return Outcomes()
        if asked != self._read[0] or monotonic() >= self._again_at:
            began = monotonic()
            log = _log(service, revisions, datetime.fromisoformat(since), self._settings)
            known = outcomes_in(
                log, _outcomes(self._goal.outcomes, self._settings) if self._goal else None, self._goal, shadow
            )
            if known.units:  # a log that is a sample shows a sample of a unit's requests
                most = math.ceil(known.requests_of_unit / self._settings.inference_log_sample)
                known = replace(known, requests_of_unit=most)
            self._read = (asked, known)
            self._again_at = monotonic() + _BUSY * (monotonic() - began)
        return self._read[1]


def outcomes_in(log: "pl.LazyFrame", outcomes: "pl.LazyFrame | None", goal: Goal | None, shadow: bool) -> Outcomes:
    """Joins and sums up.

    Args:
        log: `request_id`, `row`, `time`, `variant`, `unit`, `score` and for several classes `scores`.
        outcomes: `request_id`, `row`, `outcome`, each row once; None where none are known.
        goal: What is measured.
        shadow: Whether both variants answer every request.
    """
    import polars as pl

    named = log.filter(pl.col("unit").is_not_null())
    rows = log.with_columns(pl.col("unit").fill_null(pl.col("request_id")))
    units, most = ({}, 1) if shadow else _units(named)
    if goal is None or outcomes is None:
        return Outcomes(units=units, requests_of_unit=most)
    figured = rows.join(outcomes, on=["request_id", "row"]).with_columns(figure=_figure(goal.metric, rows))
    known = figured.filter(pl.col("figure").is_not_null())
    if shadow:
        pairs = known.filter(pl.col("variant") == CANARY).join(
            known.filter(pl.col("variant") == STABLE), on=["request_id", "row"], suffix="_stable"
        )
        paired = pairs.with_columns(figure=pl.col("figure") - pl.col("figure_stable"))
        both = _moments(known) if goal.metric in _OF_PREDICTIONS else {}
        return Outcomes(both, _moments(paired).get(CANARY) if both else None)
    # A unit belongs to the variant that answered it first; what another one answered, when that failed, is neither's.
    first = rows.sort("time").group_by("unit").agg(pl.col("variant").first())
    return Outcomes(_moments(known.join(first, on=["unit", "variant"], how="semi")), None, units, most)


def _units(named: "pl.LazyFrame") -> tuple[dict[str, int], int]:
    """How many units each variant has, and the most requests of one."""
    import polars as pl

    units = (
        named.sort("time").group_by("unit").agg(pl.col("variant").first(), pl.col("request_id").n_unique()).collect()
    )
    if units.is_empty():
        return {}, 1
    counts = {variant: units.filter(pl.col("variant") == variant).height for variant in (STABLE, CANARY)}
    return counts, int(units["request_id"].to_numpy().max())


def _moments(rows: "pl.LazyFrame") -> dict[str, Moments]:
    """Variant -> the figure of its units, each of which is the mean of its rows."""
    import polars as pl

    units = rows.group_by("variant", "unit").agg(pl.col("figure").mean())
    found = units.group_by("variant").agg(
        pl.len(), pl.col("figure").mean().alias("mean"), pl.col("figure").var().fill_null(0.0).alias("variance")
    )
    return {variant: Moments(n, mean, variance) for variant, n, mean, variance in found.collect().iter_rows()}


def _figure(metric: Metric, rows: "pl.LazyFrame") -> "pl.Expr":
    import polars as pl

    outcome, score = pl.col("outcome"), pl.col("score").cast(pl.Float64)
    if metric in {"outcome", "cost"}:
        return outcome
    if metric == "squared_error":
        return (score - outcome) ** 2
    if metric == "absolute_error":
        return (score - outcome).abs()
    if "scores" in rows.collect_schema().names():
        given = pl.col("scores").list.get(outcome.cast(pl.Int64), null_on_oob=True).cast(pl.Float64)
    else:
        given = pl.when(outcome == 1).then(score).otherwise(1 - score)
    return -given.clip(1e-6, 1.0).log()  # a loss without a bound has no variance to speak of


def _log(service: str, revisions: Mapping[str, str], since: datetime, settings: Settings) -> "pl.LazyFrame":
    """The rows of the log for which the split chose who answers, see `outcomes_in`."""
    import polars as pl

    from fti.common.inference_log import read_log

    frame = read_log(settings.inference_log_uri, service, settings, revisions=list(revisions.values()), since=since)
    names = frame.collect_schema().names()
    if "asked" in names:  # a log that was written by an earlier version does not tell
        frame = frame.filter(~pl.col("asked").fill_null(value=False))
    wanted = [name for name in ("request_id", "row", "time", "unit", "score", "scores") if name in names]
    variants = {revision: variant for variant, revision in revisions.items()}
    score = [] if "score" in names else [pl.lit(None, pl.Float32).alias("score")]
    return frame.select(*wanted, *score, variant=pl.col("revision").replace_strict(variants, default=None)).filter(
        pl.col("variant").is_not_null()
    )


def _outcomes(uri: str, settings: Settings) -> "pl.LazyFrame | None":
    """The last outcome of each row; None where there is no such table yet."""
    import polars as pl

    from fti.common.storage import exists, local_copy

    if not exists(uri, settings):
        return None
    with local_copy(uri, settings) as path:
        files = sorted(path.rglob("*.parquet")) + sorted(path.rglob("*.csv")) if path.is_dir() else [path]
        frames = [_table(file) for file in files]
    if not frames:
        return None
    table = pl.concat(frames, how="diagonal_relaxed")
    if "time" in table.columns:
        table = table.sort("time", nulls_last=False)
    return (
        table.select("request_id", "row", "outcome")
        .unique(["request_id", "row"], keep="last", maintain_order=True)
        .lazy()
    )


def _table(path: Path) -> "pl.DataFrame":
    import polars as pl

    try:
        if path.suffix == ".csv":  # ids are texts, else leading zeros would go
            frame = pl.read_csv(path, schema_overrides={"request_id": pl.String}, infer_schema_length=None)
        else:
            frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StorageError(f"{path} is not a readable table: {error}", allowed="Parquet or CSV") from error
    needed = {"request_id", "outcome"} - set(frame.columns)
    if needed or not frame["outcome"].dtype.is_numeric():
        raise ConfigError(
            f"the outcomes in {path} have the columns {frame.schema}",
            allowed="request_id (text), outcome (a number) and, where they are known, row and time",
        )
    row = pl.col("row") if "row" in frame.columns else pl.lit(0)
    known = frame.with_columns(
        pl.col("request_id").cast(pl.String), pl.col("outcome").cast(pl.Float64), row.cast(pl.Int32).alias("row")
    )
    return known.filter(pl.col("outcome").is_finite())
