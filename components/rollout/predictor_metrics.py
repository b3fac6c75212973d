"""What the predictors count themselves, from the text of `/metrics` or from Prometheus: the same samples."""

from collections.abc import Iterator, Mapping

from fti.rollout.counters import (
    FAILURES,
    LOOKED_UP,
    REFUSALS,
    REQUESTS,
    ROWS,
    SCORES,
    SECONDS,
    SENT,
    SLOW,
    STALE,
    Counts,
)

NAMES = (
    "fti_requests_total",
    "fti_request_seconds_bucket",
    "fti_looked_up_total",
    "fti_score_bucket",
    "fti_request_rows_bucket",
)
_OWN = {LOOKED_UP, STALE, SCORES, ROWS, SECONDS}
_HISTOGRAMS = {"fti_request_seconds_bucket": SECONDS, "fti_score_bucket": SCORES, "fti_request_rows_bucket": ROWS}

Labels = tuple[tuple[str, str], ...]


def samples_of(text: str, model: str) -> Iterator[tuple[str, Labels, int]]:
    """Name, labels and value of each sample of one model in the text of `/metrics`."""
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in NAMES and sample.labels.get("model_name") == model:
                yield sample.name, tuple(sorted(sample.labels.items())), int(sample.value)


def counted(samples: Mapping[tuple[str, Labels], int]) -> Counts:
    """The counters of a rollout, summed over samples of (name, labels)."""
    counts = Counts()
    for (name, labels), value in samples.items():
        for counter in _counters(name, dict(labels)):
            counts[counter] += value
    return counts


def own_counts(counts: Counts) -> Counts:
    """What no gateway can count: rows, lookups, scores and how long the predictor itself took."""
    return Counts({name: count for name, count in counts.items() if name.partition("/")[0] in _OWN})


def all_counts(counts: Counts, budget_ms: float) -> Counts:
    """Everything, where no gateway counts the requests.

    Args:
        counts: As `counted` gives them.
        budget_ms: From when a request is slow; rounded up to a bound of the histogram.
    """
    buckets = counts.histogram(SECONDS)
    within = next((count for bound, count in buckets if bound >= budget_ms / 1000), 0)
    of_requests = {name: counts[name] for name in (REQUESTS, FAILURES, REFUSALS)}
    slow = buckets[-1][1] - within if buckets else 0
    return Counts({**own_counts(counts), **of_requests, SENT: counts[REQUESTS], SLOW: slow})


def _counters(name: str, labels: Mapping[str, str]) -> list[str]:
    """The counters to which a sample adds: none where the traffic's split did not choose who answers."""
    if labels.get("protocol") in {"explain", "other"} or labels.get("asked") == "yes":
        return []
    if name in _HISTOGRAMS:
        return [f"{_HISTOGRAMS[name]}/{float(labels['le'])}"]
    if name == "fti_looked_up_total":
        fresh = labels["status"] == "fresh"
        return [f"{LOOKED_UP}/{labels['view']}", *([] if fresh else [f"{STALE}/{labels['view']}"])]
    code = labels["code"]
    return [REQUESTS, *([FAILURES] if code.startswith("5") else [REFUSALS] if code.startswith("4") else [])]
