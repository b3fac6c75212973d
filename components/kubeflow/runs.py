"""Runs on a cluster: submitted once, followed to their end, their failure told in the step's own words."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from fti.common.errors import FtiError, PipelinesError
from fti.common.masking import masked
from fti.kubeflow.api import Api, matching
from fti.kubeflow.pipelines import Version
from fti.kubeflow.refusals import ConflictError, UnreachableError, UnsureError

_OVER = {"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"}
_GOOD = {"SUCCEEDED", "SKIPPED"}
_ERROR = re.compile(r"^fti\.common\.errors\.\w+: (?P<text>.*)$", re.MULTILINE)
_SAID = re.compile(r"^(?P<text>\w[\w.]*(?:Error|Exception): .*)$", re.MULTILINE)
# What Argo tells of beside the steps: KFP's pods around them, loops, conditions.
_PLUMBING = re.compile(r"(executor|root|for-loop-\d+|condition-[\w-]*\d+|iteration-\w+)(\(.*\))?")
_DRIVER = "-driver"
_PATIENCE = 300.0  # seconds without an answer after which following ends


@dataclass(frozen=True)
class Task:
    """A step of a run on a cluster.

    Attributes:
        name: As the run's page calls it.
        state: KFP's word: PENDING, RUNNING, SUCCEEDED, SKIPPED, FAILED, CANCELED.
        seconds: How long it took; 0 while it runs.
    """

    name: str
    state: str
    seconds: float = 0.0


OnTask = Callable[[Task], None]


def experiment(api: Api, name: str) -> str:
    """The id of the experiment of that name, made where it is missing."""
    within = {"namespace": api.connection.namespace} if api.connection.namespace else {}

    def find() -> dict[str, Any] | None:
        return next(api.pages("/experiments", "experiments", filter=matching(display_name=name), **within), None)

    try:
        found = find() or api.create("/experiments", find, body={"display_name": name, **within})
    except ConflictError:  # made by another at this moment
        found = find() or {}
    if "experiment_id" not in found:
        raise PipelinesError(f"the experiment {name} was neither found nor made")
    return str(found["experiment_id"])


def submit(
    api: Api,
    version: Version,
    parameters: Mapping[str, Any],
    *,
    experiment_id: str,
    service_account: str = "",
) -> str:
    """Starts a run, once.

    The API takes no key by which it would know a request again. So the run's name has a part that occurs nowhere else,
    and where the answer is lost the run is looked for by its name before anything is asked again.

    Args:
        api: The cluster's API.
        version: Which version of which pipeline.
        parameters: Values; the rest keep the defaults of the version.
        experiment_id: The experiment under which the run is shown.
        service_account: As whom its pods run; default the cluster's.

    Returns:
        The run's id.
    """
    name = f"{version.pipeline} {datetime.now(UTC):%Y-%m-%d %H:%M:%S} {uuid4().hex[:6]}"
    body = {
        "display_name": name,
        "experiment_id": experiment_id,
        "pipeline_version_reference": {"pipeline_id": version.pipeline_id, "pipeline_version_id": version.id},
        "runtime_config": {"parameters": dict(parameters)},
        **({"service_account": service_account} if service_account else {}),
    }

    def find() -> dict[str, Any] | None:
        found = api.pages("/runs", "runs", experiment_id=experiment_id, filter=matching(display_name=name))
        return next(found, None)

    return str(api.create("/runs", find, body=body)["run_id"])


def follow(api: Api, run_id: str, on_task: OnTask = lambda task: None, *, interval: float = 5.0) -> dict[str, Any]:
    """Waits for a run's end; for as long as it takes.

    A server that fails for a while, or a token that is replaced, ends nothing.

    Args:
        api: The cluster's API.
        run_id: The run.
        on_task: Called with each step as it starts and as it ends.
        interval: Seconds between two looks.

    Returns:
        The run at its end.

    Raises:
        PipelinesError: The server has not answered for five minutes, or refuses.
    """
    told: dict[str, str] = {}
    heard = time.monotonic()
    while True:
        try:
            run = api.get(f"/runs/{run_id}")
        except (UnsureError, UnreachableError):
            if time.monotonic() - heard > _PATIENCE:
                raise
            time.sleep(interval)
            continue
        heard = time.monotonic()
        for key, task in _tasks(run):
            if task.state != "PENDING" and told.get(key) != task.state:
                told[key] = task.state
                on_task(task)
        if run.get("state") in _OVER:
            return run
        time.sleep(interval)


def require_succeeded(api: Api, run: Mapping[str, Any]) -> None:
    """Says why a run failed.

    Raises:
        PipelinesError: It failed or was cancelled; the message names the failed steps, each with its own words.
    """
    if run["state"] in _GOOD:
        return
    link = api.connection.link("runs", "details", run["run_id"])
    if run["state"] == "CANCELED":
        raise PipelinesError("the run was cancelled", remedy=f"Its page: {link}")
    told = "; ".join(_failures(api, run)) or _told(run) or "the cluster does not say why"
    raise PipelinesError(f"the run failed: {told.rstrip('.')}", remedy=f"Its page: {link}")


def _failures(api: Api, run: Mapping[str, Any]) -> list[str]:
    """Each failed step with its own words, the first to fail first; where none has any, the first alone."""
    failed = sorted((d for d in _details(run) if d.get("state") == "FAILED"), key=lambda d: d.get("end_time") or "")
    steps = [detail for detail in failed if detail in _steps(run)]
    told = [(d["display_name"], _own_words(api, run["run_id"], d) or _told(d)) for d in steps]
    if steps and not any(words for _, words in told):
        # Of a step that was tried several times the pods are a level further down.
        attempts = [detail for detail in failed if detail.get("display_name") == "executor"]
        words = next(filter(None, (_own_words(api, run["run_id"], attempt) for attempt in attempts)), "")
        told = [(steps[0]["display_name"], words or "its log says why")]
    return [f"{name}: {words}" for name, words in told if words]


def _own_words(api: Api, run_id: str, detail: Mapping[str, Any]) -> str:
    """The last error in the log of a step's pods; nothing where logs cannot be read."""
    for node in reversed(_children(detail)):
        try:
            log = api.text(f"/apis/v1alpha1/runs/{run_id}/nodes/{node}/log")
        except FtiError:
            continue
        if found := (_ERROR.findall(log) or _SAID.findall(log)):
            return masked(api.connection.without_secrets(found[-1]))[:1000].rstrip(".")
    return ""


def _told(thing: Mapping[str, Any]) -> str:
    """What the API says of a failure: of now, or of the last state that had an error."""
    errors = [thing.get("error"), *(state.get("error") for state in reversed(thing.get("state_history") or []))]
    return next((str(error["message"]) for error in errors if error and error.get("message")), "")


def _tasks(run: Mapping[str, Any]) -> Iterator[tuple[str, Task]]:
    for index, detail in enumerate(_steps(run)):
        name, state = detail["display_name"], detail.get("state", "PENDING")
        if not name.endswith(_DRIVER):
            key = detail.get("task_id") or f"{index} {name}"
            yield key, Task(name, state, _seconds(detail) if state in _OVER else 0.0)


def _steps(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Without the workflow as a whole, whose name all pods' names begin with, and without what KFP puts around."""
    details = _details(run)
    whole = {child.rpartition("-")[0] for detail in details for child in _children(detail)}
    return [
        d for d in details if (name := d.get("display_name")) and name not in whole and not _PLUMBING.fullmatch(name)
    ]


def _details(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return (run.get("run_details") or {}).get("task_details") or []


def _children(detail: Mapping[str, Any]) -> list[str]:
    return [child["pod_name"] for child in detail.get("child_tasks") or [] if child.get("pod_name")]


def _seconds(detail: Mapping[str, Any]) -> float:
    try:
        start, end = (datetime.fromisoformat(str(detail[key])) for key in ("start_time", "end_time"))
    except (KeyError, ValueError):
        return 0.0
    return max((end - start).total_seconds(), 0.0)
