"""The gateway: an Envoy process, and traffic that moves without a request lost."""

import json
import logging
import os
from collections.abc import Sequence
from time import monotonic

import yaml

from fti.common.files import atomic_file
from fti.common.settings import Settings
from fti.serve.local import envoy
from fti.serve.local.admin import ask, tell
from fti.serve.local.plan import Replica
from fti.serve.local.ports import HOST
from fti.serve.local.routes import routes
from fti.serve.local.unit import Unit
from fti.serve.observe.log_files import MOST_BYTES, fresh_log, rotate

log = logging.getLogger(__name__)

_SLOW_SECONDS = 10.0


class Gateway:
    """Envoy, told by files what to route where.

    Args:
        port: Where it listens.
        admin_port: Where its administration listens.
        settings: Under whose home its files go.

    Attributes:
        unit: The process.
        port: Where it listens.
        admin_port: Where its administration listens.

    Raises:
        ServingError: Envoy is not installed.
        StorageError: Its files cannot be written.
    """

    def __init__(self, port: int, admin_port: int, settings: Settings) -> None:
        self.port, self.admin_port = port, admin_port
        self._folder = settings.home / "envoy"
        self._version = 0
        self._clusters: dict[str, envoy.Config] = {}
        self._in_use: set[str] = set()
        self._unused_since: dict[str, float] = {}
        self._target: list[Replica] = []
        self._routes_version = 0  # of the target, once its routes are written
        self._late_at = 0.0
        argv = [envoy.binary(), "--config-path", str(self._folder / "bootstrap.yaml"), "--disable-hot-restart"]
        argv += ["--log-level", "warning", "--concurrency", str(min(2, os.cpu_count() or 1))]
        path = fresh_log(settings, "envoy")  # Envoy opens it by its name too, so that it can be asked to open the next
        argv += ["--log-path", str(path), "--file-flush-interval-msec", "500"]
        self.unit = Unit(name="the gateway", argv=argv, log=path, probe=self._alive)
        files = (self._folder / "clusters.yaml", self._folder / "routes.yaml")
        self._write("bootstrap.yaml", envoy.bootstrap(port, admin_port, *files))
        self._write_clusters()
        self._write_routes([])

    def route(self, replicas: Sequence[Replica]) -> bool:
        """Moves the traffic, a step at each call: new clusters, once they answer the routes to them, and that is it.

        Old clusters stay for requests in flight.

        Args:
            replicas: Ready predictors, grouped by service, with their shares.

        Returns:
            Whether the traffic is routed so. Until then what was routed before still is.

        Raises:
            StorageError: Envoy's files cannot be written.
        """
        if list(replicas) != self._target:
            self._begin(replicas)
        wanted = {cluster["name"] for cluster in envoy.clusters(self._target)}
        if not self._routes_version:
            if wanted - self._in_use <= self._healthy_clusters():
                self._routes_version = self._write_routes(self._target)
        elif self._version_in_force() == self._routes_version:
            self._in_use, now = wanted, monotonic()
            self._unused_since = {name: self._unused_since.get(name, now) for name in self._clusters.keys() - wanted}
            return True
        if monotonic() > self._late_at:
            log.warning("the gateway has not taken over what shall be served; see %s", self.unit.log)
            self._late_at = monotonic() + _SLOW_SECONDS
        return False

    def tidy(self) -> None:
        """Begins a new log where it is full, and removes clusters that no request can be in any more.

        One in flight may still be tried again there.
        """
        self._rotate_log()
        over = {name for name, since in self._unused_since.items() if monotonic() - since > envoy.REQUEST_SECONDS}
        if over:
            self._clusters = {name: cluster for name, cluster in self._clusters.items() if name not in over}
            self._unused_since = {name: since for name, since in self._unused_since.items() if name not in over}
            self._write_clusters()

    def url(self, service: str) -> str:
        """Where a service is asked for predictions."""
        return f"http://{HOST}:{self.port}/v1/models/{service}:predict"

    def _begin(self, replicas: Sequence[Replica]) -> None:
        clusters = {cluster["name"]: cluster for cluster in envoy.clusters(replicas)}
        self._clusters |= clusters
        self._unused_since = {name: since for name, since in self._unused_since.items() if name not in clusters}
        self._write_clusters()
        self._target, self._routes_version = list(replicas), 0
        self._late_at = monotonic() + _SLOW_SECONDS

    def _rotate_log(self) -> None:
        path = self.unit.log
        if path.exists() and path.stat().st_size >= MOST_BYTES:
            rotate(path)
        if not path.exists():  # until Envoy has opened it, it writes to the earlier one
            tell(self.admin_port, "/reopen_logs")

    def _write_clusters(self) -> None:
        self._version += 1
        clusters = list(self._clusters.values())
        self._write("clusters.yaml", envoy.discovery_response(self._version, "cluster.v3.Cluster", clusters))

    def _write_routes(self, replicas: Sequence[Replica]) -> int:
        self._version += 1
        table = envoy.discovery_response(self._version, "route.v3.RouteConfiguration", [routes(replicas)])
        self._write("routes.yaml", table)
        return self._version

    def _write(self, name: str, content: envoy.Config) -> None:
        with atomic_file(self._folder / name) as scratch:  # Envoy takes a file over when it is renamed
            scratch.write_text(yaml.safe_dump(content), encoding="utf-8")

    def _alive(self) -> bool:
        return "LIVE" in ask(self.admin_port, "/ready")

    def _healthy_clusters(self) -> set[str]:
        """Clusters in use whose first endpoint answers; those that Envoy still prepares are not listed."""
        listed = json.loads(ask(self.admin_port, "/clusters?format=json") or "{}").get("cluster_statuses", [])
        return {
            cluster["name"]
            for cluster in listed
            if not cluster["host_statuses"][0]["health_status"].get("failed_active_health_check")
        }

    def _version_in_force(self) -> int:
        version = ask(self.admin_port, "/stats?filter=rds.*version_text").partition('"')[2].partition('"')[0]
        return int(version) if version.isdigit() else 0
