"""The test rows that are replayed, as training saw them and as a caller would send them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fti.common.errors import ConfigError, RejectedDataError
from fti.common.model_package import Signature
from fti.common.scoring import columns_of
from fti.common.tables import read_spec
from fti.retrieve.times import utc

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

TIME = "event_timestamp"


@dataclass(frozen=True)
class Sample:
    """Rows of a test table.

    Attributes:
        frame: The rows [N]: inputs, and for entity keys these and the time, where the table has them.
        numbers: [N]: the number of each row in the test table, from 0.
        total: How many rows the test table has.
        time: The column with the time of prediction.
        signature: The model's.
    """

    frame: "pl.DataFrame"
    numbers: "np.ndarray"
    total: int
    time: str
    signature: Signature

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def columns(self) -> "dict[str, np.ndarray]":
        """The inputs as training saw them: float32 with NaN, or object with None, [N] each."""
        return columns_of(self.frame, [feature.name for feature in self.signature.inputs])

    @property
    def vectors(self) -> list[dict[str, Any]]:
        """Each row as a request with every input."""
        return self.requests([feature.name for feature in self.signature.inputs])

    def requests(self, names: list[str]) -> list[dict[str, Any]]:
        """Some columns of each row as JSON values; NaN, which JSON lacks, is null as anything missing."""
        import polars.selectors as cs

        return self.frame.select(names).with_columns(cs.float().fill_nan(None)).to_dicts()

    def rows(self, chosen: Sequence[int]) -> str:
        """Names some rows by their numbers in the test table."""
        numbers = [str(self.numbers[row]) for row in chosen[:3]]
        more = "" if len(chosen) <= 3 else ", …"
        return f"row{'s' if len(chosen) > 1 else ''} {', '.join(numbers)}{more}"


def draw(test: str | Path, signature: Signature, *, keyed: bool, size: int, seed: int) -> Sample:
    """Draws rows from the test table, without replacement, in the order of the table.

    Args:
        test: A Parquet file with the inputs, and for entity keys these and the time of prediction.
        signature: The model's.
        keyed: Whether entity keys will be sent.
        size: How many rows; all, where there are fewer.
        seed: Equal seeds draw equal rows.

    Raises:
        SourceError: The file is no Parquet file.
        ConfigError: A column is absent, or of a type that the model does not take.
        RejectedDataError: There is no row.
    """
    import numpy as np
    import polars as pl

    spec = read_spec(test)
    time = (spec.event_timestamp if spec else "") or TIME
    dtypes = {"float32": pl.Float32(), "int64": pl.Int64(), "bool": pl.Boolean(), "string": pl.String()}
    table = pl.scan_parquet(test)
    names = table.collect_schema().names()
    inputs = [feature.name for feature in signature.inputs]
    needed = list(dict.fromkeys([*inputs, *([*signature.entity_keys, time] if keyed else [])]))
    if absent := [name for name in needed if name not in names]:
        raise ConfigError(f"the test table lacks {', '.join(absent)}", allowed="an output of retrieve for this model")
    total = int(table.select(pl.len()).collect().item())
    if not total:
        raise RejectedDataError("the test table has no row", remedy="Pass held-out rows")
    numbers = np.sort(np.random.default_rng(seed).choice(total, min(int(size), total), replace=False))
    chosen = table.select(needed).with_row_index("__row").filter(pl.col("__row").is_in(numbers))
    try:
        types = [pl.col(each.name).cast(dtypes[each.dtype]) for each in signature.inputs]
        moment = [utc(pl.col(time), table.collect_schema()[time])] if keyed else []
        frame = chosen.drop("__row").with_columns(*types, *moment).collect()
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"the test table does not suit the model: {error}", allowed="its inputs' types") from error
    if keyed and frame[time].null_count():
        raise ConfigError(f"{frame[time].null_count()} test rows have no {time}", allowed="a time in each row")
    return Sample(frame, numbers, total, time, signature)
