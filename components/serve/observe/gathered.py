"""Scores that are counted some at a time.

To reduce the scores of one request to its numbers, and to find their buckets, takes NumPy as long as for those of a
hundred requests: 2 µs of the 50 that a request of a small model takes. So they are gathered, and counted together when
there are many of them, or when someone looks.
"""

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_ROWS = 256  # held back at most; their memory is bounded with them


class Gathered:
    """Gathers the scores of one model.

    Args:
        count: Counts numbers, [N].
        of: The number for each row of scores.
    """

    def __init__(self, count: "Callable[[np.ndarray], None]", of: "Callable[[np.ndarray], np.ndarray]") -> None:
        self._count, self._of = count, of
        self._scores: list[np.ndarray] = []
        self._rows, self._lock = 0, Lock()

    def add(self, scores: "np.ndarray") -> None:
        """Takes the scores of a request, as `Scorer.score` gives them."""
        self._scores.append(scores)
        self._rows += len(scores)
        if self._rows >= _ROWS:
            self.count()

    def count(self) -> None:
        """Counts what is gathered. Any thread may call it while another adds."""
        import numpy as np

        with self._lock:
            taken = self._scores[:]
            del self._scores[: len(taken)]
            self._rows = 0
            if taken:
                self._count(self._of(np.concatenate(taken)))
