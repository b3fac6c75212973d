"""The scratch profile: everything as it was, but the online store."""

from pathlib import Path

import yaml

from fti.common.profile import read_profile
from fti.infra_validate.scratch import _with_online_store

SERVER = """
project: "${PROJECT}"
provider: local
registry:
  registry_type: sql
  path: postgresql+psycopg://feast:${PASSWORD}@${HOST}:5432/feast
  cache_ttl_seconds: ${SECONDS}
online_store:
  type: redis
  connection_string: ${REDIS}
entity_key_serialization_version: 3
"""


def test_variables_stay_variables_and_quoted_ones_stay_text(tmp_path: Path) -> None:
    text = _with_online_store(SERVER, tmp_path / "online.db")
    assert "${PASSWORD}" in text and "REDIS" not in text
    profile = tmp_path / "feature_store.yaml"
    profile.write_text(text)
    environ = {"PROJECT": "007", "PASSWORD": "p@ss: 'word", "HOST": "db", "SECONDS": "60"}
    found = read_profile(profile, environ)
    (tmp_path / "own.yaml").write_text(SERVER)
    own = read_profile(tmp_path / "own.yaml", {**environ, "REDIS": "localhost:6379"})
    assert found == {**own, "online_store": {"type": "sqlite", "path": str(tmp_path / "online.db")}}
    assert found["project"] == "007" and found["registry"]["cache_ttl_seconds"] == 60


def test_anchors_are_kept(tmp_path: Path) -> None:
    text = _with_online_store("a: &a {x: 1}\nb: *a\n", tmp_path / "online.db")
    assert yaml.safe_load(text)["b"] == {"x": 1}
