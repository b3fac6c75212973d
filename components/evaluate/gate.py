"""The gate: three simple questions, each answered by a sentence.

1. Floors: is every named metric at least (for errors: at most) its bound?
2. Baseline: is the model better than the baseline by more than the margin?
3. Served: is it not worse than the model now served by more than the tolerance?

Questions 2 and 3 are answered by the lower end of the 95 % interval of the paired improvement: superiority and
non-inferiority. A model that cannot be compared fails, since nothing speaks for it.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from fti.common.errors import ConfigError
from fti.common.metrics import ERRORS
from fti.evaluate.compare import Interval


@dataclass(frozen=True)
class Check:
    """One question, answered.

    Attributes:
        passed: The answer.
        reason: One sentence with the figures.
    """

    passed: bool
    reason: str


@dataclass(frozen=True)
class Rival:
    """Another model on the same rows.

    Attributes:
        role: `the baseline` or `the served model`.
        digest: Of its package; empty when it could not be read.
        metrics: Its metrics; empty when it cannot be compared.
        improvement: Of our model over it; None when it cannot be compared.
        problem: Why it cannot be compared.
    """

    role: str
    digest: str
    metrics: Mapping[str, float]
    improvement: Interval | None
    problem: str = ""


def check_floors(metrics: Mapping[str, float], floors: Mapping[str, float]) -> list[Check]:
    """Checks metrics against their bounds.

    Raises:
        ConfigError: A bound names an unknown metric or is no number.
    """
    checks = []
    for name, bound in floors.items():
        if name not in metrics:
            close = difflib.get_close_matches(name, metrics, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ConfigError(f"the floors name an unknown metric {name!r}{hint}", allowed=", ".join(metrics))
        if isinstance(bound, bool) or not isinstance(bound, int | float) or math.isnan(bound):
            raise ConfigError(f"the floor of {name} is {bound!r}", allowed="a number")
        error = name in ERRORS
        passed = metrics[name] <= bound if error else metrics[name] >= bound
        words = ("at most" if error else "at least") if passed else ("above" if error else "below")
        checks.append(Check(passed, f"{name} {metrics[name]:.4f} is {words} {bound:g}"))
    return checks


def check_rival(rival: Rival, metric: str, margin: float) -> Check:
    """Checks the improvement over another model against a margin; a negative margin is a tolerance."""
    if rival.improvement is None:
        return Check(False, f"{rival.role} cannot be compared: {rival.problem}")
    passed = rival.improvement.low > margin
    need = f"the lower end must be above {margin:g}"
    return Check(passed, f"improvement of {metric} over {rival.role} is {rival.improvement} (95 % interval); {need}")
