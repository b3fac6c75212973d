"""Feast's Redis, with waits that end."""

from typing import Any

from fti.common.errors import FeatureStoreError


def client_of(config: Any, timeouts: dict[str, float], retry: Any) -> Any:
    """Feast's own client: of one Redis, one behind sentinels, or a cluster.

    Args:
        config: Feast's settings of its Redis store.
        timeouts: `socket_connect_timeout` and `socket_timeout`, seconds, where its connection_string does not say.
        retry: redis-py's `Retry`.

    Raises:
        FeatureStoreError: The connection string cannot be used.
    """
    from feast.infra.online_stores.redis import RedisOnlineStore

    said = config.connection_string
    added = [f"{name}={seconds}" for name, seconds in timeouts.items() if f"{name}=" not in said]
    whole = config.model_copy(update={"connection_string": ",".join([said, *added])})
    try:
        client = RedisOnlineStore()._get_client(whole)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise FeatureStoreError(
            f"the connection_string of the online store cannot be used: {type(error).__name__}",
            allowed="host:port[,option=value...], as Feast documents it",
        ) from None  # it may hold a password
    client.set_retry(retry)
    return client
