"""A local run: what it leaves, what it tells, and how it fails."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fti.common.errors import BusyError
from fti.common.settings import Settings
from fti.local_run import StepFailedError, run_pipeline
from fti.local_step import Step
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


def test_the_steps_see_the_home_of_the_run_and_the_caller_keeps_its_own(settings: Settings, tmp_path: Path) -> None:
    other = Settings.from_env({"FTI_HOME": str(tmp_path / "other")})
    run = run_pipeline(steps.shouting, {}, other)

    assert run.folder.is_relative_to(tmp_path / "other")
    assert os.environ["FTI_HOME"] == str(settings.home)


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


def test_a_second_run_at_the_same_time_is_refused(settings: Settings, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    code = (
        "import sys; from fti.local_run import run_pipeline; from fti.common.settings import Settings;"
        "from tests.cli import steps; run_pipeline(steps.waiting, {'path': sys.argv[1]}, Settings.from_env())"
    )
    first = subprocess.Popen([sys.executable, "-c", code, str(gate)], cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 60
        while not Path(f"{gate}.started").exists():
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(BusyError, match="FTI_HOME"):
            run_pipeline(steps.shouting, {}, settings)
        gate.touch()
        assert first.wait(60) == 0
    finally:
        first.kill()
        first.wait()
    assert run_pipeline(steps.shouting, {}, settings).outputs == {"Output": "HELLO"}
