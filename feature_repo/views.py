"""Feature views: one per feature table, with how long its values may be used (TTL)."""

import os
from datetime import timedelta

from entities import carrier, dest, origin, plane  # type: ignore[import-not-found]
from feast import Entity, FeatureView, Field, FileSource
from feast.data_format import ParquetFormat
from feast.types import Float32, Int64, String


def _view(table: str, entities: list[Entity], ttl: timedelta, description: str, **features: object) -> FeatureView:
    """A view of one feature table; `event_timestamp` is when its values became known."""
    source = FileSource(
        name=table,
        path=f"{os.environ['FTI_OFFLINE_URI']}/{table}",
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        s3_endpoint_override=os.environ.get("AWS_ENDPOINT_URL") or None,
    )
    keys = [Field(name=entity.join_key, dtype=String) for entity in entities]
    fields = [Field(name=name, dtype=dtype) for name, dtype in features.items()]
    return FeatureView(
        name=table, entities=entities, ttl=ttl, schema=[*keys, *fields], source=source, description=description
    )


origin_departures = _view(
    "origin_departures",
    [origin],
    timedelta(hours=4),
    "How departures from an airport run",
    mean_delay_30m=Float32,
    mean_delay_2h=Float32,
    share_late_2h=Float32,
    flights_2h=Int64,
    overdue=Int64,
)
carrier_departures = _view(
    "carrier_departures",
    [carrier, origin],
    timedelta(days=1),
    "How a carrier's departures from an airport run",
    mean_delay_3h=Float32,
    share_late_3h=Float32,
    flights_3h=Int64,
    overdue=Int64,
)
destination_departures = _view(
    "destination_departures",
    [dest],
    timedelta(days=1),
    "How departures towards a destination run",
    mean_delay_3h=Float32,
    share_late_3h=Float32,
    flights_3h=Int64,
    overdue=Int64,
)
destination_arrivals = _view(
    "destination_arrivals",
    [dest],
    timedelta(days=1),
    "How late flights arrived at a destination",
    mean_delay_6h=Float32,
    share_late_6h=Float32,
    flights_6h=Int64,
)
route_arrivals = _view(
    "route_arrivals",
    [carrier, dest],
    timedelta(days=31),
    "How late a carrier arrived at a destination",
    mean_delay_30d=Float32,
    share_late_30d=Float32,
    flights_30d=Int64,
)
plane_last_flight = _view(
    "plane_last_flight",
    [plane],
    timedelta(days=1),
    "A plane's previous flight, once it has landed",
    arrival_delay=Float32,
    departure_delay=Float32,
)
plane_registry = _view(
    "plane",
    [plane],
    timedelta(0),
    "What the registry says of a plane",
    built=Float32,
    seats=Float32,
    engines=Float32,
)
origin_weather = _view(
    "origin_weather",
    [origin],
    timedelta(hours=3),
    "The last hourly weather observation at an airport",
    temperature=Float32,
    dew_point=Float32,
    humidity=Float32,
    wind_direction=Float32,
    wind_speed=Float32,
    wind_gust=Float32,
    precipitation=Float32,
    pressure=Float32,
    visibility=Float32,
)
