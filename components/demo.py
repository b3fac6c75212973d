"""The demo: the whole loop on real flights, a second model beside the first, and traffic through both."""

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from fti.common.errors import BusyError, ServingError, UnblessedModelError
from fti.common.files import atomic_file
from fti.common.inference_service import read_service
from fti.common.settings import Settings
from fti.common.tables import read_spec
from fti.local_run import Run, run_pipeline
from fti.local_step import OnStep
from fti.pipelines import pipeline_named, reference
from fti.serve.local.ports import DEFAULT_PORT
from fti.serve.local.status import read_state

CANARY_PERCENT = 20
CHALLENGER: dict[str, Any] = {"learning_rate": 0.05, "max_leaf_nodes": 63}

Say = Callable[[str], None]
Progress = Callable[[str], AbstractContextManager[OnStep]]


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
        BusyError: `fti serve` runs in the same home.
        FtiError: A step failed, or a model was not blessed.
    """
    if read_state(settings):
        raise BusyError("`fti serve` runs in this home", remedy="Stop it first: the demo serves on its own")
    started = time.monotonic()

    say("1/4  The whole loop: ingest → validate → featurize → materialize → retrieve → train → evaluate →")
    say("     infra_validate → push")
    loop = _run("loop", {"canary_percent": 100}, settings, progress)
    judged = _judged(loop)
    say(f"2/4  A challenger with other parameters: {json.dumps(CHALLENGER)}")
    training = _run("training", {"hyperparameters": CHALLENGER}, settings, progress)
    say(f"3/4  The challenger takes {CANARY_PERCENT} % of the traffic")
    challenger = {"model_uri": training.outputs["model"], "blessing_uri": training.outputs["blessing"]}
    _run("deployment", {**challenger, "canary_percent": CANARY_PERCENT}, settings, progress)
    say(f"4/4  Both are served; {requests:,} requests through the gateway")
    rows = _requests(Path(loop.artifacts("retrieve", "test")[0]["uri"]), requests)
    traffic = _ask(settings, rows)

    figures = {**judged, **traffic, "seconds": round(time.monotonic() - started, 1)}
    with atomic_file(settings.home / "demo.json") as scratch:
        scratch.write_text(json.dumps(figures, indent=2))
    _tell(figures, [loop, training], rows[0], say)
    return figures


def _run(name: str, arguments: dict[str, Any], settings: Settings, progress: Progress) -> Run:
    with progress(name) as on_step:
        return run_pipeline(pipeline_named(name), arguments, settings, on_step)


def _judged(loop: Run) -> dict[str, Any]:
    """What the steps of the loop recorded about the flights, the model and its server."""
    blessing = json.loads(Path(loop.artifacts("infra-validate", "infra_blessing")[0]["uri"]).read_text())
    if not blessing["blessed"]:
        raise UnblessedModelError(
            f"the model was not blessed: {'; '.join(blessing['reasons'])}",
            remedy=f"Read the reports in {loop.folder / 'reports'}",
        )
    tables = [raw["metadata"] for raw in loop.artifacts("ingest", "raw")]
    rejects = [rejected["metadata"]["rows"] for rejected in loop.artifacts("validate", "rejected")]
    flights = next(index for index, table in enumerate(tables) if table["table"] == "flights")
    unlabelled = loop.artifacts("retrieve", "metrics")[0]["metadata"]["rejected_rows"]
    quality = loop.artifacts("evaluate", "metrics")[0]["metadata"]
    served = loop.artifacts("infra-validate", "metrics")[0]["metadata"]
    return {
        "rows_ingested": int(tables[flights]["rows"]),
        "rows_rejected": int(rejects[flights] + unlabelled),
        "rows_against_contract": int(rejects[flights]),
        "rows_without_label": int(unlabelled),
        "auc_schedule_only": round(quality["baseline_roc_auc"], 4),
        "auc_test": round(quality["roc_auc"], 4),
        "rows_replayed": int(served["keys_rows_compared"]),
        "features_compared": int(served["features_compared"]),
        "features_differing": int(served["features_differing"]),
        "latency_p99_ms": round(served["keys_latency_p99_ms"], 2),
        "blessed": blessing["blessed"],
    }


def _ask(settings: Settings, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sends rows through the gateway, one by one, and counts which revision answers."""
    import httpx

    from fti.serve.local.runner import running
    from fti.serve.protocol import REVISION_HEADER

    service = read_service(reference.SERVICE, settings)
    variants = {revision.name: variant for variant, (revision, _) in service.revisions().items()} if service else {}
    answers: Counter[str] = Counter()
    then = replace(settings, now=datetime.fromisoformat(reference.DATA_END))  # by the clock, all features are too old
    with running(then, names=[reference.SERVICE]) as endpoints, httpx.Client(timeout=30) as client:
        for row in rows:
            response = client.post(endpoints[reference.SERVICE], json={"instances": [row]})
            answers[variants[response.headers[REVISION_HEADER]] if response.is_success else "failed"] += 1
    return {
        "requests": len(rows),
        "failed_requests": answers["failed"],
        "answered_by_stable": answers["stable"],
        "answered_by_canary": answers["canary"],
        "canary_percent_asked": CANARY_PERCENT,
        "canary_percent_seen": round(100 * answers["canary"] / max(1, answers["stable"] + answers["canary"]), 1),
    }


def _requests(test: Path, count: int) -> list[dict[str, Any]]:
    """Rows of the test set as a caller would send them: in turn with all features, and with the entity keys alone."""
    import polars as pl

    spec = read_spec(test)
    if spec is None:
        raise ServingError(f"{test} does not say which of its columns are features", remedy="Run the demo again")
    frame = pl.read_parquet(test).sample(count, seed=0, with_replacement=True)
    asked = [feature.name for feature in spec.features if feature.source == "request"]
    full = frame.select([feature.name for feature in spec.features]).to_dicts()
    keys = frame.select(list(dict.fromkeys([*spec.entity_keys, *asked]))).to_dicts()
    return [(full if index % 2 else keys)[index] for index in range(count)]


def _tell(figures: dict[str, Any], runs: list[Run], row: dict[str, Any], say: Say) -> None:
    url = f"http://127.0.0.1:{DEFAULT_PORT}/v1/models/{reference.SERVICE}:predict"
    folders = [str(run.reports[0].parent) for run in runs]
    rejected = f"{figures['rows_against_contract']} break the contract, {figures['rows_without_label']:,} have no label"
    lines = {
        "Rows": f"{figures['rows_ingested']:,} flights in, {figures['rows_rejected']:,} rejected: {rejected}",
        "AUC": f"{figures['auc_test']:.3f} on unseen months; schedule alone: {figures['auc_schedule_only']:.3f}",
        "Skew": f"{figures['features_differing']} of {figures['features_compared']} features differ between training "
        f"and server in {figures['rows_replayed']} rows; 99 % answered within {figures['latency_p99_ms']:.1f} ms",
        "Traffic": f"{figures['requests']:,} requests, {figures['failed_requests']} failed; canary "
        f"{figures['canary_percent_asked']} % asked, {figures['canary_percent_seen']} % seen",
        "Reports": "  ".join(folders),
        "Next": f"FTI_NOW={reference.DATA_END} fti serve   "
        "(.venv/bin/fti, or after `. .venv/bin/activate`), then ask it:",
        "Endpoint": url,
        "": f"curl -s {url} -H 'content-type: application/json' -d '{json.dumps({'instances': [row]})}'",
    }
    say(f"\nDone in {figures['seconds']:.0f} s.")
    for name, line in lines.items():
        say(f"{name:<9} {line}")
