"""The score that an explanation adds up to, made of what the model serves."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Space = Literal["log-odds", "probability", "value"]

# Of two classes, graphs often compute one probability as 1 less the other: float32 has nothing closer to 1 than this.
_LEAST_OF_TWO, _LEAST = 1e-7, 1e-30


@dataclass(frozen=True)
class Explanation:
    """Contributions of features to scores, which add up: `base + contributions.sum(axis=1) == scores`.

    Attributes:
        space: What is explained: see `scores_in`.
        base: float64 [k]: the mean score of the background.
        scores: float64 [N, k].
        contributions: float64 [N, F, k], features in the order of the signature.
        error: Their standard errors, [N, F, k]; None where they are exact.
        samples: Walks from a row of the background to the row explained, for each row; 0 where they are exact.
        note: Why they are not exact where they could be.
    """

    space: Space
    base: "np.ndarray"
    scores: "np.ndarray"
    contributions: "np.ndarray"
    error: "np.ndarray | None" = None
    samples: int = 0
    note: str = ""


def scores_in(space: Space, served: "np.ndarray") -> "np.ndarray":
    """Served scores in a space.

    Args:
        space: Of two classes, `log-odds` and `probability` are those of the second. Of more, `log-odds` are the
            logarithms of the probabilities less their mean over the classes (Aitchison's centred log-ratio, 1982),
            which for two classes is half the log-odds on either side. `value`: as served.
        served: float32 [N, k] probabilities, or [N, 1] values.

    Returns:
        float64 [N, k]; [N, 1] for two classes and for values.
    """
    import numpy as np

    wide = served.astype(np.float64)
    if space == "value":
        return wide
    if space == "log-odds":
        wide = np.log(np.maximum(wide, _LEAST if wide.shape[1] > 2 else _LEAST_OF_TWO))
        if wide.shape[1] > 2:
            return np.asarray(wide - wide.mean(axis=1, keepdims=True))
        return wide[:, 1:] - wide[:, :1]
    return wide if wide.shape[1] > 2 else wide[:, 1:]


def served_from(space: Space, scores: "np.ndarray") -> "np.ndarray":
    """The reverse of `scores_in`, but for a first of two classes: what would be served, float64 [N, k]."""
    import numpy as np

    if space != "log-odds":
        return scores
    if scores.shape[1] == 1:
        return np.asarray(0.5 * (1 + np.tanh(scores / 2)))
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
