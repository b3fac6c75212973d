"""The demo: the whole loop on real flights, a second model beside the first, and traffic through both."""

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fti.common.errors import ServingError
from fti.common.files import atomic_file
from fti.common.settings import Settings
from fti.local_run import Run, StepEvent, run_pipeline
from fti.pipelines import pipeline_named, reference

CANARY_PERCENT = 20
CHALLENGER: dict[str, Any] = {"learning_rate": 0.05, "max_leaf_nodes": 63}

Say = Callable[[str], None]
Progress = Callable[[str], AbstractContextManager[Callable[[StepEvent], None]]]


def run_demo(settings: Settings, requests: int, say: Say, progress: Progress) -> dict[str, Any]:
    """Runs the loop, trains a second model, gives it a fifth of the traffic, and asks both for predictions.

    Args:
        settings: Where state lives.
        requests: How many predictions to ask for.
        say: Prints one line.
        progress: Shows the steps of a run as they start and end.

    Returns:
        The figures, also left in `<home>/demo.json`.

    Raises:
        FtiError: A step failed, or a model was not blessed.
    """
    started = time.monotonic()

    say("1/4  The whole loop: ingest → validate → featurize → materialize → retrieve → train → evaluate → push")
    loop = _run("loop", {"canary_percent": 100}, settings, progress)
    say(f"2/4  A challenger with other parameters: {json.dumps(CHALLENGER)}")
    training = _run("training", {"hyperparameters": CHALLENGER}, settings, progress)
    say(f"3/4  The challenger takes {CANARY_PERCENT} % of the traffic")
    challenger = {"model_uri": training.outputs["model"], "blessing_uri": training.outputs["blessing"]}
    _run("deployment", {**challenger, "canary_percent": CANARY_PERCENT}, settings, progress)
    say(f"4/4  Both are served; {requests:,} requests through the gateway")
    traffic = _ask(settings, loop, requests)

    figures = {**_judged(loop), **traffic, "canary_percent_asked": CANARY_PERCENT, "seconds": round(time.monotonic() - started, 1)}
    with atomic_file(settings.home / "demo.json") as scratch:
        scratch.write_text(json.dumps(figures, indent=2))
    _tell(figures, [loop, training], settings, say)
    return figures


def _run(name: str, arguments: dict[str, Any], settings: Settings, progress: Progress) -> Run:
    with progress(name) as on_event:
        return run_pipeline(pipeline_named(name), arguments, settings, on_event)
