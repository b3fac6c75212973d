"""Contracts: read strictly; every mistake is named with its file and key."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from fti.common.errors import ContractError, StorageError
from fti.common.settings import Settings
from fti.validate.contract import Check, Column, Contract, Freshness
from fti.validate.parsing import parse_contract, read_contract

FULL = """
description: Orders
columns:
  id: {type: int64, unique: true}
  price: {type: float64, nullable: true, min: 0, max: 1000.5, description: euros}
  state: {type: string, allowed: [new, paid], pattern: "[a-z]+"}
  paid: {type: bool}
  day: {type: date, min: 2024-01-01}
  at: {type: timestamp, min: 2024-01-01, max: 2024-12-31T23:00:00+02:00}
unique: [[day, state], [at]]
checks: [{name: cheap, sql: price < 10, message: too dear}]
rows: {min: 2, max: 9}
freshness: {column: at, max_age: 36h}
undeclared: drop
max_reject_share: 0.25
"""


def test_every_key() -> None:
    assert parse_contract(FULL, "orders.yaml") == Contract(
        uri="orders.yaml",
        columns=(
            Column("id", "int64", unique=True),
            Column("price", "float64", nullable=True, min=0, max=1000.5, description="euros"),
            Column("state", "string", allowed=("new", "paid"), pattern="[a-z]+"),
            Column("paid", "bool"),
            Column("day", "date", min=date(2024, 1, 1)),
            Column("at", "timestamp", min=datetime(2024, 1, 1, tzinfo=UTC), max=datetime(2024, 12, 31, 21, tzinfo=UTC)),
        ),
        unique=(("day", "state"), ("at",)),
        checks=(Check("cheap", "price < 10", "too dear"),),
        min_rows=2,
        max_rows=9,
        freshness=Freshness("at", timedelta(hours=36)),
        undeclared="drop",
        max_reject_share=0.25,
        description="Orders",
    )


def test_defaults_are_strict() -> None:
    contract = parse_contract("columns: {a: {type: string}}", "x")
    assert (contract.undeclared, contract.max_reject_share, contract.min_rows) == ("forbid", 0.0, 1)
    assert not contract.columns[0].nullable


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("columns: [", "orders.yaml is not valid YAML: .*line 1"),
        ("", "orders.yaml is empty. Allowed: a mapping"),
        ("- a", "orders.yaml is a list"),
        ("rows: {min: 1}", "orders.yaml lacks the key 'columns'"),
        ("columns: {}", "columns names no column"),
        ("columns: {a: int64}", "columns.a is a text. Allowed: a mapping"),
        ("columns: {a: {}}", "columns.a lacks the key 'type'"),
        ("columns: {a: {type: integer}}", "columns.a.type is 'integer'. Allowed: bool, int64, float64"),
        ("columns: {a: {type: int64, mn: 1}}", "columns.a.mn is an unknown key.*Did you mean min"),
        ("colums: {}", "colums is an unknown key.*Did you mean columns"),
        ("columns: {a: {type: int64, min: 2, max: 1}}", "columns.a has min 2, which is above max 1"),
        ("columns: {a: {type: int64, min: 1.5}}", "columns.a.min is 1.5 but the column is of type int64"),
        ("columns: {a: {type: int64, min: true}}", "columns.a.min is true but"),
        ("columns: {a: {type: string, min: 1}}", "columns.a.min does not apply to string"),
        ("columns: {a: {type: int64, pattern: x}}", "columns.a.pattern does not apply to int64"),
        ("columns: {a: {type: string, allowed: []}}", "columns.a.allowed is empty"),
        ("columns: {a: {type: string, allowed: [DE, NO]}}", r"columns.a.allowed\[1] is false but .*Put it in quotes"),
        ("columns: {a: {type: string, nullable: maybe}}", "columns.a.nullable is a text. Allowed: true or false"),
        ("columns: {a: {type: string}, a: {type: int64}}", "the key 'a' stands twice"),
        ("columns: {no: {type: string}}", "columns has the key False"),
        ("columns: {a: {type: date, min: yesterday}}", "columns.a.min is a text but the column is of type date"),
        ("columns: {abc: {type: string}}\nunique: [[abd]]", r"unique\[0]\[0] names the unknown column 'abd'.*mean abc"),
        (
            "columns: {a: {type: string}}\nfreshness: {column: b, max_age: 1h}",
            "freshness.column names the unknown column",
        ),
        ("columns: {a: {type: string}}\nfreshness: {column: a, max_age: 1h}", "freshness.column is 'a' of type string"),
        ("columns: {a: {type: date}}\nfreshness: {column: a, max_age: soon}", "freshness.max_age is 'soon'.*36h"),
        ("columns: {a: {type: string}}\nrows: {min: 5, max: 2}", "rows has min 5, which is above max 2"),
        ("columns: {a: {type: string}}\nrows: {min: -5}", "rows.min is -5"),
        ("columns: {a: {type: string}}\nmax_reject_share: 5", "max_reject_share is 5. Allowed: a share from 0 to 1"),
        ("columns: {a: {type: string}}\nundeclared: ignore", "undeclared is 'ignore'. Allowed: forbid, keep, drop"),
        ("columns: {a: {type: string}}\nchecks: [{name: c, sql: x}]", r"checks\[0] lacks the key 'message'"),
        (
            "columns: {a: {type: string}}\nchecks: [{name: c, sql: x, message: m}, {name: c, sql: x, message: m}]",
            r"checks\[1].name is 'c', the name of another check",
        ),
    ],
)
def test_mistakes(text: str, says: str) -> None:
    with pytest.raises(ContractError, match=says) as caught:
        parse_contract(text, "orders.yaml")
    assert "orders.yaml" in str(caught.value)


def test_a_missing_file(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none\.yaml"):
        read_contract(str(tmp_path / "none.yaml"), settings)


@pytest.mark.parametrize("table", ["flights", "weather", "planes", "airports"])
def test_the_reference_contracts_can_be_read(settings: Settings, table: str) -> None:
    folder = Path(__file__).parents[2] / "feature_repo" / "contracts"
    assert read_contract(str(folder / f"{table}.yaml"), settings).description
