"""The reference problem's Feast definitions."""

from pathlib import Path

import pytest
import yaml

from fti.common.errors import FeatureStoreError
from fti.common.feature_store import open_store
from fti.common.online.policy import Policy
from fti.common.settings import Settings
from fti.featurize.definitions import load_definitions
from tests.feature_repo.test_leaks import VIEWS
from tests.featurize.shop import DEFINITIONS, write_shop

SERVER = ("FTI_POSTGRES", "FTI_POSTGRES_USER", "FTI_POSTGRES_PASSWORD", "FTI_REDIS")
REPO = Path(__file__).parents[2] / "feature_repo"


def test_the_leak_test_looks_at_every_view_as_it_is_defined(settings: Settings) -> None:
    open_store(str(REPO), settings)
    defined = {value.name: value for value in load_definitions(REPO)}
    views = {name: value for name, value in defined.items() if hasattr(value, "ttl")}
    keys = {name: [column.name for column in view.entity_columns] for name, view in views.items()}
    assert {name: sorted(names) for name, names in keys.items()} == {name: sorted(v[0]) for name, v in VIEWS.items()}
    assert {name: view.ttl or None for name, view in views.items()} == {name: v[1] for name, v in VIEWS.items()}
    served = {projection.name for projection in defined["late_arrival_v1"].feature_view_projections}
    assert served == set(VIEWS)


def test_every_view_and_feature_says_what_it_is(settings: Settings) -> None:
    open_store(str(REPO), settings)
    defined = load_definitions(REPO)
    views = [value for value in defined if hasattr(value, "ttl")]
    assert len(views) == len(VIEWS)
    for view in views:
        assert view.description and view.tags["owner"] and view.tags["event_time"], view.name
        assert Policy.of(view).on_missing == view.tags["on_missing"]
        for feature in view.features:
            assert feature.description and feature.tags["unit"], (view.name, feature.name)
    described = [value.description for value in defined if not hasattr(value, "ttl")]
    assert all(described)


def test_the_profiles_are_of_one_project_and_name_their_variables() -> None:
    profiles = [yaml.safe_load((REPO / f"feature_store{name}.yaml").read_text()) for name in ("", ".server")]
    same = ("project", "offline_store", "entity_key_serialization_version", "materialization")
    assert [profiles[0][key] for key in same] == [profiles[1][key] for key in same]
    text = (REPO / "feature_store.server.yaml").read_text()
    assert all(f"${{{name}}}" in text for name in SERVER)


@pytest.mark.parametrize("tag", ["nothing", "default"])
def test_tags_that_contradict_each_other_are_refused(settings: Settings, tmp_path: Path, tag: str) -> None:
    repo, _ = write_shop(tmp_path)
    (repo / "definitions.py").write_text(DEFINITIONS.replace("ttl=", f"tags={{'on_missing': '{tag}'}}, ttl="))
    open_store(str(repo), settings)
    with pytest.raises(FeatureStoreError, match="spending"):
        load_definitions(repo)
