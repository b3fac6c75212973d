"""What features are about."""

from feast import Entity
from feast.value_type import ValueType

origin = Entity(name="origin", value_type=ValueType.STRING, description="Airport of departure, IATA code")
dest = Entity(name="dest", value_type=ValueType.STRING, description="Airport of arrival, IATA code")
carrier = Entity(name="carrier", value_type=ValueType.STRING, description="Airline, two-letter code")
plane = Entity(name="tailnum", value_type=ValueType.STRING, description="Plane, by its tail number")
