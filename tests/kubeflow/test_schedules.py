"""Pipelines that start by the clock."""

import pytest

from fti.common.errors import ConfigError, PipelinesError
from fti.kubeflow import runs, schedules
from fti.kubeflow.api import Api
from fti.kubeflow.pipelines import Version
from fti.kubeflow.refusals import ConflictError, MissingError
from tests.kubeflow.standin import Fault, Kubeflow

CREATE = "POST /apis/v2beta1/recurringruns"


def make(
    api: Api, version: Version, name: str = "nightly", cron: str = "0 3 * * *", **more: bool
) -> schedules.Schedule:
    return schedules.create(
        api,
        version,
        name,
        schedules.trigger(cron, ""),
        {"text": "hey"},
        experiment_id=runs.experiment(api, "mine"),
        **more,
    )


def test_a_schedule_by_cron_does_not_catch_up(cluster: Kubeflow, api: Api, version: Version) -> None:
    made = make(api, version)
    (entry,) = cluster.recurring
    assert entry["no_catchup"] is True and entry["max_concurrency"] == "1" and entry["mode"] == "ENABLE"
    assert entry["runtime_config"] == {"parameters": {"text": "hey"}}
    assert entry["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}, "KFP's cron lines begin with seconds"
    assert made.enabled and not made.catches_up and made.link.endswith(f"/#/recurringrun/details/{made.id}")
    assert make(api, version, "other", catch_up=True).catches_up


@pytest.mark.parametrize(
    ("cron", "every", "made"),
    [
        ("0 3 * * *", "", {"cron_schedule": {"cron": "0 0 3 * * *"}}),
        ("30 0 3 * * 1-5", "", {"cron_schedule": {"cron": "30 0 3 * * 1-5"}}),
        ("@daily", "", {"cron_schedule": {"cron": "@daily"}}),
        ("", "6h", {"periodic_schedule": {"interval_second": "21600"}}),
    ],
)
def test_when(cron: str, every: str, made: dict[str, dict[str, str]]) -> None:
    assert schedules.trigger(cron, every) == made


@pytest.mark.parametrize(("cron", "every"), [("", ""), ("@daily", "1h"), ("* * *", ""), ("", "soon"), ("", "0s")])
def test_when_nobody_knows(cron: str, every: str) -> None:
    with pytest.raises(ConfigError):
        schedules.trigger(cron, every)


def test_a_name_occurs_once(cluster: Kubeflow, api: Api, version: Version) -> None:
    make(api, version)
    with pytest.raises(ConflictError, match=r"already \(cron 0 0 3.*fti schedule delete nightly"):
        make(api, version, cron="@daily")
    assert len(cluster.recurring) == 1


@pytest.mark.parametrize("code", [500, 503, 0])
def test_a_lost_answer_makes_no_second_schedule(cluster: Kubeflow, api: Api, version: Version, code: int) -> None:
    cluster.faults.append(Fault(CREATE, code, done=True))
    make(api, version)
    assert len(cluster.recurring) == 1 and cluster.seen.count(CREATE) == 1


def test_listing_disabling_enabling_deleting(cluster: Kubeflow, api: Api, version: Version) -> None:
    for name in ("a", "b", "c"):  # on two pages
        make(api, version, name)
    assert [schedule.name for schedule in schedules.schedules(api)] == ["a", "b", "c"]
    cluster.faults.append(Fault(".*:disable", 503))
    schedules.disable(api, "c")
    assert [schedule.enabled for schedule in schedules.schedules(api)] == [True, True, False]
    schedules.enable(api, "c")
    assert all(schedule.enabled for schedule in schedules.schedules(api))
    schedules.delete(api, "c")
    assert [schedule.name for schedule in schedules.schedules(api)] == ["a", "b"]
    with pytest.raises(MissingError, match=r"no schedule c\. Allowed: a, b"):
        schedules.delete(api, "c")


def test_what_the_server_refuses_is_told(api: Api, version: Version) -> None:
    with pytest.raises(PipelinesError, match="colour is not found"):
        schedules.create(
            api, version, "x", schedules.trigger("@daily", ""), {"colour": 1}, experiment_id=runs.experiment(api, "m")
        )
