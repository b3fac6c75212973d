"""A model that torch serves goes the whole way: trained, evaluated, tried as a server, served, explained."""

import numpy as np
import pytest

from fti.common.settings import Settings
from fti.evaluate.logic import evaluate_model, write_blessing
from fti.infra_validate.logic import Limits, infra_validate
from fti.train.logic import train_model
from tests.serve import explaining
from tests.train.tables import write_tables

pytestmark = pytest.mark.slow


def test_the_whole_way(tmp_path):
    tables = write_tables(tmp_path / "tables", rows=800)
    settings = Settings.from_env({"FTI_HOME": str(tmp_path / "home")})
    package = train_model(
        tables["train"],
        tables["validation"],
        tmp_path / "package",
        algorithm="tests.train.own_torch:spectral",
        hyperparameters={"max_epochs": 5, "learning_rate": 0.01, "batch_size": 128},
    ).package
    assert package.served == ("program.json", "program.safetensors")
    evaluation = evaluate_model(package.path, tables["test"], floor={"roc_auc": 0.8}, settings=settings)
    write_blessing(evaluation, tmp_path / "blessing.json")
    limits = Limits(sample=20, latency_budget_ms=5_000)
    trial = infra_validate(
        package.path, tables["test"], tmp_path / "blessing.json", feature_repo="", settings=settings, limits=limits
    )
    assert trial.blessed, trial.reasons
    assert trial.metrics["vectors_predictions_differing"] == 0
    rows = package.examples["inputs"]
    with explaining.predictor(tmp_path, package, "--device=auto", *explaining.PATIENT) as served:
        predictions = served.predict(rows).json()["predictions"]
        expected = np.array(package.examples["outputs"])[:, 1]
        np.testing.assert_allclose([found["probability"] for found in predictions], expected, atol=1e-5)
        response = served.explain(rows)
        assert response.status_code == 200, response.text
        found = response.json()
        assert found["explanation"]["method"] == "sampled"
        for explanation, value in zip(found["explanations"], expected, strict=True):
            assert explanation["score"] == pytest.approx(value, rel=1e-5, abs=1e-5)
            total = explanation["base"] + sum(explanation["contributions"].values())
            assert total == pytest.approx(value, rel=1e-5, abs=1e-5)


def test_a_damaged_program_is_never_served(tmp_path):
    import json
    import subprocess
    import sys

    from fti.common.files import sha256_of

    tables = write_tables(tmp_path / "tables", rows=300)
    package = train_model(
        tables["train"],
        tables["validation"],
        tmp_path / "package",
        algorithm="tests.train.own_torch:spectral",
        hyperparameters={"max_epochs": 1},
    ).package
    name = "program.safetensors"
    (package.path / name).write_bytes(b"\x80\x04\x95pickle")
    sums = package.path / "checksums.json"
    sums.write_text(json.dumps({**json.loads(sums.read_text()), name: sha256_of(package.path / name)}))
    command = [sys.executable, "-m", "fti.serve.predictor", f"--package={package.path}", "--name=late"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "PackageError: program.json is no program" in done.stdout + done.stderr
