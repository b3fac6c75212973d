"""A stream that is killed in the middle, again and again, loses nothing and gives out nothing twice."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.stream.shop import KEYS, Shop, make_shop, order
from tests.stream.test_shop import FIRST, hour, require_same

ORDERS = [order(number, number % 3, number) for number in range(2, 40)]
# Pushes what is asked for and says when each push begins; the stores are written at every one.
PUSHER = """
import json, sys
from pathlib import Path
from datetime import timedelta
from fti.common.settings import Settings
from tests.stream.shop import MIDNIGHT, Shop
shop = Shop(Path(sys.argv[1]), Settings.from_env({"FTI_HOME": sys.argv[1] + "/home"}))
with shop.open() as stream:
    for hours, event in json.loads(sys.argv[2]):
        print(hours, flush=True)
        stream.push("orders", [event], MIDNIGHT + timedelta(hours=hours))
"""


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FTI_OFFLINE_URI", raising=False)
    shop = make_shop(tmp_path, FIRST)
    begun = 0
    for kill_at in (3, 11, 18, 27):
        begun = push(shop, begun, kill_at)
    push(shop, begun, None)
    end = hour(len(ORDERS))
    with shop.open(end) as stream:
        assert stream.push("orders", ORDERS[:begun], end).rows == {}
    require_same(shop, [*FIRST, *ORDERS], end)
    for name in KEYS:
        written = pl.read_parquet(f"{shop.settings.offline_uri}/{name}/**/*.parquet", hive_partitioning=False)
        assert not written.is_duplicated().any()


def push(shop: Shop, begun: int, kill_at: int | None) -> int:
    """Pushes the orders from the one that was not known to have ended; kills it while one is under way."""
    events = [(number + 1, event) for number, event in enumerate(ORDERS)][max(0, begun - 1) :]
    command = [sys.executable, "-c", PUSHER, str(shop.folder), json.dumps(events)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if kill_at is not None and int(line) > kill_at:
                process.kill()
                return int(line)
        assert process.wait() == 0 and kill_at is None
    return len(ORDERS)
