"""The model repository extension of the V2 protocol: what is loaded, and, where it is allowed, loading and unloading.

See Triton's "Model Repository Extension", which KServe follows. A server has the one model that it was started with: it
can be unloaded, and loaded again after its package has been verified anew.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Literal

from kserve import ModelRepository
from kserve.protocol.dataplane import DataPlane

from fti.common.errors import FtiError
from fti.serve.columns import BadRequestError
from fti.serve.model import PackagedModel

log = logging.getLogger(__name__)

ModelControl = Literal["none", "explicit"]
REPOSITORY_PATH = "/v2/repository/"
_OVERRIDES = "config and files. A server serves the package that it was started with"


class PackageRepository(ModelRepository):  # type: ignore[misc]  # kserve is untyped
    """KServe's repository of one model.

    Args:
        model: The model, loaded.
        load: Verifies the model's package and makes the model serve it.
        control: Whether callers may load and unload: `none` or `explicit`, as Triton's `--model-control-mode`.
    """

    def __init__(self, model: PackagedModel, load: Callable[[], None], control: ModelControl) -> None:
        super().__init__()
        self.update(model)
        self._model, self._load, self._control = model, load, control
        self._changing = asyncio.Lock()

    async def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """What the server has: `name`, `version` (the revision), `state` and the `reason` where it is not ready.

        Args:
            ready: Whether only what is ready is listed.
        """
        model = self._model
        if await model.healthy():
            return [{"name": model.name, "version": model.revision, "state": "READY", "reason": ""}]
        state = {"name": model.name, "version": model.revision, "state": "UNAVAILABLE", "reason": "unloaded"}
        return [] if ready else [state]

    async def load_again(self, name: str, message: Any = None) -> None:
        """Loads the model, after its package has been verified. Safe to repeat.

        Args:
            name: The model's name.
            message: The request's body, decoded; parameters that ask for another package are refused.

        Raises:
            BadRequestError: Loading is not allowed, the server has no such model, or its package cannot be served.
        """
        self._check(name)
        if given := (message or {}).get("parameters"):
            raise BadRequestError(f"parameters: {sorted(given)[0][:60]!r}. Refused are {_OVERRIDES}")
        async with self._changing:
            try:
                await asyncio.to_thread(self._load)
            except FtiError as error:  # the cause may name hosts and folders: it is for the log
                log.error("%s", error)
                why = f"{name} cannot be loaded: {type(error).__name__}; the server's log says why"
                raise BadRequestError(why, 503) from error
        log.info("%s %s is loaded", name, self._model.revision)

    async def unload_now(self, name: str) -> None:
        """Unloads the model: requests are answered 503 until it is loaded again. Safe to repeat.

        Raises:
            BadRequestError: Unloading is not allowed, or the server has no such model.
        """
        self._check(name)
        async with self._changing:
            self._model.unload()
        log.info("%s %s is unloaded", name, self._model.revision)

    def _check(self, name: str) -> None:
        if name != self._model.name:
            raise BadRequestError(f"{name[:60]!r}: no such model. Allowed: {self._model.name}", 404)
        if self._control != "explicit":
            how = "Start the predictor with --model_control=explicit to allow it"
            raise BadRequestError(f"loading and unloading is not allowed. {how}", 403)


class ReadyDataPlane(DataPlane):  # type: ignore[misc]
    """KServe's data plane, whose server is ready only while its models answer, and whose models have versions."""

    async def ready(self) -> bool:
        """Whether every model answers."""
        models = self._model_registry
        return all([await models.is_model_ready(name) for name in models.get_models()])

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """A model's metadata, with its revision as the one version."""
        metadata: dict[str, Any] = await super().model_metadata(model_name)
        return {**metadata, "versions": [self._model_registry.get_model(model_name).revision]}


async def repository_answer(repository: PackageRepository, method: str, path: str, body: bytes) -> bytes:
    """Answers a request of the extension over HTTP: `index`, `models/<name>/load`, `models/<name>/unload`.

    Raises:
        BadRequestError: The request is not one of these, or is refused.
    """
    import orjson

    message = _message(body)
    match method, path.removeprefix(REPOSITORY_PATH).split("/"):
        case "GET" | "HEAD" | "POST", ["index"]:
            return orjson.dumps(await repository.index(ready=message.get("ready") is True))
        case "POST", ["models", name, "load"]:
            await repository.load_again(name, message)
            return orjson.dumps({"name": name, "load": True})
        case "POST", ["models", name, "unload"]:
            await repository.unload_now(name)
            return orjson.dumps({"name": name, "unload": True})
    allowed = f"POST {REPOSITORY_PATH} with index, models/<name>/load or models/<name>/unload"
    raise BadRequestError(f"{method[:20]} {path[:200]}: no such path. Allowed: {allowed}", 404)


def _message(body: bytes) -> dict[str, Any]:
    import orjson

    try:
        message = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("parameters", {}), dict):
        raise BadRequestError("the body: allowed is an object, its parameters too")
    return message
