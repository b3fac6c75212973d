"""Feature tables on a real S3 object store give the same sets as on disk."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from fti.common.settings import Settings
from fti.featurize.logic import featurize
from fti.materialize.logic import materialize
from fti.retrieve.logic import Outputs, retrieve
from fti.retrieve.split import Split
from tests.featurize.shop import write_shop
from tests.object_store import ACCESS_KEY, BUCKET, SECRET_KEY, object_store

pytestmark = pytest.mark.slow

SETS = ("train", "validation", "test", "rejected")


def sets(settings: Settings, folder: Path) -> list[pl.DataFrame]:
    """Features, online store and training sets of the shop, under these settings."""
    folder.mkdir()
    repo, orders = write_shop(folder)
    featurize({"orders": orders}, str(repo), folder / "features.json", settings)
    keys = {view.view: view.keys for view in materialize(str(repo), "", settings)}
    assert keys == {"spending": 3}
    retrieve(
        str(repo),
        "shop_v1",
        entities="asked",
        label="again",
        request_features=["channel"],
        outputs=Outputs(*(folder / name for name in SETS)),
        split=Split("time", ["2024-01-15", "2024-01-22"]),
        settings=settings,
    )
    return [pl.read_parquet(folder / name) for name in SETS]


def test_an_object_store_gives_the_same_sets_as_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    with object_store(tmp_path / "store") as endpoint:
        environ = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        on_s3 = Settings.from_env(
            {**environ, "FTI_HOME": str(tmp_path / "one"), "FTI_OFFLINE_URI": f"s3://{BUCKET}/offline"}
        )
        remote = sets(on_s3, tmp_path / "remote")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    on_disk = replace(on_s3, home=tmp_path / "two", offline_uri=str(tmp_path / "two/offline"))
    local = sets(on_disk, tmp_path / "local")
    assert [left.equals(right) for left, right in zip(remote, local, strict=True)] == [True] * 4
