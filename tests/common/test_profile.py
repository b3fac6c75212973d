"""Profiles: which is meant, and variables that stay what they are."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from fti.common.errors import ConfigError
from fti.common.profile import profile_of, read_profile

ENVIRON = {"USER_": "me", "HOST": "db:5432", "NUMBER": "6379"}
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


def read(folder: Path, text: str, **environ: str) -> dict[str, object]:
    file = folder / "feature_store.yaml"
    file.write_text(text, encoding="utf-8")
    return read_profile(file, {**ENVIRON, **environ})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiles")


@given(password=ANY_TEXT)
def test_any_password_reaches_the_database_as_it_is(folder: Path, password: str) -> None:
    profile = read(folder, "path: postgresql+psycopg://${USER_}:${PASSWORD}@$HOST/feast", PASSWORD=password)
    url = make_url(profile["path"])
    assert (url.username, url.password, url.host, url.port, url.database) == ("me", password, "db", 5432, "feast")


@given(value=ANY_TEXT)
def test_a_value_is_never_read_as_yaml(folder: Path, value: str) -> None:
    profile = read(folder, 'store: {password: "${VALUE}", more: [x$VALUE]}\nlast: 1', VALUE=value)
    assert profile == {"store": {"password": value, "more": [f"x{value}"]}, "last": 1}


def test_a_value_that_is_a_variable_alone_may_be_a_number(tmp_path: Path) -> None:
    text = "port: ${NUMBER}\nquoted: '$NUMBER'\npart: a$NUMBER\n# $COMMENT\nmoney: 5$ or $ 5"
    assert read(tmp_path, text) == {"port": 6379, "quoted": "6379", "part": "a6379", "money": "5$ or $ 5"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: $FIRST\nb: 'x # ${SECOND}'", "refers to FIRST, SECOND, which the environment does not set. Set FIRST and"),
        ("a: ${HOST:-localhost}", r"says '\$\{HOST:-localhost\}'.*no defaults"),
        ("a: ${HOST", r"says '\$\{HOST'"),
        ("a: ${}", r"says '\$\{\}'"),
        ("a: b\nc: [secret", r"feature_store.yaml:2 is no YAML"),
        ("- a", "is no YAML map"),
        ("", "is no YAML map"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as failure:
        read(tmp_path, text)
    assert "secret" not in str(failure.value)


def test_the_profile_is_chosen_by_name_or_by_file(tmp_path: Path) -> None:
    for name in ("feature_store.yaml", "feature_store.server.yaml", "own.yaml"):
        (tmp_path / name).touch()
    assert profile_of(tmp_path, {}).name == "feature_store.yaml"
    assert profile_of(tmp_path, {"FTI_PROFILE": ""}).name == "feature_store.yaml"
    assert profile_of(tmp_path, {"FTI_PROFILE": "server"}).name == "feature_store.server.yaml"
    own = {"FTI_PROFILE": "server", "FEAST_FS_YAML_FILE_PATH": str(tmp_path / "own.yaml")}
    assert profile_of(tmp_path, own).name == "own.yaml"
    with pytest.raises(ConfigError, match="FTI_PROFILE is 'cluster'.*Allowed: server, or nothing"):
        profile_of(tmp_path, {"FTI_PROFILE": "cluster"})
    with pytest.raises(ConfigError, match="feature_store.yaml does not exist"):
        profile_of(tmp_path / "nowhere", {})
