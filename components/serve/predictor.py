"""The predictor: KServe's model server with a model package on ONNX Runtime. `python -m fti.serve.predictor --help`."""

import argparse
import asyncio
import logging
import os
import sys
from typing import Any, get_args

import uvloop
from kserve import ModelServer
from kserve.model_server import app, parser
from kserve.protocol.rest.server import RESTServer

from fti.common.errors import FtiError, PackageError
from fti.common.model_package import load_package
from fti.common.settings import Settings
from fti.common.storage import local_copy
from fti.serve.features import FeatureLookup, OnStoreFailure
from fti.serve.front import Front
from fti.serve.grpc_server import LocalGrpcServer
from fti.serve.model import PackagedModel
from fti.serve.whole_answers import WholeAnswers

log = logging.getLogger(__name__)

GRACE_SECONDS = 10


class QuietRest(RESTServer):  # type: ignore[misc]  # kserve is untyped
    """KServe's HTTP server without its timing middleware, which takes a fifth of a request's CPU time."""

    def _add_middlewares(self, app: Any) -> None:
        pass


class PredictorServer(ModelServer):  # type: ignore[misc]
    """KServe's model server with strict and fast predictions in front, bound to a chosen host.

    Args:
        host: The address to listen on.
        arguments: As KServe's own.
    """

    def __init__(self, host: str, **arguments: Any) -> None:
        super().__init__(grace_period=GRACE_SECONDS, **arguments)
        self._host = host

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
        rest.config.app, rest.config.host = Front(app, model), self._host
        rest.config.access_log = False
        rest.config.http = WholeAnswers
        self._rest_server = rest
        self.servers.append(rest.start())
        if self.enable_grpc:
            self._grpc_server = LocalGrpcServer(
                f"{self._host}:{self.grpc_port}",
                model,
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


def load_model(arguments: argparse.Namespace, settings: Settings) -> PackagedModel:
    """Fetches and verifies a package, opens the feature store it needs, and makes sure that the model answers.

    Raises:
        PackageError: The package is tampered with, is not the revision asked for, or fails its own examples.
        StorageError: The package cannot be read.
        FeatureStoreError: The feature store cannot be used.
    """
    with local_copy(arguments.package, settings) as folder:
        package = load_package(folder)
        revision = arguments.revision or package.digest[:12]
        if not package.digest.startswith(revision):
            raise PackageError(f"{arguments.package} holds model {package.digest[:12]}", allowed=f"model {revision}")
        signature = package.signature
        lookup = None
        if signature.feature_service and signature.entity_keys and arguments.feature_repo:
            lookup = FeatureLookup(arguments.feature_repo, signature, settings, arguments.on_store_failure)
        return PackagedModel(arguments.name, revision, package, lookup)


def main() -> None:
    """Serves one model package, as the arguments say."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        model = load_model(arguments, Settings.from_env())
    except FtiError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    PredictorServer(
        host=arguments.host,
        http_port=arguments.http_port,
        grpc_port=arguments.grpc_port,
        enable_grpc=arguments.enable_grpc,
    ).start([model])


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
    own.add_argument("--host", default="0.0.0.0", help="The address to listen on.")  # noqa: S104  # in a container
    return own


if __name__ == "__main__":
    main()
