"""Feast's profiles: which one is meant, and its YAML with the environment's variables filled in.

Feast itself fills them into the text before it reads the YAML: an unset variable stays as it is written, a password
with a quote or a `: ` changes what the YAML says, and one with an `@` or a `/` changes the URL it stands in.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from fti.common.errors import ConfigError

DEFAULT = "feature_store.yaml"
_VARIABLE = re.compile(r"\$(?:\{([^}]*)(}?)|(\w+))")
_ACCOUNT = re.compile(r"[\w.+-]+://[^/?#]*@")  # up to the host of a URL


def profile_of(repo: Path, environ: Mapping[str, str]) -> Path:
    """The file of the profile that is asked for.

    Args:
        repo: A Feast repository.
        environ: `FTI_PROFILE=server` names `feature_store.server.yaml` of the repository; empty means
            `feature_store.yaml`. `FEAST_FS_YAML_FILE_PATH`, Feast's own variable, names any file and goes first.

    Raises:
        ConfigError: There is no such file.
    """
    name = environ.get("FTI_PROFILE", "")
    file = Path(environ.get("FEAST_FS_YAML_FILE_PATH") or repo / (f"feature_store.{name}.yaml" if name else DEFAULT))
    if file.is_file():
        return file
    if name:
        names = sorted(path.name.split(".")[1] for path in repo.glob("feature_store.*.yaml"))
        raise ConfigError(
            f"FTI_PROFILE is {name!r}, and {file} does not exist",
            allowed=f"{', '.join(names)}, or nothing for {DEFAULT}" if names else f"nothing, for {DEFAULT}",
        )
    raise ConfigError(
        f"{file} does not exist",
        allowed=f"a Feast repository: a folder with {DEFAULT}",
        remedy="Pass its path as feature_repo",
    )


def read_profile(file: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Reads a profile. A variable's value is never read as YAML syntax, nor, in a URL's account, as a part of the URL.

    Args:
        file: The profile; `$NAME` and `${NAME}` stand for variables. As in Feast, an unquoted value that is a variable
            alone may become a number.
        environ: The variables.

    Raises:
        ConfigError: It is no YAML map, or refers to a variable that is not set.
    """
    missing: set[str] = set()

    class Loader(yaml.SafeLoader):
        def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
            node = super().compose_scalar_node(anchor)
            if "$" in node.value:
                whole = _VARIABLE.fullmatch(node.value)
                node.value = _filled(node.value, environ, missing, file)
                if node.style is None and whole:
                    node.tag = self.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
            return node

    try:
        profile = yaml.load(file.read_text(encoding="utf-8"), Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise ConfigError(f"{where} is no YAML", remedy="Correct the profile") from None  # its text may hold a password
    if missing:
        names = sorted(missing)
        raise ConfigError(
            f"{file.name} refers to {', '.join(names)}, which the environment does not set",
            remedy=f"Set {' and '.join(names)}",
        )
    if not isinstance(profile, dict):
        raise ConfigError(f"{file} is no YAML map", allowed="project, registry, online_store, …")
    return profile


def _filled(text: str, environ: Mapping[str, str], missing: set[str], file: Path) -> str:
    account = _ACCOUNT.match(text)
    end_of_account = account.end() if account else 0

    def value(match: re.Match[str]) -> str:
        name = match[1] if match[1] is not None else match[3]
        if not re.fullmatch(r"\w+", name) or (match[1] is not None and not match[2]):
            raise ConfigError(
                f"{file.name} says {match[0]!r}", allowed="${NAME} or $NAME: Feast's profiles have no defaults"
            )
        if name not in environ:
            missing.add(name)
            return ""
        return quote(environ[name], safe="") if match.start() < end_of_account else environ[name]

    return _VARIABLE.sub(value, text)
