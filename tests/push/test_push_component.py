"""push as a step of a pipeline, in KFP's local runner."""

import json
from pathlib import Path

import pytest

from fti.common.inference_service import read_service
from fti.common.settings import Settings
from tests.serve import tiny


@pytest.mark.slow
def test_push_in_the_local_runner(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kfp import dsl, local

    from fti.push.component import push

    package = tiny.write_binary(tmp_path / "package")
    verdict = tiny.blessing(tmp_path / "blessing.json", package)

    @dsl.pipeline
    def deployment(model_uri: str, blessing_uri: str) -> dsl.Artifact:
        model = dsl.importer(artifact_uri=model_uri, artifact_class=dsl.Model, reimport=True)
        blessing = dsl.importer(artifact_uri=blessing_uri, artifact_class=dsl.Artifact, reimport=True)
        task = push(model=model.output, blessing=blessing.output, service="late-arrival", canary_percent=20)
        return task.outputs["endpoint"]

    monkeypatch.chdir(tmp_path)
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(tmp_path / "root"),
        workspace_root=str(tmp_path / "ws"),
    )
    run = deployment(model_uri=str(package.path), blessing_uri=str(verdict))
    endpoint = json.loads(Path(run.output.path).read_text())
    assert endpoint["digest"] == package.digest
    assert endpoint["percent"] == 100
    assert run.output.metadata["variant"] == "stable"
    service = read_service("late-arrival", settings)
    assert service and service.stable.digest == package.digest
