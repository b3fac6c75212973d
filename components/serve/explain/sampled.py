"""Shapley values of any model, by sampling: it is asked for the scores of rows between the background and the row.

A walk starts at a row of the background and takes the features of the explained row over, one after another, in a
random order; what the score gains at a step belongs to its feature. The mean over all orders and all rows of the
background is the Shapley value (Castro et al., "Polynomial calculation of the Shapley value based on sampling", 2009).
Each round walks once from every row of the background and once more in the reverse order, which cancels much of the
noise (Mitchell et al., "Sampling permutations for Shapley value estimation", 2022). Within each walk the steps add up
to the whole difference, so that explanations add up however few walks there are.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fti.common.model_package import Signature
from fti.common.scoring import Scorer
from fti.serve.explain.space import Explanation, Space, scores_in

if TYPE_CHECKING:
    import numpy as np

_EVALUATIONS_AT_ONCE = 8_192  # bounds memory, and how far the deadline can be overrun
_LEAST_ROUNDS, _ROUNDS = 4, 32  # fewer than four show too little of how they differ
_PRECISION = 0.01  # of a row's largest contribution: who reads explanations sees no more


class OverBudgetError(Exception):
    """Not even the least of an explanation fits its time.

    Args:
        rows: Asked for.
        seconds: What a row takes at least, about.
        budget: Seconds.
    """

    def __init__(self, rows: int, seconds: float, budget: float) -> None:
        fit = int(budget / seconds)
        advice = f"send at most {fit} at a time" if fit else "a larger budget is needed"
        super().__init__(
            f"an explanation takes at least about {1000 * seconds:.0f} ms a row, and {rows} rows were asked for in"
            f" {1000 * budget:.0f} ms: {advice}"
        )


class Sampler:
    """Explains by sampling.

    Args:
        scorer: Of the model.
        background: Rows to compare to, as `graph_inputs` gives them.
        space: What to explain.

    Attributes:
        base: float64 [k].
    """

    def __init__(self, scorer: Scorer, background: "Mapping[str, np.ndarray]", space: Space) -> None:
        self._scorer, self._background, self._space = scorer, background, space
        self._places = _places(scorer.signature)
        start = time.perf_counter()
        self._background_scores = scores_in(space, scorer.score_inputs(background))
        self._seconds = (time.perf_counter() - start) / len(self._background_scores)  # for one evaluation
        self.base = self._background_scores.mean(axis=0)

    def explain(self, inputs: "Mapping[str, np.ndarray]", deadline: float, seed: int = 0) -> Explanation:
        """Explains rows, as well as the time allows.

        Args:
            inputs: The rows, as `graph_inputs` gives them.
            deadline: By `time.perf_counter`.
            seed: Of the orders: the same rows are explained alike, given the same number of rounds.

        Raises:
            OverBudgetError: There is no time for one round of each row.
        """
        import numpy as np

        random = np.random.default_rng(seed)
        start = time.perf_counter()
        scores = scores_in(self._space, self._scorer.score_inputs(inputs))
        rows = [_Row({name: part[at] for name, part in inputs.items()}, score) for at, score in enumerate(scores)]
        if start + len(rows) * self._round_seconds > deadline:
            raise OverBudgetError(len(rows), self._round_seconds, deadline - start)
        for number in range(_ROUNDS):
            for row in rows:
                if number >= _LEAST_ROUNDS and row.precise():
                    continue
                if not self._round(row, random, deadline):
                    if number == 0:
                        raise OverBudgetError(len(rows), self._round_seconds, deadline - start)
                    return self._explanation(rows, scores)
        return self._explanation(rows, scores)

    def _explanation(self, rows: "list[_Row]", scores: "np.ndarray") -> Explanation:
        import numpy as np

        means, errors = zip(*(row.estimate() for row in rows), strict=True)
        samples = min(row.rounds for row in rows) * 2 * len(self._background_scores)
        return Explanation(self._space, self.base, scores, np.stack(means), np.stack(errors), samples)

    @property
    def _round_seconds(self) -> float:
        return self._seconds * 2 * len(self._background_scores) * max(len(self._places) - 1, 1)

    def _round(self, row: "_Row", random: "np.random.Generator", deadline: float) -> bool:
        """Walks from every row of the background, there and back; False where the time does not suffice."""
        import numpy as np

        features = len(self._places)
        walks = len(self._background_scores)
        orders = random.permuted(np.tile(np.arange(features), (walks, 1)), axis=1)
        gained = np.zeros((walks, features, row.score.size))
        group = max(1, _EVALUATIONS_AT_ONCE // max(2 * (features - 1), 1))
        for start in range(0, walks, group):
            chosen = slice(start, start + group)
            both = np.concatenate([orders[chosen], orders[chosen, ::-1]])
            evaluations = len(both) * (features - 1)
            before = time.perf_counter()
            if before + evaluations * self._seconds > deadline:
                return False
            steps = self._steps(row, np.tile(np.arange(walks)[chosen], 2), both)
            if evaluations:
                self._seconds = (time.perf_counter() - before) / evaluations
            gained[chosen] = steps.reshape(2, -1, features, row.score.size).mean(axis=0)
        row.add(gained)
        return True

    def _steps(self, row: "_Row", starts: "np.ndarray", orders: "np.ndarray") -> "np.ndarray":
        """What each feature gains on walks from rows of the background: [W, F, k]."""
        import numpy as np

        walks, features = orders.shape
        ranks = np.argsort(orders, axis=1)
        taken = ranks[:, None, :] < np.arange(1, features)[None, :, None]  # [W, F - 1, F]
        between = np.empty((walks, features - 1, row.score.size))
        if features > 1:
            mixed = {}
            for name, part in self._background.items():
                places = [place for place, (owner, _) in enumerate(self._places) if owner == name]
                columns = [column for owner, column in self._places if owner == name]
                own, other = row.values[name][columns], part[starts][:, None, columns]
                flat = np.where(taken[:, :, places], own, other).reshape(-1, len(columns))
                mixed[name] = np.ascontiguousarray(flat[:, np.argsort(columns)])
            between = scores_in(self._space, self._scorer.score_inputs(mixed)).reshape(between.shape)
        first = self._background_scores[starts][:, None]
        last = np.broadcast_to(row.score, (walks, 1, row.score.size))
        gains = np.diff(np.concatenate([first, between, last], axis=1), axis=1)
        return np.take_along_axis(gains, ranks[:, :, None], axis=1)


class _Row:
    """A row, and what is known of its contributions so far."""

    def __init__(self, values: "dict[str, np.ndarray]", score: "np.ndarray") -> None:
        self.values, self.score, self.rounds = values, score, 0
        self._sum: np.ndarray | None = None
        self._squares: np.ndarray | None = None

    def add(self, gained: "np.ndarray") -> None:
        self.rounds += 1
        self._sum = gained if self._sum is None else self._sum + gained
        self._squares = gained**2 if self._squares is None else self._squares + gained**2

    def estimate(self) -> "tuple[np.ndarray, np.ndarray]":
        """Contributions and their standard errors, [F, k] each.

        Every round starts from all rows of the background, so that only the orders are random: the variance is that
        among the rounds of one row of the background. One round alone shows only the variance among those rows too,
        which is larger.
        """
        import numpy as np

        assert self._sum is not None  # noqa: S101
        assert self._squares is not None  # noqa: S101
        walks, rounds = len(self._sum), self.rounds
        if rounds == 1:
            return self._sum.mean(axis=0), self._sum.std(axis=0, ddof=1 if walks > 1 else 0) / np.sqrt(walks)
        means = self._sum / rounds
        variance = np.maximum(self._squares - rounds * means**2, 0) / (rounds - 1)
        return means.mean(axis=0), np.sqrt(variance.mean(axis=0) / (rounds * walks))

    def precise(self) -> bool:
        """Whether more rounds would show nothing new."""
        means, errors = self.estimate()
        return bool(errors.max() <= _PRECISION * max(float(abs(means).max()), 1e-12))


def _places(signature: Signature) -> list[tuple[str, int]]:
    """Of each feature, the part of the model's inputs and the column there."""
    columns = {name: ("numeric", at) for at, name in enumerate(signature.numeric)}
    columns |= {name: ("categorical", at) for at, name in enumerate(signature.categorical)}
    return [columns[feature.name] for feature in signature.inputs]
