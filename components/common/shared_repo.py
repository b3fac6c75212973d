"""A Feast repository where the predictors of a cluster can read it.

Of a repository a predictor needs its profiles alone: they name the registry, where the feature views are, and the
online store. So a folder's profiles are published beside the models, named by their content.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from fti.common.errors import ConfigError
from fti.common.files import digest_of
from fti.common.profile import profile_of
from fti.common.settings import Settings
from fti.common.storage import is_shared, local_copy, publish_dir

_PROFILES = "feature_store*.yaml"
_WORDS = r"(?:passw(?:or)?d|secret|token|(?:access|api)_?key)"
_SECRET_KEY = re.compile(_WORDS, re.IGNORECASE)
_IN_TEXT = re.compile(rf"://[^\s/@:]*:(?!\$\{{)[^\s@]+@|{_WORDS}\w*=(?!\$\{{)\S", re.IGNORECASE)  # URLs, Redis


def shared_repo(feature_repo: str, settings: Settings, environ: Mapping[str, str] = os.environ) -> str:
    """The address of a Feast repository for predictors on a cluster.

    Args:
        feature_repo: A folder of this machine, whose profiles are published beside the models; or a URI, which is left
            as it is: `s3://`, `gs://`, or `package://`, a package that the predictor's image must have too.
        settings: Where models are published.
        environ: `FTI_PROFILE` names the profile, for predictors too (the ConfigMap fti-settings).

    Returns:
        A URI; publishing the same again gives the same.

    Raises:
        ConfigError: There is no such profile, its registry or online store is a file, which no other pod has, a profile
            holds a secret, or the models go to a folder.
        StorageError: It cannot be read, or the profiles cannot be published.
    """
    with local_copy(feature_repo, settings) as repo:
        _require_servers(profile_of(repo.absolute(), environ))
        if "://" in feature_repo:
            return feature_repo
        if not is_shared(settings.models_uri):
            raise ConfigError(
                f"predictors of a cluster can read neither {repo} nor {settings.models_uri}",
                allowed="FTI_MODELS_URI of s3:// or gs://",
            )
        with TemporaryDirectory(prefix="fti-profiles-") as scratch:
            for file in sorted(repo.glob(_PROFILES)):
                _require_no_secret(file)
                copyfile(file, Path(scratch) / file.name)
            digest = digest_of(scratch)
            return publish_dir(scratch, f"{settings.models_uri}/_feature_repos/{digest[:12]}", settings)


def _require_servers(file: Path) -> None:
    """Refuses a profile whose stores lie in files."""
    profile = _profile(file)
    stores = {"registry": _registry_in_file, "online_store": _online_in_file}
    files = [name for name, in_file in stores.items() if in_file(profile.get(name))]
    if files:
        raise ConfigError(
            f"{file.name} keeps its {' and '.join(files)} in a file, which no pod of a predictor has",
            allowed="a registry in PostgreSQL, an online store such as Redis",
            remedy="Set FTI_PROFILE to the profile of servers, such as server, where features are made and pushed from",
        )


def _require_no_secret(file: Path) -> None:
    """Refuses to publish a profile that holds a secret instead of a variable's name."""
    for name, value in _scalars(_profile(file)):
        if _IN_TEXT.search(value) or (_SECRET_KEY.search(name) and not value.startswith("${")):
            raise ConfigError(
                f"{file.name} holds a secret under {name}",
                allowed="${NAME}, which the environment fills in",
                remedy="Put it into the Secret fti-feature-store, and its name here",
            )


def _scalars(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Where each text or number stands, such as `online_store.password`, and what it is."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _scalars(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for part in value:
            yield from _scalars(part, name)
    elif not isinstance(value, bool | None) and value != "":
        yield name, str(value)


def _profile(file: Path) -> dict[str, Any]:
    try:
        profile = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {type(error).__name__}", remedy="Correct the profile") from None
    if not isinstance(profile, dict):
        raise ConfigError(f"{file} is no YAML map", allowed="project, registry, online_store, …")
    return profile


def _registry_in_file(registry: Any) -> bool:
    of = registry if isinstance(registry, dict) else {"path": registry}
    path = str(of.get("path") or "")
    if of.get("registry_type", "file") == "sql":
        return path.startswith("sqlite:")
    return of.get("registry_type", "file") == "file" and not path.startswith(("s3://", "gs://"))


def _online_in_file(store: Any) -> bool:
    kind = store.get("type", "sqlite") if isinstance(store, dict) else store or "sqlite"
    return kind in {"sqlite", "faiss"}
