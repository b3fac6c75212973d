"""Files and folders are whole or absent, whatever happens."""

import errno
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
