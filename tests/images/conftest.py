"""Images built once for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.images.building import Images, build
from tests.images.engine import NoEngineError, docker_engine


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    try:
        with docker_engine() as engine:
            yield build(engine, tmp_path_factory.mktemp("sources"))
    except NoEngineError as error:
        pytest.skip(f"The images are not built here: {error}")
