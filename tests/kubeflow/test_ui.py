"""What a person sees in Kubeflow's UI: a run form with words to it, and pictures within its limits."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from kfp.dsl import ClassificationMetrics

from fti.evaluate.curves import CONFUSION_CLASSES, confusion, roc_points
from fti.kubeflow.api import Api
from fti.kubeflow.pipelines import upload
from tests.kubeflow.standin import Kubeflow

GOLDEN = Path(__file__).parents[1] / "golden" / "pipelines"
LIMIT = 64 * 1024  # bytes of an artifact's metadata; KFP fails at some megabytes


@pytest.mark.parametrize("rows", [10, 200_000])
def test_curves_and_matrices_stay_small_whatever_the_data(rows: int) -> None:
    random = np.random.default_rng(0)
    target, scores = random.integers(0, 2, rows), random.random(rows)
    seen = ClassificationMetrics()
    false, true, thresholds = roc_points(target, scores)
    seen.log_roc_curve(false, true, thresholds)
    classes = random.integers(0, CONFUSION_CLASSES, (2, rows))
    seen.log_confusion_matrix(
        [f"class {i}" for i in range(CONFUSION_CLASSES)], confusion(*classes, CONFUSION_CLASSES).tolist()
    )
    text = json.dumps(seen.metadata, allow_nan=False)  # neither NaN nor infinity: the UI draws neither
    assert len(text) < LIMIT
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_run_form(path: Path) -> None:
    """The form shows names, types and defaults; only what cannot have a default is asked for."""
    inputs = yaml.safe_load(path.read_text())["root"]["inputDefinitions"]["parameters"]
    assert {name for name, of in inputs.items() if not of.get("isOptional")} <= {"model_uri", "blessing_uri"}
    for name, of in inputs.items():
        assert name.islower() and 10 < len(of["description"]) < 160, name


def test_the_pipelines_page_explains_each_parameter(cluster: Kubeflow, api: Api) -> None:
    upload(api, (GOLDEN / "deployment.yaml").read_text())
    about = cluster.pipelines[0]["description"].splitlines()
    assert about[0] == "Gives a blessed model its share of an InferenceService's traffic."
    assert "- `canary_percent`: Share of the traffic, 0 to 100; 100 makes the model the stable one." in about
