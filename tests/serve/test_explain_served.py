"""`:explain` of a real predictor: strict as predict, within its budget, and never in the way of predictions."""

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from fti.common.errors import ConfigError
from fti.common.model_package import ModelPackage, write_package
from fti.common.settings import Settings
from fti.serve.client import explain
from fti.serve.columns import BadRequestError
from fti.serve.explain.explainer import BUDGET_HEADER, Explainer
from fti.train.logic import train_model
from tests.serve import alone, explaining, tiny
from tests.serve.alone import until
from tests.serve.explaining import EXPLAIN, PATIENT, PREDICT, Served, gone
from tests.serve.keyed import KEYS, SQLITE, at_airport, open_keyed, row
from tests.train.tables import write_tables

pytestmark = pytest.mark.slow
PAGE = (Path(__file__).parents[2] / "docs" / "explain.md").read_text()
SLOW = {"max_epochs": 2, "batch_size": 256}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_tables(tmp_path_factory.mktemp("tables"), rows=800)


def train(tables: dict[str, Path], path: Path, algorithm: str, parameters: dict[str, object]) -> ModelPackage:
    chosen: dict[str, Any] = {"algorithm": algorithm, "hyperparameters": parameters}
    return train_model(tables["train"], tables["validation"], path, **chosen).package


@pytest.fixture(scope="module")
def boosting(
    tables: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, ModelPackage]]:
    folder = tmp_path_factory.mktemp("boosting")
    package = train(tables, folder / "package", "hist_gradient_boosting", {"max_iter": 20})
    with explaining.predictor(folder, package, *PATIENT) as served:
        yield served, package


def test_explanations_add_up_to_what_is_predicted(boosting: tuple[Served, ModelPackage]) -> None:
    served, package = boosting
    rows = package.examples["inputs"]
    response = served.explain(rows)
    assert response.status_code == 200, response.text
    assert response.headers["x-fti-revision"] == package.digest[:12]
    answer = response.json()
    assert answer["predictions"] == served.predict(rows).json()["predictions"]
    assert answer["explanation"] == {"method": "exact", "space": "log-odds", "background_rows": 100, "class": True}
    for found, predicted in zip(answer["explanations"], answer["predictions"], strict=True):
        assert list(found["contributions"]) == [feature.name for feature in package.signature.inputs]
        total = found["base"] + sum(found["contributions"].values())
        assert total == pytest.approx(found["score"], abs=1e-9)
        assert 1 / (1 + np.exp(-total)) == pytest.approx(predicted["probability"], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "headers", "status", "message"),
    [
        ({"hour": "noon"}, {}, 400, "hour: row 0 is 'noon'"),
        ({"hour": 1.5}, {}, 400, "hour: row 0 is 1.5"),
        ({"wind": 1}, {}, 400, "unknown 'wind'"),
        ({"weather__wind": 1e300}, {}, 400, "weather__wind: row 0"),
        ({}, {"content-type": "text/plain"}, 415, "content-type"),
        ({}, {BUDGET_HEADER: "0"}, 400, "Allowed: 1 to 60000"),
        ({}, {BUDGET_HEADER: "60001"}, 400, "Allowed: 1 to 60000"),
        ({}, {BUDGET_HEADER: "-5"}, 400, "Allowed: 1 to 60000"),
        ({}, {BUDGET_HEADER: "soon"}, 400, "Allowed: 1 to 60000"),
        ({}, {BUDGET_HEADER: "1"}, 504, "deadline|at least|within"),
    ],
)
def test_it_is_as_strict_as_predict(
    boosting: tuple[Served, ModelPackage], change: dict[str, Any], headers: dict[str, str], status: int, message: str
) -> None:
    served, package = boosting
    rows = [{**package.examples["inputs"][0], **change}]
    typed = {"content-type": "application/json", **headers}
    response = httpx.post(served.url + EXPLAIN, json={"instances": rows}, headers=typed, timeout=30)
    assert response.status_code == status, response.text
    assert any(part in response.json()["error"] for part in message.split("|")), response.text
    assert httpx.get(served.url + EXPLAIN).status_code == 405


def test_the_command_of_the_page(boosting: tuple[Served, ModelPackage]) -> None:
    served, package = boosting
    served.explain(package.examples["inputs"])  # it is started
    commands = re.findall(r"^```bash\n(.*?)^```\n```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(commands) == len(re.findall(r"^ *curl ", PAGE, re.MULTILINE)) == 1
    for command, output in commands:
        code = command.replace("localhost:8080", served.url)
        done = subprocess.run(["bash", "-ec", code], capture_output=True, text=True, timeout=60, check=True)
        found, told = json.loads(done.stdout), json.loads(output)
        assert found["explanation"] == told["explanation"]
        assert found["predictions"] == [pytest.approx(told["predictions"][0], abs=0.01)]
        (row,), (wanted,) = found["explanations"], told["explanations"]
        assert row.pop("contributions") == pytest.approx(wanted.pop("contributions"), abs=0.01)
        assert row == pytest.approx(wanted, abs=0.01)


def test_too_many_rows_for_the_budget_are_refused_with_a_number_that_fits(
    boosting: tuple[Served, ModelPackage],
) -> None:
    served, package = boosting
    served.explain(package.examples["inputs"])
    response = served.explain(package.examples["inputs"] * 1900, **{BUDGET_HEADER: "1000"})
    assert response.status_code == 504, response.text[:300]
    assert "rows were asked for" in response.text and "send at most" in response.text, response.text


def test_the_client_waits_for_the_process_that_explains(
    boosting: tuple[Served, ModelPackage], settings: Settings
) -> None:
    served, package = boosting
    rows = package.examples["inputs"][:2]
    explain(settings, "late", rows, url=served.url)  # it starts with this
    running = served.worker()
    assert running
    running.kill()
    found = explain(settings, "late", rows, url=served.url)  # the server may not know yet that it has died
    assert found["revision"] == package.digest[:12]
    assert len(found["explanations"]) == len(found["predictions"]) == 2
    with pytest.raises(ConfigError, match="late refuses the request .400.: hour: row 0 is 'noon'"):
        explain(settings, "late", [{**rows[0], "hour": "noon"}], url=served.url)


def test_a_process_that_explains_and_dies_is_started_again(boosting: tuple[Served, ModelPackage]) -> None:
    served, package = boosting
    rows = package.examples["inputs"][:1]
    served.explain(rows)
    first = served.worker()
    assert first is not None and first.nice() == psutil.Process(served.process.pid).nice() + 5
    first.kill()
    until(lambda: gone(first))
    until(lambda: served.explain(rows).status_code == 200, 60)
    second = served.worker()
    assert second is not None and second.pid != first.pid
    # One that hangs is given up at the deadline, and ended some seconds after it.
    os.kill(second.pid, signal.SIGSTOP)
    response = served.explain(rows, **{BUDGET_HEADER: "300"})
    assert response.status_code == 504, response.text
    assert served.predict(rows).status_code == 200
    until(lambda: served.explain(rows).status_code == 200, 60)
    metrics = httpx.get(f"{served.url}/metrics").text
    assert 'fti_requests_total{asked="no",code="200",model_name="late",protocol="explain"' in metrics


def test_predictions_go_on_while_much_is_explained(tables: dict[str, Path], tmp_path: Path) -> None:
    package = train(tables, tmp_path / "package", "tests.train.own_torch:spectral", dict(SLOW))
    rows = package.examples["inputs"]
    with explaining.predictor(tmp_path, package, "--explain_budget_ms=3000") as served:
        served.explain(rows[:1])
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(served.url + EXPLAIN, json={"instances": rows * 10}, timeout=60))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        predicted = 0
        while any(thread.is_alive() for thread in threads):
            assert served.predict(rows).status_code == 200
            predicted += 1
        assert {answer.status_code for answer in answers} <= {200, 429, 504}
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused and all("retry-after" in answer.headers for answer in refused)
        assert predicted >= 20
        done = []

        def explained() -> bool:
            done.append(served.explain(rows[:1]))
            return done[-1].status_code == 200

        until(explained)
        found = done[-1].json()
        assert found["explanation"]["method"] == "sampled" and found["explanation"]["samples"] >= 200
        assert found["explanations"][0]["errors"].keys() == found["explanations"][0]["contributions"].keys()
        process = served.worker()
        assert process is not None
        served.process.terminate()
        assert served.process.wait(60) == 0
        until(lambda: gone(process))


def test_it_can_be_turned_off_and_lacks_where_the_package_has_no_background(tmp_path: Path) -> None:
    package = tiny.write_binary(tmp_path / "package")
    with explaining.predictor(tmp_path, package) as served:
        response = httpx.post(served.url + EXPLAIN, json={"instances": [tiny.ROW]})
        assert (response.status_code, "no background.json" in response.text) == (404, True)
        assert served.worker() is None
    off = Explainer(str(package.path), package, Settings.from_env({"FTI_HOME": str(tmp_path)}), 0)
    with pytest.raises(BadRequestError, match=r"does not explain \(--explain_budget_ms 0\)"):
        off.seconds({})


def test_features_are_looked_up_first(settings: Settings, tmp_path: Path) -> None:
    from kserve.model_server import app

    from fti.serve.features import FeatureLookup
    from fti.serve.front import Front
    from fti.serve.model import PackagedModel

    repo, store = open_keyed(settings, tmp_path / "repo", SQLITE)
    at_airport(store, "JFK", 30.0)
    bare = tiny.write_binary(tmp_path / "bare", entity_keys=KEYS, feature_service="late_v1")
    columns = {name: [tiny.ROW[name], tiny.ROW[name]] for name in tiny.ROW}
    package = write_package(
        tmp_path / "package",
        signature=bare.signature,
        onnx=bare.onnx.read_bytes(),
        native={},
        examples=bare.examples,
        provenance={},
        card="",
        background={**columns, "origin_delays__mean_delay": [0.0, 10.0], "carrier": ["UA", None]},
    )
    model = PackagedModel("late", "r1", package, FeatureLookup(str(repo), package.signature, settings))
    model.explainer = Explainer(str(package.path), package, settings, 60_000)
    model.admission.limits = type(model.admission.limits)(deadline_ms=60_000)
    requests = [("/v1/models/late:explain", {"instances": [row("JFK")]}), (PREDICT, {"instances": [row("JFK")]})]
    found, predicted = alone.ask(Front(app, model), requests)
    assert found.status_code == 200, found.text
    assert found.json()["predictions"] == predicted.json()["predictions"]
    (explanation,) = found.json()["explanations"]
    assert explanation["contributions"]["origin_delays__mean_delay"] > 0.01  # 30 minutes against 5
    assert explanation["contributions"]["distance"] == pytest.approx(0, abs=1e-6)  # as in the background
    assert explanation["score"] == pytest.approx(predicted.json()["predictions"][0]["probability"], abs=1e-6)
