"""Predictions joined with what became of them: by request, by user, in a shadow, late, twice, and wrongly."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fti.common.errors import ConfigError, StorageError
from fti.common.inference_log import schema_of
from fti.common.inference_service import CANARY, STABLE, Service, read_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.rollout.means import Moments
from fti.rollout.metrics import Reading
from fti.rollout.outcomes import Goal, OutcomeSource, _table, outcomes_in
from fti.rollout.plan import Plan
from fti.rollout.record import PROMOTED, ROLLED_BACK
from fti.rollout.rules import Limits
from fti.serve.local.runner import running
from tests.rollout.conftest import V1
from tests.rollout.test_controller import Traffic, run
from tests.serve import tiny
from tests.serve.conftest import publish

REVISIONS = {STABLE: "aaaaaaaaaaaa", CANARY: "bbbbbbbbbbbb"}
BEGAN = datetime(2026, 5, 1, 12, tzinfo=UTC)

Row = tuple[str, str, str | None, float, int]  # variant, request id, unit, score, seconds since the step began


@pytest.fixture
def logging(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with an inference log."""
    return replace(settings, inference_log_uri=str(tmp_path / "log"))


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return tiny.write_binary(tmp_path / "of_the_log")


def write_log(
    settings: Settings,
    package: ModelPackage,
    rows: Sequence[Row],
    revisions: dict[str, str] = REVISIONS,
    began: datetime = BEGAN,
    name: str = "1",
    asked: bool | None = False,
) -> None:
    """What predictors write; `asked` None: what those of an earlier version wrote."""
    schema = schema_of(package.signature, {"flight": "string"})
    if asked is None:
        schema = schema.remove(schema.get_field_index("asked"))
    for variant, revision in revisions.items():
        mine = [
            {
                **{f"feature__{key}": value for key, value in tiny.ROW.items()},
                "request_id": request,
                "row": 0,
                "time": began + timedelta(seconds=second),
                "model": "late",
                "revision": revision,
                "unit": unit,
                "protocol": "v1",
                "asked": asked,
                "prediction": score >= 0.5,
                "score": score,
            }
            for whose, request, unit, score, second in rows
            if whose == variant
        ]
        path = Path(settings.inference_log_uri) / "late" / revision / f"date={began:%Y-%m-%d}"
        path.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(mine, schema), path / f"20260501T120000000000Z-host-1-{name}.parquet")


def outcomes_at(path: Path, outcomes: dict[str, float], **columns: Any) -> str:
    frame = pl.DataFrame({"request_id": list(outcomes), "outcome": list(outcomes.values()), **columns})
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return str(path)


def read(settings: Settings, goal: Goal | None, shadow: bool = False) -> Any:
    return OutcomeSource(goal, settings).read("late", REVISIONS, BEGAN.isoformat(), shadow=shadow)


def test_requests_are_units_where_none_are_named(logging: Settings, package: ModelPackage, tmp_path: Path) -> None:
    rows: list[Row] = [(CANARY, "1", None, 0.8, 1), (CANARY, "2", None, 0.6, 2), (STABLE, "3", None, 0.5, 3)]
    rows += [(STABLE, "4", None, 0.5, -1), (STABLE, "5", None, 0.5, 5)]  # before the step; not known yet
    write_log(logging, package, rows)
    uri = outcomes_at(tmp_path / "outcomes.parquet", {"1": 1.0, "2": 0.0, "3": 1.0, "4": 1.0, "9": 1.0})
    found = read(logging, Goal(uri, "squared_error"))
    assert found.means[CANARY] == Moments(2, pytest.approx(0.2), pytest.approx(0.0512))
    assert found.means[STABLE] == Moments(1, pytest.approx(0.25), 0.0)
    assert (found.units, found.requests_of_unit, found.paired) == ({}, 1, None)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("outcome", 1.0),
        ("cost", 1.0),
        ("log_loss", -math.log(0.8)),
        ("squared_error", 0.04),
        ("absolute_error", 0.2),
    ],
)
def test_metrics(logging: Settings, package: ModelPackage, tmp_path: Path, metric: Any, expected: float) -> None:
    write_log(logging, package, [(CANARY, "1", None, 0.8, 1)])
    uri = outcomes_at(tmp_path / "outcomes.csv", {"1": 1})
    assert read(logging, Goal(uri, metric)).means[CANARY].mean == pytest.approx(expected, rel=1e-6)


def test_a_sure_and_wrong_prediction_costs_much_but_not_everything(
    logging: Settings, package: ModelPackage, tmp_path: Path
) -> None:
    write_log(logging, package, [(CANARY, "1", None, 0.0, 1)])
    uri = outcomes_at(tmp_path / "outcomes.parquet", {"1": 1.0})
    assert read(logging, Goal(uri, "log_loss")).means[CANARY].mean == pytest.approx(-math.log(1e-6))


def test_users_are_compared_not_requests(logging: Settings, package: ModelPackage, tmp_path: Path) -> None:
    rows: list[Row] = [(CANARY, f"a{n}", "ann", 1.0, n) for n in range(1, 10)]
    rows += [(CANARY, "b", "bob", 0.0, 1), (STABLE, "c1", "cid", 0.5, 1)]
    rows += [(STABLE, "a10", "ann", 0.0, 20)]  # the canary failed, and stable answered in its place
    write_log(logging, package, rows)
    uri = outcomes_at(tmp_path / "outcomes.parquet", {request: 1.0 for _, request, *_ in rows})
    found = read(logging, Goal(uri, "absolute_error"))
    assert found.means[CANARY] == Moments(2, 0.5, 0.5)  # ann 0, bob 1
    assert found.means[STABLE] == Moments(1, 0.5, 0.0)
    assert (found.units, found.requests_of_unit) == ({CANARY: 2, STABLE: 1}, 10)
    assert read(logging, None).units == {CANARY: 2, STABLE: 1}  # also without a goal


@pytest.mark.parametrize("earlier", [False, None])
def test_requests_that_chose_their_variant_are_no_units(
    logging: Settings, package: ModelPackage, tmp_path: Path, earlier: bool | None
) -> None:
    """A tester's thousand requests to the canary weigh nobody's evidence down, and are nobody's outcomes."""
    rows: list[Row] = [(CANARY, "a", "ann", 1.0, 5), (STABLE, "b", "bob", 1.0, 6)]
    write_log(logging, package, rows, asked=earlier)
    tests: list[Row] = [(CANARY, f"t{n}", ("ann", "bob", None)[n % 3], 0.0, 1) for n in range(1000)]
    write_log(logging, package, tests, name="2", asked=True)
    uri = outcomes_at(tmp_path / "outcomes.parquet", {request: 1.0 for _, request, *_ in [*rows, *tests]})
    found = read(logging, Goal(uri, "absolute_error"))
    assert (found.units, found.requests_of_unit) == ({CANARY: 1, STABLE: 1}, 1)
    assert found.means == {CANARY: Moments(1, 0.0, 0.0), STABLE: Moments(1, 0.0, 0.0)}


def test_in_a_shadow_both_answers_to_a_request_are_compared(
    logging: Settings, package: ModelPackage, tmp_path: Path
) -> None:
    rows: list[Row] = [
        (variant, str(n), None, 0.5 + 0.1 * (variant == CANARY), n) for n in range(6) for variant in REVISIONS
    ]
    write_log(logging, package, [*rows, (STABLE, "alone", None, 0.5, 1)])
    uri = outcomes_at(tmp_path / "outcomes.parquet", {str(n): 1.0 for n in range(6)})
    found = read(logging, Goal(uri, "absolute_error"), shadow=True)
    assert found.paired == Moments(6, pytest.approx(-0.1), pytest.approx(0.0, abs=1e-12))
    # What came of an answer that nobody saw says nothing of it.
    nothing = read(logging, Goal(uri, "outcome"), shadow=True)
    assert (nothing.paired, nothing.means) == (None, {})


def test_the_last_word_on_an_outcome_counts(logging: Settings, package: ModelPackage, tmp_path: Path) -> None:
    write_log(logging, package, [(CANARY, "1", None, 0.8, 1)])
    folder = tmp_path / "outcomes"
    folder.mkdir()
    late, early = datetime(2026, 5, 3), datetime(2026, 5, 2)
    outcomes_at(folder / "a.parquet", {"1": 1.0}, time=[late])
    outcomes_at(folder / "b.parquet", {"1": 0.0}, time=[early])
    goal = Goal(str(folder), "outcome")
    assert read(logging, goal).means[CANARY].mean == 1.0
    outcomes_at(folder / "c.parquet", {"1": math.nan}, time=[datetime(2026, 5, 4)])  # not known after all
    assert read(logging, goal).means[CANARY].mean == 1.0


def test_nothing_is_known_before_there_is_a_table_or_a_log(logging: Settings, tmp_path: Path) -> None:
    assert read(logging, Goal(str(tmp_path / "outcomes.parquet"))).means == {}


def test_bad_outcomes_are_refused(logging: Settings, package: ModelPackage, tmp_path: Path) -> None:
    write_log(logging, package, [(CANARY, "1", None, 0.8, 1)])
    text = tmp_path / "text.csv"
    text.write_text("request_id,outcome\n1,late\n")
    other = tmp_path / "other.csv"
    other.write_text("id,outcome\n1,1\n")
    for path in (text, other):
        with pytest.raises(ConfigError, match=r"the outcomes in .* have the columns .* Allowed: request_id"):
            read(logging, Goal(str(path)))
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    with pytest.raises(StorageError, match="is not a readable table"):
        read(logging, Goal(str(broken)))


class Labelled(Traffic):
    """Traffic whose predictions are logged and whose outcomes come by and by, one user for each three requests."""

    def __init__(self, settings: Settings, package: ModelPackage, uri: Path, quality: dict[str, float]) -> None:
        super().__init__(settings)
        self.package, self.uri, self.quality = package, uri, quality
        self.random, self.outcomes = np.random.default_rng(2), dict[str, float]()

    def read(self, service: str) -> Reading | None:
        reading = super().read(service)
        if reading is None:
            return None
        rows: list[Row] = []
        mine = reading.percent / 100 if not reading.shadow else 0.5
        for user in range(400):
            unit = f"u{self.looks}-{user}"
            variant = CANARY if self.random.random() < mine else STABLE
            for n in range(3):
                late = self.random.random()
                request = f"{unit}-{n}"
                self.outcomes[request] = float(self.random.random() < late)
                score = np.clip(late + self.random.normal(0, self.quality[variant]), 0.01, 0.99)
                rows.append((variant, request, unit, float(score), 0))
        write_log(self.settings, self.package, rows, dict(reading.revisions), datetime.now(UTC), str(self.looks))
        outcomes_at(self.uri, self.outcomes)
        return reading


@pytest.mark.parametrize(
    ("wanted", "canary", "stable", "phase"),
    [("no-worse", 0.05, 0.05, PROMOTED), ("better", 0.0, 0.3, PROMOTED), ("no-worse", 0.4, 0.05, ROLLED_BACK)],
)
def test_a_rollout_by_its_outcomes(
    logging: Settings, package: ModelPackage, tmp_path: Path, wanted: Any, canary: float, stable: float, phase: str
) -> None:
    for bias, percent in ((0.0, 100), (0.5, 0)):
        publish(logging, tiny.write_binary(tmp_path / f"package{bias}", bias=bias), "late", percent=percent)
    uri = tmp_path / "outcomes.parquet"
    goal = Goal(str(uri), "log_loss", wanted, 0.0 if wanted == "better" else 0.05)
    plan = Plan((50, 100), step_seconds=60, missing_seconds=5, look_seconds=0, limits=Limits(goal=goal))
    record = run(logging, Labelled(logging, package, uri, {CANARY: canary, STABLE: stable}), plan)
    assert record.phase == phase, record.decisions[-1]["reason"]
    found = next(each for each in record.decisions[1]["findings"] if each["name"] == "goal")
    if phase == ROLLED_BACK:
        assert record.decisions[-1]["reason"].startswith("goal: ") and found["verdict"] == "failure"
    else:
        assert found["needed"] and found["excess"] <= found["margin"]


@pytest.mark.slow
def test_what_real_predictors_log_of_sticky_users(logging: Settings, tmp_path: Path) -> None:
    """200 users with 4 requests each, behind a real gateway; two of three requests get an outcome."""
    for bias, percent in ((0.0, 100), (3.0, 50)):
        publish(logging, tiny.write_binary(tmp_path / f"package{bias}", bias=bias), "late", percent=percent)
    began, answered = datetime.now(UTC).isoformat(), dict[str, str]()
    with running(logging) as endpoints:
        connection = HTTPConnection(endpoints["late"].removesuffix(V1).removeprefix("http://"), timeout=30)
        for n in range(800):
            headers = {"content-type": "application/json", "x-request-id": f"request-{n}", "x-fti-unit": f"u{n % 200}"}
            connection.request("POST", V1, json.dumps({"instances": [{**tiny.ROW, "distance": float(n)}]}), headers)
            response = connection.getresponse()
            response.read()
            answered[f"request-{n}"] = response.headers["x-fti-revision"]
    service = read_service("late", logging)
    assert isinstance(service, Service) and service.canary
    revisions = {STABLE: service.stable.name, CANARY: service.canary.name}
    outcomes = {request: 0.0 for n, request in enumerate(answered) if n % 3}
    uri = outcomes_at(tmp_path / "outcomes.parquet", outcomes)
    found = OutcomeSource(Goal(uri), logging).read("late", revisions, began, shadow=False)
    users = {
        variant: {n % 200 for n in range(800) if answered[f"request-{n}"] == of} for variant, of in revisions.items()
    }
    assert not users[STABLE] & users[CANARY]
    assert found.units == {variant: len(of) for variant, of in users.items()} and found.requests_of_unit == 4
    assert {variant: moments.n for variant, moments in found.means.items()} == found.units
    assert found.means[CANARY].mean > found.means[STABLE].mean + 1  # sure that all are late, and none is


def test_classes_are_named_by_their_place(tmp_path: Path) -> None:
    log = pl.LazyFrame(
        {
            "request_id": ["1", "2"],
            "row": pl.Series([0, 0], dtype=pl.Int32),
            "time": [BEGAN, BEGAN],
            "unit": pl.Series([None, None], dtype=pl.String),
            "score": [0.7, 0.7],
            "scores": [[0.1, 0.2, 0.7], [0.1, 0.2, 0.7]],
            "variant": [CANARY, CANARY],
        }
    )
    outcomes = pl.LazyFrame({"request_id": ["1", "2"], "row": pl.Series([0, 0], dtype=pl.Int32), "outcome": [1.0, 7.0]})
    found = outcomes_in(log, outcomes, Goal("o", "log_loss"), shadow=False)
    assert found.means[CANARY] == Moments(1, pytest.approx(-math.log(0.2)), 0.0)


def test_ids_of_a_csv_keep_their_zeros(tmp_path: Path) -> None:
    (tmp_path / "outcomes.csv").write_text("request_id,outcome\n0012,1\n0013,0\n")
    assert _table(tmp_path / "outcomes.csv")["request_id"].to_list() == ["0012", "0013"]
