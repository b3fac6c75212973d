"""The reference problem's Feast definitions."""

from pathlib import Path

from fti.common.feature_store import open_store
from fti.common.settings import Settings
from fti.featurize.definitions import load_definitions
from tests.feature_repo.test_leaks import VIEWS

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
