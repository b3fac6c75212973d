"""Feature services: what a model is given. They carry their version in the name, for Feast keeps none."""

from feast import FeatureService
from views import (  # type: ignore[import-not-found]
    carrier_departures,
    destination_arrivals,
    destination_departures,
    origin_departures,
    origin_weather,
    plane_last_flight,
    plane_registry,
    route_arrivals,
)

late_arrival_v1 = FeatureService(
    name="late_arrival_v1",
    features=[
        origin_departures,
        carrier_departures,
        destination_departures,
        destination_arrivals,
        route_arrivals,
        plane_last_flight,
        plane_registry,
        origin_weather,
    ],
    description="What is known of a flight at its scheduled departure, beyond its schedule",
)
