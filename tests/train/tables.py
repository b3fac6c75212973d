"""Small training tables with missing values, rare categories and a real signal."""

from pathlib import Path

import numpy as np
import polars as pl

from fti.common.tables import Feature, TableSpec, write_table

FEATURES = (
    Feature("carrier", "string"),
    Feature("hour", "int64"),
    Feature("weekend", "bool"),
    Feature("weather__wind", "float32", "weather:wind"),
    Feature("weather__gust", "float32", "weather:gust"),
    Feature("plane__maker", "string", "plane:maker"),
)
SPEC = TableSpec("late", FEATURES, ("origin",), "event_timestamp", "flight_delay")


def frame_of(rows: int, seed: int, task: str = "binary") -> pl.DataFrame:
    """Rows whose label follows the features."""
    random = np.random.default_rng(seed)
    carrier, maker = random.integers(0, 6, rows), random.integers(0, 4, rows)
    hour, wind = random.integers(5, 24, rows), random.normal(size=rows).astype(np.float32)
    signal = 0.9 * wind + (carrier - 2.5) * 0.4 + 0.15 * (hour - 14) + random.normal(size=rows) * 0.8
    label = {
        "binary": signal > 0.3,
        "multiclass": np.array(["early", "on time", "very late"])[np.digitize(signal, [-1.0, 0.8])],
        "regression": 12 * signal + 40,
    }[task]
    wind[random.random(rows) < 0.1] = np.nan
    return pl.DataFrame(
        {
            "carrier": np.array(["AA", "B6", "DL", "EV", "UA", "WN"])[carrier],
            "hour": hour,
            "weekend": random.random(rows) < 0.3,
            "weather__wind": wind,
            "weather__gust": np.where(random.random(rows) < 0.7, np.nan, random.normal(size=rows)).astype(np.float32),
            "plane__maker": [("AIRBUS", "BOEING", "EMBRAER", None)[code] for code in maker],
            "late": label,
        }
    )


def write_tables(folder: Path, task: str = "binary", rows: int = 1500) -> dict[str, Path]:
    """Writes train, validation and test tables."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for seed, role in enumerate(("train", "validation", "test")):
        paths[role] = folder / f"{role}.parquet"
        write_table(frame_of(rows if role == "train" else rows // 2, seed, task), paths[role], SPEC)
    return paths
