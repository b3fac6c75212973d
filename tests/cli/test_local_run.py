"""A local run: what it leaves, what it tells, and how it fails."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fti.common.errors import BusyError, ConfigError, StorageError
from fti.common.settings import Settings
from fti.local_run import StepFailedError, run_pipeline
from fti.local_step import Step
from fti.pipelines import pipeline_named
from tests.cli import steps


def test_a_run_leaves_its_outputs_reports_log_and_summary(settings: Settings) -> None:
    run = run_pipeline(steps.shouting, {"text": "hey"}, settings)

    assert run.outputs == {"Output": "HEY"}
    assert [report.read_text() for report in run.reports] == ["<p>hey</p>"]
    assert run.reports[0].name == "1-shout.html"
    assert run.artifacts("shout", "table")[0]["metadata"] == {"letters": 3}
    assert "finished with status" in (run.folder / "log.txt").read_text()
    summary = json.loads((run.folder / "run.json").read_text())
    assert summary["pipeline"] == "fti-shouting"
    assert summary["arguments"] == {"text": "hey"}
    assert [entry["name"] for entry in summary["steps"]] == ["shout"]


def test_steps_are_told_as_they_start_and_end(settings: Settings) -> None:
    told: list[Step] = []
    run = run_pipeline(steps.many, {}, settings, told.append)

    assert sorted(step.seconds is None for step in told) == [False] * 3 + [True] * 3
    assert all(step.cpu_seconds > 0 and step.peak_mb > 1 and not step.failed for step in run.steps)
    assert len(run.steps) == len(run.reports) == 3


def test_a_run_gives_logging_and_print_back(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (print, root.level, root.handlers[:])
    for _ in range(3):
        run_pipeline(steps.many, {}, settings)
        assert (print, root.level, root.handlers) == before
    capsys.readouterr()
    print("plain")
    assert capsys.readouterr().out == "plain\n"


def test_the_steps_see_the_home_of_the_run_and_the_caller_keeps_its_own(settings: Settings, tmp_path: Path) -> None:
    other = Settings.from_env({"FTI_HOME": str(tmp_path / "other")})
    run = run_pipeline(steps.shouting, {}, other)

    assert run.folder.is_relative_to(tmp_path / "other")
    assert os.environ["FTI_HOME"] == str(settings.home)


def test_the_steps_run_by_the_settings_given_and_not_by_the_environment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "elsewhere")
    before = dict(os.environ)
    given = replace(
        settings, offline_uri="s3://features", now=datetime(2014, 1, 1, tzinfo=UTC), s3_region="", s3_secret_key="k"
    )
    run = run_pipeline(steps.telling, {}, given)

    assert run.outputs == {"Output": "s3://features 2014-01-01 00:00:00+00:00 nowhere k"}
    assert dict(os.environ) == before


def test_a_step_that_refuses_speaks_for_itself(settings: Settings) -> None:
    with pytest.raises(StepFailedError) as caught:
        run_pipeline(steps.refusing, {"text": "x.csv"}, settings)
    message = str(caught.value)
    assert message.startswith("refuse: x.csv cannot be read. Allowed: Parquet. Convert it.")
    assert "log.txt" in message
    assert "Traceback" not in message


def test_a_step_that_crashes_leads_to_the_log(settings: Settings) -> None:
    with pytest.raises(StepFailedError, match=r"crash failed.*log\.txt") as caught:
        run_pipeline(steps.crashing, {}, settings)
    log = Path(str(caught.value).rsplit("The whole log: ", 1)[1].rstrip("."))
    assert "ZeroDivisionError" in log.read_text()


def test_after_a_failure_the_next_run_works(settings: Settings) -> None:
    with pytest.raises(StepFailedError):
        run_pipeline(steps.crashing, {}, settings)
    assert run_pipeline(steps.shouting, {}, settings).outputs == {"Output": "HELLO"}


@pytest.fixture
def waiting(settings: Settings, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run in another process, in the middle of a step that waits for a file."""
    gate = tmp_path / "gate"
    code = (
        "import sys; from fti.local_run import run_pipeline; from fti.common.settings import Settings;"
        "from tests.cli import steps; run_pipeline(steps.waiting, {'path': sys.argv[1]}, Settings.from_env())"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", code, str(gate)], cwd=root, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not Path(f"{gate}.started").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        yield process, gate
    finally:
        process.kill()
        process.communicate()


def test_a_second_run_at_the_same_time_is_refused(
    waiting: tuple[subprocess.Popen[str], Path], settings: Settings
) -> None:
    first, gate = waiting
    with pytest.raises(BusyError, match="FTI_HOME"):
        run_pipeline(steps.shouting, {}, settings)
    gate.touch()
    assert first.wait(60) == 0
    assert run_pipeline(steps.shouting, {}, settings).outputs == {"Output": "HELLO"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_no_step_behind(
    waiting: tuple[subprocess.Popen[str], Path], number: signal.Signals
) -> None:
    process, gate = waiting
    step = int(Path(f"{gate}.started").read_text())
    process.send_signal(number)
    assert process.wait(20) != 0
    deadline = time.monotonic() + 20
    while Path(f"/proc/{step}").exists():
        assert time.monotonic() < deadline, "the step outlived its run"
        time.sleep(0.02)


def test_secrets_in_urls_stay_out_of_the_log_and_the_summary(settings: Settings) -> None:
    source = "http://user:S3CRET@127.0.0.1:9/data.csv?X-Signature=S3CRET"
    with pytest.raises(StepFailedError, match="cannot be read") as caught:
        run_pipeline(
            pipeline_named("features"), {"tables": [{"table": "t", "source": source, "contract": "c"}]}, settings
        )
    assert "S3CRET" not in str(caught.value)
    kept = [path for path in settings.home.rglob("*") if path.is_file()]
    assert {"log.txt", "run.json"} <= {path.name for path in kept}
    assert [path for path in kept if b"S3CRET" in path.read_bytes()] == []


def test_values_and_homes_may_name_python3(tmp_path: Path) -> None:
    home = Settings.from_env({"FTI_HOME": str(tmp_path / "python3.11")})
    run = run_pipeline(steps.shouting, {"text": "/usr/lib/python3/x"}, home)
    assert run.outputs == {"Output": "/USR/LIB/PYTHON3/X"}
    assert run.reports[0].is_relative_to(tmp_path / "python3.11")


@pytest.mark.parametrize("arguments", [{"nope": 1}, {"text": ["not", "text"]}])
def test_wrong_arguments_are_explained(settings: Settings, arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="the pipeline could not be run"):
        run_pipeline(steps.shouting, arguments, settings)


def test_a_home_that_is_no_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="FTI_HOME is"):
        run_pipeline(steps.shouting, {}, Settings.from_env({"FTI_HOME": str(tmp_path / "file")}))


def test_a_failed_step_leads_to_its_report(settings: Settings) -> None:
    with pytest.raises(StepFailedError, match=r"The reports: .*reports") as caught:
        run_pipeline(steps.reporting, {}, settings)
    folder = str(caught.value).split("The reports: ")[1].split(". The whole log")[0]
    assert [page.read_text() for page in Path(folder).iterdir()] == ["<p>why</p>"]
