"""The limits of a machine: a source larger than memory, a disk that is full, any number of threads."""

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from fti.ingest.logic import ingest

# Runs in a process of its own; prints rows, digest and peak memory in MB. The kernel's `ru_maxrss` would not do: it
# starts with what the parent held.
MEASURED = r"""
import re, sys
from pathlib import Path
from fti.ingest.logic import ingest
done = ingest(sys.argv[1], "big", sys.argv[2], memory_limit="256MB")
print(done.rows, done.digest, int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""

# Files may not grow beyond 100 kB: a write fails as on a full disk, whoever writes.
CRAMPED = """
import resource, signal, sys
from fti.common.errors import FtiError
from fti.ingest.logic import ingest
import duckdb  # before the limit: nothing but our own files may meet it
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    ingest(sys.argv[1], "big", sys.argv[2])
except FtiError as error:
    print(type(error).__name__, error)
"""


def _generated(path: Path, rows: int) -> Path:
    columns = (
        "i AS id, hash(i)::VARCHAR AS text, random() AS number, TIMESTAMP '2024-01-01' + i * INTERVAL 1 SECOND AS at"
    )
    with duckdb.connect() as connection:
        connection.execute("SELECT setseed(0.5)")
        connection.execute(f"COPY (SELECT {columns}, repeat('x', 100) AS wide FROM range({rows}) r(i)) TO '{path}'")
    return path


def _run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
def test_a_source_larger_than_memory(tmp_path: Path) -> None:
    source = _generated(tmp_path / "big.csv", 5_000_000)
    size = source.stat().st_size >> 20
    rows, _, peak = _run(MEASURED, source, tmp_path / "raw.parquet").split()
    print(f"{size} MB of CSV in {peak} MB of memory")
    assert int(rows) == 5_000_000
    assert size > 750
    assert int(peak) < 600


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_a_full_disk(tmp_path: Path, name: str) -> None:
    _generated(tmp_path / name, 20_000)
    assert _run(CRAMPED, tmp_path / name, tmp_path / "raw.parquet").startswith("StorageError ")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_digest_does_not_depend_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, digests = _generated(tmp_path / "rows.csv", 400_000), set()
    connect = duckdb.connect
    for threads in (1, 2, 5):
        monkeypatch.setattr(
            duckdb,
            "connect",
            lambda *args, config, threads=threads, **kw: connect(*args, config={**config, "threads": threads}, **kw),
        )
        digests.add(ingest(str(source), "t", tmp_path / "raw.parquet").digest)
    assert len(digests) == 1
