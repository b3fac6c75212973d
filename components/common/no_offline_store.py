"""The offline store of those who only read features online: a predictor has no use for Polars' 180 MB."""

from feast.repo_config import FeastConfigBaseModel
from pydantic import StrictStr

NO_OFFLINE_STORE = "fti.common.no_offline_store.NoOfflineStore"


class NoOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]  # feast is untyped
    """All that Feast loads of an offline store until it is asked for history."""

    type: StrictStr = NO_OFFLINE_STORE
