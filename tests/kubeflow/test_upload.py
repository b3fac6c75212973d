"""Pipelines on a cluster: the same content is one version, whatever happens on the way."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest

from fti.common.errors import ConfigError, PipelinesError
from fti.kubeflow.api import Api
from fti.kubeflow.connection import Connection
from fti.kubeflow.pipelines import upload
from fti.kubeflow.refusals import ConflictError, UnsureError
from tests.kubeflow.standin import Fault, Kubeflow

UPLOAD = "POST /apis/v2beta1/pipelines/upload_version"


def test_the_first_upload_makes_the_pipeline_and_the_same_content_no_new_version(
    cluster: Kubeflow, api: Api, shouting: str
) -> None:
    first, again = upload(api, shouting), upload(api, shouting)
    assert first.created and not again.created
    assert dataclasses.replace(first, created=False) == again
    assert [p["name"] for p in cluster.pipelines] == ["fti-shouting"]
    assert cluster.pipelines[0]["description"].startswith("Shouts.\n")
    assert len(cluster.versions) == 1
    assert cluster.versions[0]["pipeline_spec"]["pipelineInfo"]["name"] == "fti-shouting"
    assert first.link == f"{cluster.url}/#/pipelines/details/{first.pipeline_id}/version/{first.id}"


def test_other_content_is_a_new_version_and_old_content_is_found_behind_many(
    cluster: Kubeflow, api: Api, shouting: str
) -> None:
    first = upload(api, shouting)
    others = [upload(api, shouting.replace("hello", f"hello {i}")) for i in range(5)]  # on three pages
    assert len({version.id for version in others}) == 5 and all(version.created for version in others)
    assert upload(api, shouting).id == first.id


def test_a_name_that_is_taken_by_other_content_is_refused(cluster: Kubeflow, api: Api, shouting: str) -> None:
    upload(api, shouting, version_name="v1")
    assert not upload(api, shouting, version_name="v1").created
    with pytest.raises(ConflictError, match="fti-shouting has a version v1 with other content"):
        upload(api, shouting.replace("hello", "bye"), version_name="v1")
    assert len(cluster.versions) == 1


@pytest.mark.parametrize("code", [500, 502, 503, 504, 0])
@pytest.mark.parametrize("what", [UPLOAD, "POST /apis/v2beta1/pipelines"])
def test_a_lost_answer_makes_nothing_twice(cluster: Kubeflow, api: Api, shouting: str, code: int, what: str) -> None:
    cluster.faults.append(Fault(what, code, done=True))
    upload(api, shouting)
    assert (len(cluster.pipelines), len(cluster.versions)) == (1, 1)
    assert cluster.seen.count(what) == 1


def test_a_busy_server_is_asked_again_and_one_that_stays_broken_is_explained(
    cluster: Kubeflow, api: Api, shouting: str
) -> None:
    cluster.faults.append(Fault(".*", 503, times=3))
    assert upload(api, shouting).created
    cluster.faults.append(Fault(".*", 500, times=99))
    with pytest.raises(UnsureError, match=r"failed at GET /apis/v2beta1/pipelines/names/fti-shouting \(500\)"):
        upload(api, shouting)


def test_many_uploads_at_once_make_one_version(cluster: Kubeflow, api: Api, shouting: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: upload(api, shouting), range(6)))
    assert len({version.id for version in found}) == 1
    assert (len(cluster.pipelines), len(cluster.versions)) == (1, 1)


@pytest.mark.parametrize("text", ["", "{}", "a: [", "- 1", "components: {}\n---\n{}\n---\n{}\n"])
def test_what_is_no_pipeline_is_refused_before_anything_is_asked(cluster: Kubeflow, api: Api, text: str) -> None:
    with pytest.raises(ConfigError, match="pipeline"):
        upload(api, text)
    assert cluster.seen == []


def test_a_name_too_long_is_refused(api: Api, shouting: str) -> None:
    with pytest.raises(ConfigError, match="at most 127"):
        upload(api, shouting, version_name="x" * 128)


def test_a_namespace_without_rights(cluster: Kubeflow, shouting: str) -> None:
    cluster.many_users, cluster.forbidden = True, {"team-b"}
    said = r"forbids .*\(403\): \*\*\* is not authorized.*kubeflow-pipelines-edit bound to you in the namespace team-b"
    with (
        Api(Connection(cluster.url, cluster.url, namespace="team-b", token="T0KEN")) as api,
        pytest.raises(PipelinesError, match=said) as caught,
    ):
        upload(api, shouting)
    assert "T0KEN" not in str(caught.value), "though the server repeats it"
