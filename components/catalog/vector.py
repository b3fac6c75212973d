"""What the online store says of one entity, now."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from fti.catalog.views import View
from fti.common.errors import ConfigError

if TYPE_CHECKING:
    from feast import FeatureStore

    from fti.common.online.vectors import Vectors

_BEFORE_ALL = datetime(1, 1, 1, tzinfo=UTC)  # a time at which nothing is past its TTL


@dataclass(frozen=True)
class Value:
    """A feature of an entity.

    Attributes:
        view: Of the feature view.
        feature: Its name in the view.
        unit: What it is measured in.
        stored: What the online store holds; None where there is nothing.
        value: What a prediction gets: where the status is not `fresh`, what the view's `on_missing` says.
        known_at: Since when it is known, UTC; None where nothing is stored.
        status: `fresh`, `stale` (past the view's TTL) or `missing`.
    """

    view: str
    feature: str
    unit: str
    stored: Any
    value: Any
    known_at: datetime | None
    status: str

    def as_json(self) -> dict[str, Any]:
        """For machines: the time in ISO 8601."""
        return {**asdict(self), "known_at": self.known_at.isoformat() if self.known_at else None}


def current(
    store: "FeatureStore", views: list[View], given: Mapping[str, str], clock: Callable[[], datetime]
) -> list[Value]:
    """Reads the values of every view whose join keys are given and that a feature service uses.

    Args:
        store: An open store.
        views: Those to look in.
        given: Join key -> value, as typed.
        clock: What time it is, for the TTL.

    Raises:
        ConfigError: A key that no view has, a value of another type, or keys that no view can be read by.
        FeatureStoreError: The online store does not answer.
    """
    _require_keys(views, given)
    stored = [view for view in views if view.services and view.source]  # what is computed on demand is not stored
    asked = [view for view in stored if {key.name for key in view.keys} <= given.keys()]
    if not asked:
        raise ConfigError(
            f"{', '.join(given)} alone finds no feature view that a feature service uses",
            allowed="; ".join(f"{', '.join(key.name for key in view.keys)} for {view.name}" for view in stored),
        )
    values: list[Value] = []
    for service in _covering(asked):
        now, held = _read(store, service, given, clock)
        for view in asked:
            if service in view.services and view.name not in {value.view for value in values}:
                values += _values(view, now, held)
    return values


def _read(
    store: "FeatureStore", service: str, given: Mapping[str, str], clock: Callable[[], datetime]
) -> "tuple[Vectors, Vectors]":
    """The entity's vector as a prediction gets it, and as it is stored."""
    from fti.common.online.reader import open_reader

    vectors = []
    for time in (clock, lambda: _BEFORE_ALL):
        with closing(open_reader(store, service, time)) as reader:
            entity = {key: [_typed(key, str(kind), given.get(key))] for key, kind in reader.keys.items()}
            vectors.append(reader.read(entity))
    return vectors[0], vectors[1]


def _values(view: View, now: "Vectors", stored: "Vectors") -> list[Value]:
    known_at = now.known_at[view.name][0].item()  # None for NaT
    since = known_at.replace(tzinfo=UTC) if known_at else None
    return [
        Value(
            view=view.name,
            feature=feature.name,
            unit=feature.unit,
            stored=_plain(stored.columns[name][0]) if since else None,
            value=_plain(now.columns[name][0]),
            known_at=since,
            status=str(now.status[view.name][0]),
        )
        for feature in view.features
        if (name := f"{view.name}__{feature.name}") in now.columns  # a service may leave features out
    ]


def _plain(value: Any) -> Any:
    """A value as JSON has it: NaN is none; a float32 with no more digits than it has."""
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return None
    return float(str(value)) if hasattr(value, "dtype") else value


def _require_keys(views: list[View], given: Mapping[str, str]) -> None:
    known = sorted({key.name for view in views for key in view.keys})
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise ConfigError(
                f"no feature view has the key {name!r}",
                allowed=", ".join(known),
                remedy=f"Perhaps {near[0]} is meant" if near else "",
            )


def _covering(views: list[View]) -> list[str]:
    """Feature services that together use every one of the views."""
    services: list[str] = []
    for view in views:
        if not set(services) & set(view.services):
            services.append(view.services[-1])
    return services


def _typed(key: str, kind: str, text: str | None) -> Any:
    """A key as its type; for one that was not given, some value: a reader needs every key of its service."""
    if "INT" not in kind.upper():
        return text or ""
    try:
        return int(text or 0)
    except ValueError:
        raise ConfigError(f"{key} is {text!r}", allowed="a whole number") from None
