"""A shop whose model can be served: a real Feast repository, a test table made by retrieve, and models by hand."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fti.common.model_package import ModelPackage, Signature, write_package
from fti.common.settings import Settings
from fti.common.tables import Feature
from fti.infra_validate.limits import Limits
from fti.infra_validate.logic import Trial, infra_validate
from tests.featurize.shop import write_shop

START = datetime(2024, 1, 1, tzinfo=UTC)
CUSTOMERS = 9
INPUTS = (
    Feature("basket", "float32"),
    Feature("spending__total", "float32", "spending:total"),
    Feature("spending__orders", "int64", "spending:orders"),
)
LINEAR = "z = MatMul (filled, weights)"
# Heavy: a product of two matrices of 900 x 900, and one that holds 500 MB.
SLOW = """side = Constant <value = int64[2] {900, 900}> () first = ReduceSum <keepdims=0> (linear)
    wide = Expand (first, side) product = MatMul (wide, wide) mean = ReduceMean <keepdims=1> (product)
    none = Mul (mean, zero) z = Add (linear, none)"""
HUNGRY = """side = Constant <value = int64[2] {12500, 10000}> () first = ReduceSum <keepdims=0> (linear)
    wide = Expand (first, side) mean = ReduceMean <keepdims=1> (wide) none = Mul (mean, zero) z = Add (linear, none)"""
# A model that normalizes by its batch gives a row alone another answer.
BATCH = "mean = ReduceMean <keepdims=1> (linear) z = Sub (linear, mean)"


def graph(body: str) -> bytes:
    """A binary model: sigmoid of weights · numbers, missing ones as 0, changed by some nodes from `linear` to `z`."""
    import onnx.parser

    nodes = body if body == LINEAR else f"linear = MatMul (filled, weights) {body}"
    model: bytes = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 17]>
        shop (float[N, 3] numeric) => (float[N, 2] probability) {{
            zero = Constant <value = float {{0.0}}> ()
            one = Constant <value = float {{1.0}}> ()
            weights = Constant <value = float[3, 1] {{0.02, -0.01, 0.3}}> ()
            missing = IsNaN (numeric)
            filled = Where (missing, zero, numeric)
            {nodes}
            p = Sigmoid (z)
            q = Sub (one, p)
            probability = Concat <axis = 1> (q, p)
        }}""").SerializeToString()
    return model


def write_model(
    path: Path, body: str = LINEAR, *, onnx: bytes = b"", probability: float | None = None, **changes: Any
) -> ModelPackage:
    """A package of such a model."""
    z = 0.02 * 20 - 0.01 * 50 + 0.3 * 2
    p = 1 / (1 + np.exp(-z)) if probability is None else probability
    fields: dict[str, Any] = {
        "name": "again",
        "task": "binary",
        "inputs": INPUTS,
        "classes": (False, True),
        "threshold": 0.5,
        "label": "again",
        "entity_keys": ("customer",),
        "feature_service": "shop_v1",
        **changes,
    }
    return write_package(
        path,
        signature=Signature(**fields),
        onnx=onnx or graph(body),
        native={"model.skops": b"none"},
        examples={
            "inputs": [{"basket": 20.0, "spending__total": 50.0, "spending__orders": 2}],
            "outputs": [[1 - float(p), float(p)]],
        },
        provenance={"algorithm": "by hand"},
        card="# A model\n",
    )


@dataclass(frozen=True)
class Shop:
    """A shop with a home of its own.

    Attributes:
        settings: Its home.
        folder: For more files.
        repo: The Feast repository.
        test: The test table that retrieve made.
    """

    settings: Settings
    folder: Path
    repo: Path
    test: Path

    def apply(self, **changes: str) -> None:
        """Registers the definitions, some words of them changed."""
        from fti.common.feature_store import open_store

        definitions = self.repo / "definitions.py"
        text = definitions.read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        definitions.write_text(text)
        from fti.featurize.definitions import apply, load_definitions

        store = open_store(str(self.repo), self.settings)
        apply(store, load_definitions(self.repo), self.repo)

    def tabulate(self, frame: pl.DataFrame) -> None:
        """Writes the feature table anew."""
        path = Path(self.settings.offline_uri) / "spending" / "part.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)

    def bless(self, package: ModelPackage, *, blessed: bool = True) -> Path:
        """What evaluate writes."""
        path = self.folder / "blessing.json"
        verdict = {"model_digest": package.digest, "blessed": blessed, "reasons": ["the AUC is 0.8"]}
        path.write_text(json.dumps(verdict))
        return path

    def validate(self, package: ModelPackage, **limits: float) -> Trial:
        """Tries the server."""
        return infra_validate(
            package.path,
            self.test,
            self.bless(package),
            feature_repo=str(self.repo) if package.signature.feature_service else "",
            settings=self.settings,
            limits=Limits(**limits),  # type: ignore[arg-type]
        )


def spending(factor: float = 1.0) -> pl.DataFrame:
    """What each customer had spent, day by day; every fifth total is missing."""
    days = range(30)
    return pl.DataFrame(
        [
            {
                "customer": customer,
                "event_timestamp": START + timedelta(days=day, hours=customer),
                "total": None if (customer + day) % 5 == 0 else factor * (10.5 * day + customer),
                "orders": day + customer,
            }
            for customer in range(CUSTOMERS)
            for day in days
            if day % (1 + customer % 4) == 0
        ],
        schema_overrides={"total": pl.Float32, "orders": pl.Int64},
    )


def asked() -> pl.DataFrame:
    """Questions at all ages of the last value: none yet, fresh, expired after two days; four exactly as old as that."""
    hours = [1, 5, 7, 20, 47, 48, 49, 60, 70]
    times = [(customer, START + timedelta(days=12, hours=customer)) for customer in range(CUSTOMERS)]
    rows = [(customer, time + timedelta(hours=hour)) for customer, time in times for hour in hours]
    rows += [(99, START + timedelta(days=20)), (0, START - timedelta(days=1)), (3, START + timedelta(days=200))]
    return pl.DataFrame(
        {
            "customer": [customer for customer, _ in rows],
            "event_timestamp": [time for _, time in rows],
            "basket": [float(row % 50) for row in range(len(rows))],
            "again": [row % 2 == 0 for row in range(len(rows))],
        }
    )


def open_shop(settings: Settings, folder: Path) -> Shop:
    """A shop with its feature table, its registry, and a test table."""
    from fti.retrieve.logic import Outputs, retrieve
    from fti.retrieve.split import Split

    repo, _ = write_shop(folder)
    shop = Shop(settings, folder, repo, folder / "test.parquet")
    shop.tabulate(spending())
    shop.apply()
    early = pl.DataFrame(
        {
            "customer": [1, 2],
            "event_timestamp": [START - timedelta(days=days) for days in (9, 8)],
            "basket": [1.0, 2.0],
            "again": [True, False],
        }
    )
    pl.concat([early, asked()]).write_parquet(folder / "asked.parquet")
    retrieve(
        str(repo),
        "shop_v1",
        entities=str(folder / "asked.parquet"),
        label="again",
        request_features=["basket"],
        outputs=Outputs(
            folder / "train.parquet", folder / "validation.parquet", shop.test, folder / "rejected.parquet"
        ),
        split=Split("time", ["2023-12-23T12:00:00Z", "2023-12-24T12:00:00Z"]),
        settings=settings,
    )
    return shop
