"""The whole loop in containers, on real stores: no root, nothing to write but /tmp and a volume, little memory."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import httpx
import polars as pl
import pytest
import yaml
from docker.types import Mount
from kfp import local

from fti.common.feature_store import open_store
from fti.common.model_package import Signature, load_package
from fti.common.online.reader import open_reader
from fti.common.settings import Settings
from fti.common.storage import local_copy
from fti.pipelines import reference
from fti.pipelines.loop import loop
from fti.step import step
from tests.images.building import Images
from tests.images.containers import HOME, MEMORY_MB, USER, strict
from tests.object_store import ACCESS_KEY, BUCKET, SECRET_KEY, free_ports, object_store
from tests.servers import PASSWORD, postgres_server, redis_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Place:
    """Where the containers run.

    Attributes:
        home: The folder that is their FTI_HOME.
        artifacts: KFP's pipeline root.
        environment: What each container is told, secrets included.
    """

    home: Path
    artifacts: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def place(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("cluster")
    folders = {name: root / name for name in ("home", "artifacts", "s3")}
    before = os.umask(0)  # KFP makes the folders of its artifacts here, and the containers' account writes to them
    for folder in folders.values():
        folder.mkdir()
    try:
        with redis_server() as redis, postgres_server() as postgres, object_store(folders["s3"]) as s3:
            environment = {
                "FTI_PROFILE": "server",
                "FTI_REDIS": f"127.0.0.1:{redis.port}",
                "FTI_POSTGRES": postgres.split("@")[1],
                "FTI_POSTGRES_USER": "tests",
                "FTI_POSTGRES_PASSWORD": PASSWORD,
                "FTI_OFFLINE_URI": f"s3://{BUCKET}/offline",
                "FTI_MODELS_URI": f"s3://{BUCKET}/models",
                "AWS_ENDPOINT_URL": s3,
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "AWS_REGION": "us-east-1",
            }
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DOCKER_HOST", images.engine.host)
                yield Place(folders["home"], folders["artifacts"], environment)
    finally:
        os.umask(before)


@pytest.fixture
def kfp_in_docker(place: Place) -> None:
    runner = local.DockerRunner(**strict(place.environment, place.home))
    local.init(runner, pipeline_root=str(place.artifacts))


@step
def confined() -> dict:
    """What a step can do in its container."""
    import os
    from pathlib import Path

    found = {"uid": os.getuid(), "written": [], "memory": 0}
    for folder in ("/", "/opt/fti", "/opt/library", "/usr", "/etc", "/var/tmp", "/run", "/tmp", os.environ["FTI_HOME"]):
        try:
            Path(folder, "probe").write_text("")
            found["written"].append(folder)
        except OSError:
            pass
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if os.path.exists(file):
            found["memory"] = int(Path(file).read_text())
    return found


def test_a_step_is_confined(kfp_in_docker: None) -> None:
    found = confined().output
    assert found == {"uid": USER, "written": ["/tmp", HOME], "memory": MEMORY_MB << 20}


def test_the_whole_loop_then_the_predictor_serves_its_model(
    kfp_in_docker: None, images: Images, place: Place, tmp_path: Path
) -> None:
    loop()  # all flights of the year, as a user runs it
    endpoint = yaml.safe_load((place.home / f"services/{reference.SERVICE}.yaml").read_text())
    uri = endpoint["spec"]["predictor"]["model"]["storageUri"]
    assert uri.startswith(f"s3://{BUCKET}/models/")
    owners = {path.stat().st_uid for path in place.artifacts.rglob("*") if path.is_file()}
    assert owners == {USER}
    settings = Settings.from_env({**place.environment, "FTI_HOME": str(place.home)})
    with local_copy(uri, settings) as package:
        examples = json.loads((package / "examples.json").read_text())
        signature = load_package(package).signature
        with served(images, place, package) as url:
            answers_as_recorded(url, examples)
            explains(url, examples["inputs"][0])
            answers_by_entity_keys(url, place, signature)


@contextmanager
def served(images: Images, place: Place, package: Path) -> Iterator[str]:
    """Runs the predictor on a package, as KServe hands it over, and yields its address. It has no shell to call."""
    http, grpc = free_ports(2)
    shells = [Mount(f"/usr/bin/{shell}", "/dev/null", type="bind", read_only=True) for shell in ("dash", "bash")]
    models = Mount("/mnt/models", str(package), type="bind", read_only=True)
    environment = {**place.environment, "FTI_NOW": reference.DATA_END}
    client = docker.from_env()
    container = client.containers.run(
        images.tag("predictor"),
        [
            "--package=/mnt/models",
            f"--name={reference.SERVICE}",
            f"--http_port={http}",
            f"--grpc_port={grpc}",
            f"--feature_repo={reference.FEATURE_REPO}/",
            "--explain_budget_ms=50000",
        ],
        detach=True,
        **strict(environment, place.home, models, *shells),
    )
    url = f"http://127.0.0.1:{http}/v1/models/{reference.SERVICE}"
    try:
        deadline = time.monotonic() + 120
        while not ready(url):
            container.reload()
            assert container.status == "running" and time.monotonic() < deadline, container.logs().decode()
            time.sleep(0.1)
        yield url
    finally:
        container.stop(timeout=30)
        ended = container.wait()["StatusCode"]
        logs = container.logs().decode()
        container.remove()
        client.close()
    assert ended == 0, logs
    assert PASSWORD not in logs and SECRET_KEY not in logs


def ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


def asked(url: str, rows: list[dict[str, Any]]) -> list[float]:
    """The probability that the predictor answers for each row."""
    answer = httpx.post(f"{url}:predict", json={"instances": rows}, timeout=30)
    assert answer.status_code == 200, answer.text
    return [row["probability"] for row in answer.json()["predictions"]]


def answers_as_recorded(url: str, examples: dict[str, Any]) -> None:
    assert asked(url, examples["inputs"]) == pytest.approx([score[1] for score in examples["outputs"]], abs=1e-6)


def explains(url: str, row: dict[str, Any]) -> None:
    """Without the training libraries, by sampling; and says so."""
    answer = httpx.post(f"{url}:explain", json={"instances": [row]}, timeout=60)
    assert answer.status_code == 200, answer.text
    explanation = answer.json()["explanation"]
    assert explanation["method"] == "sampled" and "not installed" in explanation["note"]


def answers_by_entity_keys(url: str, place: Place, signature: Signature) -> None:
    """Asked by keys, it answers as for the features that the online store holds for these."""
    (test,) = place.artifacts.rglob("test")
    request = [feature.name for feature in signature.inputs if feature.source == "request"]
    rows = pl.read_parquet(test).sample(50, seed=1).select(list(dict.fromkeys([*signature.entity_keys, *request])))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**place.environment, "FTI_HOME": str(place.home), "FTI_NOW": reference.DATA_END}.items():
            patch.setenv(name, value)
        settings = Settings.from_env()
        store = open_store(reference.FEATURE_REPO, settings, offline=False)
        reader = open_reader(store, signature.feature_service, settings.clock)
        found = reader.read({key: rows[key].to_list() for key in reader.keys})
    stored = [feature for feature in signature.inputs if feature.source != "request"]
    whole = [
        {**row, **{feature.name: as_json(found.columns[feature.name][index], feature.dtype) for feature in stored}}
        for index, row in enumerate(rows.select(request).to_dicts())
    ]
    by_keys = asked(url, rows.to_dicts())
    assert by_keys == asked(url, whole)
    assert len(set(by_keys)) > 10


def as_json(value: Any, dtype: str) -> Any:
    """A feature as a caller sends it: missing is null, a count has no fraction."""
    if value is None or value != value:
        return None
    return {"string": str, "int64": int}.get(dtype, float)(value)
