"""What the predictor counts, beside KServe's own metrics, at `/metrics`."""

from prometheus_client import Counter

from fti.common.online.reader import STATUSES, Vectors

_VALUES = Counter(
    "fti_looked_up",
    "Rows looked up in the online store, by feature view and whether its value was fresh, stale, missing or "
    "unavailable",
    ["model_name", "view", "status"],
)


def count_values(model: str, vectors: Vectors) -> None:
    """Counts the rows of a lookup by view and status."""
    for view, rows in vectors.status.items():
        found = rows.tolist()
        for status in STATUSES:
            if count := found.count(status):
                _VALUES.labels(model, view, status).inc(count)
