"""Training's values against the server's: predictions, and looked-up features one by one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fti.common.model_package import Signature
from fti.common.scoring import Scorer
from fti.infra_validate.history import Known
from fti.infra_validate.replay import Replay
from fti.infra_validate.sample import Sample

if TYPE_CHECKING:
    import numpy as np

TABLES = "the feature tables, or the view's TTL, have changed since training"
EXPIRED = "the server gives values older than the view's TTL"
SERVER = "the server does not give what the feature tables say"


@dataclass(frozen=True)
class FeatureSkew:
    """One feature, held against training.

    Attributes:
        name: The model's input.
        pairs: Training's and the server's value by row: numbers, text, or None where missing.
        differ: The rows beyond the tolerance.
        cause: What most of the differences come from, where there are any.
    """

    name: str
    pairs: Mapping[int, tuple[Any, Any]]
    differ: tuple[int, ...]
    cause: str

    @property
    def largest(self) -> float:
        """The largest difference of two numbers, absolute."""
        return max((_distance(*pair) for pair in self.pairs.values()), default=0.0)

    @property
    def missing(self) -> tuple[int, int]:
        """In how many rows training and the server have no value."""
        ours, theirs = (sum(pair[side] is None for pair in self.pairs.values()) for side in (0, 1))
        return ours, theirs


@dataclass(frozen=True)
class PredictionSkew:
    """The predictions of one replay, held against the model's own.

    Attributes:
        form: The form of the requests.
        compared: The rows.
        differ: Those beyond the tolerance.
        largest: The largest difference, absolute.
        mislabelled: Rows whose label does not follow from their probabilities.
    """

    form: str
    compared: "np.ndarray"
    differ: tuple[int, ...]
    largest: float
    mislabelled: tuple[int, ...]


def reference(scorer: Scorer, sample: Sample) -> "np.ndarray":
    """What the model itself gives for the rows as training saw them, [N, k] as `Replay.scores`."""
    scores = scorer.score(sample.columns)
    task = scorer.signature.task
    return scores.reshape(-1, 1) if task == "regression" else scores[:, 1:] if task == "binary" else scores


def prediction_skew(replay: Replay, expected: "np.ndarray", scorer: Scorer, tolerance: float) -> PredictionSkew:
    """Holds the server's predictions against the model's own.

    Args:
        replay: The server's.
        expected: As `reference` gives it.
        scorer: The model.
        tolerance: See `Limits`.
    """
    import numpy as np

    rows = replay.compared
    distance = np.abs(replay.scores[rows] - expected[rows])
    beyond = (distance > tolerance * np.maximum(1, np.abs(expected[rows]))).any(axis=1)
    labels = _labels(scorer, replay.scores[rows])
    wrong = [row for row, label in zip(rows, labels, strict=True) if label is not None and replay.labels[row] != label]
    largest = float(distance.max()) if len(rows) else 0.0
    return PredictionSkew(replay.form, rows, tuple(rows[beyond]), largest, tuple(wrong))


def feature_skews(replay: Replay, sample: Sample, histories: Sequence[Known], tolerance: float) -> list[FeatureSkew]:
    """Holds each looked-up feature against training's."""
    trained, answered = sample.columns, _answered(replay)
    tables = {f"{known.lookup.name}__{name}": (known, name) for known in histories for name in known.lookup.features}
    skews = []
    for name in [feature.name for feature in sample.signature.inputs if feature.source != "request"]:
        pairs = {row: (_plain(trained[name][row]), _plain(served[name])) for row, served in answered}
        differ = tuple(row for row, (ours, theirs) in pairs.items() if not _equal(ours, theirs, tolerance))
        cause = _cause(pairs, differ, *tables[name], tolerance) if differ and name in tables else SERVER
        skews.append(FeatureSkew(name, pairs, differ, cause))
    return skews


def _cause(
    pairs: Mapping[int, tuple[Any, Any]], differ: Sequence[int], history: Known, feature: str, tolerance: float
) -> str:
    """What most differences come from."""
    tabled = history.column(feature)
    causes: Counter[str] = Counter()
    for row in differ:
        served, table, expired = pairs[row][1], _plain(tabled[row]), bool(history.expired[row])
        if _equal(served, None if expired else table, tolerance):
            causes[TABLES] += 1
        else:
            causes[EXPIRED if expired and _equal(served, table, tolerance) else SERVER] += 1
    return causes.most_common(1)[0][0]


def _answered(replay: Replay) -> list[tuple[int, dict[str, Any]]]:
    found = [(int(row), replay.features[row]) for row in replay.compared]
    return [(row, features) for row, features in found if features is not None]


def _plain(value: Any) -> Any:
    """A value as it travels: numbers as the float32 that models take, None where missing."""
    import numpy as np

    if value is None or isinstance(value, str):
        return value
    number = float(np.float32(value))
    return None if np.isnan(number) else number


def _equal(ours: Any, theirs: Any, tolerance: float) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= tolerance * max(1.0, abs(ours))
    return bool(ours == theirs)


def _distance(ours: Any, theirs: Any) -> float:
    return abs(ours - theirs) if isinstance(ours, float) and isinstance(theirs, float) else 0.0


def _labels(scorer: Scorer, scores: "np.ndarray") -> "list[Any]":
    """The labels that belong to scores; None for a regression, whose label is the score."""
    import numpy as np

    signature: Signature = scorer.signature
    if signature.task == "regression" or not len(scores):
        return [None] * len(scores)
    every = scores.astype(np.float32)
    if signature.task == "binary":
        every = np.column_stack([1 - every, every])
    return list(scorer.predict(every).tolist())
