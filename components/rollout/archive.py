"""Where the records of rollouts are kept: a folder of this machine, or an object store that all pods see."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from fti.common.errors import BusyError, ConfigError, ServingError, StorageError
from fti.common.files import atomic_file
from fti.common.kubernetes_api import own_namespace
from fti.common.lease import leased
from fti.common.settings import LOCAL, Settings
from fti.common.storage import is_shared, read_versioned, replace_text, stamps

_END = ".json"


class Archive(ABC):
    """The records of one service: texts by name, which sort by time.

    Attributes:
        pause: Seconds between two writes of a record that decide nothing.
    """

    pause: float

    @abstractmethod
    def names(self) -> list[str]:
        """Oldest first."""

    @abstractmethod
    def read(self, name: str) -> tuple[str, str]:
        """A record's text, and the version that `write` takes."""

    @abstractmethod
    def write(self, name: str, text: str, version: str) -> str:
        """Writes a record, whole or not at all, and returns its new version.

        Raises:
            BusyError: It has not the version any more: another has taken this rollout over.
            StorageError: It cannot be written.
        """

    @abstractmethod
    def alone(self, who: str) -> AbstractContextManager[None]:
        """Keeps others from rolling this service out for as long as the block lasts.

        Raises:
            BusyError: Another does.
            StorageError: It cannot be told: the home or the store cannot be written.
        """

    @abstractmethod
    def where(self, name: str) -> str:
        """Where a record lies, for people."""


def archive_of(service: str, settings: Settings) -> Archive:
    """The models' object store where the service is on a cluster, for a pod's disk ends with it; else the home."""
    if settings.serving != LOCAL and is_shared(settings.models_uri):
        namespace = settings.namespace or own_namespace()
        return _Objects(f"{settings.models_uri}/_rollouts/{namespace}/{service}", service, settings)
    return _Folder(folder_of(service, settings), service)


def check_shared(storage_uri: str, settings: Settings) -> None:
    """Refuses to roll out by a record that a step of a pipeline would not see.

    Args:
        storage_uri: Where the canary's package lies.
        settings: Where this process keeps records.

    Raises:
        ConfigError: A cluster's models lie in an object store, and records would be kept on this machine.
    """
    if settings.serving != LOCAL and is_shared(storage_uri) and not is_shared(settings.models_uri):
        raise ConfigError(
            f"the canary lies at {storage_uri}, and this rollout would be recorded at {settings.models_uri}, where no "
            "other can see it",
            remedy="Set FTI_MODELS_URI, and how its store is reached, as the ConfigMap fti-settings does",
        )


def folder_of(service: str, settings: Settings) -> Path:
    """Where reports of a service lie, and its records where they are kept on this machine."""
    return settings.home / "rollouts" / service


class _Folder(Archive):
    pause = 0.0

    def __init__(self, folder: Path, service: str) -> None:
        self._folder, self._service = folder, service

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob(f"*{_END}"))

    def read(self, name: str) -> tuple[str, str]:
        try:
            return Path(self.where(name)).read_text(encoding="utf-8"), ""
        except (OSError, ValueError) as error:
            raise ServingError(f"{self.where(name)} cannot be read: {error}", remedy="Move it away") from error

    def write(self, name: str, text: str, version: str) -> str:
        with atomic_file(self.where(name)) as scratch:
            scratch.write_text(text, encoding="utf-8")
        return version

    @contextmanager
    def alone(self, who: str) -> Iterator[None]:
        from filelock import FileLock, Timeout

        path = self._folder.parent / f".{self._service}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, timeout=0).acquire()
        except Timeout:
            raise _busy(self._service) from None
        except OSError as error:
            remedy = "Make it writable, or set FTI_HOME"
            raise StorageError(f"{path} could not be written: {error.strerror}", remedy=remedy) from None
        with lock:
            yield

    def where(self, name: str) -> str:
        return str(self._folder / f"{name}{_END}")


class _Objects(Archive):
    pause = 10.0  # each write has its price, and Google's store takes one a second of an object

    def __init__(self, uri: str, service: str, settings: Settings) -> None:
        self._uri, self._service, self._settings = uri, service, settings

    def names(self) -> list[str]:
        found = stamps(self._uri, self._settings)
        return sorted(name.removesuffix(_END) for name in found if name.endswith(_END))

    def read(self, name: str) -> tuple[str, str]:
        return read_versioned(self.where(name), self._settings)

    def write(self, name: str, text: str, version: str) -> str:
        try:
            return replace_text(text, self.where(name), version, self._settings)
        except BusyError:
            raise BusyError(
                f"another has taken the rollout of {self._service} over", remedy="Follow that one"
            ) from None

    def alone(self, who: str) -> AbstractContextManager[None]:
        return leased(f"{self._uri}/lease", self._settings, what=f"a rollout of {self._service}", who=who)

    def where(self, name: str) -> str:
        return f"{self._uri}/{name}{_END}"


def _busy(service: str) -> BusyError:
    return BusyError(f"a rollout of {service} goes on already", remedy="Wait for its end, or stop it")
