"""Runs on a cluster: started once, followed through trouble, failures told in the step's own words."""

import time
from typing import Any

import pytest

from fti.common.errors import PipelinesError
from fti.kubeflow import runs
from fti.kubeflow.api import Api
from fti.kubeflow.connection import Connection
from fti.kubeflow.pipelines import Version
from fti.kubeflow.refusals import MissingError, UnsureError
from fti.kubeflow.runs import Task
from tests.kubeflow.standin import Fault, Kubeflow, kubeflow

RUNS = "POST /apis/v2beta1/runs"
REFUSED = "flights breaks its contract: 12 of 20 rows rejected. See the data report."
LOG = f"""Traceback (most recent call last):
  File "ephemeral_component.py", line 18, in require
fti.common.errors.RejectedDataError: {REFUSED}
time="2026-01-01" level=error msg="exit status 1"
"""


def task(name: str, state: str, *pods: str, at: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "task_id": f"id-{name}",
        "display_name": name,
        "state": state,
        "start_time": "2026-01-01T00:00:00Z",
        "end_time": f"2026-01-01T00:01:3{at}Z",
        "child_tasks": [{"pod_name": pod} for pod in pods],
        **more,
    }


def look(state: str, *tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"state": state, "run_details": {"task_details": list(tasks)}, **more}


# As KFP tells of a run: with what it puts around the steps, and every level failed when one step did, parents last.
AROUND = (
    task("root-driver", "SUCCEEDED"),
    task("fti-loop-x7k2p", "FAILED", "fti-loop-x7k2p-1", at=9),
    task("root", "FAILED", "fti-loop-x7k2p-2", at=8),
    task("fti-features", "FAILED", "fti-loop-x7k2p-3", at=7),
    task("for-loop-1", "FAILED", "fti-loop-x7k2p-4", at=6),
    task("iteration-iterations(0:0)", "FAILED", "fti-loop-x7k2p-5", at=5),
)
FAILED = look(
    "FAILED",
    *AROUND,
    task("ingest", "SUCCEEDED", "fti-loop-x7k2p-6"),
    task("executor", "FAILED", "pod-1", "pod-2", at=2),
    task("require", "FAILED", "pod-3", at=3),
    error={"code": 13, "message": "child 'fti-1' failed"},
)


@pytest.fixture
def submitted(api: Api, version: Version) -> str:
    return runs.submit(api, version, {"text": "hey"}, experiment_id=runs.experiment(api, "mine"))


def test_a_run_is_of_the_version_and_has_the_parameters(cluster: Kubeflow, submitted: str, version: Version) -> None:
    (run,) = cluster.runs
    assert run["run_id"] == submitted
    assert run["pipeline_version_reference"] == {"pipeline_id": version.pipeline_id, "pipeline_version_id": version.id}
    assert run["runtime_config"] == {"parameters": {"text": "hey"}}
    assert run["display_name"].startswith("fti-shouting 20")
    assert [e["display_name"] for e in cluster.experiments] == ["mine"]


def test_an_experiment_is_made_once(cluster: Kubeflow, api: Api) -> None:
    for name in ("a", "b", "c", "d"):
        runs.experiment(api, name)
    assert runs.experiment(api, "d") == cluster.experiments[3]["experiment_id"]
    assert len(cluster.experiments) == 4


@pytest.mark.parametrize("code", [500, 502, 503, 504, 429, 0])
def test_a_run_whose_answer_was_lost_is_not_started_twice(
    cluster: Kubeflow, api: Api, version: Version, code: int
) -> None:
    cluster.faults.append(Fault(RUNS, code, done=True))
    run_id = runs.submit(api, version, {}, experiment_id=runs.experiment(api, "mine"))
    assert [run["run_id"] for run in cluster.runs] == [run_id]
    assert cluster.seen.count(RUNS) == 1


def test_a_busy_server_is_asked_again(cluster: Kubeflow, api: Api, version: Version) -> None:
    cluster.faults.append(Fault(RUNS, 503, times=2))
    runs.submit(api, version, {}, experiment_id=runs.experiment(api, "mine"))
    assert len(cluster.runs) == 1


def test_a_server_says_when_to_ask_again(cluster: Kubeflow, api: Api) -> None:
    cluster.faults.append(Fault("GET .*/healthz", 429, retry_after="1"))
    start = time.monotonic()
    api.get("/healthz")
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("code", [500, 504, 0])
def test_a_server_that_may_have_done_it_is_not_asked_again(
    cluster: Kubeflow, api: Api, version: Version, code: int
) -> None:
    """It may be at work still: then a second request would be a second run."""
    cluster.faults.append(Fault(RUNS, code))
    with pytest.raises(UnsureError, match="before you ask again"):
        runs.submit(api, version, {}, experiment_id=runs.experiment(api, "mine"))
    assert cluster.seen.count(RUNS) == 1


def test_a_wrong_parameter_is_the_servers_to_refuse(cluster: Kubeflow, api: Api, version: Version) -> None:
    with pytest.raises(PipelinesError, match=r"refuses .*\(400\): parameter colour is not found"):
        runs.submit(api, version, {"colour": 1}, experiment_id=runs.experiment(api, "mine"))


def test_a_run_is_followed_step_by_step_through_trouble(cluster: Kubeflow, api: Api, submitted: str) -> None:
    cluster.script = [
        {"state": "PENDING"},
        look("RUNNING", *AROUND[:3], task("ingest", "RUNNING", "pod-1")),
        look("RUNNING", *AROUND[:3], task("ingest", "SUCCEEDED", "pod-1"), task("train", "PENDING")),
        look("SUCCEEDED", *AROUND[:3], task("ingest", "SUCCEEDED", "pod-1"), task("train", "SKIPPED")),
    ]
    cluster.faults += [Fault(f"GET .*/runs/{submitted}", 502, times=9), Fault(f"GET .*/runs/{submitted}", 0, times=9)]
    told: list[Task] = []
    run = runs.follow(api, submitted, told.append, interval=0.01)
    assert told == [Task("ingest", "RUNNING"), Task("ingest", "SUCCEEDED", 90.0), Task("train", "SKIPPED", 90.0)]
    runs.require_succeeded(api, run)


@pytest.mark.parametrize("pod", ["pod-3", "pod-2"])  # of the step; of its last attempt, where it is tried again
def test_a_failed_run_names_the_step_and_its_own_words(cluster: Kubeflow, api: Api, submitted: str, pod: str) -> None:
    cluster.script, cluster.logs = [FAILED], {pod: LOG}
    with pytest.raises(PipelinesError) as caught:
        runs.require_succeeded(api, runs.follow(api, submitted))
    assert str(caught.value) == (
        f"the run failed: require: {REFUSED} Its page: {cluster.url}/#/runs/details/{submitted}."
    )


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (FAILED, "the run failed: require: its log says why"),
        (look("FAILED", task("root", "FAILED"), task("train-driver", "FAILED")), "train-driver: its log says why"),
        (look("FAILED", task("train", "FAILED", error={"code": 1, "message": "OOMKilled"})), "train: OOMKilled"),
        (
            look(
                "FAILED", task("train", "FAILED", state_history=[{"state": "FAILED", "error": {"message": "Evicted"}}])
            ),
            "train: Evicted",
        ),
        ({"state": "FAILED", "error": {"code": 3, "message": "no such image"}}, "the run failed: no such image"),
        ({"state": "FAILED"}, "the cluster does not say why"),
        ({"state": "CANCELED"}, "the run was cancelled"),
    ],
)
def test_failures_without_a_log(cluster: Kubeflow, api: Api, submitted: str, run: dict[str, Any], said: str) -> None:
    cluster.script = [run]
    with pytest.raises(PipelinesError, match=said):
        runs.require_succeeded(api, runs.follow(api, submitted))


def test_a_secret_in_a_log_is_not_shown(cluster: Kubeflow, submitted: str) -> None:
    cluster.script = [FAILED]
    cluster.logs = {"pod-2": "ValueError: cannot read s3://user:S3CRET@store/x with T0KEN\n"}
    with Api(Connection(cluster.url, cluster.url, token="T0KEN")) as api, pytest.raises(PipelinesError) as caught:
        runs.require_succeeded(api, runs.follow(api, submitted))
    assert "ValueError: cannot read s3://***@store/x with ***" in str(caught.value)


def test_a_run_that_is_not_there(api: Api) -> None:
    with pytest.raises(MissingError, match="404"):
        runs.follow(api, "nothing")


def test_a_server_that_is_gone_for_good_ends_the_following(
    cluster: Kubeflow, api: Api, submitted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_PATIENCE", 0.1)
    cluster.faults.append(Fault("GET .*", 500, times=10_000))
    with pytest.raises(UnsureError):
        runs.follow(api, submitted, interval=0.01)


def test_namespaces_of_many_users(shouting: str) -> None:
    from fti.kubeflow.pipelines import upload

    with kubeflow(many_users=True) as cluster:
        with Api(Connection(cluster.url, cluster.url, namespace="team-a")) as api:
            version = upload(api, shouting)
            runs.submit(api, version, {}, experiment_id=runs.experiment(api, "mine"))
        assert cluster.pipelines[0]["namespace"] == cluster.experiments[0]["namespace"] == "team-a"
