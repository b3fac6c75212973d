"""Features looked up in the online store, for requests that carry entity keys instead."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from fti.common.errors import FeatureStoreError
from fti.common.model_package import Signature
from fti.common.settings import Settings
from fti.serve.columns import TEXT_KEY, WHOLE_KEY

if TYPE_CHECKING:
    import numpy as np


class FeatureLookup:
    """Completes a request's columns from a Feast online store.

    Feast's connections may not be shared by threads, so the store lives in one thread of its own.

    Args:
        feature_repo: The Feast repository.
        signature: The model's; names the feature service and the entity keys.
        settings: Where the stores lie.

    Attributes:
        keys: The entity keys, and whether each is a `text key` or a `whole key`.
        executor: The store's thread.

    Raises:
        FeatureStoreError: The store cannot be opened, or lacks the feature service or one of its features.
    """

    def __init__(self, feature_repo: str, signature: Signature, settings: Settings) -> None:
        self._signature = signature
        self._stored = [feature for feature in signature.inputs if feature.source != "request"]
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="feature-store")
        self._store = self.executor.submit(_open, feature_repo, settings).result()
        self.keys = self.executor.submit(self._key_kinds).result()
        # An unknown entity has no features, but shows that the store answers and has every column.
        self.executor.submit(self.complete, self._nobody()).result()

    def complete(self, columns: "dict[str, np.ndarray]") -> "dict[str, np.ndarray]":
        """Looks the features of some entities up. Call it in the lookup's own `executor`.

        Args:
            columns: Entity keys and request features, [N] each.

        Returns:
            Every input of the model, [N] each: float32 with NaN, or object with None, where a feature is missing.

        Raises:
            FeatureStoreError: The store does not answer, or lacks a feature.
        """
        from fti.common.feature_store import online_features

        keys = {key: columns[key].tolist() for key in self._signature.entity_keys}
        found = online_features(self._store, self._signature.feature_service, keys)
        absent = [feature.name for feature in self._stored if feature.name not in found]
        if absent:
            raise FeatureStoreError(
                f"feature service {self._signature.feature_service} lacks {', '.join(absent)}",
                remedy="Apply the feature repository that the model was trained with",
            )
        stored = {feature.name: _column(found[feature.name], feature.dtype) for feature in self._stored}
        own = {feature.name: columns[feature.name] for feature in self._signature.inputs if feature.name in columns}
        return {**own, **stored}

    def _key_kinds(self) -> dict[str, str]:
        from fti.common.feature_store import service_of

        service = service_of(self._store, self._signature.feature_service)
        views = {projection.name for projection in service.feature_view_projections}
        columns = [
            column for view in self._store.list_feature_views() if view.name in views for column in view.entity_columns
        ]
        whole = {column.name for column in columns if "int" in str(column.dtype).lower()}
        return {key: WHOLE_KEY if key in whole else TEXT_KEY for key in self._signature.entity_keys}

    def _nobody(self) -> "dict[str, np.ndarray]":
        import numpy as np

        return {key: np.array([0 if kind == WHOLE_KEY else ""], dtype=object) for key, kind in self.keys.items()}


def _open(feature_repo: str, settings: Settings) -> Any:
    from fti.common.feature_store import open_store

    return open_store(feature_repo, settings)


def _column(values: list[Any], dtype: str) -> "np.ndarray":
    import numpy as np

    if dtype == "string":
        return np.array(values, dtype=object)
    return np.array(values, dtype=np.float32)
