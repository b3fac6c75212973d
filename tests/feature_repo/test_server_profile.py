"""The server profile on real servers: PostgreSQL, Redis and an S3 object store give what the embedded one gives."""

import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fti.catalog.overview import overview
from fti.catalog.views import registered
from fti.common.errors import FtiError
from fti.common.feature_store import open_store
from fti.common.files import digest_of
from fti.common.online.reader import open_reader
from fti.common.settings import Settings
from fti.common.storage import exists
from fti.featurize.logic import featurize
from fti.materialize.logic import materialize
from fti.pipelines import reference
from fti.retrieve.logic import Outputs, retrieve
from fti.retrieve.split import Split
from tests.feature_repo.flights import write_tables
from tests.object_store import ACCESS_KEY, BUCKET, SECRET_KEY, object_store
from tests.servers import PASSWORD, RedisServer, postgres_server, redis_server

DAYS = "time_hour BETWEEN TIMESTAMPTZ '2013-03-07 00:00:00+00' AND TIMESTAMPTZ '2013-03-10 12:00:00+00'"
REDIS_PASSWORD = "s3$cret${FTI_HOME}=:/@"


@dataclass
class Run:
    """The feature pipeline, run once.

    Attributes:
        settings: Where.
        sets: Training, validation and test set, their digest.
        counts: View -> rows, latest event, missing values.
        vectors: Every feature of every entity asked for, and when it became known.
    """

    settings: Settings
    sets: dict[str, str]
    counts: dict[str, object]
    vectors: dict[str, np.ndarray]


def run(home: Path, tables: dict[str, Path]) -> Run:
    settings = Settings.from_env()
    featurize(tables, reference.FEATURE_REPO, home / "features.json", settings)
    materialize(reference.FEATURE_REPO, "", settings)
    sets = {name: home / f"{name}.parquet" for name in ("train", "validation", "test", "rejected")}
    retrieve(
        reference.FEATURE_REPO,
        reference.FEATURE_SERVICE,
        entities=reference.ENTITIES,
        label=reference.LABEL,
        request_features=reference.REQUEST_FEATURES,
        outputs=Outputs(**sets),
        split=Split("time", ["2013-03-08T12:00:00Z", "2013-03-09T12:00:00Z"]),
        settings=settings,
    )
    store = open_store(reference.FEATURE_REPO, settings)
    measured = {view.name: overview(view, settings).table for view in registered(store)}
    asked = pl.read_parquet(sets["test"]).sample(200, seed=1)
    reader = open_reader(store, reference.FEATURE_SERVICE, settings.clock)
    found = reader.read({key: asked[key].to_list() for key in reader.keys})
    return Run(
        settings,
        {name: digest_of(path) for name, path in sets.items()},
        {name: (table.rows, table.latest, table.missing) for name, table in measured.items() if table},
        {**found.columns, **found.known_at},
    )


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FTI_OFFLINE_URI", "FTI_MODELS_URI", "FTI_PROFILE", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        yield patch


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch
) -> Iterator[tuple[Run, Run, RedisServer]]:
    folder = tmp_path_factory.mktemp("profiles")
    tables = write_tables(folder, DAYS)
    environment.setenv("FTI_HOME", str(folder / "embedded"))
    embedded = run(folder / "embedded", tables)
    (folder / "weed").mkdir()
    with redis_server() as redis, postgres_server() as url, object_store(folder / "weed") as endpoint:
        with redis.client() as client:
            client.config_set("requirepass", REDIS_PASSWORD)
        server = {
            "FTI_PROFILE": "server",
            "FTI_HOME": str(folder / "server"),
            "FTI_OFFLINE_URI": f"s3://{BUCKET}/features",
            "FTI_POSTGRES": url.rpartition("@")[2],
            "FTI_POSTGRES_USER": "tests",
            "FTI_POSTGRES_PASSWORD": PASSWORD,
            "FTI_REDIS": f"127.0.0.1:{redis.port},password={REDIS_PASSWORD}",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }
        for name, value in server.items():
            environment.setenv(name, value)
        yield embedded, run(folder / "server", tables), redis


@pytest.mark.slow
def test_the_server_profile_gives_what_the_embedded_one_gives(both: tuple[Run, Run, RedisServer]) -> None:
    embedded, server, _ = both
    assert server.sets == embedded.sets
    assert server.counts == embedded.counts
    assert server.vectors.keys() == embedded.vectors.keys()
    for name, values in embedded.vectors.items():
        np.testing.assert_array_equal(server.vectors[name], values, err_msg=name)
    assert np.isfinite(server.vectors["plane__seats"].astype(float)).sum() > 100
    assert exists(f"s3://{BUCKET}/features/plane", server.settings)
    assert not list(server.settings.home.glob("*.db"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FTI_POSTGRES", "127.0.0.1:1/postgres"),
        ("FTI_POSTGRES_USER", "nobody"),
        ("FTI_POSTGRES_PASSWORD", "wrong/p@ss"),
        ("FTI_REDIS", f"127.0.0.1:1,password={REDIS_PASSWORD}"),
        ("FTI_REDIS", "127.0.0.1:6379,port,password=wrong/p@ss,"),
        ("AWS_SECRET_ACCESS_KEY", "wrong/p@ss"),
    ],
)
def test_errors_show_no_secret(
    both: tuple[Run, Run, RedisServer], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    settings = Settings.from_env()
    with pytest.raises(FtiError) as failure:
        store = open_store(reference.FEATURE_REPO, settings)
        views = registered(store)
        for view in views:
            overview(replace(view, source=f"{settings.offline_uri}/{view.name}"), settings)
        reader = open_reader(store, reference.FEATURE_SERVICE, settings.clock)
        reader.read({key: ["x"] for key in reader.keys})
    print(failure.value)
    shown = "".join(traceback.format_exception(failure.value))
    for secret in (PASSWORD, REDIS_PASSWORD, SECRET_KEY, "wrong/p@ss"):
        assert secret not in shown


@pytest.mark.slow
def test_an_unset_secret_is_named_before_anything_is_opened(
    both: tuple[Run, Run, RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FTI_POSTGRES_PASSWORD")
    monkeypatch.delenv("FTI_REDIS")
    with pytest.raises(FtiError, match=r"feature_store\.server\.yaml refers to FTI_POSTGRES_PASSWORD, FTI_REDIS"):
        open_store(reference.FEATURE_REPO, Settings.from_env())
