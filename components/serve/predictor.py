"""The predictor: KServe's model server with a model package on ONNX Runtime. `python -m fti.serve.predictor --help`."""

import argparse
import asyncio
import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import uvloop
from kserve import ModelServer
from kserve.model_server import app, parser
from kserve.protocol.rest.server import RESTServer

from fti.common.devices import Device
from fti.common.errors import FtiError, PackageError
from fti.common.model_package import ModelPackage, load_package
from fti.common.settings import Settings
from fti.common.storage import local_copy
from fti.serve.admission import Limits
from fti.serve.at_once import AtOnce
from fti.serve.explain.explainer import Explainer
from fti.serve.features import FeatureLookup, OnStoreFailure
from fti.serve.front import Front
from fti.serve.grpc_server import LocalGrpcServer
from fti.serve.model import PackagedModel
from fti.serve.observe.inference_log import Limits as LogLimits
from fti.serve.observe.logs import configure
from fti.serve.observe.observer import Observer, observing
from fti.serve.repository import ModelControl, PackageRepository, ReadyDataPlane

log = logging.getLogger(__name__)

GRACE_SECONDS = 10
_BOUNDS = {
    "max_body_bytes": "Of one request; more is answered 413. Default: 16 MiB.",
    "max_rows": "Of one request; more is answered 413. Default: 10000.",
    "max_queue": "Requests taken on at a time, over HTTP and gRPC; more are answered 429. Default: 128.",
    "deadline_ms": "Within which a request is answered, or else 504, unless its caller sets a shorter one. "
    "Default: 5000.",
    "max_batch_delay_ms": "How long a request may wait for others to be scored with it. Default: 0.",
}


class QuietRest(RESTServer):  # type: ignore[misc]  # kserve is untyped
    """KServe's HTTP server without its timing middleware, which takes a fifth of a request's CPU time."""

    def _add_middlewares(self, app: Any) -> None:
        pass


class PredictorServer(ModelServer):  # type: ignore[misc]
    """KServe's model server with strict and fast predictions in front, bound to a chosen host.

    Args:
        repository: Of the model.
        observer: Sees every request.
        host: The address to listen on.
        arguments: As KServe's own.
    """

    def __init__(self, repository: PackageRepository, observer: Observer, host: str, **arguments: Any) -> None:
        super().__init__(grace_period=GRACE_SECONDS, registered_models=repository, **arguments)
        self.dataplane = ReadyDataPlane(model_registry=repository)
        self._repository, self._observer, self._host = repository, observer, host

    def start(self, models: list[PackagedModel]) -> None:
        """Serves one model until SIGTERM or SIGINT; requests in flight are answered first."""
        (model,) = models
        self.register_model(model)
        rest = QuietRest(
            "kserve.model_server:app",
            self.dataplane,
            self.model_repository_extension,
            self.http_port,
            grace_period=self.grace_period,
            timeout_keep_alive=self.timeout_keep_alive,
        )
        rest.config.app, rest.config.host = Front(app, model, self._repository, self._observer), self._host
        rest.config.access_log = rest.config.proxy_headers = False
        rest.config.http = AtOnce
        self._rest_server = rest
        self.servers.append(rest.start())
        if self.enable_grpc:
            self._grpc_server = LocalGrpcServer(
                f"{self._host}:{self.grpc_port}",
                model,
                self._repository,
                self._observer,
                port=self.grpc_port,
                data_plane=self.dataplane,
                model_repository_extension=self.model_repository_extension,
                grace_period=self.grace_period,
            )
            self.servers.append(self._grpc_server.start())
        logging.getLogger("uvicorn.access").handlers = []
        logging.getLogger("uvicorn.access").propagate = False
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        self.register_signal_handler()
        asyncio.run(self._serve())


@contextmanager
def verified_package(uri: str, revision: str, settings: Settings) -> Iterator[ModelPackage]:
    """Fetches a package and verifies it.

    Raises:
        PackageError: The package is tampered with, or is not the revision asked for.
        StorageError: The package cannot be read.
    """
    with local_copy(uri, settings) as folder:
        package = load_package(folder)
        if not package.digest.startswith(revision):
            raise PackageError(f"{uri} holds model {package.digest[:12]}", allowed=f"model {revision}")
        yield package


def load_model(arguments: argparse.Namespace, settings: Settings) -> PackagedModel:
    """Fetches and verifies a package, opens the feature store it needs, and makes sure that the model answers.

    Raises:
        PackageError: The package is tampered with, is not the revision asked for, or fails its own examples.
        StorageError: The package cannot be read.
        FeatureStoreError: The feature store cannot be used.
    """
    with verified_package(arguments.package, arguments.revision, settings) as package:
        revision = arguments.revision or package.digest[:12]
        signature = package.signature
        lookup = None
        if signature.feature_service and signature.entity_keys and arguments.feature_repo:
            lookup = FeatureLookup(arguments.feature_repo, signature, settings, arguments.on_store_failure)
        limits = Limits(**{field.name: getattr(arguments, field.name) for field in fields(Limits)})
        model = PackagedModel(arguments.name, revision, package, lookup, limits=limits, device=arguments.device)
        model.explainer = Explainer(arguments.package, package, settings, arguments.explain_budget_ms)
        return model


def main() -> None:
    """Serves one model package, as the arguments say."""
    arguments = _parser().parse_args()
    configure(arguments.log_file, model=arguments.name, revision=arguments.revision)
    try:
        settings = Settings.from_env()
        model = load_model(arguments, settings)
        configure(arguments.log_file, model=model.name, revision=model.revision)
        serve(model, arguments, settings)
    except FtiError as error:
        log.critical("%s: %s", type(error).__name__, error)
        sys.exit(1)


def serve(model: PackagedModel, arguments: argparse.Namespace, settings: Settings) -> None:
    """Serves a model until SIGTERM or SIGINT.

    Raises:
        ConfigError: The inference log cannot be written.
    """

    def load_again() -> None:
        with verified_package(arguments.package, model.revision, settings) as package:
            model.load_package(package)

    kept = LogLimits(arguments.inference_log_rows, arguments.inference_log_bytes, arguments.inference_log_seconds)
    with observing(model, settings, arguments.access_log == "all", kept) as observer:
        gc.collect()
        gc.freeze()  # what is loaded stays: looking through it again and again would hold requests up
        PredictorServer(
            PackageRepository(model, load_again, arguments.model_control),
            observer,
            host=arguments.host,
            http_port=arguments.http_port,
            grpc_port=arguments.grpc_port,
            enable_grpc=arguments.enable_grpc,
        ).start([model])


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _whole(text: str) -> int:
    if int(text) < 0:
        raise ValueError
    return int(text)


def _parser() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(prog="fti.serve.predictor", description=__doc__, parents=[parser])
    own.add_argument("--package", required=True, help="The model package: a folder or a URI.")
    own.add_argument("--name", required=True, help="The model's name in the protocols' paths.")
    own.add_argument("--revision", default="", help="The beginning of the package's digest; checked.")
    own.add_argument("--feature_repo", default="", help="The Feast repository for requests that carry entity keys.")
    own.add_argument(
        "--on_store_failure",
        choices=get_args(OnStoreFailure),
        default=os.environ.get("FTI_ON_STORE_FAILURE") or "refuse",
        help="When the online store does not answer: refuse the request (503), or take every feature for missing, so "
        "that each view's on_missing decides. Default: FTI_ON_STORE_FAILURE, or refuse.",
    )
    own.add_argument(
        "--model_control",
        choices=get_args(ModelControl),
        default="none",
        help="Whether callers may load and unload the model (V2 repository extension): none, or explicit. "
        "Default: none; whoever reaches the port can take the model away.",
    )
    # It has a value, for KServe's own parser takes it for the beginning of its --access_log_format.
    own.add_argument(
        "--access_log",
        choices=["errors", "all"],
        default="errors",
        help="Which answers are logged: errors, or all. Default: errors.",
    )
    own.add_argument(
        "--log_file",
        type=Path,
        help="The file that stdout and stderr are redirected to: once it is full, a new one is begun. Default: none.",
    )
    own.add_argument(
        "--inference_log_seconds",
        type=float,
        default=60.0,
        help="With FTI_INFERENCE_LOG: a file is written after so many seconds, or 50,000 rows. Default: 60.",
    )
    own.add_argument(
        "--inference_log_rows",
        type=int,
        default=100_000,
        help="With FTI_INFERENCE_LOG: so many rows wait at most to be written; more are dropped. Default: 100000.",
    )
    own.add_argument(
        "--inference_log_bytes",
        type=int,
        default=LogLimits.memory,
        help="With FTI_INFERENCE_LOG: so many bytes the waiting rows take at most; more are dropped. Default: 128 MiB.",
    )
    own.add_argument(
        "--device",
        choices=get_args(Device),
        default=os.environ.get("FTI_DEVICE") or "auto",
        help="Where the model is scored: cpu; cuda, or nothing; auto takes a GPU where there is one that the model can "
        "use. Default: FTI_DEVICE, or auto.",
    )
    own.add_argument(
        "--explain_budget_ms",
        type=_whole,
        default=4000,
        help="Within which an explanation is computed, unless its caller asks for less; 0 refuses all. What "
        "explains is a process that the first starts, of some 500 MB. Default: 4000.",
    )
    bounds = own.add_argument_group("bounds")
    for field in fields(Limits):
        kind = _positive if field.type is int else float
        bounds.add_argument(f"--{field.name}", type=kind, default=field.default, help=_BOUNDS[field.name])
    own.add_argument("--host", default="0.0.0.0", help="The address to listen on.")  # noqa: S104  # in a container
    return own


if __name__ == "__main__":
    main()
