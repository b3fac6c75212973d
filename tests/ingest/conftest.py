"""A real PostgreSQL server."""

from collections.abc import Iterator

import pytest

from tests.servers import postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an empty database; `${DB_PASSWORD}` stands for its password, `PASSWORD`."""
    with postgres_server() as url:
        yield url
