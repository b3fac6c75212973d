"""Validation: which rows go where, with which reasons, and when the pipeline stops."""

import math
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fti.common.errors import ContractError, RejectedDataError, SourceError
from fti.validate.logic import validate
from fti.validate.verdict import Verdict


class Judged:
    """A table held against a contract, and what came of it."""

    def __init__(self, folder: Path, frame: pl.DataFrame, contract: str, now: str = "2013-01-03") -> None:
        self.folder, self.now = folder, datetime.fromisoformat(now).replace(tzinfo=UTC)
        frame.write_parquet(folder / "raw")
        (folder / "c.yaml").write_text(contract)

    def run(self) -> Verdict:
        paths = [str(self.folder / name) for name in ("raw", "c.yaml", "valid", "rejected", "report")]
        return validate(*paths, table="things", now=self.now)  # type: ignore[misc]

    @property
    def valid(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "valid")

    @property
    def rejected(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "rejected")

    @property
    def report(self) -> str:
        return (self.folder / "report").read_text()


def reasons(tmp_path: Path, values: list[Any], column: str, dtype: Any = None, extra: str = "") -> list[list[str]]:
    """The reasons of each row of a table of one column `a`."""
    frame = pl.DataFrame({"a": pl.Series(values, dtype=dtype), "i": range(len(values))})
    contract = f"columns: {{a: {{{column}}}, i: {{type: int64}}}}\nmax_reject_share: 1\n{extra}"
    judged = Judged(tmp_path, frame, contract)
    judged.run()
    found = {row["i"]: row["reasons"] for row in judged.rejected.to_dicts()}
    return [found.get(index, []) for index in range(len(values))]


@pytest.mark.parametrize(
    ("values", "column", "expected"),
    [
        ([1, None], "type: int64", [[], ["a is missing"]]),
        ([1, None], "type: int64, nullable: true", [[], []]),
        (["1", "x", "1.5"], "type: int64", [[], ["a is no int64"], ["a is no int64"]]),
        ([1.0, 1.5, math.nan], "type: int64", [[], ["a is no int64"], ["a is no int64"]]),
        (["1.5", "one"], "type: float64", [[], ["a is no float64"]]),
        ([datetime(2013, 1, 1), datetime(2013, 1, 1, 9)], "type: date", [[], ["a is no date"]]),
        ([2**53, 2**53 + 1], "type: float64", [[], ["a is no float64"]]),
        (["true", "maybe"], "type: bool", [[], ["a is no bool"]]),
        (["2013-01-02T03:04:05Z", "soon"], "type: timestamp", [[], ["a is no timestamp"]]),
        (["2013-01-02", "2013-02-30"], "type: date", [[], ["a is no date"]]),
        ([1, 2, 3], "type: int64, min: 2", [["a is below 2"], [], []]),
        ([1, 2, 3], "type: int64, max: 2", [[], [], ["a is above 2"]]),
        ([1.0, math.inf, 3.0], "type: float64, max: 2", [[], ["a is not a finite number"], ["a is above 2"]]),
        (["A", "B", None], "type: string, nullable: true, allowed: [A]", [[], ["a is none of A"], []]),
        (["N12", "XN12"], "type: string, pattern: 'N[0-9]+'", [[], ["a does not match N[0-9]+"]]),
        (["it's", "its"], 'type: string, allowed: ["it\'s"]', [[], ["a is none of it's"]]),
        ([5, 5, 6], "type: int64, unique: true", [[], ["a repeats an earlier row"], []]),
        ([None, None], "type: int64, unique: true, nullable: true", [[], []]),
    ],
)
def test_each_rule_rejects_what_breaks_it(tmp_path: Path, values: list[Any], column: str, expected: Any) -> None:
    assert reasons(tmp_path, values, column) == expected


def test_bounds_on_times_and_dates(tmp_path: Path) -> None:
    times = [datetime(2013, 1, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC)]
    assert reasons(tmp_path, times, "type: timestamp, max: 2013-06-01T00:00:00Z")[1] != []
    assert reasons(tmp_path, [date(2013, 1, 1), date(2014, 1, 1)], "type: date, max: 2013-06-01")[0] == []


def test_a_check_is_any_sql_over_the_columns_and_null_keeps_it(tmp_path: Path) -> None:
    checks = "checks: [{name: odd, sql: a % 2 = 1, message: is even}]"
    found = reasons(tmp_path, [1, 2, None], "type: int64, nullable: true", extra=checks)
    assert found == [[], ["is even"], []]


def test_a_row_carries_every_reason(tmp_path: Path) -> None:
    found = reasons(tmp_path, [9, 1], "type: int64, max: 8, allowed: [1]")
    assert found == [["a is above 8", "a is none of 1"], []]


def test_only_valid_rows_are_compared_with_each_other(tmp_path: Path) -> None:
    frame = pl.DataFrame({"key": [1, 1, 1], "value": [-5, 5, 6]})
    contract = "columns: {key: {type: int64, unique: true}, value: {type: int64, min: 0}}\nmax_reject_share: 1"
    judged = Judged(tmp_path, frame, contract)
    judged.run()
    assert judged.valid.to_dicts() == [{"key": 1, "value": 5}]


def test_valid_rows_take_the_types_of_the_contract_and_keep_their_order(tmp_path: Path) -> None:
    frame = pl.DataFrame({"n": ["3", "x", "1"], "t": ["2013-01-01", "2013-01-02", "2013-01-03"], "more": [1, 2, 3]})
    judged = Judged(
        tmp_path,
        frame,
        "columns: {n: {type: int64}, t: {type: timestamp}}\nunique: [[n]]\nmax_reject_share: 0.5\nundeclared: drop",
    )
    judged.run().require_accepted()
    assert judged.valid.to_dicts() == [
        {"n": 3, "t": datetime(2013, 1, 1, tzinfo=UTC)},
        {"n": 1, "t": datetime(2013, 1, 3, tzinfo=UTC)},
    ]
    assert judged.rejected.to_dicts() == [{"n": "x", "t": "2013-01-02", "more": 2, "reasons": ["n is no int64"]}]


def test_undeclared_columns_can_be_kept_or_refused(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1], "more": ["x"]})
    kept = Judged(tmp_path, frame, "columns: {a: {type: int64}}\nundeclared: keep")
    kept.run()
    assert kept.valid.to_dicts() == [{"a": 1, "more": "x"}]
    with pytest.raises(ContractError, match="undeclared columns: more"):
        Judged(tmp_path, frame, "columns: {a: {type: int64}}").run()


def test_beyond_tolerance_the_worst_rules_are_named_and_the_evidence_is_kept(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, 2, 3, 4], "b": ["x", None, None, None]})
    contract = "columns: {a: {type: int64, max: 3}, b: {type: string}}\nmax_reject_share: 0.1"
    judged = Judged(tmp_path, frame, contract)
    verdict = judged.run()
    told = r"things .*3 of 4 rows rejected \(75\.000%\), 10\.000% tolerated.*: b\.missing \(3\), a\.max \(1\)"
    with pytest.raises(RejectedDataError, match=told):
        verdict.require_accepted()
    assert judged.rejected.height == 3
    assert judged.valid.height == 1
    assert "b is missing" in judged.report


def test_within_tolerance_the_pipeline_goes_on(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, 2, 3, 4]})
    verdict = Judged(tmp_path, frame, "columns: {a: {type: int64, max: 3}}\nmax_reject_share: 0.25").run()
    verdict.require_accepted()
    assert verdict.metrics == {"rows": 4, "rejected": 1, "reject_share": 0.25, "broken a.max": 1}


@pytest.mark.parametrize("frame", [pl.DataFrame({"a": [1]}), pl.DataFrame({"a": []}, schema={"a": pl.Int64})])
def test_too_few_rows_stop_the_pipeline(tmp_path: Path, frame: pl.DataFrame) -> None:
    with pytest.raises(RejectedDataError, match=f"{frame.height} rows, fewer than the 2"):
        Judged(tmp_path, frame, "columns: {a: {type: int64}}\nrows: {min: 2, max: 5}").run().require_accepted()


def test_freshness_counts_from_now(tmp_path: Path) -> None:
    frame = pl.DataFrame({"t": ["2013-01-01T00:00:00Z", "2013-01-02T00:00:00Z"]})
    contract = "columns: {t: {type: timestamp}}\nfreshness: {column: t, max_age: 36h}"
    Judged(tmp_path, frame, contract, now="2013-01-03T11:00:00").run().require_accepted()
    with pytest.raises(RejectedDataError, match="the newest t is 2013-01-02 00:00 UTC, older than 1 day, 12:00"):
        Judged(tmp_path, frame, contract, now="2013-01-03T13:00:00").run().require_accepted()


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"columns\.b is not among the columns of the data. Allowed: a"):
        Judged(tmp_path, pl.DataFrame({"a": [1]}), "columns: {b: {type: int64}, c: {type: int64}}").run()


@pytest.mark.parametrize("sql", ["missing_column > 1", "a >", "a > 'x'"])
def test_a_check_that_is_no_sql_is_the_contracts_fault(tmp_path: Path, sql: str) -> None:
    contract = f'columns: {{a: {{type: int64}}}}\nchecks: [{{name: x, sql: "{sql}", message: m}}]'
    with pytest.raises(ContractError, match=r"checks\.x\.sql cannot be used"):
        Judged(tmp_path, pl.DataFrame({"a": [1]}), contract).run()


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    judged = Judged(tmp_path, pl.DataFrame({"a": [1]}), "columns: {a: {type: int64}}")
    (tmp_path / "raw").write_bytes(b"no parquet at all")
    with pytest.raises(SourceError, match="raw is not a readable Parquet file"):
        judged.run()


def test_the_report_escapes_what_the_data_say(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": ["<script>alert(1)</script>", "b"]})
    judged = Judged(tmp_path, frame, "columns: {a: {type: string, allowed: [b]}}\nmax_reject_share: 1")
    judged.run()
    assert "<script>" not in judged.report


@hypothesis_settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.integers(-5, 5)), st.one_of(st.none(), st.sampled_from("abc"))), max_size=30
    )
)
def test_every_row_is_either_valid_or_rejected_with_a_reason(rows: list[tuple[int | None, str | None]]) -> None:
    frame = pl.DataFrame(rows, schema={"n": pl.Int64, "s": pl.String}, orient="row").with_row_index("i")
    contract = (
        "columns: {i: {type: int64}, n: {type: int64, min: -2, max: 3}, "
        "s: {type: string, nullable: true, allowed: [a, b]}}\nmax_reject_share: 1"
    )
    with TemporaryDirectory() as folder:
        judged = Judged(Path(folder), frame, contract)
        judged.run()
        valid, rejected = judged.valid["i"].to_list(), judged.rejected["i"].to_list()
        expected = [i for i, (n, s) in enumerate(rows) if n is not None and -2 <= n <= 3 and s in (None, "a", "b")]
        assert valid == expected
        assert rejected == [i for i in range(len(rows)) if i not in expected]
        assert all(row["reasons"] for row in judged.rejected.to_dicts())


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": list(range(1000)), "s": [f"{i % 7}" for i in range(1000)]})
    contract = "columns: {a: {type: int64, max: 990}, s: {type: string}}\nunique: [[a]]\nmax_reject_share: 1"
    outputs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        judged = Judged(tmp_path / name, frame, contract)
        judged.run()
        outputs.append([(tmp_path / name / output).read_bytes() for output in ("valid", "rejected", "report")])
    assert outputs[0] == outputs[1]
