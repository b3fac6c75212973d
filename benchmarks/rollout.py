"""Error rates and delays of the rollout's decisions, by simulation: `python benchmarks/rollout.py [--json]`.

Thousands of rollouts of a canary with 1 % failures like the stable model's (A/A), with a look after every 50 requests,
decided by the library's own rules and by what is often used instead: a z-test at each look. And rollouts of canaries
that do harm, with the number of requests until they are taken back.
"""

import argparse
import json
import math
import time

import numpy as np

from fti.common.inference_service import CANARY, STABLE
from fti.rollout.metrics import Counts
from fti.rollout.rules import Limits, judge

BASE, LOOK = 0.01, 50
LIMITS = Limits(min_requests=500, failure_margin=0.02)
HARMS = (0.02, 0.03, 0.05, 0.1, 1.0)


def histories(rate: float, percent: int, requests: int, count: int, seed: int) -> tuple[np.ndarray, ...]:
    """Counts at each look, [count, looks]: the canary's requests and failures, and the stable model's."""
    random = np.random.default_rng(seed)
    looks = requests // LOOK
    canary = random.binomial(LOOK, percent / 100, (count, looks))
    failures = random.binomial(canary, rate)
    stable_failures = random.binomial(LOOK - canary, BASE)
    return tuple(np.cumsum(part, axis=1) for part in (canary, failures, LOOK - canary, stable_failures))


def decide(history: tuple[np.ndarray, ...], index: int, percent: int) -> tuple[str, int]:
    """The library's decision on one step, and after how many requests."""
    for look, (canary, failed, stable, stable_failed) in enumerate(
        zip(*(part[index] for part in history), strict=True)
    ):
        counts = {
            CANARY: Counts(int(canary), int(failed)),
            STABLE: Counts(int(stable), int(stable_failed)),
        }
        outcome = judge(counts, percent, LIMITS, {}).outcome
        if outcome != "inconclusive":
            return outcome, LOOK * (look + 1)
    return "inconclusive", LOOK * history[0].shape[1]


def naive(history: tuple[np.ndarray, ...]) -> float:
    """The share of rollouts that a one-sided z-test at level 0.05 ever calls harmful."""
    canary, failed, stable, stable_failed = (part.astype(float) for part in history)
    pooled = (failed + stable_failed) / (canary + stable)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (failed / canary - stable_failed / stable) / np.sqrt(pooled * (1 - pooled) * (1 / canary + 1 / stable))
    looks = (canary >= 30) & np.isfinite(z)
    return float(((z > 1.645) & looks).any(axis=1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="One JSON object instead of a table.")
    parser.add_argument("--rollouts", type=int, default=2000, help="Simulated rollouts without harm, for each share.")
    arguments = parser.parse_args()
    started = time.process_time()
    results: dict[str, dict[str, float]] = {}
    for percent in (5, 25, 50):
        history = histories(BASE, percent, 20_000, arguments.rollouts, seed=percent)
        decided = [decide(history, index, percent) for index in range(arguments.rollouts)]
        results[f"no harm, {percent} %"] = {
            "rolled_back": _share(decided, "failure"),
            "mismatch": _share(decided, "mismatch"),
            "passed": _share(decided, "success"),
            "median_requests": float(np.median([requests for _, requests in decided])),
            "z_test_rolled_back": naive(history),
        }
        for rate in HARMS:
            count = max(100, arguments.rollouts // 10)
            harmful = histories(rate, percent, 20_000, count, seed=percent)
            decided = [decide(harmful, index, percent) for index in range(count)]
            delays = [requests for outcome, requests in decided if outcome == "failure"]
            results[f"{rate:.0%} failures, {percent} %"] = {
                "rolled_back": _share(decided, "failure"),
                "passed": _share(decided, "success"),
                "median_requests": float(np.median(delays)) if delays else math.nan,
                "failures_served": float(np.median(delays)) * percent / 100 * rate if delays else math.nan,
            }
    results["cost"] = {"cpu_seconds": time.process_time() - started}
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    for name, figures in results.items():
        print(f"{name:24}" + "  ".join(f"{key} {value:.4g}" for key, value in figures.items()))


def _share(decided: list[tuple[str, int]], outcome: str) -> float:
    return sum(each == outcome for each, _ in decided) / len(decided)


if __name__ == "__main__":
    main()
