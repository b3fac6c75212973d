"""Feature views: one per feature table, with who answers for it, when its values become known and how long they hold.

Tags of a view: `owner`; `event_time`, when a value becomes known; `on_missing`, what stands for a value that is missing
or expired. Tags of a feature: `unit`.
"""

import os
from datetime import timedelta

from entities import carrier, dest, origin, plane  # type: ignore[import-not-found]
from feast import Entity, FeatureView, Field, FileSource
from feast.data_format import ParquetFormat
from feast.types import FeastType, Float32, Int64, String

Features = dict[str, tuple[FeastType, str, str]]  # name -> type, unit, description

DEPARTURE = "the instant of a departure, of its leaving a window, or of a flight's becoming overdue"
ARRIVAL = "the instant of an arrival, or of its leaving the window"
OVERDUE = (Int64, "flights", "Flights still at the gate 15 or more minutes after their time")
DEPARTURES_3H: Features = {
    "mean_delay_3h": (Float32, "minutes", "Mean delay of the departures of the last three hours"),
    "share_late_3h": (Float32, "share", "Departures of the last three hours that were 30 or more minutes late"),
    "flights_3h": (Int64, "flights", "Departures of the last three hours"),
    "overdue": OVERDUE,
}


def _view(
    name: str,
    entities: list[Entity],
    ttl: timedelta,
    description: str,
    *,
    owner: str,
    event_time: str,
    features: Features,
) -> FeatureView:
    """A view of the feature table of its name. A missing value stays null: that tells a model something."""
    source = FileSource(
        name=name,
        path=f"{os.environ['FTI_OFFLINE_URI']}/{name}",
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        s3_endpoint_override=os.environ.get("AWS_ENDPOINT_URL") or None,
    )
    keys = [Field(name=entity.join_key, dtype=String, description=entity.description) for entity in entities]
    fields = [
        Field(name=feature, dtype=dtype, description=meaning, tags={"unit": unit})
        for feature, (dtype, unit, meaning) in features.items()
    ]
    tags = {"owner": owner, "event_time": event_time, "on_missing": "null"}
    return FeatureView(
        name=name,
        entities=entities,
        ttl=ttl,
        schema=[*keys, *fields],
        source=source,
        description=description,
        tags=tags,
    )


origin_departures = _view(
    "origin_departures",
    [origin],
    timedelta(hours=4),
    "How departures from an airport run",
    owner="operations",
    event_time=DEPARTURE,
    features={
        "mean_delay_30m": (Float32, "minutes", "Mean delay of the departures of the last 30 minutes"),
        "mean_delay_2h": (Float32, "minutes", "Mean delay of the departures of the last two hours"),
        "share_late_2h": (Float32, "share", "Departures of the last two hours that were 30 or more minutes late"),
        "flights_2h": (Int64, "flights", "Departures of the last two hours"),
        "overdue": OVERDUE,
    },
)
carrier_departures = _view(
    "carrier_departures",
    [carrier, origin],
    timedelta(days=1),
    "How a carrier's departures from an airport run",
    owner="operations",
    event_time=DEPARTURE,
    features=DEPARTURES_3H,
)
destination_departures = _view(
    "destination_departures",
    [dest],
    timedelta(days=1),
    "How departures towards a destination run",
    owner="operations",
    event_time=DEPARTURE,
    features=DEPARTURES_3H,
)
destination_arrivals = _view(
    "destination_arrivals",
    [dest],
    timedelta(days=1),
    "How late flights arrived at a destination",
    owner="operations",
    event_time=ARRIVAL,
    features={
        "mean_delay_6h": (Float32, "minutes", "Mean delay of the arrivals of the last six hours"),
        "share_late_6h": (Float32, "share", "Arrivals of the last six hours that were 30 or more minutes late"),
        "flights_6h": (Int64, "flights", "Arrivals of the last six hours"),
    },
)
route_arrivals = _view(
    "route_arrivals",
    [carrier, dest],
    timedelta(days=31),
    "How late a carrier arrived at a destination",
    owner="operations",
    event_time=ARRIVAL,
    features={
        "mean_delay_30d": (Float32, "minutes", "Mean delay of the arrivals of the last thirty days"),
        "share_late_30d": (Float32, "share", "Arrivals of the last thirty days that were 30 or more minutes late"),
        "flights_30d": (Int64, "flights", "Arrivals of the last thirty days"),
    },
)
plane_last_flight = _view(
    "plane_last_flight",
    [plane],
    timedelta(days=1),
    "A plane's previous flight, once it has landed",
    owner="fleet",
    event_time="the instant of its arrival",
    features={
        "arrival_delay": (Float32, "minutes", "How late it arrived; negative when early"),
        "departure_delay": (Float32, "minutes", "How late it had left; negative when early"),
    },
)
plane_registry = _view(
    "plane",
    [plane],
    timedelta(0),
    "What the registry says of a plane",
    owner="fleet",
    event_time="the beginning of the year, before its first flight",
    features={
        "built": (Float32, "year", "Year of manufacture"),
        "seats": (Float32, "seats", "Seats"),
        "engines": (Float32, "engines", "Engines"),
    },
)
origin_weather = _view(
    "origin_weather",
    [origin],
    timedelta(hours=3),
    "The last hourly weather observation at an airport",
    owner="weather",
    event_time="the end of the hour that was observed",
    features={
        "temperature": (Float32, "°F", "Air temperature"),
        "dew_point": (Float32, "°F", "Dew point"),
        "humidity": (Float32, "%", "Relative humidity"),
        "wind_direction": (Float32, "degrees", "Where the wind comes from, clockwise from north; 0 when it is calm"),
        "wind_speed": (Float32, "mph", "Wind speed"),
        "wind_gust": (Float32, "mph", "Speed of gusts; null without any"),
        "precipitation": (Float32, "inches", "Precipitation within the hour"),
        "pressure": (Float32, "hPa", "Pressure at sea level"),
        "visibility": (Float32, "miles", "Visibility; 10 is 10 or more"),
    },
)
