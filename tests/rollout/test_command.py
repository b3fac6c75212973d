"""`fti rollout` as a user types it, beside a running `fti serve`."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fti.common.inference_service import read_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.rollout.archive import folder_of
from fti.rollout.logic import Rollout
from fti.serve.local.runner import running
from tests.rollout.conftest import V1, under_load
from tests.rollout.test_controller import PLAN, Traffic
from tests.serve import tiny
from tests.serve.conftest import publish
from tests.serve.test_lifecycle import until

FTI = str(Path(sys.executable).parent / "fti")


def start(settings: Settings, *options: str) -> "subprocess.Popen[str]":
    environ = {**os.environ, **settings.environ()}
    command = [FTI, "rollout", "late", "--min-requests", "100", "--failure-margin", "0.05", "--refusal-margin", "0.05"]
    return subprocess.Popen(
        [*command, "--slow-margin", "0.5", *options],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_rollout_interrupted_and_taken_up_again(
    settings: Settings, one_service: ModelPackage, tmp_path: Path
) -> None:
    canary = tiny.write_binary(tmp_path / "canary", bias=0.5)
    publish(settings, canary, "late", percent=0)
    body = json.dumps({"instances": [tiny.ROW]}).encode()
    with running(settings) as endpoints:
        waiting = start(settings, "--steps", "50,100")  # nobody asks: it waits
        until(lambda: (service := read_service("late", settings)) and service.canary_percent == 50)
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=30)
        assert (waiting.returncode, "Traceback" in err) == (3, False), err
        assert out.startswith("late: running. Interrupted.\nReport: ")
        with under_load(endpoints["late"].removesuffix(V1), body) as answers:
            out, err = start(settings, "--steps", "50,100").communicate(timeout=120)
    assert out.startswith("late: promoted. No guardrail is worse than its margin.\nReport: "), out + err
    assert [line.split("  ")[0] for line in err.splitlines()] == [" 50 %", " 50 %", "100 %", "100 %"], err
    assert {status for status, _ in answers} == {200}
    service = read_service("late", settings)
    assert service and service.stable.digest == canary.digest
    page = Path(out.splitlines()[1].removeprefix("Report: "))
    assert "Evidence of harm" in page.read_text()


@pytest.mark.parametrize(
    ("harm", "code", "said"),
    [
        (0.0, 0, "late: promoted. No guardrail is worse than its margin."),
        (0.3, 4, "late: rolled back. Failures: 31.00% against 1.00% of stable; evidence "),
    ],
)
def test_killed_before_its_report_the_same_command_ends_as_it_did(
    settings: Settings, one_service: ModelPackage, tmp_path: Path, harm: float, code: int, said: str
) -> None:
    publish(settings, tiny.write_binary(tmp_path / "canary", bias=0.5), "late", percent=0)
    record = Rollout("late", PLAN, settings, Traffic(settings, harm), lambda *_: None).run(threading.Event())
    process = start(settings)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code and out.startswith(said), out + err
    page = folder_of("late", settings) / f"{record.name}.html"
    assert out.splitlines()[1] == f"Report: {page}" and record.decisions[-1]["digest"][:12] in page.read_text()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--steps", "a,b"], 2, "is not a list such as 0,5,25,50,100"),
        (["--steps", "50,20"], 1, "the steps are [50, 20]. Allowed: rising whole numbers"),
        ([], 1, "late has no canary. Push a model with a canary_percent below 100 first"),
    ],
)
def test_mistakes_are_explained(
    settings: Settings, one_service: ModelPackage, options: list[str], code: int, message: str
) -> None:
    process = start(settings, *options)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and message in err and "Traceback" not in err
