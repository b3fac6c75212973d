"""Opening Feast."""

import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from fti.common.errors import FeatureStoreError, FtiError
from fti.common.files import make_folder
from fti.common.masking import masked
from fti.common.profile import profile_of, read_profile
from fti.common.settings import Settings
from fti.common.storage import local_copy

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

_RACES = 40  # more than the registry has tables and indexes
_services: "WeakKeyDictionary[FeatureStore, dict[str, FeatureService]]" = WeakKeyDictionary()


def open_store(feature_repo: str, settings: Settings, *, offline: bool = True) -> "FeatureStore":
    """Opens the feature store that a Feast repository describes.

    Args:
        feature_repo: Folder with `feature_store.yaml`, by path or URI. `FTI_PROFILE` names another profile of it.
        settings: Fill `FTI_HOME` and `FTI_OFFLINE_URI`, which profiles and views refer to.
        offline: Whether the offline store will be asked; without it less is loaded, and needs to be installed.

    Raises:
        ConfigError: There is no such profile, or it refers to a variable that is not set.
        FeatureStoreError: Feast refuses the profile, or the registry cannot be reached.
    """
    with local_copy(feature_repo, settings) as repo:
        return _open(repo.absolute(), settings, offline)


def _open(repo: Path, settings: Settings, offline: bool) -> "FeatureStore":
    os.environ["FTI_HOME"] = str(settings.home)
    os.environ["FTI_OFFLINE_URI"] = settings.offline_uri
    file = profile_of(repo, os.environ)
    profile = read_profile(file, os.environ)
    make_folder(settings.home)
    _import_feast_fast()
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    if not offline:
        from fti.common.no_offline_store import NO_OFFLINE_STORE

        profile = {**profile, "offline_store": {"type": NO_OFFLINE_STORE}}
    try:
        config = RepoConfig(**profile)
        config.repo_path = repo
        config.registry_config = _with_url(config.registry_config, settings.home)
        store = FeatureStore(config=config)
    except Exception as error:
        raise FeatureStoreError(f"Feast refuses {file}: {_refusal(error)}", remedy="Correct the profile") from None
    _open_registry(store)
    return store


def _open_registry(store: "FeatureStore") -> None:
    """Feast makes the tables that its registry lacks; of two processes at once, one finds them made by the other."""
    from google.protobuf.message import DecodeError
    from sqlalchemy.exc import DBAPIError

    for _ in range(_RACES):
        try:
            store.registry  # noqa: B018 - opens it
            return
        except DecodeError as error:
            raise _unreadable(store, error) from None
        except Exception as error:
            if not isinstance(error, DBAPIError) or "already exists" not in str(error.orig):
                raise _unreachable(store, error) from None


def _refusal(error: Exception) -> str:
    """Why Feast refuses a profile. The whole error may show a password."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return masked(reason(error))
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False))


@contextmanager
def registry_errors(store: "FeatureStore") -> Iterator[None]:
    """Turns whatever a registry that cannot be read raises into one error, without its password.

    Feast reads the registry again when its cache has expired.

    Raises:
        FeatureStoreError: The registry is damaged, down, refuses the account, or holds what this Feast does not know.
    """
    from feast.errors import FeastObjectNotFoundException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (FtiError, FeastObjectNotFoundException):
        raise
    except (SQLAlchemyError, OSError) as error:
        raise _unreachable(store, error) from None
    except Exception as error:
        raise _unreadable(store, error) from error


def _unreachable(store: "FeatureStore", error: Exception) -> FeatureStoreError:
    from sqlalchemy.exc import DBAPIError

    # Only a driver is known to say nothing of the URL; and a chained error would be shown too.
    why = reason(error.orig) if isinstance(error, DBAPIError) and error.orig else type(error).__name__
    return FeatureStoreError(
        f"the registry of the feature store {store.project!r} cannot be reached: {why}",
        remedy="Start the database, or correct registry in feature_store.yaml; a damaged file has to be removed",
    )


def _unreadable(store: "FeatureStore", error: Exception) -> FeatureStoreError:
    return FeatureStoreError(
        f"the registry of the feature store {store.project!r} holds what cannot be read: {masked(reason(error))}",
        remedy="If a newer version wrote it, install that; a damaged registry has to be removed and applied anew",
    )


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


def _with_url(registry: Any, home: Path) -> Any:
    """The registry's settings, with a home that its URL was given as a plain path (`%20`, `?`) escaped."""
    from sqlalchemy import URL

    plain = f"sqlite:///{home}/"
    if not isinstance(registry, dict) or not str(registry.get("path")).startswith(plain):
        return registry
    escaped = URL.create("sqlite", database=f"{home}/").render_as_string()
    return {**registry, "path": escaped + registry["path"].removeprefix(plain)}


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
