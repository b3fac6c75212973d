"""Files on the web, read-only."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.errors import StorageError
from fti.common.files import atomic_file
from fti.common.storage.location import shown

if TYPE_CHECKING:
    import httpx

_NOT_FOUND = {404, 410}


def download(url: str, path: Path) -> None:
    """Streams one file, whole or not at all; a connection that breaks off is an error, not a short file."""
    with _errors(url), atomic_file(path) as scratch, _answer(url) as answer, scratch.open("wb") as stream:
        for block in answer.iter_raw(1 << 20):
            stream.write(block)


def exists(url: str) -> bool:
    """Whether the address answers with a file. Asked with GET, because many servers refuse HEAD."""
    with _errors(url), _answer(url, missing_is_error=False) as answer:
        return answer.status_code not in _NOT_FOUND


@contextmanager
def _answer(url: str, missing_is_error: bool = True) -> "Iterator[httpx.Response]":
    import httpx

    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole addresses, signatures and all
    timeout = httpx.Timeout(60, connect=10)
    as_it_lies = {"Accept-Encoding": "identity"}  # so that a .gz stays one
    with httpx.stream("GET", url, follow_redirects=True, timeout=timeout, headers=as_it_lies) as answer:
        if missing_is_error or answer.status_code not in _NOT_FOUND:
            answer.raise_for_status()
        yield answer


@contextmanager
def _errors(url: str) -> Iterator[None]:
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise StorageError(
            f"{shown(url)} answers {status} {error.response.reason_phrase}",
            remedy="Check the address" if status in _NOT_FOUND else "Check the address and the rights it needs",
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StorageError(
            f"{shown(url)} cannot be read: {type(error).__name__}", remedy="Check the address and the network"
        ) from None
