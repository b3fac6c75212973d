"""Contracts are read strictly: every mistake is named with its place."""

import textwrap
from datetime import timedelta
from pathlib import Path

import pytest

from fti.common.errors import ContractError
from fti.validate.parsing import parse_contract

ROOT = Path(__file__).parents[2]


def test_the_documented_example_is_a_contract() -> None:
    from fti.validate import contract as module

    assert module.__doc__
    example = "\n".join(line for line in module.__doc__.splitlines() if line.startswith("    "))
    parsed = parse_contract(textwrap.dedent(example), "example")
    assert parsed.freshness and parsed.freshness.max_age == timedelta(hours=36)
    assert parsed.columns[0].allowed == ("EWR", "JFK", "LGA")
    assert parsed.unique == (("origin", "departed"),)


@pytest.mark.parametrize("path", sorted((ROOT / "feature_repo/contracts").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_contracts_of_the_reference_problem_are_contracts(path: Path) -> None:
    contract = parse_contract(path.read_text(), str(path))
    assert contract.description and all(column.type for column in contract.columns)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns: [", r"c\.yaml is not valid YAML"),
        ("description: x", "lacks the key 'columns'"),
        ("columns: {}", "names no column"),
        ("columns: {a: {type: int}}", r"columns\.a\.type is 'int'. Allowed: bool, int64"),
        ("columns: {a: {}}", r"columns\.a lacks the key 'type'"),
        ("columns: {a: int64}", r"columns\.a is a text"),
        ("columns: {a: {type: int64, mini: 3}}", r"columns\.a\.mini is an unknown key.*Did you mean min"),
        ("columns: {a: {type: int64, min: 3, max: 2}}", "min 3, which is above max 2"),
        ("columns: {a: {type: int64, min: low}}", r"columns\.a\.min is a text but the column is of type int64"),
        ("columns: {a: {type: string, min: 3}}", r"columns\.a\.min does not apply to string"),
        ("columns: {a: {type: int64, pattern: x}}", "Allowed: a pattern for string"),
        ("columns: {a: {type: int64, nullable: maybe}}", r"columns\.a\.nullable is a text. Allowed: true or false"),
        ("columns: {a: {type: int64, allowed: 3}}", r"columns\.a\.allowed is 3"),
        ("columns: {a: {type: int64, allowed: []}}", "would reject every row"),
        ("columns: {a: {type: int64}, a: {type: bool}}", "'a' stands twice"),
        ("columns: {a: {type: int64}}\nunique: [[a, b]]", r"unique\[0\]\[1\] names the unknown column 'b'. Allowed: a"),
        ("columns: {a: {type: int64}}\nfreshness: {column: b, max_age: 1d}", "names the unknown column 'b'"),
        (
            "columns: {a: {type: int64}}\nfreshness: {column: a, max_age: 1d}",
            "Allowed: a column of type date or timestamp",
        ),
        ("columns: {a: {type: date}}\nfreshness: {column: a, max_age: soon}", r"freshness\.max_age is 'soon'"),
        ("columns: {a: {type: int64}}\nmax_reject_share: 2", "a share from 0 to 1"),
        ("columns: {a: {type: int64}}\nrows: {min: 3, max: 1}", "min 3, which is above max 1"),
        ("columns: {a: {type: int64}}\nrows: {least: 3}", r"rows\.least is an unknown key"),
        ("columns: {a: {type: int64}}\nundeclared: ignore", "Allowed: forbid, keep, drop"),
        ("columns: {a: {type: int64}}\nchecks: [{name: x, sql: a > 1}]", r"checks\[0\] lacks the key 'message'"),
        ("columns: {a: {type: int64}}\nowner: me", "owner is an unknown key"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ContractError, match=message) as caught:
        parse_contract(text, "c.yaml")
    assert str(caught.value).startswith("c.yaml")
