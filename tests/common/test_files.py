"""Files and folders are whole or absent, whatever happens."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from fti.common import files
from fti.common.errors import BusyError, StorageError
from fti.common.files import atomic_dir, atomic_file, digest_of, make_folder


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "x") as scratch:
        scratch.write_text("half")
        _ = 1 / 0
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_dir(tmp_path / "x") as scratch:
            (scratch / content).write_text(content)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_old_folder_comes_back_where_the_swap_fails(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").touch()
    with pytest.raises(OSError, match="No such file"):
        files._swap(tmp_path / "missing", tmp_path / "x", tmp_path / "aside")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["old"]


def test_a_folder_that_another_wrote_in_between_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(Path, "replace", busy)
    with pytest.raises(BusyError, match="just been written"):
        files._swap(tmp_path / "new", tmp_path / "x", tmp_path / "aside")


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="/proc/nope could not be made"):
        make_folder("/proc/nope")


def test_a_digest_depends_on_names_and_content_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text("same")
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b")
    (tmp_path / "b" / "sub" / "file").write_text("other")
    assert digest_of(tmp_path / "a") != digest_of(tmp_path / "b")


CRAMPED = """
import resource, signal, sys
from fti.common.errors import FtiError
from fti.common.settings import Settings
from fti.common.storage import publish_dir
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    publish_dir(sys.argv[1], sys.argv[2], Settings.from_env({}))
except FtiError as error:
    print(type(error).__name__, error)
"""


def test_publishing_to_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model.onnx").write_bytes(b"x" * 1_000_000)
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "old").touch()
    command = [sys.executable, "-c", CRAMPED, str(tmp_path / "new"), str(tmp_path / "published")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("StorageError ")
    assert [path.name for path in (tmp_path / "published").iterdir()] == ["old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "published"]
