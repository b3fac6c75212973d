"""A lease in real object stores: one at a time, whoever lives, and nobody for ever."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fti.common import lease
from fti.common.errors import BusyError, StorageError
from fti.common.lease import leased
from fti.common.settings import Settings
from fti.common.storage import read_versioned, replace_text

pytestmark = pytest.mark.slow


@pytest.fixture(params=["s3", "gcs"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[str, Settings]]:
    scheme = {"s3": "s3", "gcs": "gs"}[request.param]
    yield f"{scheme}://fti-tests/{request.node.name}/lease", request.getfixturevalue(request.param)


def test_of_many_who_write_at_once_one_succeeds(place: tuple[str, Settings]) -> None:
    uri, settings = place
    version = ""
    for turn in range(3):
        start = threading.Barrier(4)

        def write(writer: int, turn: int = turn, start: threading.Barrier = start, version: str = version) -> str:
            start.wait()
            try:
                return replace_text(f"{turn} {writer}", uri, version, settings)
            except BusyError:
                return ""

        with ThreadPoolExecutor(4) as pool:
            (won,) = filter(None, pool.map(write, range(4)))
        text, version = read_versioned(uri, settings)
        assert version == won and text.startswith(f"{turn} ")


def test_one_at_a_time_and_the_next_without_a_wait(
    place: tuple[str, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, settings = place
    monkeypatch.setattr(lease, "EXPIRY", 6.0)
    with (
        leased(uri, settings, what="a rollout of late", who="run 1"),
        pytest.raises(BusyError, match="a rollout of late goes on already, by run 1"),
        leased(uri, settings, what="a rollout of late", who="run 2"),
    ):
        raise AssertionError("two at once")
    monkeypatch.setattr(lease, "EXPIRY", 3600.0)  # a lease that is free is not watched
    began = time.monotonic()
    with leased(uri, settings, what="a rollout of late", who="run 3"):
        assert time.monotonic() - began < 600


def test_a_holder_that_gives_no_sign_of_life_is_followed(
    place: tuple[str, Settings], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri, settings = place
    monkeypatch.setattr(lease, "EXPIRY", 600.0)  # so it beats in 100 s for the first time, as if it were paused
    with leased(uri, settings, what="a rollout of late", who="run 1"):
        monkeypatch.setattr(lease, "EXPIRY", 0.5)
        with leased(uri, settings, what="a rollout of late", who="run 2"):
            assert '"run 2"' in read_versioned(uri, settings)[0]
            held = read_versioned(uri, settings)[0]
        assert held.count("run") == 1
    assert '"holder": ""' in read_versioned(uri, settings)[0]


def test_what_is_no_lease_is_taken_for_a_free_one(place: tuple[str, Settings]) -> None:
    uri, settings = place
    replace_text("[]", uri, "", settings)
    with leased(uri, settings, what="a rollout of late", who="run 1"):
        assert '"run 1"' in read_versioned(uri, settings)[0]


def test_a_write_whose_answer_was_lost_is_no_other_holder(
    place: tuple[str, Settings], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The store has a sign of life of this process, though it was told of an error: the lease is still its own."""
    uri, settings = place
    lost, known = threading.Event(), threading.Event()

    def cut_off(*arguments: Any) -> str:
        written = replace_text(*arguments)
        if lost.is_set() and not known.is_set():
            known.set()
            raise StorageError("the answer was lost")
        return written

    monkeypatch.setattr(lease, "replace_text", cut_off)
    monkeypatch.setattr(lease, "EXPIRY", 1.2)
    with leased(uri, settings, what="a rollout of late", who="run 1"):
        lost.set()
        assert known.wait(60)
        beaten = read_versioned(uri, settings)[1]
        deadline = time.monotonic() + 60
        while read_versioned(uri, settings)[1] == beaten and time.monotonic() < deadline:
            time.sleep(0.05)
        assert read_versioned(uri, settings)[1] != beaten, caplog.text  # it goes on to beat
        assert "taken over" not in caplog.text
    assert '"holder": ""' in read_versioned(uri, settings)[0]
