"""Recurring runs: a pipeline that starts by the clock."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fti.common.errors import ConfigError
from fti.kubeflow.api import Api, matching
from fti.kubeflow.pipelines import Version
from fti.kubeflow.quantities import seconds
from fti.kubeflow.refusals import ConflictError, MissingError

_FIELDS_WITH_SECONDS = 6


@dataclass(frozen=True)
class Schedule:
    """A recurring run on a cluster.

    Attributes:
        name: Its name, of which there is one in a namespace.
        id: The cluster's id of it.
        when: Its cron line or its interval.
        enabled: Whether it starts runs.
        catches_up: Whether it makes up for times that it missed.
        link: Its page.
    """

    name: str
    id: str
    when: str
    enabled: bool
    catches_up: bool
    link: str


def trigger(cron: str, every: str) -> dict[str, Any]:
    """When runs start, as the API wants it.

    KFP's cron lines begin with seconds, and it reads a line of five fields as one without the last field: `0 3 * * *`
    would start runs every hour, at minute 3. So seconds are put before a line of five fields.

    Args:
        cron: A cron line of five fields, or of six with seconds first, or `@daily` and its like; UTC by default.
        every: In its place a span of time, such as `6h`.

    Raises:
        ConfigError: Both or none, or one that cannot be read.
    """
    if bool(cron) == bool(every):
        raise ConfigError(
            "a schedule needs one of a cron line and an interval", allowed="--cron '0 3 * * *', --every 6h"
        )
    if every:
        return {"periodic_schedule": {"interval_second": str(seconds(every, "the interval"))}}
    count = len(cron.split())
    if not cron.startswith("@") and count not in (_FIELDS_WITH_SECONDS - 1, _FIELDS_WITH_SECONDS):
        raise ConfigError(
            f"the cron line {cron!r} has {count} fields",
            allowed="minute hour day month weekday, such as '0 3 * * *', or seconds before them",
        )
    return {"cron_schedule": {"cron": f"0 {cron}" if count == _FIELDS_WITH_SECONDS - 1 else cron}}


def create(
    api: Api,
    version: Version,
    name: str,
    when: Mapping[str, Any],
    parameters: Mapping[str, Any],
    *,
    experiment_id: str,
    catch_up: bool = False,
    service_account: str = "",
) -> Schedule:
    """Starts a pipeline by the clock; one run at a time.

    Args:
        api: The cluster's API.
        version: Which version of which pipeline; later versions are not taken by themselves.
        name: Of the schedule.
        when: What `trigger` gives.
        parameters: Values; the rest keep the defaults of the version.
        experiment_id: The experiment under which the runs are shown.
        catch_up: Whether times that were missed are made up for.
        service_account: As whom the pods run; default the cluster's.

    Raises:
        ConflictError: There is a schedule of that name; KFP itself would make a second.
    """
    if existing := _found(api, name):
        raise ConflictError(
            f"there is a schedule {name} already ({_schedule(api, existing).when})",
            remedy=f"Choose another name, or first: fti schedule delete {name}",
        )
    body = {
        "display_name": name,
        "experiment_id": experiment_id,
        "pipeline_version_reference": {"pipeline_id": version.pipeline_id, "pipeline_version_id": version.id},
        "runtime_config": {"parameters": dict(parameters)},
        "trigger": dict(when),
        "max_concurrency": "1",
        "mode": "ENABLE",
        "no_catchup": not catch_up,
        **({"service_account": service_account} if service_account else {}),
    }
    return _schedule(api, api.create("/recurringruns", lambda: _found(api, name), body=body))


def schedules(api: Api) -> list[Schedule]:
    """All of the namespace, the oldest first."""
    within = {"namespace": api.connection.namespace} if api.connection.namespace else {}
    found = api.pages("/recurringruns", "recurringRuns", sort_by="created_at", **within)
    return [_schedule(api, entry) for entry in found]


def enable(api: Api, name: str) -> None:
    """Lets a schedule start runs again."""
    api.act(f"/recurringruns/{_required(api, name)}:enable")


def disable(api: Api, name: str) -> None:
    """Lets a schedule start no more runs, until it is enabled."""
    api.act(f"/recurringruns/{_required(api, name)}:disable")


def delete(api: Api, name: str) -> None:
    """Deletes a schedule; the runs that it started stay."""
    api.delete(f"/recurringruns/{_required(api, name)}")


def _required(api: Api, name: str) -> str:
    if found := _found(api, name):
        return str(found["recurring_run_id"])
    names = ", ".join(schedule.name for schedule in schedules(api)) or "there is none"
    raise MissingError(f"there is no schedule {name}", allowed=names)


def _found(api: Api, name: str) -> dict[str, Any] | None:
    within = {"namespace": api.connection.namespace} if api.connection.namespace else {}
    return next(api.pages("/recurringruns", "recurringRuns", filter=matching(display_name=name), **within), None)


def _schedule(api: Api, found: Mapping[str, Any]) -> Schedule:
    by = found.get("trigger") or {}
    cron, periodic = (by.get("cron_schedule") or {}).get("cron"), by.get("periodic_schedule") or {}
    return Schedule(
        name=found["display_name"],
        id=found["recurring_run_id"],
        when=f"cron {cron}" if cron else f"every {periodic.get('interval_second', '?')} s",
        enabled=found.get("status") == "ENABLED",
        catches_up=not found.get("no_catchup", False),
        link=api.connection.link("recurringrun", "details", found["recurring_run_id"]),
    )
