"""Opening Feast, and reading features for a prediction."""

import os
import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from fti.common.errors import ConfigError, FeatureStoreError, FtiError
from fti.common.files import make_folder
from fti.common.masking import masked
from fti.common.settings import Settings
from fti.common.storage import local_copy

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_services: "WeakKeyDictionary[FeatureStore, dict[str, FeatureService]]" = WeakKeyDictionary()


def open_store(feature_repo: str, settings: Settings) -> "FeatureStore":
    """Opens the feature store that a Feast repository describes.

    Args:
        feature_repo: Folder with `feature_store.yaml`, by path or URI. `FEAST_FS_YAML_FILE_PATH`, if set, names
            another profile.
        settings: Fill `FTI_HOME` and `FTI_OFFLINE_URI`, which profiles and views refer to.

    Raises:
        ConfigError: There is no profile, or it refers to a variable that is not set.
        FeatureStoreError: Feast refuses the profile.
    """
    with local_copy(feature_repo, settings) as repo:
        return _open(repo.absolute(), settings)


def _open(repo: Path, settings: Settings) -> "FeatureStore":
    profile = Path(os.environ.get("FEAST_FS_YAML_FILE_PATH") or repo / "feature_store.yaml")
    if not profile.is_file():
        raise ConfigError(
            f"{profile} does not exist",
            allowed="a Feast repository: a folder with feature_store.yaml",
            remedy="Pass its path as feature_repo",
        )
    os.environ["FTI_HOME"] = str(settings.home)
    os.environ["FTI_OFFLINE_URI"] = settings.offline_uri
    _require_variables(profile)
    make_folder(settings.home)
    _import_feast_fast()
    from feast import FeatureStore
    from feast.repo_config import load_repo_config

    try:
        config = load_repo_config(repo, profile)
        config.registry_config = _with_url(config.registry_config, settings.home)
        return FeatureStore(config=config)
    except Exception as error:
        raise FeatureStoreError(
            f"Feast refuses {profile}: {masked(reason(error))}", remedy="Correct the profile"
        ) from None  # the whole error may show a registry's password


@contextmanager
def registry_errors(store: "FeatureStore") -> Iterator[None]:
    """Turns whatever a registry that cannot be reached raises into one error, without its password.

    Feast opens the registry when it is first used, and reads it again when its cache has expired.

    Raises:
        FeatureStoreError: The registry is damaged, down, or refuses the account.
    """
    from feast.errors import FeastError
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (FtiError, FeastError):
        raise
    except Exception as error:
        # Only a driver is known to say nothing of the URL; and a chained error would be shown too.
        why = reason(error.orig) if isinstance(error, DBAPIError) and error.orig else type(error).__name__
        raise FeatureStoreError(
            f"the registry of the feature store {store.project!r} cannot be reached: {why}",
            remedy="Start the database, or correct registry in feature_store.yaml; a damaged file has to be removed",
        ) from None


def reason(error: BaseException) -> str:
    """The first line of an error's message: Polars adds the plan of its query, SQLAlchemy the statement."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def service_of(store: "FeatureStore", name: str) -> "FeatureService":
    """A feature service, read from the registry once for each open store.

    Raises:
        FeatureStoreError: There is none of that name, or the registry cannot be reached.
    """
    from feast.errors import FeatureServiceNotFoundException

    known = _services.setdefault(store, {})
    if name not in known:
        try:
            with registry_errors(store):
                known[name] = store.get_feature_service(name)
        except FeatureServiceNotFoundException:
            names = sorted(service.name for service in store.list_feature_services())
            raise FeatureStoreError(
                f"there is no feature service {name!r}",
                allowed=", ".join(names) or "none is registered",
                remedy="Run featurize, which registers what feature_repo defines",
            ) from None
    return known[name]


def online_features(
    store: "FeatureStore", feature_service: str, entities: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    """Reads the latest values from the online store.

    Args:
        store: An open store.
        feature_service: Which features.
        entities: Join keys: name -> one value for each row.

    Returns:
        Columns named `<view>__<feature>`, a value for each row, None where there is none. How long values may be
        used (TTL) is not enforced.

    Raises:
        FeatureStoreError: Unknown service, a join key missing, or the online store fails.
    """
    service = service_of(store, feature_service)
    try:
        found = store.get_online_features(features=service, entity_rows=entities, full_feature_names=True).to_dict()
    except Exception as error:
        raise FeatureStoreError(
            f"the features of {feature_service!r} could not be read: {reason(error)}",
            remedy="Send every join key, and run materialize first",
        ) from error
    return {name: values for name, values in found.items() if name not in entities}


def _with_url(registry: Any, home: Path) -> Any:
    """The registry's settings, with a home that its URL was given as a plain path (`%20`, `?`) escaped."""
    from sqlalchemy import URL

    plain = f"sqlite:///{home}/"
    if not isinstance(registry, dict) or not str(registry.get("path")).startswith(plain):
        return registry
    escaped = URL.create("sqlite", database=f"{home}/").render_as_string()
    return {**registry, "path": escaped + registry["path"].removeprefix(plain)}


def _require_variables(profile: Path) -> None:
    # Feast leaves an unset variable as it is written, and goes on.
    lines = (line.split("#")[0] for line in profile.read_text(encoding="utf-8").splitlines())
    names = {first or second for line in lines for first, second in _VARIABLE.findall(line)}
    missing = sorted(name for name in names if name not in os.environ)
    if missing:
        raise ConfigError(
            f"{profile.name} refers to {', '.join(missing)}, which the environment does not set",
            remedy=f"Set {' and '.join(missing)}",
        )


def _import_feast_fast() -> None:
    """Imports Feast without its run-time type checks (70 % of its import time), and without torch (half the rest).

    Feast needs torch only for its `to_tensor`, which nobody here calls.
    """
    if "feast" in sys.modules:
        return
    import typeguard

    checked = typeguard.typechecked
    hide_torch = "torch" not in sys.modules
    typeguard.typechecked = _unchecked
    if hide_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import feast
        import feast.feature_store  # noqa: F401
    finally:
        typeguard.typechecked = checked
        if hide_torch:
            del sys.modules["torch"]


def _unchecked(target: Any = None, **_: Any) -> Any:
    return target if isinstance(target, type | types.FunctionType) else _unchecked
