"""Records of rollouts on a cluster: in a real object store, read by pods of which none has the other's disk."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fti.common.errors import BusyError, ConfigError, ServingError, StorageError
from fti.common.inference_service import read_service
from fti.common.settings import Settings
from fti.push.traffic import promote
from fti.rollout.archive import archive_of
from fti.rollout.endings import note_by_hand
from fti.rollout.logic import Rollout
from fti.rollout.record import PROMOTED, RUNNING, Record, last_record, open_record
from tests.object_store import ACCESS_KEY, BUCKET, SECRET_KEY, object_store
from tests.push.conftest import Cluster, standard
from tests.rollout.test_controller import PLAN, Traffic
from tests.serve import tiny
from tests.serve.conftest import publish

__all__ = ["standard"]

pytestmark = pytest.mark.slow

STEPS = replace(PLAN, steps=(20, 50, 100), step_seconds=60, missing_seconds=60, look_seconds=0.05)
EXPIRY = 5.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with object_store(tmp_path_factory.mktemp("store")) as endpoint:
        yield endpoint


@pytest.fixture
def pods(
    standard: Cluster, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Settings, Settings]:
    """The settings of two pods: the same cluster and object store, disks of their own; a canary waits at 5 %."""
    monkeypatch.setattr("fti.common.lease.EXPIRY", EXPIRY)
    models = f"s3://{BUCKET}/{tmp_path.name}"
    keys = {"s3_access_key": ACCESS_KEY, "s3_secret_key": SECRET_KEY, "s3_region": "us-east-1"}
    shared = replace(standard.settings, models_uri=models, s3_endpoint=endpoint, **keys)
    first, second = (replace(shared, home=tmp_path / pod, services=tmp_path / pod) for pod in ("a", "b"))
    publish(first, tiny.write_binary(tmp_path / "stable"), "late")
    publish(first, tiny.write_binary(tmp_path / "canary", bias=0.5), "late", percent=5)
    return first, second


SCRIPT = textwrap.dedent(
    """
    import sys, threading
    from fti.common import lease
    from fti.common.inference_service import in_force
    from fti.common.settings import Settings
    from fti.rollout.logic import Rollout
    from tests.rollout.test_archive import EXPIRY, STEPS
    from tests.rollout.test_controller import Traffic

    lease.EXPIRY, in_force._LONGEST_PAUSE = EXPIRY, 0.05
    settings = Settings.from_env()

    class Waits(Traffic):
        def read(self, service):
            reading = super().read(service)
            return None if reading and reading.percent == 50 else reading

    def tell(record, judgement):
        print(record.steps[record.step], flush=True)

    Rollout("late", STEPS, settings, Waits(settings), tell, who="run 1").run(threading.Event())
    """
)


@contextmanager
def step(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """A step in a pod of its own, which has reached 50 % and sees no figures there."""
    environ = {**os.environ, **settings.environ()}
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(
        command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            for line in process.stdout:
                if line.strip() == "50":
                    break
            yield process
        finally:
            process.kill()


def run(settings: Settings) -> Record:
    return Rollout("late", STEPS, settings, Traffic(settings), lambda *_: None, who="run 2").run(threading.Event())


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "cut off"])
def test_a_step_goes_on_where_one_in_another_pod_was(pods: tuple[Settings, Settings], end: signal.Signals) -> None:
    first, second = pods
    with step(first) as process:
        with pytest.raises(BusyError, match="a rollout of late goes on already, by run 1"):
            run(second)
        process.send_signal(end)
        began = last_record("late", open_canary(second), second)
        assert began and (began.phase, began.step) == (RUNNING, 1)
        record = run(second)
        assert record.phase == PROMOTED and record.started == began.started
        said = [(each["decision"], each["who"]) for each in record.decisions]
        assert said == [("began", "run 1"), ("continue", "run 1")] + [
            (each, "run 2") for each in ("went on", "continue", "promoted")
        ]
        assert not list(first.home.rglob("*.json")) and not list(second.home.rglob("*.json"))
        if end == signal.SIGSTOP:  # it wakes up, and finds that it is another's
            process.send_signal(signal.SIGCONT)
            _, stderr = process.communicate(timeout=60)
            assert process.returncode == 1 and "another has taken the rollout of late over" in stderr
    kept = last_record("late", record.canary, second)
    assert kept and kept.decisions == record.decisions
    service = read_service("late", second)
    assert service and service.canary is None and service.stable.digest == record.canary


def test_who_promotes_by_hand_signs_in_the_store(pods: tuple[Settings, Settings]) -> None:
    first, second = pods
    with step(first) as process:
        process.kill()
    before = read_service("late", second)
    promote("late", second)
    said = note_by_hand("late", before, second, who="eve")
    assert before and before.canary and said.startswith(f"Its rollout says so: {second.home}")
    kept = last_record("late", before.canary.digest, first)
    assert kept and (kept.phase, kept.decisions[-1]["reason"]) == (PROMOTED, "promoted by hand")
    assert [each["who"] for each in kept.decisions] == ["run 1", "run 1", "eve"]


def open_canary(settings: Settings) -> str:
    service = read_service("late", settings)
    assert service and service.canary
    return service.canary.digest


@pytest.mark.parametrize(("harm", "percent"), [(0.0, 100), (0.3, 5)], ids=["promotion", "rollback"])
def test_one_that_was_taken_over_moves_nothing_more(pods: tuple[Settings, Settings], harm: float, percent: int) -> None:
    first, second = pods
    seen = []

    def taken_over(record: Record, judgement: object) -> None:
        if not seen and record.steps[record.step] == percent:
            theirs = open_record("late", record.canary, record.stable, second)
            assert theirs
            theirs.begin("run 2")
            theirs.save(second)
            seen.append(theirs)

    plan = replace(STEPS, steps=(5, 100))
    with pytest.raises(BusyError, match="another has taken the rollout of late over"):
        Rollout("late", plan, first, Traffic(first, harm), taken_over).run(threading.Event())
    service = read_service("late", second)
    assert service and service.canary and service.canary_percent == percent
    kept = open_record("late", service.canary.digest, service.stable.digest, second)
    assert kept and kept.decisions == seen[0].decisions


def test_a_record_that_no_step_would_see_is_refused(pods: tuple[Settings, Settings]) -> None:
    laptop = replace(pods[0], models_uri=str(pods[0].home / "models"))
    with pytest.raises(ConfigError, match="Set FTI_MODELS_URI"):
        run(laptop)


def test_where_records_lie(settings: Settings, tmp_path: Path) -> None:
    cluster = replace(settings, serving="standard", namespace="team", models_uri="gs://fti/models")
    assert archive_of("late", cluster).where("x") == "gs://fti/models/_rollouts/team/late/x.json"
    for here in (replace(cluster, models_uri=str(tmp_path)), replace(cluster, serving="local")):
        assert archive_of("late", here).where("x") == str(settings.home / "rollouts" / "late" / "x.json")


def test_damage_in_the_store_is_told(pods: tuple[Settings, Settings]) -> None:
    first, _ = pods
    archive, name = archive_of("late", first), f"2026-01-01-{open_canary(first)[:12]}"
    archive.write("2026-02-02-cccccccccccc", "{", "")  # another canary's: no business of this rollout
    assert last_record("late", open_canary(first), first) is None
    archive.write(name, "{", "")
    with pytest.raises(ServingError, match=rf"_rollouts/flights/late/{name}.json is not the record of a rollout"):
        run(first)


def record(canary: str = "a" * 64) -> Record:
    models, lineage = (canary, "b" * 64), {"canary": {}, "stable": {}}
    made = Record("late", *models, lineage, [5, 100], {}, started="2026-01-01T00:00:00", share=(5, False))
    made.begin("run 1")
    return made


def test_a_write_whose_answer_was_lost_is_no_other_rollout(endpoint: str, settings: Settings, tmp_path: Path) -> None:
    """The store has what this process wrote, though it was told of an error: it goes on from there."""
    keys = {"s3_access_key": ACCESS_KEY, "s3_secret_key": SECRET_KEY, "s3_region": "us-east-1", "s3_endpoint": endpoint}
    models = f"s3://{BUCKET}/{tmp_path.name}"
    shared = replace(settings, serving="standard", models_uri=models, namespace="flights", **keys)
    ours = record()
    ours.save(shared)
    before = replace(ours.kept)
    ours.history.append({"look": 1})
    ours.save(shared)
    ours.kept = before  # the answer never came
    ours.decide({"decision": "continue", "reason": ""}, "run 1")
    ours.save(shared)
    kept = open_record("late", ours.canary, ours.stable, shared)
    assert kept and kept.decisions == ours.decisions and kept.kept.version == ours.kept.version
    kept.begin("run 2")
    kept.save(shared)
    ours.history.append({"look": 2})
    with pytest.raises(BusyError, match="another has taken the rollout of late over"):
        ours.save(shared)


def test_a_home_that_cannot_be_written_is_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    archive = archive_of("late", replace(settings, home=tmp_path / "file" / "home"))
    with pytest.raises(StorageError, match="could not be written: Not a directory"), archive.alone("run 1"):
        raise AssertionError("there is no such folder")
