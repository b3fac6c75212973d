"""infra_validate as a step of a pipeline, in KFP's local runner: a refusal is a result, and stops the push."""

import pytest
from kfp import dsl

from fti.common.inference_service import read_service
from fti.infra_validate.component import infra_validate
from fti.local_run import run_pipeline
from fti.push.component import push
from fti.step import uncached
from tests.infra_validate.shop import Shop, write_model


@dsl.pipeline(name="fti-trial")
def trial(model_uri: str, test_uri: str, blessing_uri: str, feature_repo: str, latency_budget_ms: float) -> bool:
    """Pushes what was served as trained."""
    uris = {"model": (model_uri, dsl.Model), "test": (test_uri, dsl.Dataset), "blessing": (blessing_uri, dsl.Artifact)}
    given = {name: dsl.importer(artifact_uri=uri, artifact_class=kind).output for name, (uri, kind) in uris.items()}
    tried = uncached(infra_validate(**given, feature_repo=feature_repo, latency_budget_ms=latency_budget_ms, sample=10))
    with dsl.If(tried.outputs["Output"] == True):  # noqa: E712 - KFP compiles the comparison
        uncached(push(model=given["model"], blessing=tried.outputs["infra_blessing"], service="again"))
    return tried.outputs["Output"]


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "blessed"), [(1000.0, True), (0.001, False)])
def test_in_the_local_runner(shop: Shop, budget: float, blessed: bool) -> None:
    package = write_model(shop.folder / "model")
    arguments = {
        "model_uri": str(package.path),
        "test_uri": str(shop.test),
        "blessing_uri": str(shop.bless(package)),
        "feature_repo": str(shop.repo),
        "latency_budget_ms": budget,
    }
    run = run_pipeline(trial, arguments, shop.settings)
    assert run.outputs == {"Output": blessed}
    assert [step.name for step in run.steps] == ["infra_validate"] + ["push"] * blessed
    assert (read_service("again", shop.settings) is not None) is blessed
    (page,) = run.reports
    assert page.name == "1-infra-validate.html" and "Serving of again" in page.read_text()
    metrics = run.artifacts("infra-validate", "metrics")[0]["metadata"]
    assert metrics["keys_rows_compared"] + metrics["keys_rows_left_out"] == 10
