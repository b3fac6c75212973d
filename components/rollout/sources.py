"""Which metrics a rollout reads."""

from fti.common.errors import ConfigError
from fti.common.settings import LOCAL, Settings
from fti.rollout.gateway import GatewayMetrics
from fti.rollout.metrics import Metrics
from fti.rollout.prometheus import PrometheusMetrics


def metrics_from(settings: Settings, latency_budget_ms: float) -> Metrics:
    """Prometheus where `FTI_PROMETHEUS_URL` names one, else the gateway of this machine.

    Args:
        settings: Where to read.
        latency_budget_ms: From when a request is slow, milliseconds.

    Raises:
        ConfigError: Services run on a cluster, and no Prometheus is named.
    """
    if settings.prometheus_url:
        return PrometheusMetrics(settings.prometheus_url, settings, latency_budget_ms)
    if settings.serving != LOCAL:
        raise ConfigError(
            "FTI_PROMETHEUS_URL is not set, so nothing is known of the canary on the cluster",
            allowed="the address of Prometheus' HTTP API, such as http://prometheus.monitoring:9090",
        )
    return GatewayMetrics(settings, latency_budget_ms)
