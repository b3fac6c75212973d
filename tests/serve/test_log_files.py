"""Log files: bounded in size and number, and no line of a crash is lost."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.serve.local.runner import running
from fti.serve.local.status import read_state
from fti.serve.observe.log_files import MOST_BYTES, fresh_log
from tests.serve.conftest import one_service
from tests.serve.test_lifecycle import until

__all__ = ["one_service"]

CRASHES = """
import faulthandler, logging, os, sys
from pathlib import Path
from fti.serve.observe.log_files import RotatingLog
logging.basicConfig(handlers=[RotatingLog(Path(sys.argv[1]), 2000)], level=logging.INFO)
faulthandler.enable()
for number in range(250):
    logging.info("line %d %s", number, "x" * 40)
    os.write(2, b"raw %d\\n" % number)
os.abort()
"""


def test_what_a_process_says_in_a_crash_is_in_its_last_file(tmp_path: Path) -> None:
    path = tmp_path / "one.log"
    with path.open("ab") as stream:
        ended = subprocess.run([sys.executable, "-c", CRASHES, path], stdout=stream, stderr=stream, timeout=60)
    assert ended.returncode == -signal.SIGABRT
    files = [tmp_path / f"one.log.{number}" for number in (4, 3, 2, 1)] + [path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size < 2200 for file in files[:-1])
    assert "Fatal Python error: Aborted" in path.read_text()
    found = re.findall(r"(?:root:line|raw) (\d+)", "".join(file.read_text() for file in files))
    wanted = [str(number) for number in range(250) for _ in "12"]
    assert found == wanted[len(wanted) - len(found) :], "in order, none twice, none missing"


def test_a_new_start_keeps_what_was_said_before_and_forgets_who_ended_long_ago(settings: Settings) -> None:
    for number in range(7):
        fresh_log(settings, "late-a").write_text(f"run {number}")
    folder = settings.home / "logs"
    assert [(folder / f"late-a.log.{n}").read_text() for n in (1, 4)] == ["run 5", "run 2"]
    assert len(list(folder.iterdir())) == 5
    os.utime(folder / "late-a.log", (0, 0))
    envoy = fresh_log(settings, "envoy")
    os.utime(envoy, (1, 1))
    for number in range(21):
        os.utime(fresh_log(settings, f"late-b{number}", [envoy]), (10 + number, 10 + number))
    assert not list(folder.glob("late-a*")) and envoy.exists(), "the oldest went, but none that is in use"
    assert len(list(folder.iterdir())) == 22


@pytest.mark.slow
def test_the_logs_of_a_service_are_rotated(settings: Settings, one_service: ModelPackage) -> None:
    """Both are made full; the next line goes to a new file, and what was there is kept."""
    envoy = settings.home / "logs" / "envoy.log"
    own = settings.home / "logs" / f"late-{one_service.digest[:12]}.log"
    with running(settings) as endpoints:
        for path in (envoy, own):
            os.truncate(path, MOST_BYTES)  # longer by a hole, which takes no disk
        pid = (read_state(settings) or {})["gateway_pid"]
        until(lambda: envoy.with_name("envoy.log.1").exists())
        until(lambda: str(envoy) in {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()})
        assert httpx.post(endpoints["late"], content=b"{").status_code == 400
        until(lambda: "v1 answered 400" in own.read_text())
        for path in (envoy, own):
            assert path.with_name(f"{path.name}.1").stat().st_size >= MOST_BYTES > path.stat().st_size
        predictor = (read_state(settings) or {})["services"]["late"]["revisions"]["stable"]["pid"]
        assert {os.readlink(f"/proc/{predictor}/fd/{number}") for number in (1, 2)} == {str(own)}
