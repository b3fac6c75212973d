"""What is registered, how large and fresh it is, what it says of an entity, and the pages about it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from hypothesis import given
from hypothesis import strategies as st

from fti.catalog.overview import facts, overview
from fti.catalog.pages import write_pages
from fti.catalog.plots import distribution
from fti.catalog.tables import Files, Table
from fti.catalog.text import duration_text, share_text, size_text
from fti.catalog.vector import current
from fti.catalog.views import View, registered, view_named
from fti.common.errors import ConfigError, FeatureStoreError, StorageError
from fti.common.feature_store import open_store
from fti.common.settings import Settings
from tests.catalog.store import fill_shop
from tests.featurize.shop import write_shop


@dataclass
class Shop:
    repo: Path
    settings: Settings
    store: FeatureStore
    views: list[View]

    def view(self, name: str) -> View:
        return view_named(self.views, name)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("catalog")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FTI_OFFLINE_URI", "FTI_PROFILE", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("FTI_HOME", str(folder / "home"))
        settings = Settings.from_env()
        repo = fill_shop(folder, settings)
        store = open_store(str(repo), settings)
        yield Shop(repo, settings, store, registered(store))


def test_views_say_what_they_are(shop: Shop) -> None:
    assert [view.name for view in shop.views] == ["channels", "spending", "unused"]
    spending = shop.view("spending")
    assert (spending.owner, spending.event_time, spending.on_missing) == ("sales", "the order", "default")
    assert [(key.name, key.type, key.description) for key in spending.keys] == [
        ("customer", "Int64", "Number of the customer [C]")
    ]
    total, orders = spending.features
    assert (total.type, total.unit, total.description, total.default) == ("Float32", "EUR", "Spent so far [net]", "0")
    assert (orders.unit, orders.description, orders.default) == ("", "", "7")
    assert (spending.ttl, spending.services) == (timedelta(days=2), ("shop_v1", "shop_v2"))
    assert spending.online_through == datetime(2024, 1, 30, 12, tzinfo=UTC)
    assert (shop.view("channels").ttl, shop.view("unused").keys, shop.view("unused").services) == (None, (), ())


def test_tables_are_measured_from_their_footers(shop: Shop) -> None:
    spending = overview(shop.view("spending"), replace(shop.settings, now=datetime(2024, 2, 1, tzinfo=UTC)))
    folder = Path(shop.settings.offline_uri, "spending")
    assert spending.table == Table(
        rows=30,
        size=sum(file.stat().st_size for file in folder.rglob("*.parquet")),
        files=30,
        latest=datetime(2024, 1, 30, 12, tzinfo=UTC),
        missing={"total": 0, "orders": 0},
    )
    assert spending.age == timedelta(hours=36)
    renamed = overview(shop.view("channels"), shop.settings)
    assert renamed.missing("last") == pytest.approx(1 / 3)
    nowhere = overview(shop.view("unused"), shop.settings)
    assert (nowhere.table, nowhere.age, nowhere.missing("orders")) == (Table(missing={"orders": 0}), None, None)
    assert "2024-01-30 12:00, 36 hours ago" in facts(spending).values()
    assert json.loads(json.dumps(spending.as_json()))["features"][0]["missing"] == 0


@given(
    parts=st.lists(
        st.lists(st.tuples(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)), st.none() | st.integers(0, 9))),
        max_size=4,
    )
)
def test_the_footers_tell_what_the_rows_tell(tmp_path_factory: pytest.TempPathFactory, parts: list[list]) -> None:
    folder = tmp_path_factory.mktemp("table")
    frames = [pl.DataFrame(part, {"t": pl.Datetime("us"), "x": pl.Int64}, orient="row") for part in parts]
    for index, frame in enumerate(frames):
        frame.write_parquet(folder / f"{index}.parquet", use_pyarrow=index % 2 == 0)
    (folder / ".half.parquet").write_bytes(b"being written")
    found = Files(str(folder), Settings.from_env({})).measure("t", ["x", "absent"])
    whole = pl.concat(frames) if frames else pl.DataFrame(schema={"t": pl.Datetime("us"), "x": pl.Int64})
    assert (found.rows, found.files) == (whole.height, len(parts))
    assert found.latest == (whole["t"].max().replace(tzinfo=UTC) if whole.height else None)
    assert found.missing == {"x": whole["x"].null_count()} | ({} if whole.height else {"absent": 0})


def test_files_that_do_not_tell(tmp_path: Path, settings: Settings) -> None:
    rows = pa.table({"t": [datetime(2024, 1, 1)], "x": [None]})
    pq.write_table(rows, tmp_path / "a.parquet")
    pq.write_table(rows, tmp_path / "b.parquet", write_statistics=False)
    found = Files(str(tmp_path), settings).measure("t", ["x"])
    assert (found.rows, found.latest, found.missing) == (2, None, {})


def test_one_file_is_a_table_too(tmp_path: Path, settings: Settings) -> None:
    pl.DataFrame({"t": [datetime(2024, 1, 1)]}).write_parquet(tmp_path / "one.parquet")
    assert Files(str(tmp_path / "one.parquet"), settings).measure("t", []).rows == 1


def test_a_table_that_cannot_be_read(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(StorageError, match="feature table at .* cannot be read"):
        Files(str(tmp_path), settings).measure("t", [])
    (tmp_path / "a.parquet").unlink()
    pl.DataFrame({"t": ["text"]}).write_parquet(tmp_path / "a.parquet")
    assert Files(str(tmp_path), settings).measure("t", []).latest is None
    with pytest.raises(StorageError, match="cannot be read"):
        Files(str(tmp_path), settings).newest(["x"], 1, 1)


def test_the_current_vector_is_what_a_prediction_gets(shop: Shop) -> None:
    values = current(shop.store, shop.views, {"customer": "1", "channel": "web"}, shop.settings.clock)
    found = {(value.view, value.feature): value for value in values}
    assert found.keys() == {("spending", "total"), ("spending", "orders"), ("channels", "last")}
    orders = found["spending", "orders"]
    assert (orders.stored, orders.value, orders.status) == (10, 7, "stale")  # past its TTL: the default
    assert orders.known_at == datetime(2024, 1, 29, 12, tzinfo=UTC)
    last = found["channels", "last"]
    assert (last.stored, last.value, last.status) == ("most $ on web", "most $ on web", "fresh")
    unknown = current(shop.store, [shop.view("spending")], {"customer": "99"}, shop.settings.clock)
    assert [(value.stored, value.value, value.known_at, value.status) for value in unknown] == [
        (None, 0.0, None, "missing"),
        (None, 7.0, None, "missing"),
    ]
    json.dumps([value.as_json() for value in values])


@pytest.mark.parametrize(
    ("entity", "said"),
    [
        (
            {"custmer": "1"},
            "no feature view has the key 'custmer'. Allowed: channel, customer. Perhaps customer is meant",
        ),
        ({"customer": "one"}, "customer is 'one'. Allowed: a whole number"),
        ({"channel": "web"}, "channel alone finds no feature view.*customer, channel for channels"),
    ],
)
def test_keys_that_cannot_be_used(shop: Shop, entity: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        current(shop.store, shop.views, entity, shop.settings.clock)


def test_a_view_that_does_not_exist(shop: Shop) -> None:
    with pytest.raises(FeatureStoreError, match="no feature view 'spendings'.*Perhaps spending is meant"):
        shop.view("spendings")


def test_nothing_registered(tmp_path: Path, settings: Settings) -> None:
    repo, _ = write_shop(tmp_path)
    with pytest.raises(FeatureStoreError, match="'shop' has no feature view. Run featurize"):
        registered(open_store(str(repo), settings))


class Page(HTMLParser):
    """The links of a page, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if tag == "a" and name == "href"]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_pages(shop: Shop, tmp_path: Path) -> None:
    found = [overview(view, shop.settings) for view in shop.views]
    index = write_pages(found, "shop", str(shop.repo), tmp_path / "pages", shop.settings)
    pages = {path.stem: Page(path) for path in (tmp_path / "pages").iterdir()}
    assert index.name == "index.html"
    assert set(pages) == {"index", "channels", "spending", "unused"}
    for page in pages.values():
        assert all((tmp_path / "pages" / address).is_file() for address in page.links)
    assert {"channels.html", "spending.html", "unused.html"} <= set(pages["index"].links)
    spending = pages["spending"].text
    for part in ("What <b>they</b> buy", "sales", "the order", "default", "EUR", "Spent so far [net]", "shop_v2"):
        assert part in spending
    assert "sum(amount) OVER past" in spending
    assert "-- every <order>" in pages["channels"].text  # the helper that its SQL reads
    assert "-- every" not in spending
    assert "How it is made" not in pages["unused"].text
    raw = (tmp_path / "pages" / "spending.html").read_text()
    assert raw.count("<svg") == 2
    assert not re.search(r"<(script|link|img)\b|https?://(?!www\.w3\.org|purl\.org|creativecommons|matplotlib)", raw)
    write_pages(found[:1], "shop", str(shop.repo), tmp_path / "pages", shop.settings)
    assert {path.name for path in (tmp_path / "pages").iterdir()} == {"index.html", "channels.html"}


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1.0, float("nan"), float("inf"), None]),
        pa.array([3, 3, 3]),
        pa.array([5.0]),
        pa.array([-(2**62), 2**62]),
        pa.array([1e300, -1e300, 0.0]),
        pa.array([True, False, None]),
        pa.array(["$a$", "b", None]),
        pa.array([[1.0, 2.0]]),
        pa.array([float("nan")]),
    ],
    ids=str,
)
def test_any_values_can_be_drawn(values: pa.Array) -> None:
    assert distribution(pa.chunked_array([values]), "unit $x$") is not None


def test_no_values_are_not_drawn() -> None:
    assert distribution(pa.chunked_array([pa.array([None, None], pa.float32())]), "") is None


def test_texts() -> None:
    assert [duration_text(timedelta(seconds=each)) for each in (1, 119, 120, 86400, 172800, 86400 * 800)] == [
        "1 seconds", "119 seconds", "2 minutes", "24 hours", "2 days", "2 years",
    ]  # fmt: skip
    assert duration_text(None) == "for ever"
    assert [size_text(each) for each in (0, 999, 1000, 1_234_567, 5_000_000_000)] == [
        "0 B", "999 B", "1 kB", "1.23 MB", "5 GB",
    ]  # fmt: skip
    assert [share_text(each) for each in (None, 0.0, 0.0001, 0.5, 1.0)] == ["–", "0.0%", "< 0.1%", "50.0%", "100.0%"]
