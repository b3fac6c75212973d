"""Skew and trouble, planted one by one, against the real server."""

import json
import textwrap
import time
from pathlib import Path

import polars as pl
import pytest

from fti.common.errors import ConfigError, FeatureStoreError, PackageError, RejectedDataError, UnblessedModelError
from fti.infra_validate.limits import Limits
from fti.infra_validate.logic import Trial, infra_validate, write_infra_blessing
from fti.infra_validate.report import write_report
from fti.push.logic import check_blessing
from tests.infra_validate.shop import BATCH, HUNGRY, SLOW, Shop, spending, write_model
from tests.serve import tiny


def refusals(trial: Trial, folder: Path) -> str:
    """The failed checks; the page and the blessing say the same."""
    failed = [check.reason for check in trial.checks if not check.passed]
    assert failed and not trial.blessed and trial.reasons == failed
    write_report(trial, folder / "report.html")
    page = (folder / "report.html").read_text()
    assert "not blessed" in page and all(part in page for part in ("✗", "Verdict"))
    write_infra_blessing(trial, folder / "infra.json")
    with pytest.raises(UnblessedModelError, match="was not blessed"):
        check_blessing(folder / "infra.json", trial.package.digest)
    return "\n".join(failed)


def plant(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Breaks the server: Python runs this before anything else in every process started from now on."""
    (folder / "plant").mkdir()
    (folder / "plant" / "sitecustomize.py").write_text(textwrap.dedent(code))
    monkeypatch.setenv("PYTHONPATH", str(folder / "plant"))


@pytest.mark.slow
def test_a_server_that_serves_what_was_trained_is_blessed(shop: Shop) -> None:
    package = write_model(shop.folder / "model")
    online = (shop.settings.home / "online.db").read_bytes()
    trial = shop.validate(package)
    assert trial.blessed, trial.reasons
    assert (shop.settings.home / "online.db").read_bytes() == online, "the trial has an online store of its own"
    assert trial.metrics["vectors_rows_compared"] == len(pl.read_parquet(shop.test)) == 84
    # Four values are exactly as old as the TTL: whether they expire is a matter of milliseconds.
    assert set(trial.replays[1].left_out.values()) == {"age at the edge of a TTL"}
    assert trial.metrics["keys_rows_left_out"] == 4
    assert trial.metrics["features_compared"] == 2 and trial.metrics["features_differing"] == 0
    statuses = {status for row in trial.replays[1].statuses for status in row.values()}
    assert statuses == {"fresh", "stale", "missing"}
    assert 0 < trial.metrics["vectors_latency_p50_ms"] <= trial.metrics["vectors_latency_p99_ms"]
    assert 50 < trial.metrics["memory_peak_mb"] < 1000
    write_infra_blessing(trial, shop.folder / "infra.json")
    check_blessing(shop.folder / "infra.json", package.digest)
    write_report(trial, shop.folder / "report.html")
    assert (shop.folder / "report.html").read_text().count("<svg") == 5


@pytest.mark.slow
def test_a_transform_that_changed_after_training_is_found(shop: Shop) -> None:
    shop.tabulate(spending(2.0))
    found = refusals(shop.validate(write_model(shop.folder / "model")), shop.folder)
    assert "spending__total differs in" in found and "of 80 rows by up to" in found
    assert "the feature tables, or the view's TTL, have changed since training" in found
    assert "predictions with entity keys differ from the model's own" in found
    assert "spending__orders" not in found and "full feature vectors" not in found


@pytest.mark.slow
def test_a_ttl_that_changed_after_training_is_found(shop: Shop) -> None:
    shop.apply(**{"ttl=timedelta(days=2)": "ttl=timedelta(0)"})
    found = refusals(shop.validate(write_model(shop.folder / "model")), shop.folder)
    assert "spending__orders differs in" in found and "nothing in training" in found


@pytest.mark.slow
def test_a_server_that_ignores_the_ttl_is_found(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
        from dataclasses import replace
        from fti.common.online.policy import Policy
        of = Policy.of
        Policy.of = classmethod(lambda cls, view: replace(of(view), ttl=None))
    """
    plant(shop.folder, monkeypatch, code)
    found = refusals(shop.validate(write_model(shop.folder / "model")), shop.folder)
    assert "spending__orders differs in" in found and "the server gives values older than the view's TTL" in found


@pytest.mark.slow
def test_a_column_that_the_feature_tables_lost_is_named(shop: Shop) -> None:
    shop.tabulate(spending().drop("orders"))
    found = refusals(shop.validate(write_model(shop.folder / "model")), shop.folder)
    assert "the feature tables have no column for spending.orders" in found
    assert "nothing served" in found


@pytest.mark.slow
def test_a_feature_that_the_service_lost_keeps_the_server_from_starting(shop: Shop) -> None:
    shop.apply(**{', Field(name="orders", dtype=Int64)': ""})
    trial = shop.validate(write_model(shop.folder / "model"))
    assert "does not start: FeatureStoreError: " in refusals(trial, shop.folder)
    assert "lacks spending__orders" in trial.reasons[0]


@pytest.mark.slow
def test_a_model_whose_answer_depends_on_the_other_rows_is_found(shop: Shop) -> None:
    package = write_model(shop.folder / "model", BATCH, probability=0.5)
    found = refusals(shop.validate(package), shop.folder)
    assert "84 of 84 predictions with full feature vectors differ from the model's own by up to 0." in found
    assert "1e-05 is allowed" in found and "spending__" not in found


@pytest.mark.slow
def test_a_slow_server_is_over_its_budget(shop: Shop) -> None:
    package = write_model(shop.folder / "model", SLOW)
    found = refusals(shop.validate(package, sample=12, latency_budget_ms=5), shop.folder)
    assert "99 % of requests with full feature vectors take up to" in found
    assert "over the budget of 5 ms" in found and "differ" not in found


@pytest.mark.slow
def test_a_server_that_outgrows_its_memory_is_stopped(shop: Shop) -> None:
    trial = shop.validate(write_model(shop.folder / "model", HUNGRY), sample=5, memory_limit_mb=600)
    found = refusals(trial, shop.folder)
    assert "the predictor's memory reached" in found and "above the limit of 600 MB" in found


@pytest.mark.slow
def test_a_server_that_cannot_start_is_refused_with_its_own_reason(shop: Shop) -> None:
    package = write_model(shop.folder / "model", onnx=b"no graph")
    started = time.monotonic()
    trial = shop.validate(package)
    assert time.monotonic() - started < 30
    assert "the predictor does not start: PackageError: ONNX Runtime refuses the graph" in refusals(trial, shop.folder)
    wrong = write_model(shop.folder / "model", probability=0.9)
    assert "does not reproduce its own examples" in refusals(shop.validate(wrong), shop.folder)


@pytest.mark.slow
def test_a_server_that_takes_too_long_to_start_is_refused(shop: Shop) -> None:
    trial = shop.validate(write_model(shop.folder / "model"), ready_within_s=0.01)
    assert "the predictor does not answer within 0.01 s" in refusals(trial, shop.folder)


@pytest.mark.slow
def test_a_server_that_dies_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
        import os
        def tire():
            import fti.serve.model as model
            answer, left = model.PackagedModel.answer, [30]
            async def tired(self, *given):
                left[0] -= 1
                if not left[0]:
                    os._exit(7)
                return await answer(self, *given)
            model.PackagedModel.answer = tired
        import sys, importlib.abc
        class Finder(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name == "fti.serve.grpc_server":  # imported after the model
                    sys.meta_path.remove(self)
                    tire()
        sys.meta_path.insert(0, Finder())
    """
    plant(shop.folder, monkeypatch, code)
    trial = shop.validate(write_model(shop.folder / "model"))
    assert "the predictor ended with status 7" in refusals(trial, shop.folder)
    assert len(trial.predictions[0].compared) == 24, "what it answered before is compared: 30, less 5 to warm up"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["regression", "multiclass"])
def test_models_without_a_feature_service_are_sent_full_vectors(shop: Shop, task: str) -> None:
    package = tiny.write_other(shop.folder / "other", task)
    pl.DataFrame({"x": [0.5, -1.0, 2.25, 3.0]}).write_parquet(shop.test)
    trial = shop.validate(package)
    assert trial.blessed, trial.reasons
    assert trial.metrics["vectors_rows_compared"] == 4 and "keys_rows_compared" not in trial.metrics
    write_report(trial, shop.folder / "report.html")
    assert "Tried with full feature vectors." in (shop.folder / "report.html").read_text()


def test_a_model_that_evaluate_refused_is_not_tried(shop: Shop) -> None:
    package = write_model(shop.folder / "model")
    refused = shop.bless(package, blessed=False)
    trial = infra_validate(package.path, shop.test, refused, feature_repo=str(shop.repo), settings=shop.settings)
    assert not trial.blessed and trial.server is None and trial.reasons == ["the AUC is 0.8"]
    write_report(trial, shop.folder / "report.html")
    assert "its server was not tried" in (shop.folder / "report.html").read_text()
    write_infra_blessing(trial, shop.folder / "infra.json")
    assert json.loads((shop.folder / "infra.json").read_text())["blessed"] is False


def test_what_cannot_be_used_is_an_error(shop: Shop) -> None:
    package = write_model(shop.folder / "model")
    with pytest.raises(ConfigError, match="the test table lacks spending__total"):
        pl.read_parquet(shop.test).drop("spending__total").write_parquet(shop.folder / "less.parquet")
        infra_validate(
            package.path,
            shop.folder / "less.parquet",
            shop.bless(package),
            feature_repo=str(shop.repo),
            settings=shop.settings,
        )
    other = write_model(shop.folder / "other", name="other")
    with pytest.raises(UnblessedModelError, match="was given to model"):
        infra_validate(other.path, shop.test, shop.bless(package), feature_repo="", settings=shop.settings)
    pl.read_parquet(shop.test).clear().write_parquet(shop.folder / "none.parquet")
    with pytest.raises(RejectedDataError, match="has no row"):
        infra_validate(
            package.path, shop.folder / "none.parquet", shop.bless(package), feature_repo="", settings=shop.settings
        )
    unknown = write_model(shop.folder / "unknown", feature_service="shop_v9")
    with pytest.raises(FeatureStoreError, match="no feature service 'shop_v9'"):
        shop.validate(unknown)
    (package.path / "model.onnx").write_bytes(b"tampered")
    with pytest.raises(PackageError, match="differs from its checksum"):
        shop.validate(package)


@pytest.mark.parametrize(
    "limits", [{"sample": 0}, {"feature_tolerance": -1.0}, {"latency_budget_ms": 0}, {"memory_limit_mb": float("nan")}]
)
def test_limits_that_cannot_be_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(limits))} is"):
        Limits(**limits)  # type: ignore[arg-type]
