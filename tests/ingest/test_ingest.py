"""ingest: every format gives the same rows with the same types; whatever is wrong is named, and nothing is written."""

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fti.common.errors import ConfigError, FtiError, SourceError, StorageError
from fti.ingest.logic import Ingested, ingest

ROWS = 'id,price,when,name,paid\n1,2.5,2024-02-29T12:00:00Z,"Grüße, ""Welt""",true\n2,,2024-03-01T00:00:00Z,,false\n'
TABBED = (
    "id\tprice\twhen\tname\tpaid\n"
    '1\t2.5\t2024-02-29T12:00:00Z\t"Grüße, ""Welt"""\ttrue\n2\t\t2024-03-01T00:00:00Z\t\tfalse\n'
)
TYPES = {
    "id": "BIGINT",
    "price": "DOUBLE",
    "when": "TIMESTAMP WITH TIME ZONE",
    "name": "VARCHAR",
    "paid": "BOOLEAN",
}


Take = Callable[..., tuple[Ingested, Path]]


def rows(path: Path) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(f'SELECT * REPLACE ("when"::VARCHAR AS "when") FROM \'{path}\'').fetchall()


def values(path: Path) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        return connection.execute(f"FROM '{path}'").fetchall()


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """Writes bytes as a file and ingests it."""

    def run(name: str, content: bytes | str, **options: object) -> tuple[Ingested, Path]:
        source = tmp_path / name
        source.write_bytes(content.encode() if isinstance(content, str) else content)
        target = tmp_path / "raw.parquet"
        return ingest(str(source), "orders", target, **options), target  # type: ignore[arg-type]

    return run


def _zip(folder: Path, **members: str) -> bytes:
    with zipfile.ZipFile(folder / "packed", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name.replace("_", ".").replace("//", "__"), text)
    return (folder / "packed").read_bytes()


def _json_lines(folder: Path) -> bytes:
    with duckdb.connect() as connection:
        (folder / "rows.csv").write_text(ROWS)
        names = 'id, price, strftime("when", \'%Y-%m-%dT%H:%M:%SZ\') AS "when", name, paid'
        connection.execute(
            f"SET TimeZone = 'UTC'; COPY (SELECT {names} FROM '{folder}/rows.csv') TO '{folder}/rows.jsonl'"
        )
    return (folder / "rows.jsonl").read_bytes()


def _parquet(folder: Path) -> bytes:
    ingest(str(_written(folder / "rows.csv", ROWS)), "orders", folder / "rows.parquet")
    return (folder / "rows.parquet").read_bytes()


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", lambda _: ROWS.encode()),
        ("rows.csv", lambda _: b"\xef\xbb\xbf" + ROWS.replace("\n", "\r\n").encode()),
        ("rows.tsv", lambda _: TABBED.encode()),
        ("rows.csv.gz", lambda _: gzip.compress(ROWS.encode())),
        ("misnamed.csv", lambda _: gzip.compress(ROWS.encode())),
        ("rows.csv.zip", lambda folder: _zip(folder, rows_csv=ROWS)),
        ("rows.jsonl", _json_lines),
        ("rows.jsonl.gz", lambda folder: gzip.compress(_json_lines(folder))),
        ("rows.parquet", _parquet),
        ("no-suffix", _parquet),
        ("no-suffix", _json_lines),
    ],
)
def test_formats(take: Take, tmp_path: Path, name: str, content: Callable[[Path], bytes]) -> None:
    ingested, target = take(name, content(tmp_path))
    assert rows(target) == [
        (1, 2.5, "2024-02-29 12:00:00+00", 'Grüße, "Welt"', True),
        (2, None, "2024-03-01 00:00:00+00", None, False),
    ]
    assert ingested.schema == TYPES
    assert (ingested.table, ingested.rows, ingested.bytes) == ("orders", 2, target.stat().st_size)


def test_a_late_value_decides_the_type(take: Take) -> None:
    text = "a,b,c,d\n" + "1,1,,2024-01-01\n" * 30_000 + "x,1.5,7,2024-01-02\n"
    ingested, _ = take("late.csv", text)
    assert ingested.schema == {"a": "VARCHAR", "b": "DOUBLE", "c": "BIGINT", "d": "DATE"}
    assert ingested.rows == 30_001


@pytest.mark.parametrize("count", [9_999, 10_000, 10_001])
def test_a_column_without_values_is_text(take: Take, count: int) -> None:
    assert take("empty.csv", "a,b\n" + "1,\n" * count)[0].schema == {"a": "BIGINT", "b": "VARCHAR"}


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "-2"], "BIGINT"),
        (["1", "2.5"], "DOUBLE"),
        ([".5", "1e3", "-2.5E-3"], "DOUBLE"),
        (["007", "123"], "VARCHAR"),  # an identifier
        (["1", "9E"], "VARCHAR"),
        (["99999999999999999999"], "VARCHAR"),  # a DOUBLE would round it
        (["nan", "1.5"], "VARCHAR"),
        (["true", "FALSE"], "BOOLEAN"),
        (["yes", "no"], "VARCHAR"),
        (["2024-02-29"], "DATE"),
        (["2023-02-29"], "VARCHAR"),  # no such day
        (["29/02/2024"], "VARCHAR"),
        (["2024-02-29 10:00:00", "2024-02-29T10:00:00.5"], "TIMESTAMP"),
        (["2024-02-29T10:00:00+02:00", "2024-02-29 10:00:00Z"], "TIMESTAMP WITH TIME ZONE"),
    ],
)
def test_types_of_text(take: Take, texts: list[str], kind: str) -> None:
    assert take("t.csv", "a\n" + "\n".join(texts) + "\n")[0].schema == {"a": kind}


NUMERALS = st.one_of(st.integers(-(2**70), 2**70).map(str), st.text("0123456789+-.eE tf:Z", min_size=1))


@settings(max_examples=25, deadline=None)
@given(st.lists(NUMERALS, min_size=1))
def test_typing_loses_no_character(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Whole numbers and text come back as they were written; anything else is at least the same number."""
    folder = tmp_path_factory.mktemp("law")
    source = folder / "t.csv"
    source.write_text("a\n" + "".join(f'"{text}"\n' for text in texts))
    kind = ingest(str(source), "t", folder / "raw.parquet", null_values=["∅"]).schema["a"]
    back = [row[0] for row in values(folder / "raw.parquet")]
    if kind == "VARCHAR":
        assert back == texts
    elif kind == "BIGINT":
        assert [str(value) for value in back] == ["0" if text == "-0" else text for text in texts]
    elif kind == "DOUBLE":
        assert back == [float(text) for text in texts]


def test_null_values(take: Take) -> None:
    ingested, target = take("na.csv", "a,b\nNA,x\n1,\n-,NA\n", null_values=["", "NA", "-"])
    assert ingested.schema == {"a": "BIGINT", "b": "VARCHAR"}
    assert values(target) == [(None, "x"), (1, None), (None, None)]


def test_null_values_are_missing_text_unless_told(take: Take) -> None:
    assert values(take("na.csv", "a,b\nNA,x\n1,\n")[1]) == [("NA", "x"), ("1", None)]


def test_globs_keep_their_order(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        (tmp_path / f"part-{number:02}.csv").write_text(f"a\n{number}\n")
    ingested = ingest(str(tmp_path / "part-*.csv"), "t", tmp_path / "raw.parquet")
    assert (ingested.rows, values(tmp_path / "raw.parquet")) == (3, [(1,), (2,), (10,)])


def test_an_archive_of_several_files(take: Take, tmp_path: Path) -> None:
    packed = _zip(tmp_path, **{"a_csv": "x\n1\n", "b_csv": "x\nlate\n", "//MACOSX/junk": "\0"})
    assert values(take("two.zip", packed)[1]) == [("1",), ("late",)]


def test_json_of_mixed_and_absent_keys(take: Take) -> None:
    lines = [{"a": 1, "id": "007", "n": {"x": 1}}] * 30_000 + [{"a": "é", "new": 1.5}]
    ingested, target = take("mixed.jsonl", "\n".join(json.dumps(line) for line in lines))
    assert ingested.schema == {"a": "VARCHAR", "id": "VARCHAR", "n": "STRUCT(x BIGINT)", "new": "DOUBLE"}
    assert values(target)[-1] == ("é", None, None, 1.5)
    assert values(target)[0][0] == "1"


def test_the_digest_is_of_the_data(take: Take) -> None:
    text = "a,b\n" + "".join(f"{i},{i % 7}\n" for i in range(50_000))
    first, again, other = take("x.csv", text)[0], take("y.csv", text)[0], take("z.csv", text + "1,1\n")[0]
    assert first.digest == again.digest != other.digest


BAD: list[tuple[str, bytes, str]] = [
    ("empty.csv", b"", r"empty\.csv is empty \(0 bytes\)"),
    ("blank.csv", b"\n \n", "holds nothing but blanks"),
    ("header.csv", b"a,b\n", "has a header but no rows"),
    ("semicolon.csv", b"a;b\n1;2\n", "single column, whose name holds a semicolon: 'a;b'"),
    ("tab.csv", b"a\tb\n1\t2\n", "holds a tab"),
    ("pipe.csv", b"a|b\n1|2\n", "holds a pipe"),
    ("comma.tsv", b"a,b\n1,2\n", "holds a comma"),
    (
        "latin.csv",
        "a,b\n1,café\n".encode("latin-1"),
        r"line 2 holds the byte 0xE9 \(at offset 9\).*iconv",
    ),
    ("utf16.csv", "a,b\n1,2\n".encode("utf-16"), "line 1 holds the byte 0xFF.*UTF-16"),
    ("nul.csv", b"a,b\n1,\x002\n", "line 2 holds the byte 0x00"),
    ("cut.csv", b"a\n1\ncaf\xc3", "line 3 holds the byte 0xC3"),
    ("long.csv", b"a,b\n1,2\n1,2,3\n", r"long\.csv, line 3: 3 values, where the header has 2 columns"),
    ("short.csv", b"a,b\n1,2\n1\n", r"short\.csv, line 3: 1 values, where the header has 2 columns"),
    ("quote.csv", b'a,b\n1,"x\n2,3\n', "line 2: a quote that is not closed"),
    ("twice.csv", b"a,A\n1,2\n", "has the columns 'a' and 'A'"),
    ("noname.csv", b"a,\n1,2\n", "column 2 has no name"),
    ("cut.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 99)[:-9], "cannot be decompressed"),
    ("rot.csv.gz", gzip.compress(b"a,b\n1,2\n")[:-8] + b"12345678", "cannot be decompressed"),
    ("cut.zip", b"PK\x03\x04 and no more", "cannot be decompressed"),
    ("rot.parquet", b"PAR1 no Parquet file at all PAR1", "cannot be parsed|cannot be read"),
    ("text.parquet", b"a,b\n1,2\n", "cannot be parsed|cannot be read"),
    ("broken.jsonl", b'{"a":1}\n{"a":\n', r"broken\.jsonl cannot be parsed: Malformed JSON"),
    ("array.json", b'[{"a":1}]', "is one JSON array.*JSON lines"),
    ("numbers.jsonl", b"1\n2\n", "does not begin with an object"),
]


@pytest.mark.parametrize(("name", "content", "says"), BAD, ids=[name for name, _, _ in BAD])
def test_bad_files(take: Take, tmp_path: Path, name: str, content: bytes, says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        take(name, content)
    assert name in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing written, no scratch left


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"1.csv": "a,b\n1,2\n", "2.csv": "a,c\n1,2\n"},
            "2.csv differs from .*1.csv .* lacks 'b' and adds 'c'",
        ),
        ({"1.csv": "a,b\n1,2\n", "2.csv": "b,a\n1,2\n"}, "has them in another order"),
        ({"1.csv": "a\n1\n", "2.jsonl": '{"a":1}\n'}, "1.csv is CSV but .*2.jsonl is JSON lines"),
        ({"1.csv": "a\n1\n", "2.csv": ""}, "2.csv is empty"),
        ({"1.csv": "a\n1\n", "2.csv": "a\n1\n1,2\n"}, "2.csv, line 3: 2 values"),
    ],
)
def test_bad_globs(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=says):
        ingest(str(tmp_path / "[12].*"), "t", tmp_path / "raw.parquet")
    assert not (tmp_path / "raw.parquet").exists()


def test_parquet_files_of_different_types(tmp_path: Path) -> None:
    for number, kind in ((1, "INTEGER"), (2, "DOUBLE")):
        duckdb.execute(f"COPY (SELECT 1::{kind} AS a) TO '{tmp_path}/{number}.parquet'")
    with pytest.raises(SourceError, match=r"'a' is INTEGER in .*1\.parquet but DOUBLE in .*2\.parquet"):
        ingest(str(tmp_path / "*.parquet"), "t", tmp_path / "raw")


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        ("{folder}/none.csv", StorageError, "none.csv does not exist"),
        ("{folder}/none-*.csv", StorageError, "matches no file"),
        ("{folder}", SourceError, r"is a folder.*/\*\.csv"),
        ("", StorageError, "an empty URI"),
    ],
)
def test_missing_sources(tmp_path: Path, source: str, error: type[FtiError], says: str) -> None:
    with pytest.raises(error, match=says):
        ingest(source.format(folder=tmp_path), "t", tmp_path / "raw.parquet")


def test_a_failure_leaves_what_was_there(take: Take) -> None:
    _, target = take("good.csv", "a\n1\n")
    before = target.read_bytes()
    with pytest.raises(SourceError):
        take("bad.csv", "a\n1\n1,2\n")
    assert target.read_bytes() == before


def test_a_query_needs_a_database(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a query for rows\.csv, which is no database"):
        ingest("rows.csv", "t", tmp_path / "raw", query="SELECT 1")
