"""Evaluation: verdicts, reports, and clear words about data that cannot judge."""

import json
from pathlib import Path

import polars as pl
import pytest

from fti.common.errors import ConfigError, PackageError, RejectedDataError, SourceError
from fti.common.files import sha256_of
from fti.common.inference_service import Revision, Service, write_service
from fti.common.tables import write_table
from fti.evaluate.logic import evaluate_model, kfp_confusion, kfp_roc, write_blessing
from fti.evaluate.report import write_report
from fti.train.logic import train_model
from tests.train.tables import SPEC, frame_of, write_tables

ALGORITHM = {"binary": "logistic_regression", "multiclass": "logistic_regression", "regression": "linear_regression"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Per task: the tables, a model of all features and a baseline of one."""
    made = {}
    for task, algorithm in ALGORITHM.items():
        folder = tmp_path_factory.mktemp(task)
        files = write_tables(folder, task)
        for name, features in (("model", []), ("baseline", ["weekend"])):
            train_model(files["train"], files["validation"], folder / name, algorithm=algorithm, features=features)
        made[task] = files | {"model": folder / "model", "baseline": folder / "baseline"}
    return made


@pytest.mark.parametrize("task", ALGORITHM)
def test_a_better_model_is_blessed_and_reported(world, tmp_path, settings, task):
    files = world[task]
    floor = {"binary": {"roc_auc": 0.7}, "multiclass": {"accuracy": 0.5}, "regression": {"rmse": 20}}[task]
    found = evaluate_model(
        files["model"], files["test"], baseline=files["baseline"], floor=floor, slices=["carrier", "weather__wind"]
    )
    assert found.blessed, found.reasons
    assert len(found.reasons) == 2
    write_report(found, tmp_path / "report.html")
    write_blessing(found, tmp_path / "blessing.json")
    page = (tmp_path / "report.html").read_text()
    for text in (">blessed<", "Comparison", "Slices", "missing", found.package.digest, found.test_digest):
        assert text in page
    blessing = json.loads((tmp_path / "blessing.json").read_text())
    assert blessing["blessed"] is True
    assert blessing["model_digest"] == found.package.digest
    assert blessing["test_digest"] == sha256_of(files["test"])
    assert (kfp_roc(found) is not None) == (task == "binary")
    assert (kfp_confusion(found) is not None) == (task != "regression")


def test_a_model_that_is_no_better_than_the_baseline_is_not_blessed(world, tmp_path, settings):
    files = world["binary"]
    found = evaluate_model(files["baseline"], files["test"], baseline=files["model"])
    assert not found.blessed
    assert "over the baseline" in found.reasons[0]
    write_report(found, tmp_path / "report.html")
    assert "not blessed" in (tmp_path / "report.html").read_text()


def test_the_same_model_is_no_improvement(world, settings):
    files = world["binary"]
    assert not evaluate_model(files["model"], files["test"], baseline=files["model"]).blessed


def test_nothing_asked_is_nothing_blessed(world, settings):
    found = evaluate_model(world["binary"]["model"], world["binary"]["test"])
    assert not found.blessed
    assert "nothing was asked" in found.reasons[0]


def serve(settings, package: Path) -> None:
    """Writes the manifest that push would write."""
    revision = Revision(digest="0" * 64, storage_uri=str(package))
    write_service(Service(name="late-arrival", stable=revision), settings)


def test_a_model_as_good_as_the_served_one_passes(world, settings):
    files = world["binary"]
    serve(settings, files["model"])
    found = evaluate_model(files["model"], files["test"], service="late-arrival", settings=settings)
    assert found.blessed, found.reasons
    worse = evaluate_model(files["baseline"], files["test"], service="late-arrival", settings=settings)
    assert not worse.blessed
    assert "over the served model" in worse.reasons[0]


@pytest.mark.parametrize("other", ["multiclass", "regression"])
def test_a_served_model_of_another_kind_is_a_reason_not_a_crash(world, settings, tmp_path, other):
    files = world["binary"]
    serve(settings, world[other]["model"])
    found = evaluate_model(files["model"], files["test"], service="late-arrival", settings=settings)
    assert not found.blessed
    assert f"it is a {other} model" in found.reasons[0]
    write_report(found, tmp_path / "report.html")


def test_a_served_model_that_is_gone_is_a_reason_not_a_crash(world, settings, tmp_path):
    files = world["binary"]
    serve(settings, tmp_path / "gone")
    found = evaluate_model(files["model"], files["test"], service="late-arrival", settings=settings)
    assert not found.blessed
    assert "the served model cannot be compared" in found.reasons[0]


def test_a_service_that_is_not_there_asks_nothing(world, settings):
    files = world["binary"]
    found = evaluate_model(files["model"], files["test"], floor={"roc_auc": 0.6}, service="new", settings=settings)
    assert found.blessed


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: f.head(0), RejectedDataError, "no rows"),
        (lambda f: f.filter("late"), RejectedDataError, "late is True in every test row"),
        (lambda f: f.with_columns(late=pl.lit(None, dtype=pl.Boolean)), RejectedDataError, "no finite label late"),
        (lambda f: f.with_columns(late=pl.lit("yes")), ConfigError, "label late holds 'yes'"),
        (lambda f: f.drop("hour"), ConfigError, "lacks hour"),
        (lambda f: f.with_columns(hour=pl.lit("noon")), ConfigError, "hour holds something that is no number"),
    ],
)
def test_data_that_cannot_judge_are_refused(world, settings, tmp_path, change, error, message):
    write_table(change(frame_of(200, 5)), tmp_path / "test.parquet", SPEC)
    with pytest.raises(error, match=message):
        evaluate_model(world["binary"]["model"], tmp_path / "test.parquet", floor={"roc_auc": 0.5})


def test_files_that_are_not_what_they_should_be_are_refused(world, settings, tmp_path):
    files = world["binary"]
    (tmp_path / "text").write_text("no table")
    with pytest.raises(SourceError, match="not a readable Parquet"):
        evaluate_model(files["model"], tmp_path / "text")
    with pytest.raises(PackageError, match="not a model package"):
        evaluate_model(tmp_path, files["test"])
    with pytest.raises(ConfigError, match="lacks airport"):
        evaluate_model(files["model"], files["test"], slices=["airport"])
    with pytest.raises(ConfigError, match="unknown metric 'auc'"):
        evaluate_model(files["model"], files["test"], floor={"auc": 0.5})


@pytest.mark.slow
def test_train_and_evaluate_in_the_local_runner(world, settings, tmp_path):
    from kfp import dsl, local

    from fti.evaluate.component import evaluate
    from fti.train.component import train

    files = world["binary"]

    @dsl.pipeline
    def judge(train_uri: str, validation_uri: str, test_uri: str) -> bool:
        tables = [
            dsl.importer(artifact_uri=uri, artifact_class=dsl.Dataset, reimport=True).output
            for uri in (train_uri, validation_uri, test_uri)
        ]
        made = {
            name: train(
                train=tables[0], validation=tables[1], algorithm="hist_gradient_boosting", features=features,
                hyperparameters={"max_iter": 30.0, "max_leaf_nodes": 7.0},
            )
            for name, features in (("model", []), ("baseline", ["weekend"]))
        }  # fmt: skip
        judged = evaluate(
            model=made["model"].outputs["model"], baseline=made["baseline"].outputs["model"], test=tables[2],
            floor={"roc_auc": 0.7}, slices=["carrier"],
        )  # fmt: skip
        return judged.outputs["Output"]

    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(tmp_path / "root"),
        workspace_root=str(tmp_path / "ws"),
    )
    run = judge(train_uri=str(files["train"]), validation_uri=str(files["validation"]), test_uri=str(files["test"]))
    assert run.output is True
    blessing = json.loads(next((tmp_path / "root").rglob("blessing")).read_text())
    assert blessing["blessed"] is True
    page = next((tmp_path / "root").rglob("report*")).read_text()
    assert ">blessed<" in page
