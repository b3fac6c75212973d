"""ingest as a step in KFP's local runner, from an object store to an artifact with metadata."""

import json
from pathlib import Path

import pytest
from kfp import dsl, local

from fti.common.settings import Settings
from fti.common.storage import upload
from fti.ingest.component import ingest
from tests.object_store import ACCESS_KEY, SECRET_KEY, object_store


@dsl.pipeline
def one_table(source: str) -> dsl.Dataset:
    return ingest(source=source, table="orders", null_values=["NA"]).outputs["raw"]


def _run(source: str, tmp_path: Path) -> dsl.Dataset:
    runner = local.SubprocessRunner(use_venv=False)
    local.init(runner, pipeline_root=str(tmp_path / "root"), workspace_root=str(tmp_path / "ws"))
    return one_table(source=source).output


@pytest.mark.slow
def test_from_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "orders.csv").write_text("id,price\n1,2.5\n2,NA\n")
    (tmp_path / "weed").mkdir()
    with object_store(tmp_path / "weed") as endpoint:
        environ = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        upload(tmp_path / "orders.csv", "s3://fti-tests/in/orders.csv", Settings.from_env())
        raw = _run("s3://fti-tests/in/*.csv", tmp_path)
    assert Path(raw.path).read_bytes()[:4] == b"PAR1"
    assert raw.metadata["table"] == "orders"
    assert raw.metadata["rows"] == 2
    assert raw.metadata["schema"] == {"id": "BIGINT", "price": "DOUBLE"}
    assert raw.metadata["source"] == "s3://fti-tests/in/*.csv"
    assert raw.metadata["bytes"] == Path(raw.path).stat().st_size
    assert SECRET_KEY not in json.dumps(raw.metadata)


@pytest.mark.slow
def test_a_bad_source_fails_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="FAILURE"):
        _run(str(tmp_path / "none.csv"), tmp_path)
    assert "none.csv does not exist" in capfd.readouterr().out
