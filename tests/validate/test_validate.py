"""validate: every row is judged by every rule, nothing is lost, and the order stays."""

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fti.common.errors import ContractError, RejectedDataError, SourceError
from fti.validate.logic import validate
from fti.validate.verdict import Verdict


@dataclass
class Outcome:
    verdict: Verdict
    valid: list[tuple[object, ...]]
    rejected: list[tuple[object, ...]]
    types: dict[str, str]
    html: str


@pytest.fixture
def judge(tmp_path: Path) -> Callable[..., Outcome]:
    """Validates the rows of a SQL query under a contract given as text."""
    return lambda query, contract, **options: _judge(tmp_path, query, contract, **options)


def _judge(folder: Path, query: str, contract: str, **options: object) -> Outcome:
    paths = {name: folder / name for name in ("raw", "valid", "rejected", "report")}
    (folder / "contract.yaml").write_text(contract)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"COPY ({query}) TO '{paths['raw']}' (FORMAT parquet)")
        verdict = validate(
            paths["raw"],
            str(folder / "contract.yaml"),
            paths["valid"],
            paths["rejected"],
            paths["report"],
            **options,  # type: ignore[arg-type]
        )
        read = "FROM read_parquet('{}')"
        described = connection.execute("DESCRIBE " + read.format(paths["valid"])).fetchall()
        return Outcome(
            verdict,
            connection.execute(read.format(paths["valid"])).fetchall(),
            connection.execute(read.format(paths["rejected"])).fetchall(),
            {name: kind for name, kind, *_ in described},
            paths["report"].read_text(),
        )


@pytest.mark.parametrize(
    ("column", "values", "good", "reason"),
    [
        ("{type: int64}", "1, NULL", 1, "x is missing"),
        ("{type: int64, min: 1}", "1, 0", 1, "x is below 1"),
        ("{type: int64, max: 1}", "1, 2", 1, "x is above 1"),
        ("{type: float64, min: -0.5, max: 0.5}", "0.5::DOUBLE, 0.6", 0.5, "x is above 0.5"),
        ("{type: float64, nullable: true, max: 9}", "1::DOUBLE, 'nan'::DOUBLE", 1.0, "x is not a finite number"),
        ("{type: float64}", "1::DOUBLE, '-inf'::DOUBLE", 1.0, "x is not a finite number"),
        ("{type: string, allowed: [a, b]}", "'a', 'A'", "a", "x is none of a, b"),
        ("{type: int64, allowed: [1, 2]}", "1, 3", 1, "x is none of 1, 2"),
        ("{type: string, pattern: '[a-c]+'}", "'abc', 'abcd'", "abc", "x does not match [a-c]+"),
        ('{type: string, pattern: "it\'s"}', "'it''s', 'its'", "it's", "x does not match it's"),
        ("{type: int64, unique: true}", "1, 1", 1, "x repeats an earlier row"),
        ("{type: int64}", "'7', '7.5'", 7, "x is no int64"),
        ("{type: int64}", "' 7 ', ''", 7, "x is no int64"),
        ("{type: int64}", "7.0::DOUBLE, 7.5", 7, "x is no int64"),
        ("{type: int64}", "7::UBIGINT, 18446744073709551615::UBIGINT", 7, "x is no int64"),
        ("{type: float64}", "'7.5', '7,5'", 7.5, "x is no float64"),
        ("{type: float64}", "7::BIGINT, 9007199254740993", 7.0, "x is no float64"),
        ("{type: bool}", "'true', 'maybe'", True, "x is no bool"),
        ("{type: bool}", "1, 2", True, "x is no bool"),
        ("{type: date}", "'2024-02-29', '2023-02-29'", datetime(2024, 2, 29).date(), "x is no date"),
        ("{type: date}", "TIMESTAMP '2024-02-29', '2024-02-29 10:00'", datetime(2024, 2, 29).date(), "x is no date"),
        (
            "{type: date, min: 2024-01-01}",
            "DATE '2024-01-01', '2023-12-31'",
            datetime(2024, 1, 1).date(),
            "x is below 2024-01-01",
        ),
    ],
)
def test_each_rule(judge: Callable[..., Outcome], column: str, values: str, good: object, reason: str) -> None:
    query = f"SELECT unnest([{values}]) AS x"
    outcome = judge(query, f"columns: {{x: {column}}}\nmax_reject_share: 0.5")
    assert outcome.valid == [(good,)]
    assert [row[-1] for row in outcome.rejected] == [[reason]]
    assert outcome.verdict.accepted
    assert (outcome.verdict.rows, outcome.verdict.valid, outcome.verdict.rejected) == (2, 1, 1)


def test_missing_values_break_nothing_but_missing(judge: Callable[..., Outcome]) -> None:
    column = "{type: string, nullable: true, allowed: [a], pattern: a, unique: true}"
    outcome = judge("SELECT unnest(['a', NULL, NULL]) AS x", f"columns: {{x: {column}}}")
    assert outcome.valid == [("a",), (None,), (None,)]


def test_all_reasons_of_a_row_as_it_came(judge: Callable[..., Outcome]) -> None:
    contract = """
columns:
  a: {type: int64, max: 5}
  b: {type: int64}
checks: [{name: order, sql: a < b, message: a is not below b}]
max_reject_share: 1
"""
    outcome = judge("SELECT * FROM (VALUES ('9', '1'), ('x', NULL), ('1', '2')) AS t(a, b)", contract)
    assert outcome.rejected == [
        ("9", "1", ["a is above 5", "a is not below b"]),
        ("x", None, ["a is no int64", "b is missing"]),
    ]
    assert (outcome.valid, outcome.types) == ([(1, 2)], {"a": "BIGINT", "b": "BIGINT"})


def test_output_has_exactly_the_types_of_the_contract(judge: Callable[..., Outcome]) -> None:
    contract = """
columns:
  at: {type: timestamp}
  day: {type: date}
  n: {type: int64}
  f: {type: float64}
  s: {type: string}
  b: {type: bool}
"""
    query = """
        SELECT 1::TINYINT AS n, 2.5::DECIMAL(9, 2) AS f, 7 AS s, 0 AS b, '2024-02-29' AS day,
               TIMESTAMP '2024-02-29 12:00' AS at
    """
    outcome = judge(query, contract)
    assert outcome.types == {
        "at": "TIMESTAMP WITH TIME ZONE",
        "day": "DATE",
        "n": "BIGINT",
        "f": "DOUBLE",
        "s": "VARCHAR",
        "b": "BOOLEAN",
    }
    assert outcome.valid[0][2:] == (1, 2.5, "7", False)
    assert str(outcome.valid[0][0]) == "2024-02-29 12:00:00+00:00"  # without a zone: UTC


def test_of_duplicates_the_first_good_one_stays(judge: Callable[..., Outcome]) -> None:
    rows = "('k', -1, 1), ('k', 2, 2), ('k', 3, 3), (NULL, 4, 4), (NULL, 5, 5)"
    contract = """
columns: {k: {type: string, nullable: true}, v: {type: int64, min: 0}, i: {type: int64}}
unique: [[k]]
max_reject_share: 1
"""
    outcome = judge(f"SELECT * FROM (VALUES {rows}) AS t(k, v, i)", contract)
    assert [row[2] for row in outcome.valid] == [2, 4, 5]
    assert [row[2:] for row in outcome.rejected] == [(1, ["v is below 0"]), (3, ["k repeats an earlier row"])]


@pytest.mark.parametrize(
    ("undeclared", "valid"), [("keep", {"a": "BIGINT", "extra": "VARCHAR"}), ("drop", {"a": "BIGINT"})]
)
def test_undeclared_columns(judge: Callable[..., Outcome], undeclared: str, valid: dict[str, str]) -> None:
    contract = f"columns: {{a: {{type: int64, max: 1}}}}\nundeclared: {undeclared}\nmax_reject_share: 1"
    outcome = judge("SELECT unnest([1, 2]::BIGINT[]) AS a, 'y' AS extra", contract)
    assert outcome.types == valid
    assert outcome.rejected == [(2, "y", ["a is above 1"])]  # rejected rows keep everything


CHECKED = """
undeclared: keep
columns: {{amounts: {{type: int64}}}}
checks: [{{name: c, sql: {}, message: m}}]
"""


@pytest.mark.parametrize(
    ("contract", "says"),
    [
        ("columns: {amount: {type: int64}}", "columns.amount is not among the columns of the data.*mean amounts"),
        ("columns: {amounts: {type: int64}}", "undeclared columns: b"),
        ("columns: {amounts: {type: int64}, b: {type: string, pattern: '('}}", "columns.b.pattern cannot be used"),
        (CHECKED.format("nope > 1"), "checks.c.sql cannot be used: .*nope"),
        (CHECKED.format("sum(amounts) > 1"), "checks.c.sql cannot be used"),
        (CHECKED.format("amounts >"), "checks.c.sql cannot be used"),
        (CHECKED.format("true); CREATE TABLE x AS (SELECT 1"), "checks.c.sql holds several statements"),
        (CHECKED.format("b::INT > 1"), "a check fails on the data: .*x"),
        (CHECKED.format("b"), "a check fails on the data|checks.c.sql cannot be used"),
    ],
)
def test_contracts_that_do_not_fit(judge: Callable[..., Outcome], tmp_path: Path, contract: str, says: str) -> None:
    with pytest.raises(ContractError, match=rf"contract\.yaml: .*({says})"):
        judge("SELECT * FROM (VALUES (1::BIGINT, 'x'), (2, 'y')) AS t(amounts, b)", contract)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contract.yaml", "raw"]


def test_a_column_called_reasons(judge: Callable[..., Outcome]) -> None:
    with pytest.raises(ContractError, match="reasons"):
        judge("SELECT 'x' AS reasons", "columns: {reasons: {type: string}}")


def test_no_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("a,b\n1,2\n")
    (tmp_path / "c.yaml").write_text("columns: {a: {type: int64}}")
    with pytest.raises(SourceError, match="raw is not a readable Parquet file"):
        validate(tmp_path / "raw", str(tmp_path / "c.yaml"), tmp_path / "v", tmp_path / "r", tmp_path / "h")


@pytest.mark.parametrize(
    ("query", "more", "says"),
    [
        ("SELECT range AS a FROM range(100)", "", r"5 of 100 rows rejected \(5.000%\), 1.000% tolerated.*a.max \(5\)"),
        ("SELECT 999 AS a FROM range(9)", "", "no row of 9 is valid"),
        ("SELECT 1 AS a FROM range(9)", "rows: {min: 10}", "9 rows, fewer than the 10 required"),
        ("SELECT 1 AS a FROM range(9)", "rows: {max: 8}", "9 rows, more than the 8 allowed"),
        ("SELECT 1 AS a WHERE false", "", "0 rows, fewer than the 1 required"),
    ],
)
def test_beyond_tolerance(judge: Callable[..., Outcome], query: str, more: str, says: str) -> None:
    contract = f"columns: {{a: {{type: int64, max: 94}}}}\nmax_reject_share: 0.01\n{more}"
    outcome = judge(query, contract, table="numbers")
    assert not outcome.verdict.accepted
    assert "refused" in outcome.html  # the report and the rejected rows say why
    assert len(outcome.rejected) == outcome.verdict.rejected
    with pytest.raises(RejectedDataError, match=f"numbers breaks its contract: .*{says}"):
        outcome.verdict.require_accepted()


@pytest.mark.parametrize(("now", "fresh"), [("2024-01-02T11:59", True), ("2024-01-02T12:01", False)])
def test_freshness(judge: Callable[..., Outcome], now: str, fresh: bool) -> None:
    contract = (
        "columns: {at: {type: timestamp, max: 2024-06-01}}\nfreshness: {column: at, max_age: 24h}\nmax_reject_share: 1"
    )
    moments = "TIMESTAMPTZ '2024-01-01 12:00:00Z', '2025-01-01 00:00:00Z'"  # a rejected row is no sign of life
    outcome = judge(f"SELECT unnest([{moments}]) AS at", contract, now=datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert outcome.verdict.accepted == fresh
    assert ("the newest at is 2024-01-01 12:00 UTC, older than 1 day" in " ".join(outcome.verdict.problems)) != fresh


def test_order_is_kept_also_where_duplicates_are_joined(judge: Callable[..., Outcome]) -> None:
    query = "SELECT hash(range // 2) % 1000000007 AS k, range AS i FROM range(400000)"
    contract = "columns: {k: {type: int64, unique: true}, i: {type: int64}}\nmax_reject_share: 1"
    outcome = judge(query, contract)
    for rows in (outcome.valid, outcome.rejected):
        order = [row[1] for row in rows]
        assert order == sorted(order)  # type: ignore[type-var]
    assert len(outcome.valid) + len(outcome.rejected) == 400_000
    assert len({row[0] for row in outcome.valid}) == len(outcome.valid)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(-9, 9).map(str), st.sampled_from(["", "x"])))
    )
)
def test_no_row_is_lost_or_judged_twice(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str | None]]
) -> None:
    contract = "columns: {k: {type: int64, unique: true}, v: {type: int64, min: 0}}\nmax_reject_share: 1"
    listed = ", ".join(f"({k}, {'NULL' if v is None else repr(v)})" for k, v in rows) or "(0, '0')"
    outcome = _judge(
        tmp_path_factory.mktemp("law"),
        f"SELECT k::BIGINT AS k, v::VARCHAR AS v FROM (VALUES {listed}) t(k, v)",
        contract,
    )
    expected, seen = [], set()
    for k, v in rows or [(0, "0")]:
        if v not in {None, "", "x"} and int(v) >= 0 and k not in seen:  # type: ignore[arg-type]
            seen.add(k)
            expected.append((k, int(v)))  # type: ignore[arg-type]
    assert outcome.valid == expected
    assert len(outcome.valid) + len(outcome.rejected) == len(rows or [0])
    assert all(row[-1] for row in outcome.rejected)


@pytest.mark.slow
def test_the_report_is_bounded_and_escapes(judge: Callable[..., Outcome]) -> None:
    columns = ", ".join(f"repeat('<b>\"$x$', 5000) || i AS c{n}" for n in range(50))
    declared = ", ".join(f"c{n}: {{type: string, pattern: '[^9]*'}}" for n in range(50))
    outcome = judge(
        f"SELECT {columns}, [i] AS list, {{'a': i}} AS struct FROM range(100) r(i)",
        f"columns: {{{declared}}}\nmax_reject_share: 1\nundeclared: keep",
        table="<script>",
    )
    assert len(outcome.html) < 3_000_000
    assert "<script>" not in outcome.html
    assert "<b>" not in outcome.html
    assert "12 further columns are not drawn" in outcome.html


def test_the_report_tells_what_there_is(judge: Callable[..., Outcome]) -> None:
    query = """
        SELECT range::DOUBLE AS x, 'k' || range % 3 AS kind, TIMESTAMPTZ '2024-01-01' + range * INTERVAL 1 HOUR AS at
        FROM range(1000)
    """
    outcome = judge(
        query,
        "columns: {x: {type: float64, max: 997}, kind: {type: string}, at: {type: timestamp}}\nmax_reject_share: 0.5",
        table="orders",
    )
    for part in (
        "Data report: orders",
        "accepted",
        "998",
        "x is above 997",
        "0.200%",
        "Distributions",
        "01 Jan",
        "k0",
    ):
        assert part in outcome.html
    assert outcome.html.count("<svg") == 3


def test_extreme_values_can_be_drawn(judge: Callable[..., Outcome]) -> None:
    query = """
        SELECT unnest([1e308, -1e308, 0, 1e-300]) AS x,
               unnest([9223372036854775807, -9223372036854775808, 0, 1]) AS n,
               5 AS same, NULL::DOUBLE AS none, DATE '2024-01-01' AS day
    """
    contract = """
columns:
  x: {type: float64}
  n: {type: int64}
  same: {type: int64}
  none: {type: float64, nullable: true}
  day: {type: date}
"""
    assert judge(query, contract).html.count("<svg") == 4


def test_equal_input_gives_equal_output(judge: Callable[..., Outcome], tmp_path: Path) -> None:
    contract = "columns: {x: {type: int64, max: 40000}, y: {type: float64}}\nmax_reject_share: 1"
    outputs = set()
    for _ in range(2):
        judge("SELECT range AS x, sin(range) AS y FROM range(50000)", contract)
        outputs.add(tuple((tmp_path / name).read_bytes() for name in ("valid", "rejected", "report")))
    assert len(outputs) == 1


# Prints rejected rows and peak memory in MB; `ru_maxrss` would start with what the parent held.
MEASURED = r"""
import re, sys
from pathlib import Path
from fti.validate.logic import validate
verdict = validate(*sys.argv[1:], memory_limit="512MB")
print(verdict.rejected, int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.slow
def test_a_table_larger_than_memory(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        columns = "i AS id, hash(i)::VARCHAR || repeat(md5(i::VARCHAR), 4) AS text, random() AS number"
        connection.execute(f"COPY (SELECT {columns} FROM range(4000000) r(i)) TO '{tmp_path}/raw' (FORMAT parquet)")
    (tmp_path / "c.yaml").write_text(
        "columns: {id: {type: int64, unique: true}, text: {type: string}, number: {type: float64, max: 0.999}}\n"
        "max_reject_share: 0.01"
    )
    names = [str(tmp_path / name) for name in ("raw", "c.yaml", "valid", "rejected", "report")]
    done = subprocess.run([sys.executable, "-c", MEASURED, *names], check=True, capture_output=True, text=True)
    rejected, peak = map(int, done.stdout.split())
    print(f"{peak} MB of memory; {resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime:.0f} s")
    assert 3000 < rejected < 5000
    assert peak < 800
