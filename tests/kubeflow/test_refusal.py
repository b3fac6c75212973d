"""A table that breaks its contract ends the feature pipeline with the reason, and keeps its report and its rows."""

import json
from pathlib import Path

import polars as pl
import pytest

from fti.common.settings import Settings
from fti.local_run import StepFailedError, run_pipeline
from fti.pipelines import pipeline_named
from tests.featurize.shop import write_shop

CONTRACT = """
columns:
  customer: {type: int64}
  bought: {type: timestamp}
  amount: {type: float64, nullable: true, max: MAX}
  channel: {type: string}
"""


def tables(folder: Path, most: float) -> list[dict[str, str]]:
    _, orders = write_shop(folder)
    (folder / "orders.yaml").write_text(CONTRACT.replace("MAX", str(most)))
    return [{"table": "orders", "source": str(orders), "contract": str(folder / "orders.yaml")}]


@pytest.mark.slow
def test_a_refused_table_stops_the_feature_pipeline(tmp_path: Path, settings: Settings) -> None:
    arguments = {"tables": tables(tmp_path, 10.0), "feature_repo": str(tmp_path / "shop")}
    with pytest.raises(StepFailedError) as caught:
        run_pipeline(pipeline_named("features"), arguments, settings)
    assert str(caught.value).startswith("require: orders breaks its contract: ")
    assert "Worst rules, with rows: amount.max (" in str(caught.value) and "The reports: " in str(caught.value)
    (run,) = (settings.home / "runs").iterdir()
    assert [step["name"] for step in json.loads((run / "run.json").read_text())["steps"]] == [
        "ingest orders", "validate orders", "require"
    ], "nothing runs after a refusal"  # fmt: skip
    (judged,) = run.glob("steps/**/validate/executor_output.json")
    kept = json.loads(judged.read_text())["artifacts"]
    assert set(kept) == {"valid", "rejected", "report", "metrics"}, "KFP keeps what a step that succeeded wrote"
    (rejected,) = kept["rejected"]["artifacts"]
    assert pl.read_parquet(rejected["uri"]).height == rejected["metadata"]["rows"] > 20
    assert (run / "reports").iterdir()
