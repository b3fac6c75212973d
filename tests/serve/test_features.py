"""Features looked up in a real Feast online store, for requests that carry entity keys."""

import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from fti.common.errors import FeatureStoreError
from fti.common.inference_service import read_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.push.logic import push
from fti.serve.runner import running
from tests.serve import tiny

pytestmark = pytest.mark.slow

KEYS = ("origin", "gate")
REQUEST = {name: tiny.ROW[name] for name in ("distance", "month", "weekend", "carrier")}
STORE = """
    project: tiny
    provider: local
    registry: {registry_type: sql, path: "sqlite:///${FTI_HOME}/registry.db"}
    online_store: {type: sqlite, path: "${FTI_HOME}/online.db"}
    offline_store: {type: dask}
    entity_key_serialization_version: 3
"""


@pytest.fixture
def feature_repo(settings: Settings, tmp_path: Path) -> Path:
    """A repository with one view, and one row of it in the online store."""
    import pandas as pd

    from fti.common.feature_store import open_store

    repo = tmp_path / "features"
    repo.mkdir()
    settings.home.mkdir(parents=True, exist_ok=True)
    (repo / "feature_store.yaml").write_text(textwrap.dedent(STORE))
    store = open_store(str(repo), settings)
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.types import Float32, Int64, String

    kinds = {"origin": ValueType.STRING, "gate": ValueType.INT64}
    entities = [Entity(name=name, join_keys=[name], value_type=kind) for name, kind in kinds.items()]
    source = FileSource(path=str(repo / "none.parquet"), timestamp_field="event_timestamp")
    schema = [
        Field(name=name, dtype=dtype) for name, dtype in [("origin", String), ("gate", Int64), ("mean_delay", Float32)]
    ]
    view = FeatureView(name="origin_delays", entities=entities, schema=schema, source=source)
    store.apply([*entities, view, FeatureService(name="late_v1", features=[view])])
    row = {"origin": ["JFK"], "gate": [7], "mean_delay": [30.0], "event_timestamp": [datetime(2013, 1, 1, tzinfo=UTC)]}
    store.write_to_online_store("origin_delays", pd.DataFrame(row))
    return repo


def push_keyed(settings: Settings, folder: Path, repo: Path, **changes: Any) -> ModelPackage:
    fields = {"entity_keys": KEYS, "feature_service": "late_v1", **changes}
    package = tiny.write_binary(folder / "keyed", **fields)
    blessing = tiny.blessing(folder / "blessing.json", package)
    push(package.path, blessing, service="late", settings=settings, feature_repo=str(repo))
    return package


def test_entity_keys_are_joined(settings: Settings, tmp_path: Path, feature_repo: Path) -> None:
    push_keyed(settings, tmp_path, feature_repo)
    service = read_service("late", settings)
    assert service and service.stable.feature_repo == str(feature_repo)
    rows = [
        {**REQUEST, "origin": "JFK", "gate": 7},
        {**REQUEST, "origin": "nowhere", "gate": 7},  # an unknown entity has no features: missing, not refused
        {**REQUEST, "origin": "JFK", "gate": 7, "distance": None},
    ]
    with running(settings) as endpoints:
        response = httpx.post(endpoints["late"], json={"instances": rows}, timeout=30)
        assert response.status_code == 200, response.text
        probabilities = [prediction["probability"] for prediction in response.json()["predictions"]]
        delays = [30.0, None, 30.0]
        for row, delay, probability in zip(rows, delays, probabilities, strict=True):
            full = {**row, "origin_delays__mean_delay": delay}
            assert probability == pytest.approx(tiny.expected(full, 0.0), abs=1e-5)
        given = httpx.post(endpoints["late"], json={"instances": [tiny.ROW]}, timeout=30)
        assert given.status_code == 200, "all features may be given too"
        mixed = httpx.post(endpoints["late"], json={"instances": [{**tiny.ROW, "origin": "JFK"}]}, timeout=30)
        assert mixed.status_code == 400
        null = httpx.post(endpoints["late"], json={"instances": [{**rows[0], "gate": None}]}, timeout=30)
        assert null.status_code == 400 and "gate: row 0 is null" in null.json()["error"]
        wrong = httpx.post(endpoints["late"], json={"instances": [{**rows[0], "gate": "seven"}]}, timeout=30)
        assert wrong.status_code == 400 and "gate" in wrong.json()["error"]


def test_a_store_without_the_models_features_fails_at_the_start(
    settings: Settings, tmp_path: Path, feature_repo: Path
) -> None:
    from fti.common.tables import Feature
    from fti.serve.features import FeatureLookup

    stored = Feature("origin_delays__variance", "float32", "origin_delays:variance")
    package = tiny.write_binary(
        tmp_path / "other", inputs=(*tiny.INPUTS[:-1], stored), entity_keys=KEYS, feature_service="late_v1"
    )
    signature = package.signature
    with pytest.raises(FeatureStoreError, match="lacks origin_delays__variance"):
        FeatureLookup(str(feature_repo), signature, settings)
