"""A feature repository of one view, for models that are asked by entity keys."""

import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fti.common.feature_store import open_store
from fti.common.settings import Settings
from tests.serve import tiny

KEYS = ("origin", "gate")
REQUEST = {name: tiny.ROW[name] for name in ("distance", "month", "weekend", "carrier")}
SQLITE = '{type: sqlite, path: "${FTI_HOME}/online.db"}'
STORE = """
    project: tiny
    provider: local
    registry: {registry_type: sql, path: "sqlite:///${FTI_HOME}/registry.db"}
    online_store: %s
    offline_store: {type: dask}
    entity_key_serialization_version: 3
"""


def open_keyed(settings: Settings, repo: Path, online: str, on_missing: str = "null", ttl: int = 0) -> tuple[Path, Any]:
    """The repository, and its open store: the view `origin_delays` and the service `late_v1`."""
    repo.mkdir(parents=True)
    settings.home.mkdir(parents=True, exist_ok=True)
    (repo / "feature_store.yaml").write_text(textwrap.dedent(STORE) % online)
    store = open_store(str(repo), settings)
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.types import Float32, Int64, String

    kinds = {"origin": ValueType.STRING, "gate": ValueType.INT64}
    entities = [Entity(name=name, join_keys=[name], value_type=kind) for name, kind in kinds.items()]
    view = FeatureView(
        name="origin_delays",
        entities=entities,
        schema=[
            Field(name="origin", dtype=String),
            Field(name="gate", dtype=Int64),
            Field(name="mean_delay", dtype=Float32, tags={"default": "5"}),
        ],
        source=FileSource(path=str(repo / "none.parquet"), timestamp_field="event_timestamp"),
        ttl=timedelta(seconds=ttl),
        tags={"on_missing": on_missing},
    )
    store.apply([*entities, view, FeatureService(name="late_v1", features=[view])])
    return repo, store


def at_airport(store: Any, origin: str, delay: float, at: datetime = datetime(2013, 1, 1, tzinfo=UTC)) -> None:
    """Writes the delay at gate 7 of an airport."""
    import pandas as pd

    row = {"origin": [origin], "gate": [7], "mean_delay": [delay], "event_timestamp": [at]}
    store.write_to_online_store("origin_delays", pd.DataFrame(row))


def row(origin: str, **changes: Any) -> dict[str, Any]:
    """A request's row with entity keys."""
    return {**REQUEST, "origin": origin, "gate": 7, **changes}
