"""Contracts are read strictly: every mistake is named with its place."""

from datetime import timedelta
from pathlib import Path

import pytest
from fti.common.errors import ContractError
from fti.validate.contract import parse_contract

ROOT = Path(__file__).parents[2]


def test_the_documented_example_is_a_contract() -> None:
    from fti.validate import contract as module

    assert module.__doc__
    example = module.__doc__.split("```yaml\n")[1].split("```")[0]
    parsed = parse_contract(example, "example")
    assert parsed.freshness and parsed.freshness.max_age == timedelta(days=7)
    assert parsed.columns["origin"].allowed == ("EWR", "JFK", "LGA")
    assert parsed.unique == (("carrier", "flight", "time_hour"),)


@pytest.mark.parametrize("path", sorted((ROOT / "feature_repo/contracts").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_contracts_of_the_reference_problem_are_contracts(path: Path) -> None:
    assert parse_contract(path.read_text(), str(path)).table == path.stem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns: [", r"c\.yaml is not YAML"),
        ("table: x", "declares no columns"),
        ("columns: {a: {type: int}}", r"columns\.a\.type is 'int'. Allowed: int64"),
        ("columns: {a: {}}", r"columns\.a lacks 'type'"),
        ("columns: {a: int64}", r"columns\.a is 'int64'"),
        ("columns: {a: {type: int64, maximum: 3}}", r"columns\.a has the unknown key 'maximum'"),
        ("columns: {a: {type: int64, min: 3, max: 2}}", "min 3 above max 2"),
        ("columns: {a: {type: int64, min: low}}", r"columns\.a\.min is 'low'"),
        ("columns: {a: {type: string, min: 3}}", r"columns\.a\.min is 3"),
        ("columns: {a: {type: string, pattern: '['}}", "no regular expression"),
        ("columns: {a: {type: int64, pattern: x}}", "Allowed: type string"),
        ("columns: {a: {type: int64, nullable: maybe}}", r"columns\.a\.nullable is 'maybe'. Allowed: true or false"),
        ("columns: {a: {type: int64, allowed: 3}}", r"columns\.a\.allowed is 3"),
        ("columns: {a: {type: int64}}\nunique: [[a, b]]", "unique names the unknown column 'b'. Allowed: a"),
        ("columns: {a: {type: int64}}\nunique: [a]", "Allowed: a list of lists"),
        ("columns: {a: {type: int64}}\nfreshness: {column: b, max_age: 1d}", "freshness names the unknown column 'b'"),
        ("columns: {a: {type: int64}}\nfreshness: {column: a, max_age: 1d}", "Allowed: a column of type timestamp"),
        ("columns: {a: {type: date}}\nfreshness: {column: a, max_age: soon}", r"freshness\.max_age is 'soon'"),
        ("columns: {a: {type: int64}}\nmax_reject_share: 2", "a share from 0 to 1"),
        ("columns: {a: {type: int64}}\nmax_reject_share: some", r"max_reject_share is 'some'. Allowed: a number"),
        ("columns: {a: {type: int64}}\nrows: {min: 3, max: 1}", "min 3 above max 1"),
        ("columns: {a: {type: int64}}\nrows: {least: 3}", "unknown key 'least'"),
        ("columns: {a: {type: int64}}\nundeclared: ignore", "Allowed: drop, keep, refuse"),
        ("columns: {a: {type: int64}}\nchecks: [{name: x, sql: a > 1}]", r"checks\[0\] lacks 'message'"),
        ("columns: {a: {type: int64}}\nowner: me", "unknown key 'owner'"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ContractError, match=message) as caught:
        parse_contract(text, "c.yaml")
    assert str(caught.value).startswith("c.yaml")
