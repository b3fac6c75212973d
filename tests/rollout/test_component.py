"""rollout as a step of a pipeline: its artifacts, run again, and after a push that left nothing to roll out."""

import json
from pathlib import Path

import pytest
from kfp import dsl

from fti.common.errors import ConfigError, ServingError
from fti.common.inference_service import read_service
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.push.traffic import rollback
from fti.rollout.component import rollout
from fti.rollout.plan import Plan
from fti.rollout.record import PROMOTED, ROLLED_BACK, SUPERSEDED, read
from fti.rollout.run import roll_out, write_artifacts
from tests.rollout.conftest import V1, under_load
from tests.rollout.test_controller import PLAN, Traffic
from tests.serve import tiny
from tests.serve.conftest import publish


@pytest.fixture
def canary(settings: Settings, one_service: ModelPackage, tmp_path: Path) -> ModelPackage:
    package = tiny.write_binary(tmp_path / "canary", bias=0.5)
    publish(settings, package, "late", percent=0)
    return package


def endpoint(tmp_path: Path, package: ModelPackage) -> Path:
    path = tmp_path / "endpoint.json"
    path.write_text(json.dumps({"service": "late", "digest": package.digest}))
    return path


@pytest.mark.parametrize(("harm", "phase"), [(0.0, PROMOTED), (0.3, ROLLED_BACK)])
def test_run_again_it_says_how_it_ended(
    settings: Settings, canary: ModelPackage, tmp_path: Path, harm: float, phase: str
) -> None:
    pushed = endpoint(tmp_path, canary)
    first = roll_out(pushed, PLAN, settings, metrics=Traffic(settings, harm), who="run 7")
    said = write_artifacts(first, tmp_path / "record.json", tmp_path / "report.html")
    assert first.phase == phase and first.decisions[0]["who"] == "run 7"
    again = roll_out(pushed, PLAN, settings)
    assert again.decisions == first.decisions and read(tmp_path / "record.json").decisions == first.decisions
    assert said["decision_digest"] == first.decisions[-1]["digest"] and said["phase"] == phase
    assert "Guardrails at the last look" in (tmp_path / "report.html").read_text()


def test_a_model_that_is_no_canary_is_not_rolled_out(
    settings: Settings, one_service: ModelPackage, canary: ModelPackage, tmp_path: Path
) -> None:
    stable = roll_out(endpoint(tmp_path, one_service), PLAN, settings)
    assert (stable.phase, stable.decisions[-1]["reason"]) == (
        PROMOTED,
        "it is the stable model: there is nothing to roll out",
    )
    rollback("late", settings)
    gone = roll_out(endpoint(tmp_path, canary), PLAN, settings)
    assert (gone.phase, gone.decisions[-1]["reason"]) == (SUPERSEDED, "it is not the canary any more")
    for record in (stable, gone):
        write_artifacts(record, tmp_path / "record.json", tmp_path / "report.html")
        assert read(tmp_path / "record.json").phase == record.phase


def test_mistakes_are_explained(settings: Settings, canary: ModelPackage, tmp_path: Path) -> None:
    path = tmp_path / "endpoint.json"
    for content in ("", "[]", '{"service": "late"}'):
        path.write_text(content)
        with pytest.raises(ServingError, match=r"does not say what was pushed.*Allowed: the output of push"):
            roll_out(path, PLAN, settings)
    path.write_text('{"service": "other", "digest": "0"}')
    with pytest.raises(ServingError, match="the service other is gone"):
        roll_out(path, PLAN, settings)
    with pytest.raises(ConfigError, match="the steps are"):
        roll_out(endpoint(tmp_path, canary), Plan(steps=(9, 3)), settings)


@pytest.mark.slow
def test_push_and_rollout_in_the_local_runner(
    settings: Settings, one_service: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline of two steps, beside a real gateway under load."""
    from kfp import local

    from fti.push.component import push
    from fti.serve.local.runner import running

    package = tiny.write_binary(tmp_path / "canary", bias=0.5)
    verdict = tiny.blessing(tmp_path / "canary.json", package)

    @dsl.pipeline
    def deployment(model_uri: str, blessing_uri: str) -> str:
        model = dsl.importer(artifact_uri=model_uri, artifact_class=dsl.Model, reimport=True)
        blessing = dsl.importer(artifact_uri=blessing_uri, artifact_class=dsl.Artifact, reimport=True)
        pushed = push(model=model.output, blessing=blessing.output, service="late", canary_percent=0)
        rolled = rollout(
            endpoint=pushed.outputs["endpoint"],
            steps=[50, 100],
            min_requests=50,
            slow_margin=0.5,
            failure_margin=0.1,
            refusal_margin=0.1,
            look_seconds=0.2,
            who="the pipeline",
        )
        return rolled.outputs["Output"]

    monkeypatch.chdir(tmp_path)
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(tmp_path / "root"),
        workspace_root=str(tmp_path / "ws"),
    )
    body = json.dumps({"instances": [tiny.ROW]}).encode()
    with running(settings) as endpoints, under_load(endpoints["late"].removesuffix(V1), body) as answers:
        done = deployment(model_uri=str(package.path), blessing_uri=str(verdict))
    assert done.output == PROMOTED and {status for status, _ in answers} == {200}
    service = read_service("late", settings)
    assert service and service.stable.digest == package.digest
    (record,) = (path for path in (tmp_path / "root").rglob("record") if path.is_file())
    assert {decision["who"] for decision in read(record).decisions} == {"the pipeline"}
