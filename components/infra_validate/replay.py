"""Replays test rows: with full feature vectors, and with entity keys at their historical time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fti.common.model_package import Signature
from fti.infra_validate.history import Known
from fti.infra_validate.rounds import rounds
from fti.infra_validate.sample import Sample
from fti.infra_validate.scratch import ScratchStore
from fti.infra_validate.server import Server, ServerFailedError

if TYPE_CHECKING:
    import numpy as np

VECTORS, KEYS = "full feature vectors", "entity keys"
_WARM_UP = 5  # requests that are not timed
_CLOCK_SECONDS = 1.0  # SQLite and Redis hold event times in whole seconds


@dataclass
class Replay:
    """What the server said to requests of one form.

    Attributes:
        form: `VECTORS` or `KEYS`.
        scores: [N, k]: probabilities (of the second class only, where there are two) or values; NaN where not answered.
        labels: The prediction of each row; None where not answered.
        seconds: What each prediction took.
        refused: Why a row was refused, by row.
        left_out: Why a row was not compared, by row.
        features: The looked-up features of each row, None where not answered.
        statuses: Of the views, by row: `fresh`, `stale` or `missing`.
    """

    form: str
    scores: "np.ndarray"
    labels: list[Any]
    seconds: list[float] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    left_out: dict[int, str] = field(default_factory=dict)
    features: list[dict[str, Any] | None] = field(default_factory=list)
    statuses: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def empty(cls, form: str, sample: Sample) -> "Replay":
        """Before the first request."""
        import numpy as np

        rows, signature = len(sample), sample.signature
        width = len(signature.classes) if signature.task == "multiclass" else 1
        return cls(form, np.full((rows, width), np.nan), [None] * rows, features=[None] * rows)

    @property
    def compared(self) -> "np.ndarray":
        """The rows that were answered and are not left out, in order."""
        import numpy as np

        answered = ~np.isnan(self.scores).any(axis=1)
        answered[list(self.left_out)] = False
        return np.flatnonzero(answered)


def replay_vectors(server: Server, sample: Sample, replay: Replay) -> None:
    """Sends each row with every input, one by one.

    Raises:
        ServerFailedError: The server died, or its memory is above the limit.
    """
    requests = sample.vectors
    for request in requests[:_WARM_UP]:
        server.ask("predict", [request])
    for row, request in enumerate(requests):
        _predict(server, sample.signature, request, row, replay)


def replay_keys(
    server: Server, sample: Sample, scratch: ScratchStore, histories: Sequence[Known], replay: Replay
) -> None:
    """Sends each row with its entity keys, while the online store holds what was known at the row's time.

    Event times are as much before now as they were before the row's time, so that ages are as they were. A row is left
    out where a value's age comes so close to the view's TTL that the seconds between write and answer decide.

    Raises:
        ServerFailedError: The server died, or its memory is above the limit.
    """
    requests = _keyed_requests(sample, scratch.whole_keys)
    times: list[datetime] = sample.frame[sample.time].to_list()
    keyless = [row for row, asked in enumerate(requests) if any(asked[key] is None for key in scratch.whole_keys)]
    replay.left_out |= dict.fromkeys(keyless, "no entity key")
    able = [row for row in range(len(sample)) if row not in replay.left_out]
    keys = [[(known.lookup.view.name, known.keys[row]) for known in histories] for row in able]
    for number, places in enumerate(rounds(keys, [times[row] for row in able])):
        chosen = [able[place] for place in places]
        now = datetime.now(UTC)
        scratch.hold(histories, chosen, times, now)
        for _ in range(_WARM_UP if number == 0 else 0):
            server.ask("predict", [requests[chosen[0]]])
        for row in chosen:
            _predict(server, sample.signature, requests[row], row, replay)
            _features(server, requests[row], row, replay)
        passed = (datetime.now(UTC) - now).total_seconds() + _CLOCK_SECONDS
        replay.left_out |= {row: "age at the edge of a TTL" for row in chosen if _at_the_edge(histories, row, passed)}


def _predict(server: Server, signature: Signature, request: dict[str, Any], row: int, replay: Replay) -> None:
    answer = server.ask("predict", [request])
    replay.seconds.append(answer.seconds)
    if answer.refusal:
        replay.refused[row] = answer.refusal
        return
    try:
        (prediction,) = answer.content["predictions"]
        replay.labels[row] = prediction["prediction"]
        replay.scores[row] = _scores(signature, prediction)
    except (KeyError, TypeError, ValueError) as error:
        raise ServerFailedError(f"the predictor's answer is not of its protocol: {answer.content!r:.200}") from error


def _scores(signature: Signature, prediction: dict[str, Any]) -> list[float]:
    if signature.task == "binary":
        return [prediction["probability"]]
    if signature.task == "multiclass":
        return [prediction["probabilities"][str(label)] for label in signature.classes]
    return [prediction["prediction"]]


def _features(server: Server, request: dict[str, Any], row: int, replay: Replay) -> None:
    answer = server.ask("features", [request])
    if answer.refusal:
        replay.refused[row] = answer.refusal
        return
    (replay.features[row],), (views,) = answer.content["features"], answer.content["views"]
    replay.statuses.append({name: view["status"] for name, view in views.items()})


def _keyed_requests(sample: Sample, whole: frozenset[str]) -> list[dict[str, Any]]:
    """Entity keys and the request's own features, each key of the type that its view declares."""
    import polars as pl

    signature = sample.signature
    own = [feature.name for feature in signature.inputs if feature.source == "request"]
    rows = sample.requests([name for name in own if name not in signature.entity_keys])
    keys = sample.frame.select(
        pl.col(key).cast(pl.Int64 if key in whole else pl.String, strict=False) for key in signature.entity_keys
    ).with_columns(pl.col(pl.String).fill_null(""))
    return [{**row, **key} for row, key in zip(rows, keys.to_dicts(), strict=True)]


def _at_the_edge(histories: Sequence[Known], row: int, passed: float) -> bool:
    return any(
        known.lookup.ttl is not None and 0 <= known.lookup.ttl.total_seconds() - known.age[row] < passed
        for known in histories
    )
