"""Explanations obey the laws of Shapley values, mean the served score, and say how exact they are."""

import math
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fti.common.errors import PackageError
from fti.common.model_package import ModelPackage, Signature, load_package, write_package
from fti.common.scoring import graph_inputs
from fti.common.tables import Feature
from fti.serve.explain.exact import load_native
from fti.serve.explain.sampled import OverBudgetError
from fti.serve.explain.space import Space, scores_in, served_from
from fti.serve.explain.worker import PackageExplainer
from fti.train.logic import train_model
from tests.serve import products
from tests.train.tables import write_tables

QUICK: dict[str, dict[str, object]] = {
    "logistic_regression": {},
    "linear_regression": {},
    "hist_gradient_boosting": {"max_iter": 20},
    "random_forest": {"n_estimators": 8, "min_samples_leaf": 5},
    "mlp": {"max_epochs": 3, "hidden": [8], "batch_size": 256},
    "tests.train.own:extra_trees": {"n_estimators": 8},
}
EXACT = [
    ("binary", "logistic_regression"),
    ("multiclass", "logistic_regression"),
    ("regression", "linear_regression"),
    ("binary", "hist_gradient_boosting"),
    ("multiclass", "hist_gradient_boosting"),
    ("regression", "hist_gradient_boosting"),
    ("binary", "random_forest"),
    ("multiclass", "random_forest"),
    ("regression", "random_forest"),
    ("binary", "tests.train.own:extra_trees"),
]
SAMPLED = [("binary", "mlp"), ("regression", "mlp"), ("multiclass", "mlp")]
Trained = Callable[[str, str], ModelPackage]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("explained")
    made: dict[tuple[str, str], ModelPackage] = {}

    def train(task: str, algorithm: str) -> ModelPackage:
        if (task, algorithm) not in made:
            files = write_tables(root / task, task, rows=800)
            folder = root / f"{task}-{len(made)}"
            chosen = {"algorithm": algorithm, "hyperparameters": QUICK[algorithm]}
            made[task, algorithm] = train_model(files["train"], files["validation"], folder, **chosen).package  # type: ignore[arg-type]
        return made[task, algorithm]

    return train


def rows_of(package: ModelPackage, count: int) -> dict[str, np.ndarray]:
    """Rows of the examples and of the background, one with what training never saw."""
    rows = [*package.examples["inputs"]]
    rows += [
        dict(zip(package.background(), row, strict=True)) for row in zip(*package.background().values(), strict=True)
    ]
    rows[1] = {**rows[1], "carrier": "never seen", "hour": None, "weather__wind": 4.0}
    return arranged(package, rows[:count])


def arranged(package: ModelPackage, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    return graph_inputs(package.signature, {name: np.array([row[name] for row in rows], object) for name in rows[0]})


def shapley(explainer: PackageExplainer, inputs: dict[str, np.ndarray], space: Space) -> np.ndarray:
    """By definition: the mean over all subsets of features, each valued by the background, [N, F, k]."""
    sampler, features = explainer._sampler, len(explainer.signature.inputs)
    places, background = sampler._places, sampler._background

    def value(row: int, subset: tuple[int, ...]) -> np.ndarray:
        mixed = {name: part.copy() for name, part in background.items()}
        for feature in subset:
            part, column = places[feature]
            mixed[part][:, column] = inputs[part][row, column]
        return scores_in(space, explainer._scorer.score_inputs(mixed)).mean(axis=0)

    found = []
    for row in range(len(next(iter(inputs.values())))):
        worth = {s: value(row, s) for size in range(features + 1) for s in combinations(range(features), size)}
        contributions = np.zeros((features, len(worth[()])))
        for subset, worth_of_it in worth.items():
            for feature in set(range(features)) - set(subset):
                size = len(subset)
                weight = math.factorial(size) * math.factorial(features - size - 1) / math.factorial(features)
                contributions[feature] += weight * (worth[tuple(sorted({*subset, feature}))] - worth_of_it)
        found.append(contributions)
    return np.array(found)


@pytest.mark.parametrize(("task", "algorithm"), EXACT)
def test_exact_explanations_are_shapley_values_of_the_served_score(trained: Trained, task: str, algorithm: str) -> None:
    package = trained(task, algorithm)
    explainer, inputs = PackageExplainer(package), rows_of(package, 3)
    found = explainer.explain(inputs, 60)
    assert (found.error, found.samples, found.note) == (None, 0, "")
    assert found.space == ("value" if task == "regression" else found.space)
    served = explainer._scorer.score_inputs(inputs)
    scale = max(1.0, float(np.abs(served).max()))
    np.testing.assert_allclose(found.base + found.contributions.sum(axis=1), found.scores, atol=1e-9 * scale)
    np.testing.assert_allclose(
        served_from(found.space, found.scores), served[:, -found.scores.shape[1] :], atol=1e-4 * scale
    )
    by_definition = shapley(explainer, inputs, found.space)
    np.testing.assert_allclose(found.contributions, by_definition, atol=2e-4 * scale)


@pytest.mark.parametrize(("task", "algorithm"), [*EXACT[3:], *SAMPLED])
def test_sampled_explanations_add_up_and_are_as_wrong_as_they_say(trained: Trained, task: str, algorithm: str) -> None:
    package = trained(task, algorithm)
    explainer, inputs = PackageExplainer(package), rows_of(package, 6)
    found = explainer._sampler.explain(inputs, time.perf_counter() + 60)
    assert found.error is not None and found.samples >= 200
    np.testing.assert_allclose(found.base + found.contributions.sum(axis=1), found.scores, atol=1e-9 * 100)
    served = scores_in(found.space, explainer._scorer.score_inputs(inputs))
    np.testing.assert_allclose(found.scores, served, rtol=1e-6, atol=1e-6)
    rounding = 1e-4 * max(1.0, float(np.abs(served).max()))
    distance = np.abs(found.contributions - shapley(explainer, inputs, found.space))
    assert (distance <= 6 * found.error + rounding).all()
    clear = found.error > 10 * rounding
    if clear.any():
        assert np.sqrt((np.square(distance / np.maximum(found.error, 1e-12))[clear]).mean()) < 2


def test_more_rounds_are_less_wrong(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    package = trained("binary", "random_forest")
    explainer, inputs = PackageExplainer(package), rows_of(package, 4)
    exact = explainer.explain(inputs, 60).contributions
    monkeypatch.setattr("fti.serve.explain.sampled._PRECISION", 0.0)
    wrong = []
    for rounds in (1, 16):
        monkeypatch.setattr("fti.serve.explain.sampled._ROUNDS", rounds)
        found = explainer._sampler.explain(inputs, time.perf_counter() + 60)
        assert found.samples == rounds * 200
        wrong.append((float(np.abs(found.contributions - exact).mean()), float(found.error.mean())))  # type: ignore[union-attr]
    assert wrong[1][0] < wrong[0][0] / 2
    assert wrong[1][1] < wrong[0][1] / 2


def test_linear_models_are_explained_as_shap_does(trained: Trained) -> None:
    import shap

    package = trained("binary", "logistic_regression")
    explainer, inputs = PackageExplainer(package), rows_of(package, 5)
    native = load_native(package)
    assert native is not None
    encoded = [native.encoded(package.signature, rows) for rows in (inputs, explainer._sampler._background)]
    theirs = shap.LinearExplainer(native.model, shap.maskers.Independent(encoded[1], max_samples=1000)).shap_values(
        encoded[0]
    )
    ours = explainer.explain(inputs, 60).contributions[:, :, 0]
    for feature in range(len(package.signature.inputs)):
        np.testing.assert_allclose(ours[:, feature], theirs[:, native.owners == feature].sum(axis=1), atol=1e-6)
    assert len(native.owners) > len(package.signature.inputs)  # one-hot columns and marks of missing numbers


def test_text_and_missing_numbers_are_one_contribution_each(trained: Trained) -> None:
    package = trained("regression", "linear_regression")
    found = PackageExplainer(package).explain(rows_of(package, 2), 60)
    assert found.contributions.shape == (2, len(package.signature.inputs), 1)


NUMBER = st.floats(-10, 10, width=32)


@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), min_size=1, max_size=3))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_laws_of_a_known_model(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, ...]]) -> None:
    """x·y + 3z, and u that does nothing: half of the interaction each, the line in full, and nothing."""
    package = products.package(tmp_path_factory)
    explainer = PackageExplainer(package)
    values = np.array(rows, dtype=np.float32)
    found = explainer.explain({"numeric": values}, 60)
    background = explainer._sampler._background["numeric"].astype(np.float64)
    (x, y, z, _), (bx, by, bz, _) = values.astype(np.float64).T[:, :, None], background.T
    scale = 1e-4
    np.testing.assert_allclose(found.contributions[:, 0, 0], ((x - bx) * (y + by) / 2).mean(axis=1), atol=scale)
    np.testing.assert_allclose(found.contributions[:, 1, 0], ((y - by) * (x + bx) / 2).mean(axis=1), atol=scale)
    np.testing.assert_allclose(found.contributions[:, 2, 0], 3 * (z - bz).mean(axis=1), atol=scale)
    assert (found.contributions[:, 3] == 0).all()  # a dummy
    twins = values.copy()
    twins[:, 1] = twins[:, 0]
    found = explainer.explain({"numeric": twins}, 60)
    np.testing.assert_allclose(found.contributions[:, 0], found.contributions[:, 1], atol=scale)  # x and y are alike


@given(st.lists(st.floats(1e-5, 1), min_size=2, max_size=6))
def test_scores_go_to_a_space_and_back(parts: list[float]) -> None:
    served = np.array([parts], dtype=np.float64) / sum(parts)
    spaces: tuple[Space, ...] = ("log-odds", "probability")
    for space in spaces:
        there = scores_in(space, served)
        assert there.shape[1] == (1 if len(parts) == 2 else len(parts))
        np.testing.assert_allclose(served_from(space, there), served[:, -there.shape[1] :], rtol=1e-6, atol=1e-12)


def test_a_probability_of_0_or_1_has_finite_log_odds() -> None:
    assert np.isfinite(scores_in("log-odds", np.float32([[0, 1], [1, 0]]))).all()
    assert np.isfinite(scores_in("log-odds", np.float32([[0, 1, 0], [1, 0, 0]]))).all()


def test_without_shap_trees_are_sampled_and_say_so(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    package = trained("binary", "hist_gradient_boosting")
    inputs = rows_of(package, 3)
    exact = PackageExplainer(package).explain(inputs, 60)
    monkeypatch.setitem(__import__("sys").modules, "shap", None)
    found = PackageExplainer(package).explain(inputs, 60)
    assert found.error is not None and found.note == "shap is not installed (extra `explain`)"
    assert found.space == exact.space == "log-odds"
    assert (np.abs(found.contributions - exact.contributions) <= 6 * found.error + 1e-4).all()
    linear = PackageExplainer(trained("binary", "logistic_regression")).explain(inputs, 60)
    assert linear.error is None


def rewritten(package: ModelPackage, folder: Path, **native: bytes) -> ModelPackage:
    return write_package(
        folder,
        signature=package.signature,
        onnx=package.onnx.read_bytes(),
        native=native,
        examples=package.examples,
        provenance=package.provenance,
        card="",
        background=package.background(),
    )


def test_a_native_model_that_scores_otherwise_is_not_believed(trained: Trained, tmp_path: Path) -> None:
    package = trained("binary", "hist_gradient_boosting")
    other = (trained("binary", "random_forest").path / "model.skops").read_bytes()
    swapped = rewritten(package, tmp_path / "swapped", **{"model.skops": other})
    explainer, inputs = PackageExplainer(swapped), rows_of(package, 3)
    found = explainer.explain(inputs, 60)
    assert found.note == "the native model scores these rows otherwise than the served one"
    assert found.error is not None
    served = explainer._scorer.score_inputs(inputs)
    np.testing.assert_allclose(served_from(found.space, found.scores)[:, 0], served[:, 1], atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + b"\x00" * 18, b"no skops"])
def test_a_native_model_that_cannot_be_read_is_done_without(trained: Trained, tmp_path: Path, content: bytes) -> None:
    damaged = rewritten(trained("binary", "hist_gradient_boosting"), tmp_path / "p", **{"model.skops": content})
    assert load_native(damaged) is None
    found = PackageExplainer(damaged).explain(rows_of(damaged, 2), 60)
    assert (found.space, found.error is None) == ("probability", False)


def test_nothing_of_a_native_model_is_run_that_it_does_not_know(trained: Trained, tmp_path: Path) -> None:
    import skops.io
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    encoder = ColumnTransformer([("run", FunctionTransformer(products.never_run), [0])])
    model = Pipeline([("encoder", encoder), ("model", LogisticRegression())])
    foreign = rewritten(
        trained("binary", "hist_gradient_boosting"), tmp_path / "p", **{"model.skops": skops.io.dumps(model)}
    )
    assert load_native(foreign) is None


def test_a_package_without_background_has_no_explanations(trained: Trained, tmp_path: Path) -> None:
    package = trained("binary", "hist_gradient_boosting")
    fields: dict[str, Any] = {
        "native": {},
        "examples": {},
        "provenance": {},
        "card": "",
        "onnx": package.onnx.read_bytes(),
    }
    bare = write_package(tmp_path / "bare", signature=package.signature, **fields)
    with pytest.raises(PackageError, match=r"has no background\.json\. Train the model again"):
        PackageExplainer(bare)
    odd = write_package(tmp_path / "odd", signature=package.signature, **fields, background={"x": [1]})
    with pytest.raises(PackageError, match="other columns than the signature"):
        PackageExplainer(odd)


def test_too_little_time_is_refused_before_it_is_spent(trained: Trained) -> None:
    for task, algorithm in (("binary", "hist_gradient_boosting"), ("binary", "mlp")):
        package = trained(task, algorithm)
        explainer, inputs = PackageExplainer(package), rows_of(package, 90)
        start = time.perf_counter()
        with pytest.raises(OverBudgetError, match=r"at least about \d+ ms a row, and 90 rows were asked for in 1 ms"):
            explainer.explain(inputs, 0.001)
        assert time.perf_counter() - start < 1


def test_less_time_means_fewer_samples_and_a_larger_error(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    package = trained("multiclass", "mlp")
    explainer, inputs = PackageExplainer(package), rows_of(package, 2)
    monkeypatch.setattr("fti.serve.explain.sampled._PRECISION", 0.0)
    sampler = explainer._sampler
    much = sampler.explain(inputs, time.perf_counter() + 60)
    rounds = iter(range(1000))
    inner = sampler._round
    monkeypatch.setattr(sampler, "_round", lambda *arguments: next(rounds) < 5 and inner(*arguments))
    little = sampler.explain(inputs, time.perf_counter() + 60)
    assert (little.samples, much.samples) == (2 * 200, 32 * 200)
    assert little.error is not None and much.error is not None
    assert little.error.mean() > 2 * much.error.mean()
    np.testing.assert_allclose(little.base + little.contributions.sum(axis=1), little.scores, atol=1e-9)


def test_one_feature_contributes_everything(tmp_path: Path) -> None:
    from tests.serve import tiny

    fields: dict[str, Any] = {"native": {}, "provenance": {}, "card": "", "onnx": tiny.double_graph()}
    signature = Signature(name="one", task="regression", inputs=(Feature("x", "float32"),), label="y")
    package = write_package(
        tmp_path / "one",
        signature=signature,
        examples={"inputs": [{"x": 1.0}], "outputs": [2.0]},
        background={"x": [1.0, 3.0]},
        **fields,
    )
    found = PackageExplainer(load_package(package.path)).explain({"numeric": np.float32([[5.0]])}, 10)
    assert (found.base.tolist(), found.contributions.tolist()) == ([4.0], [[[6.0]]])
