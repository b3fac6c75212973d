"""Training: every algorithm on every task, one digest per data and parameters, clear refusals."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fti.common.errors import TrainingError
from fti.common.model_package import load_package
from fti.common.scoring import Scorer, columns_of, graph_inputs
from fti.common.tables import write_table
from fti.train.logic import train_model
from tests.train.tables import FEATURES, SPEC, frame_of, write_tables

QUICK = {
    "logistic_regression": {},
    "linear_regression": {},
    "hist_gradient_boosting": {"max_iter": 30.0},
    "random_forest": {"n_estimators": 10.0, "min_samples_leaf": 5.0},
    "mlp": {"max_epochs": 15.0, "hidden": [16.0, 8.0], "batch_size": 128.0, "learning_rate": 0.01},
}
CASES = [
    (task, algorithm)
    for task in ("binary", "multiclass", "regression")
    for algorithm in QUICK
    if algorithm != ("linear_regression" if task != "regression" else "logistic_regression")
]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    root = tmp_path_factory.mktemp("tables")
    return {task: write_tables(root / task, task) for task in ("binary", "multiclass", "regression")}


@pytest.fixture(scope="module")
def trained(tables, tmp_path_factory):
    root, done = tmp_path_factory.mktemp("packages"), {}

    def train(task, algorithm):
        if (task, algorithm) not in done:
            files = tables[task]
            path = root / f"{task}-{algorithm}"
            done[task, algorithm] = train_model(
                files["train"], files["validation"], path, algorithm=algorithm, hyperparameters=QUICK[algorithm]
            )
        return done[task, algorithm]

    return train


def native_scores(package, feed):
    """What the native model in a package answers, loaded without any pickle."""
    from fti.common.scoring import as_frame

    signature = package.signature
    if (package.path / "model.skops").exists():
        import skops.io

        file = package.path / "model.skops"
        model = skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))
        rows = as_frame(signature, feed)
        return model.predict(rows) if signature.task == "regression" else model.predict_proba(rows)
    import torch
    from safetensors.torch import load_file

    from fti.train.torch_mlp import build, mlp_inputs

    shape = json.loads((package.path / "model.json").read_text())
    network = build(shape).eval()
    network.load_state_dict(load_file(package.path / "model.safetensors"))
    with torch.no_grad():
        output = network(*mlp_inputs(feed, shape, torch.device("cpu")))
    if signature.task == "regression":
        return (output[:, 0] * shape["target_std"] + shape["target_mean"]).numpy()
    return torch.softmax(output, dim=1).numpy()


@pytest.mark.parametrize(("task", "algorithm"), CASES)
def test_every_algorithm_learns_and_is_packaged(trained, tables, task, algorithm):
    training = trained(task, algorithm)
    package = load_package(training.package.path)
    assert package.digest == training.package.digest
    assert package.signature.task == task
    assert package.signature.inputs == FEATURES
    assert (package.signature.threshold is not None) == (task == "binary")
    better = {"binary": ("roc_auc", 0.75), "multiclass": ("accuracy", 0.5), "regression": ("r2", 0.4)}[task]
    assert training.metrics[better[0]] > better[1], training.metrics
    assert package.provenance["data"]["train"]["rows"] == 1500
    assert f"# {package.signature.name}" in (package.path / "card.md").read_text()
    scorer = Scorer(package)
    columns = {
        name: np.array([row[name] for row in package.examples["inputs"]], object)
        for name in package.examples["inputs"][0]
    }
    np.testing.assert_allclose(scorer.score(columns), package.examples["outputs"], rtol=1e-5, atol=2e-6)


ROW = st.fixed_dictionaries(
    {
        "carrier": st.one_of(
            st.none(), st.sampled_from(["AA", "B6", "", "never seen", "ÄÖ\u00df", "aa"]), st.text(max_size=5)
        ),
        "hour": st.one_of(st.none(), st.integers(-(2**40), 2**40), st.integers(0, 24)),
        "weekend": st.one_of(st.none(), st.booleans()),
        "weather__wind": st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)),
        "weather__gust": st.one_of(st.just(float("nan")), st.floats(-3, 3, width=32)),
        "plane__maker": st.one_of(st.none(), st.sampled_from(["AIRBUS", "BOEING", "?"])),
    }
)


@pytest.mark.parametrize(("task", "algorithm"), CASES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=20))
def test_the_graph_answers_as_the_native_model_whatever_the_row(trained, task, algorithm, rows):
    package = trained(task, algorithm).package
    columns = {name: np.array([row[name] for row in rows], dtype=object) for name in rows[0]}
    scores = Scorer(package, threads=1).score(columns)
    native = native_scores(package, graph_inputs(package.signature, columns))
    assert scores.dtype == np.float32
    assert len(scores) == len(rows)
    scale = 1.0 if task != "regression" else max(1.0, float(np.abs(native).max()))
    np.testing.assert_allclose(scores / scale, native / scale, atol=1e-4)


SCRIPT = """
import sys
from fti.train.logic import train_model
train, validation, folder, *algorithms = sys.argv[1:]
quick = {"random_forest": {"n_estimators": 5}, "mlp": {"max_epochs": 2}, "hist_gradient_boosting": {"max_iter": 10}}
for name in algorithms:
    made = train_model(train, validation, f"{folder}/{name}", algorithm=name, hyperparameters=quick.get(name), seed=7)
    print(made.package.digest)
"""


@pytest.mark.slow
def test_the_same_data_parameters_and_seed_give_the_same_digest_in_any_process(tables, tmp_path):
    files = tables["binary"]
    digests = []
    for hash_seed, threads in (("1", "1"), ("77", "2")):
        folder = tmp_path / f"at {hash_seed}"
        algorithms = [name for name in QUICK if name != "linear_regression"]
        environ = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, files["train"], files["validation"], folder, *algorithms],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.append(run.stdout.split())
    assert len(digests[0]) == 4
    assert digests[0] == digests[1]


def test_another_seed_gives_another_digest(tables, tmp_path):
    files = tables["binary"]
    digests = {
        train_model(
            files["train"],
            files["validation"],
            tmp_path / str(seed),
            algorithm="random_forest",
            hyperparameters={"n_estimators": 3},
            seed=seed,
        ).package.digest
        for seed in (0, 1)
    }
    assert len(digests) == 2


def test_nothing_that_trusts_a_pickle_is_inside(trained):
    import zipfile

    for algorithm in ("hist_gradient_boosting", "mlp"):
        for file in trained("binary", algorithm).package.path.iterdir():
            assert file.suffix in {".onnx", ".skops", ".safetensors", ".json", ".md"}
            if file.suffix == ".skops":
                archive = zipfile.ZipFile(io.BytesIO(file.read_bytes()))
                assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ([], [feature.name for feature in FEATURES]),
        (["request"], ["carrier", "hour", "weekend"]),
        (["weather__wind", "hour"], ["weather__wind", "hour"]),
        (["carrier"], ["carrier"]),
    ],
)
def test_features_are_chosen_by_name_or_source(tables, tmp_path, features, expected):
    files = tables["binary"]
    made = train_model(
        files["train"], files["validation"], tmp_path / "m", algorithm="logistic_regression", features=features
    )
    assert [feature.name for feature in made.package.signature.inputs] == expected


def test_a_table_without_a_description_needs_only_the_label(tmp_path):
    for role in ("train", "validation"):
        frame_of(600, 1, "regression").write_parquet(tmp_path / f"{role}.parquet")
    files = [tmp_path / "train.parquet", tmp_path / "validation.parquet"]
    made = train_model(*files, tmp_path / "m", algorithm="linear_regression", label="late")
    assert made.package.signature.task == "regression"
    with pytest.raises(TrainingError, match="names no label"):
        train_model(*files, tmp_path / "n", algorithm="linear_regression")


def test_an_estimator_of_the_users_own(tables, tmp_path):
    files = tables["binary"]
    made = train_model(
        files["train"],
        files["validation"],
        tmp_path / "m",
        algorithm="tests.train.own:extra_trees",
        hyperparameters={"n_estimators": 20.0, "min_samples_leaf": 5.0},
    )
    assert made.metrics["roc_auc"] > 0.75
    assert made.package.provenance["notes"]["source"]


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("gradient_bosting", r"unknown algorithm.*Allowed: logistic_regression, .*module:function"),
        ("randomforest", r"did you mean random_forest\?"),
        ("nowhere.at_all:make", "module 'nowhere.at_all' cannot be imported"),
        ("tests.train.own:nothing", "has no function 'nothing'"),
        ("tests.train.own:NUMBER", "is int.*Allowed: a function"),
        ("tests.train.own:no_estimator", "has no predict.*Allowed"),
        ("tests.train.own:unexportable", "cannot be exported to ONNX"),
        ("tests.train.own:failing", "out of luck"),
        ("linear_regression", "cannot learn the binary task.*Allowed: logistic_regression"),
    ],
)
def test_algorithms_that_cannot_train_are_refused(tables, tmp_path, algorithm, message):
    files = tables["binary"]
    with pytest.raises(TrainingError, match=message):
        train_model(files["train"], files["validation"], tmp_path / "m", algorithm=algorithm)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("algorithm", "hyperparameters", "message"),
    [
        (
            "hist_gradient_boosting",
            {"max_iters": 5},
            r"did you mean max_iter\?.*Allowed: learning_rate \(float, default",
        ),
        ("hist_gradient_boosting", {"max_iter": 5.5}, "max_iter of hist_gradient_boosting is 5.5"),
        ("hist_gradient_boosting", {"max_iter": "many"}, "is 'many'"),
        ("hist_gradient_boosting", {"max_leaf_nodes": 1}, "cannot be fitted"),
        ("logistic_regression", {"C": -1}, "C of logistic_regression is -1"),
        ("mlp", {"hidden": 5}, "hidden of mlp is 5"),
        ("mlp", {"hidden": [0]}, "mlp cannot be built"),
        ("mlp", {"learning_rate": 1e30}, "not finite|differs"),
    ],
)
def test_hyperparameters_that_cannot_be_are_refused(tables, tmp_path, algorithm, hyperparameters, message):
    files = tables["binary"]
    with pytest.raises(TrainingError, match=message):
        train_model(
            files["train"], files["validation"], tmp_path / "m", algorithm=algorithm, hyperparameters=hyperparameters
        )


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda f: f.head(0), {}, "the training table has no rows"),
        (lambda f: f.with_columns(late=pl.lit(True)), {}, "label late is True in every training row"),
        (
            lambda f: f.with_columns(late=pl.when(pl.col("hour") > 20).then(None).otherwise("late")),
            {},
            "no finite label late",
        ),
        (lambda f: f.with_columns(late=pl.lit(float("nan"))), {}, "no finite label late"),
        (lambda f: f.drop("hour"), {}, "lacks hour"),
        (lambda f: f.with_columns(weather__wind=pl.lit(float("inf"))), {}, "weather__wind is infinite"),
        (
            lambda f: f.with_columns(hour=pl.lit("noon")),
            {},
            "feature hour is int64, but the training table holds String",
        ),
        (lambda f: f, {"features": ["hours"]}, r"no feature 'hours' \(did you mean hour\?\)"),
        (lambda f: f, {"label": "delay"}, "no label column 'delay'"),
        (lambda f: f, {"task": "multi"}, r"unknown task 'multi' \(did you mean multiclass\?\)"),
        (lambda f: f, {"task": "regression"}, "which cannot be a value"),
        (lambda f: f.with_columns(late=pl.col("hour")), {"task": "binary"}, "has 19 values"),
    ],
)
def test_data_that_cannot_train_a_model_are_refused(tables, tmp_path, change, options, message):
    write_table(change(frame_of(300, 0)), tmp_path / "train.parquet", SPEC)
    with pytest.raises(TrainingError, match=message):
        train_model(
            tmp_path / "train.parquet",
            tables["binary"]["validation"],
            tmp_path / "m",
            algorithm="logistic_regression",
            **options,
        )
    assert not (tmp_path / "m").exists()


def test_a_validation_label_that_training_lacks_is_refused(tables, tmp_path):
    write_table(frame_of(300, 0, "multiclass").filter(pl.col("late") != "early"), tmp_path / "train.parquet", SPEC)
    with pytest.raises(TrainingError, match="validation table has labels that training lacks: 'early'"):
        train_model(
            tmp_path / "train.parquet",
            tables["multiclass"]["validation"],
            tmp_path / "m",
            algorithm="logistic_regression",
        )


def test_columns_that_are_all_missing_or_constant_do_no_harm(tmp_path):
    for role in ("train", "validation"):
        frame = frame_of(400, 1).with_columns(
            weather__gust=pl.lit(None, dtype=pl.Float32), plane__maker=pl.lit(None, dtype=pl.String), hour=pl.lit(7)
        )
        write_table(frame, tmp_path / f"{role}.parquet", SPEC)
    for algorithm in ("logistic_regression", "hist_gradient_boosting", "random_forest", "mlp"):
        made = train_model(
            tmp_path / "train.parquet",
            tmp_path / "validation.parquet",
            tmp_path / algorithm,
            algorithm=algorithm,
            hyperparameters=QUICK[algorithm],
        )
        scores = Scorer(made.package).score(columns_of(frame, [feature.name for feature in FEATURES]))
        assert np.isfinite(scores).all()


def test_a_full_disk_leaves_nothing(tables, tmp_path, monkeypatch):
    import errno

    from fti.common.errors import StorageError

    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="No space left"):
        train_model(
            tables["binary"]["train"], tables["binary"]["validation"], tmp_path / "m", algorithm="logistic_regression"
        )
    assert list(tmp_path.iterdir()) == []


QUICK_TORCH = {"max_epochs": 5.0, "learning_rate": 0.01, "batch_size": 128.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "module", "server", "times"),
    [
        ("binary", "additive", "onnxruntime", 2),
        ("regression", "additive", "onnxruntime", 1),
        ("multiclass", "spectral", "torch", 1),
        ("regression", "spectral", "torch", 2),
    ],
)
def test_a_torch_module_of_the_users_own(tables, tmp_path, task, module, server, times):
    files = tables[task]
    made = [
        train_model(
            files["train"],
            files["validation"],
            tmp_path / str(number),
            algorithm=f"tests.train.own_torch:{module}",
            hyperparameters=QUICK_TORCH,
        )
        for number in range(times)
    ]
    package = made[0].package
    assert package.digest == made[-1].package.digest
    assert package.provenance["notes"]["served_by"] == server
    assert package.provenance["hyperparameters"]["batch_size"] == 128
    assert package.onnx.exists() == (server == "onnxruntime")
    assert {file.suffix for file in package.path.iterdir()} <= {".onnx", ".safetensors", ".json", ".md"}
    better = {"binary": ("roc_auc", 0.85), "multiclass": ("accuracy", 0.6), "regression": ("r2", 0.6)}[task]
    assert made[0].metrics[better[0]] > better[1], made[0].metrics
    inputs = package.examples["inputs"]
    columns = {name: np.array([row[name] for row in inputs], object) for name in inputs[0]}
    together = Scorer(package, threads=1).score(columns)
    np.testing.assert_allclose(together, package.examples["outputs"], rtol=1e-5, atol=2e-6)
    alone = [
        Scorer(package, threads=1).score({name: values[row : row + 1] for name, values in columns.items()})[0]
        for row in range(len(inputs))
    ]
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("dice", r"needs aten.rand_like.default, which a program may not name"),
        ("branching", r"Branching exports neither to ONNX nor to torch.export: .*Allowed: .*without branches"),
        ("narrow", r"Narrow cannot be fitted: mat1 and mat2"),
    ],
)
def test_torch_modules_that_cannot_be_served_are_refused(tables, tmp_path, module, message):
    files = tables["binary"]
    with pytest.raises(TrainingError, match=message):
        train_model(
            files["train"],
            files["validation"],
            tmp_path / "m",
            algorithm=f"tests.train.own_torch:{module}",
            hyperparameters={"max_epochs": 1},
        )
    assert not (tmp_path / "m").exists()


def test_the_background_is_spread_over_the_training_rows(trained, tables):
    package = trained("binary", "hist_gradient_boosting").package
    rows = package.background()
    frame = pl.read_parquet(tables["binary"]["train"])
    wind = frame["weather__wind"].cast(pl.Float32).to_list()
    places = [wind.index(value) for value in rows["weather__wind"] if value is not None]
    assert len(rows["hour"]) == 100
    assert places == sorted(places)
    gaps = np.diff([0, *places, len(wind)])
    assert gaps.max() <= 6 * len(wind) / 100  # with a tenth of the winds missing
    assert all(type(value) in {bool, type(None)} for value in rows["weekend"])
    assert all(type(value) in {int, type(None)} for value in rows["hour"])


def test_the_background_of_a_small_table_is_all_of_it(tmp_path):
    from fti.train.data import read_training_data
    from fti.train.logic import _background

    write_tables(tmp_path, rows=40)
    data = read_training_data(
        tmp_path / "train.parquet", tmp_path / "validation.parquet", features=(), label="", task="auto", name="m"
    )
    rows = _background(data.signature, data.train)
    hours = data.train.feed["numeric"][:, 0].tolist()
    assert 30 <= len(rows["hour"]) <= 40
    assert set(rows["hour"]) <= set(hours)
