"""The shop's feature store with views of every policy, filled."""

from pathlib import Path

from fti.common.settings import Settings
from fti.featurize.logic import featurize
from fti.materialize.logic import materialize
from tests.featurize.shop import DEFINITIONS, write_shop

DESCRIBED = DEFINITIONS.replace('name="customer", v', 'name="customer", description="Number of the customer [C]", v')
DESCRIBED = DESCRIBED.replace(
    "ttl=timedelta(days=2),", "ttl=timedelta(days=2), tags=TAGS, description='What <b>they</b> buy',"
)
DESCRIBED = DESCRIBED.replace(
    'Field(name="total", dtype=Float32)',
    'Field(name="total", dtype=Float32, description="Spent so far [net]", tags={"unit": "EUR", "default": "0"})',
)
DESCRIBED = DESCRIBED.replace('name="orders", dtype=Int64', 'name="orders", dtype=Int64, tags={"default": "7"}')
TAGS = '\nTAGS = {"owner": "sales", "event_time": "the order", "on_missing": "default"}\n'
MORE = """
from feast.types import String
channel = Entity(name="channel", value_type=ValueType.STRING)
channels = FeatureView(
    name="channels", entities=[customer, channel], ttl=timedelta(0),
    schema=[Field(name="customer", dtype=Int64), Field(name="channel", dtype=String), Field(name="last", dtype=String)],
    source=FileSource(path=os.environ["FTI_OFFLINE_URI"] + "/channels", timestamp_field="known",
        field_mapping={"newest": "last"}),
)
unused = FeatureView(
    name="unused", entities=[], schema=[Field(name="orders", dtype=Int64)],
    source=FileSource(path=os.environ["FTI_OFFLINE_URI"] + "/nowhere", timestamp_field="event_timestamp"),
    online=False,
)
shop_v2 = FeatureService(name="shop_v2", features=[spending, channels])
"""
CHANNELS = """
SELECT customer, channel, bought AS event_timestamp, bought AS known,
    if(customer = 0, NULL, 'most $ on ' || channel) AS newest
FROM _all
"""


def fill_shop(folder: Path, settings: Settings) -> Path:
    """Writes the repository, runs its feature pipeline, and returns it."""
    repo, orders = write_shop(folder)
    (repo / "definitions.py").write_text(TAGS + DESCRIBED + MORE)
    (repo / "sql" / "_all.sql").write_text("-- every <order>\nFROM orders")
    (repo / "sql" / "channels.sql").write_text(CHANNELS)
    featurize({"orders": orders}, str(repo), folder / "features.json", settings)
    materialize(str(repo), "", settings)
    return repo
